package loop

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/claims"
	"github.com/google/uuid"
)

// catalog finds and lists the datasets of a pool.
type catalog struct {
	pool   string // its name, for errors
	home   *home
	layout layout.Layout
	images *imagefile.Images
	claims claims.Claims
	moves  claims.Moves // of datasets that become copies
}

// find opens the directory of a dataset, ready or incoming and whole, and tells in which
// place of root it lies. ErrCorrupt: something else has its name; ErrConflict: it is a
// copy.
func (cat *catalog) find(root folder.Dir, id uuid.UUID) (dir folder.Dir, place string, err error) {
	dir, place, err = cat.findAny(root, id)
	if err == nil && place == layout.Copies {
		_ = dir.Close()
		return folder.Dir{}, "", layout.NoHead(cat.pool, id)
	}
	return dir, place, err
}

// findAny finds copies too.
func (cat *catalog) findAny(root folder.Dir, id uuid.UUID) (dir folder.Dir, place string, err error) {
	for {
		before := cat.moves.Count()
		dir, place, err = cat.search(root, id, layout.Datasets, layout.Incoming)
		if errors.Is(err, dataset.ErrNotFound) { // unless it was committed meanwhile
			dir, place, err = cat.search(root, id, layout.Datasets)
		}
		if err == nil || cat.moves.Count() == before {
			return dir, place, err
		}
	}
}

// search looks for a dataset at places, and then among the copies.
func (cat *catalog) search(root folder.Dir, id uuid.UUID, places ...string) (dir folder.Dir, place string, err error) {
	for _, place := range places {
		dir, err := root.Sub(filepath.Join(place, id.String()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return dir, place, dataset.Errorf(dataset.ErrCorrupt, "%w", err)
		}
		_, err = dir.Lstat(cat.layout.Image(layout.Head))
		if err == nil {
			return dir, place, nil
		}
		if errors.Is(err, os.ErrNotExist) && place == layout.Datasets {
			err = cat.damaged(dir)
		}
		_ = dir.Close()
		if !errors.Is(err, os.ErrNotExist) {
			return dir, place, err
		}
	}
	dir, err = root.Sub(filepath.Join(layout.Copies, id.String()))
	if err == nil {
		var begun bool
		if begun, err = cat.begun(dir); err == nil && begun {
			return dir, layout.Copies, nil
		}
		_ = dir.Close()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return folder.Dir{}, layout.Copies, dataset.Errorf(dataset.ErrCorrupt, "%w", err)
	}
	return folder.Dir{}, "", dataset.Errorf(dataset.ErrNotFound, "pool %s has no dataset %s", cat.pool, id)
}

// damaged says what is wrong with a ready dataset that has no head.
func (cat *catalog) damaged(dir folder.Dir) error {
	if _, err := dir.Lstat(layout.RecordFile); err != nil {
		return dataset.Errorf(dataset.ErrCorrupt, "%s holds nothing of a dataset: drover made no such thing",
			dir.Name())
	}
	return dataset.Errorf(dataset.ErrCorrupt, "%s has lost its image", dir.Name())
}

// within opens the pool and a dataset's directory for the time of f.
func (cat *catalog) within(id uuid.UUID, f func(dir folder.Dir) error) error {
	root, err := cat.home.open()
	if err != nil {
		return err
	}
	defer root.Close()
	defer cat.claims.Use(id)()
	dir, _, err := cat.find(root, id)
	if err != nil {
		return err
	}
	defer dir.Close()
	return layout.NoSpace(f(dir))
}

// withinAny is within for what copies can do as well; f is told where the dataset lies.
func (cat *catalog) withinAny(id uuid.UUID, f func(dir folder.Dir, place string) error) error {
	root, err := cat.home.open()
	if err != nil {
		return err
	}
	defer root.Close()
	defer cat.claims.Use(id)()
	dir, place, err := cat.findAny(root, id)
	if err != nil {
		return err
	}
	defer dir.Close()
	return layout.NoSpace(f(dir, place))
}

// begun tells whether a directory among the copies holds anything of one: what was made
// last before a crash may be empty.
func (cat *catalog) begun(dir folder.Dir) (bool, error) {
	c, err := layout.ContentsOf(cat.layout, dir)
	return len(c.Items)+len(c.Records)+len(c.Foreign) > 0, err
}
