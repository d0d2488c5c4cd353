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
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/backends/loop/transfer"
	"github.com/droverhq/drover/dataset"
)

// remover deletes datasets.
type remover struct {
	layout     layout.Layout
	dir        *poolDir
	catalog    *catalog
	containers *attach.Containers
	attacher   *attach.Attacher
	step       func(string)
}

// Delete implements backends.Pool. It renames, flushes once, and then removes the bytes.
func (p *Pool) Delete(ctx context.Context, id uuid.UUID) error {
	root, err := p.dir.open()
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

// delete removes a dataset from any directory of the pool. It also removes the remains of earlier deletions of that
// dataset.
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
	if err := r.attacher.Release(ctx, dir, true); err != nil {
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
		if owner, err := layout.DeletedID(e.Name()); err == nil && owner == id {
			found = append(found, e.Name())
		}
	}
	return found, nil
}

// destroy removes a dataset's directory with all of Drover's files in it. If the directory contains other files,
// destroy removes the images, leaves the records, the other files and the directory, and fails with ErrCorrupt. It
// returns nil if the directory is absent.
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
		return dataset.Errorf(dataset.ErrCorrupt, "%s contains foreign files: %s: they were not removed", dir.Name(),
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

// reaper removes the remains of interrupted operations. It skips datasets in use until the next run, and continues
// after a failure.
type reaper struct {
	layout  layout.Layout
	catalog *catalog
	images  *imagefile.Images
	remover *remover
	root    folder.Dir
	count   int
}

// forEach visits the datasets in a directory of the pool, one after another. It claims each dataset whose name id
// accepts, and calls f for it.
func (r *reaper) forEach(ctx context.Context, name string, id func(string) (uuid.UUID, error),
	f func(name string, id uuid.UUID) error) error {
	entries, err := r.root.Entries(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		ds, err := id(e.Name())
		if err != nil || !e.IsDir() {
			continue
		}
		release, ok := r.catalog.claims.Reap(ds)
		if !ok {
			continue
		}
		path := filepath.Join(name, e.Name())
		_, err = r.root.Lstat(path)
		if err == nil {
			err = f(path, ds)
		} else {
			err = folder.AbsentIsFine(err) // it was moved before it was claimed
		}
		if err != nil {
			errs = append(errs, err)
		}
		release()
	}
	return errors.Join(errs...)
}

// incoming removes incoming datasets that have no head. It moves the other incoming datasets to the directory of
// deletions if drop returns true for them.
func (r *reaper) incoming(ctx context.Context, drop func(uuid.UUID) bool) error {
	return r.forEach(ctx, layout.Incoming, layout.ParseID, func(name string, id uuid.UUID) error {
		dir, err := r.root.Sub(name)
		if err != nil {
			return err
		}
		defer dir.Close()
		if layout.CheckFormat(dir) != nil {
			return nil // List reports it
		}
		_, err = dir.Lstat(r.layout.Image(layout.Head))
		if errors.Is(err, os.ErrNotExist) {
			return r.destroy(name) // it was never complete
		}
		if err != nil || !drop(id) {
			return err
		}
		return r.remover.moveToDeleting(ctx, r.root, dir, name)
	})
}

// deleting finishes deletions, including those that incoming began.
func (r *reaper) deleting(ctx context.Context) error {
	return r.forEach(ctx, layout.Deleting, layout.DeletedID, func(name string, _ uuid.UUID) error {
		// Without a flush a power cut could bring back a part of it.
		if err := r.remover.flushDir(r.root, name); err != nil {
			return err
		}
		return r.destroy(name)
	})
}

// destroy removes a directory and counts it.
func (r *reaper) destroy(name string) error {
	if err := r.remover.destroy(r.root, name); err != nil {
		return err
	}
	r.count++
	return nil
}

// reapDatasets removes temporary files and worthless items in the datasets or copies.
func (r *reaper) reapDatasets(ctx context.Context, place string) error {
	return r.forEach(ctx, place, layout.ParseID, func(name string, _ uuid.UUID) error {
		dir, err := r.root.Sub(name)
		if err != nil {
			return err
		}
		defer dir.Close()
		if layout.CheckFormat(dir) != nil {
			return nil // List reports it
		}
		c, err := layout.ContentsOf(r.layout, dir)
		if err != nil {
			return err
		}
		if err := r.files(dir, c.Tmp...); err != nil {
			return err
		}
		if place == layout.Copies && len(c.Items)+len(c.Records)+len(c.Foreign) == 0 {
			return r.root.Rmdir(name) // it was just begun
		}
		return r.removeWorthless(dir, place, c)
	})
}

// files removes files and counts them.
func (r *reaper) files(dir folder.Dir, names ...string) error {
	for _, name := range names {
		if err := dir.Remove(name); err != nil {
			return err
		}
		r.count++
	}
	return nil
}

// removeWorthless removes worthless items: next, the part of a snapshot that cannot be resumed, the future head of an
// interrupted restore, and records whose snapshot was not taken or is gone.
func (r *reaper) removeWorthless(dir folder.Dir, place string, c layout.Contents) error {
	listed := make(map[string]bool, len(c.Items))
	for _, item := range c.Items {
		listed[item] = true
	}
	useless := map[string]bool{layout.Next: true}
	for _, item := range c.Items {
		unfinished, err := r.images.Unfinished(dir, item)
		if err != nil {
			return err
		}
		useless[item] = useless[item] || unfinished
	}
	partial, err := transfer.ReadPartial(dir)
	if err != nil || place != layout.Copies || listed[partial.Header.Snapshot.String()] {
		useless[layout.Part] = true
	}
	for item := range useless {
		if !useless[item] || !listed[item] {
			continue
		}
		if err := r.layout.Remove(dir, item); err != nil {
			return err
		}
		listed[item] = false
		r.count++
	}
	for _, record := range c.Records {
		if record == layout.RecordFile || listed[strings.TrimSuffix(record, layout.RecordSuffix)] {
			continue
		}
		if err := r.files(dir, record); err != nil {
			return err
		}
	}
	return nil
}
