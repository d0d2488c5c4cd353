package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/loop/attach"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
)

// remover deletes datasets.
type remover struct {
	layout     layout.Layout
	home       *home
	catalog    *catalog
	containers *attach.Containers
	attacher   *attach.Attacher
	step       func(string)
}

// Delete implements backends.Pool. It renames, flushes once, and then removes the bytes.
func (p *Pool) Delete(ctx context.Context, id uuid.UUID) error {
	root, err := p.home.open()
	if err != nil {
		return fmt.Errorf("delete dataset %s: %w", id, err)
	}
	defer root.Close()
	defer p.catalog.claims.Use(id)()
	if err := p.remover.delete(ctx, root, id); err != nil {
		return fmt.Errorf("delete dataset %s: %w", id, err)
	}
	return nil
}

// delete removes a dataset wherever it is in the pool, with what earlier deletions of it left.
func (r *remover) delete(ctx context.Context, root folder.Dir, id uuid.UUID) error {
	dir, place, err := r.catalog.findAny(root, id)
	if err == nil {
		defer dir.Close()
		err = r.moveToDeleting(ctx, root, dir, filepath.Join(place, id.String()))
	}
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	// findAny does not find an incomplete incoming dataset or a copy that was just begun.
	for _, place := range []string{layout.Incoming, layout.Copies} {
		if err := r.destroy(root, filepath.Join(place, id.String())); err != nil {
			return err
		}
	}
	hidden, err := r.deletionsOf(root, id)
	if err != nil {
		return err
	}
	for _, name := range hidden {
		name = filepath.Join(layout.Deleting, name)
		if err := r.flushDir(root, name); err != nil {
			return err
		}
		r.step("delete.hidden")
		if err := r.destroy(root, name); err != nil {
			return err
		}
	}
	return nil
}

// moveToDeleting moves an idle dataset from its path to the directory of deletions.
func (r *remover) moveToDeleting(ctx context.Context, root, dir folder.Dir, path string) error {
	if err := r.attacher.Idle(ctx, dir); err != nil {
		return err
	}
	// An earlier deletion of a dataset with the same ID may not be finished.
	to := filepath.Join(layout.Deleting, filepath.Base(path))
	for n := 1; ; n++ {
		if _, err := root.Lstat(to); errors.Is(err, os.ErrNotExist) {
			return root.Rename(path, to)
		} else if err != nil {
			return err
		}
		to = filepath.Join(layout.Deleting, filepath.Base(path)+"."+strconv.Itoa(n))
	}
}

// deletionsOf returns the names that a dataset has in the directory of deletions.
func (r *remover) deletionsOf(root folder.Dir, id uuid.UUID) ([]string, error) {
	entries, err := root.Entries(layout.Deleting)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		if of, err := layout.HiddenID(e.Name()); err == nil && of == id {
			found = append(found, e.Name())
		}
	}
	return found, nil
}

// destroy removes a dataset's directory with everything that this package puts into one. If there is anything else,
// destroy leaves it in its directory and fails with ErrCorrupt. It returns nil if the directory is absent.
func (r *remover) destroy(root folder.Dir, path string) error {
	dir, err := root.Sub(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	c, err := layout.ContentsOf(r.layout, dir)
	if err == nil {
		err = r.containers.Discard(dir)
	}
	if err != nil {
		return err
	}
	for _, item := range c.Items {
		if err := r.layout.Remove(dir, item); err != nil {
			return err
		}
	}
	if len(c.Foreign) > 0 {
		return dataset.Errorf(dataset.ErrCorrupt, "%s holds what no pool has: %s: left as it is", dir.Name(),
			strings.Join(c.Foreign, ", "))
	}
	for _, name := range slices.Concat(c.Tmp, c.Records) {
		if err := folder.AbsentIsFine(dir.Remove(name)); err != nil {
			return err
		}
	}
	return root.Rmdir(path)
}

// flushDir makes everything that was done to a directory durable, including its last renaming.
func (r *remover) flushDir(root folder.Dir, name string) error {
	dir, err := root.Sub(name)
	if err != nil {
		return err
	}
	return errors.Join(r.layout.Flush(dir), dir.Close())
}
