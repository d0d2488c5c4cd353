package loop

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/backends/loop/transfer"
)

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

// each claims, one after another, the datasets whose names id accepts in a directory of the pool, and calls f for
// each of them.
func (r *reaper) each(ctx context.Context, name string, id func(string) (uuid.UUID, error),
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
		of, err := id(e.Name())
		if err != nil || !e.IsDir() {
			continue
		}
		release, ok := r.catalog.claims.Reap(of)
		if !ok {
			continue
		}
		path := filepath.Join(name, e.Name())
		_, err = r.root.Lstat(path)
		if err == nil {
			err = f(path, of)
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

// incoming removes incoming datasets that have no head, and hides those that drop accepts.
func (r *reaper) incoming(ctx context.Context, drop func(uuid.UUID) bool) error {
	return r.each(ctx, layout.Incoming, layout.ParseID, func(name string, id uuid.UUID) error {
		dir, err := r.root.Sub(name)
		if err != nil {
			return err
		}
		defer dir.Close()
		_, err = dir.Lstat(r.layout.Image(layout.Head))
		if errors.Is(err, os.ErrNotExist) {
			return r.destroy(name) // it was never whole
		}
		if err != nil || !drop(id) {
			return err
		}
		return r.remover.moveToDeleting(ctx, r.root, dir, name)
	})
}

// deleting finishes deletions, including those that incoming has begun.
func (r *reaper) deleting(ctx context.Context) error {
	return r.each(ctx, layout.Deleting, layout.HiddenID, func(name string, _ uuid.UUID) error {
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

// within removes temporary files and worthless items in the datasets or copies.
func (r *reaper) within(ctx context.Context, place string) error {
	return r.each(ctx, place, layout.ParseID, func(name string, _ uuid.UUID) error {
		dir, err := r.root.Sub(name)
		if err != nil {
			return err
		}
		defer dir.Close()
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
		return r.items(dir, place, c)
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

// items removes worthless items: next, the part of a snapshot that cannot be resumed, the future head of an
// interrupted restore, and records whose snapshot was not taken or is gone.
func (r *reaper) items(dir folder.Dir, place string, c layout.Contents) error {
	has := make(map[string]bool, len(c.Items))
	for _, item := range c.Items {
		has[item] = true
	}
	useless := map[string]bool{layout.Next: true}
	for _, item := range c.Items {
		waits, err := r.images.Unfinished(dir, item)
		if err != nil {
			return err
		}
		useless[item] = useless[item] || waits
	}
	if have, err := transfer.ReadPartial(dir); err != nil || place != layout.Copies || has[have.Snapshot.String()] {
		useless[layout.Part] = true
	}
	for item := range useless {
		if !useless[item] || !has[item] {
			continue
		}
		if err := r.layout.Remove(dir, item); err != nil {
			return err
		}
		has[item] = false
		r.count++
	}
	for _, record := range c.Records {
		if record == layout.RecordFile || has[strings.TrimSuffix(record, layout.RecordSuffix)] {
			continue
		}
		if err := r.files(dir, record); err != nil {
			return err
		}
	}
	return nil
}
