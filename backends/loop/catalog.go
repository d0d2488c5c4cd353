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

// catalog finds and lists the datasets of a pool, and keeps the claims on them.
type catalog struct {
	pool   string // its name, for errors
	home   *home
	layout layout.Layout
	images *imagefile.Images
	claims claims.Claims
	moves  claims.Moves // counts datasets that became copies, so that a search is repeated
}

// find opens the directory of a dataset that is ready, or incoming and whole. place is the directory of root that
// contains it. find fails with ErrCorrupt if the name belongs to something else, and with ErrConflict if the dataset
// is a copy.
func (cat *catalog) find(root folder.Dir, id uuid.UUID) (dir folder.Dir, place string, err error) {
	dir, place, err = cat.findAny(root, id)
	if err == nil && place == layout.Copies {
		_ = dir.Close()
		return folder.Dir{}, "", layout.NoHead(cat.pool, id)
	}
	return dir, place, err
}

// findAny is find for copies too. A copy is not an error.
func (cat *catalog) findAny(root folder.Dir, id uuid.UUID) (dir folder.Dir, place string, err error) {
	for {
		before := cat.moves.Count()
		dir, place, err = cat.search(root, id, layout.Datasets, layout.Incoming)
		if errors.Is(err, dataset.ErrNotFound) { // it may have been committed meanwhile
			dir, place, err = cat.search(root, id, layout.Datasets)
		}
		if err == nil || cat.moves.Count() == before {
			return dir, place, err
		}
	}
}

// search looks for a dataset in places and then among the copies.
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
			err = cat.headMissing(dir)
		}
		_ = dir.Close()
		if !errors.Is(err, os.ErrNotExist) {
			return dir, place, err
		}
	}
	dir, err = root.Sub(filepath.Join(layout.Copies, id.String()))
	if err == nil {
		var begun bool
		if begun, err = cat.isBegun(dir); err == nil && begun {
			return dir, layout.Copies, nil
		}
		_ = dir.Close()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return folder.Dir{}, layout.Copies, dataset.Errorf(dataset.ErrCorrupt, "%w", err)
	}
	return folder.Dir{}, "", dataset.Errorf(dataset.ErrNotFound, "pool %s has no dataset %s", cat.pool, id)
}

// headMissing returns the error for a ready dataset without a head.
func (cat *catalog) headMissing(dir folder.Dir) error {
	if _, err := dir.Lstat(layout.RecordFile); err != nil {
		return dataset.Errorf(dataset.ErrCorrupt, "%s holds nothing of a dataset: drover made no such thing",
			dir.Name())
	}
	return dataset.Errorf(dataset.ErrCorrupt, "%s has lost its image", dir.Name())
}

// within calls f with the open directory of a dataset that is not a copy, and claims the dataset meanwhile.
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

// withinAny is within for copies too. place is the directory of the pool that contains the dataset.
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

// isBegun reports whether a directory among the copies holds anything of a copy. A directory that was made just before
// a crash can be empty.
func (cat *catalog) isBegun(dir folder.Dir) (bool, error) {
	c, err := layout.ContentsOf(cat.layout, dir)
	return len(c.Items)+len(c.Records)+len(c.Foreign) > 0, err
}
