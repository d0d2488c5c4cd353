package loop

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// reaper removes what operations that were cut short left behind. What is in use is left
// to the next time. One failure doesn't keep it from the rest.
type reaper struct {
	pool  *Pool
	root  folder
	count int
}

// each calls f for every name in a directory that id reads as a dataset's, alone with it.
func (r *reaper) each(ctx context.Context, name string, id func(string) (uuid.UUID, error),
	f func(name string, id uuid.UUID) error) error {
	entries, err := r.root.entries(name)
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
		release, ok := r.pool.claims.Reap(of)
		if !ok {
			continue
		}
		path := filepath.Join(name, e.Name())
		_, err = r.root.lstat(path)
		if err == nil {
			err = f(path, of)
		} else {
			err = absentIsFine(err) // it was moved on before it was claimed
		}
		if err != nil {
			errs = append(errs, err)
		}
		release()
	}
	return errors.Join(errs...)
}

func (r *reaper) incoming(ctx context.Context, drop func(uuid.UUID) bool) error {
	return r.each(ctx, incoming, parseID, func(name string, id uuid.UUID) error {
		dir, err := r.root.sub(name)
		if err != nil {
			return err
		}
		defer dir.Close()
		_, err = dir.lstat(r.pool.layout.image(head))
		if errors.Is(err, os.ErrNotExist) {
			return r.destroy(name) // it was never whole
		}
		if err != nil || !drop(id) {
			return err
		}
		return r.pool.hide(ctx, r.root, dir, name)
	})
}

// deleting also finishes what incoming has moved there.
func (r *reaper) deleting(ctx context.Context) error {
	return r.each(ctx, deleting, hiddenID, func(name string, _ uuid.UUID) error {
		// Or a power cut could bring back a part of it.
		if err := r.pool.flushDir(r.root, name); err != nil {
			return err
		}
		return r.destroy(name)
	})
}

func (r *reaper) destroy(name string) error {
	if err := r.pool.destroy(r.root, name); err != nil {
		return err
	}
	r.count++
	return nil
}

// within removes the temporary files and items inside of datasets, or of copies.
func (r *reaper) within(ctx context.Context, place string) error {
	return r.each(ctx, place, parseID, func(name string, _ uuid.UUID) error {
		dir, err := r.root.sub(name)
		if err != nil {
			return err
		}
		defer dir.Close()
		c, err := r.pool.contents(dir)
		if err != nil {
			return err
		}
		if err := r.files(dir, c.tmp...); err != nil {
			return err
		}
		if place == copies && len(c.items)+len(c.records)+len(c.foreign) == 0 {
			return r.root.rmdir(name) // it was just begun
		}
		return r.items(dir, place, c)
	})
}

func (r *reaper) files(dir folder, names ...string) error {
	for _, name := range names {
		if err := dir.remove(name); err != nil {
			return err
		}
		r.count++
	}
	return nil
}

// items removes what is worthless: next, a part of a snapshot that can't go on, what a
// restore that was cut short would have made the head, and records whose snapshot was not taken, or is gone.
func (r *reaper) items(dir folder, place string, c contents) error {
	has := make(map[string]bool, len(c.items))
	for _, item := range c.items {
		has[item] = true
	}
	useless := map[string]bool{next: true}
	for _, item := range c.items {
		waits, err := r.pool.unfinished(dir, item)
		if err != nil {
			return err
		}
		useless[item] = useless[item] || waits
	}
	if have, err := readPartial(dir); err != nil || place != copies || has[have.Snapshot.String()] {
		useless[part] = true
	}
	for item := range useless {
		if !useless[item] || !has[item] {
			continue
		}
		if err := r.pool.layout.remove(dir, item); err != nil {
			return err
		}
		has[item] = false
		r.count++
	}
	for _, record := range c.records {
		if record == recordFile || has[strings.TrimSuffix(record, recordSuffix)] {
			continue
		}
		if err := r.files(dir, record); err != nil {
			return err
		}
	}
	return nil
}

func (r *reaper) templates() error {
	if !r.pool.format.TryLock() {
		return nil // one is being made
	}
	defer r.pool.format.Unlock()
	entries, err := r.root.entries(templates)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasSuffix(e.Name(), imageSuffix+tmpSuffix) {
			continue
		}
		if err := r.root.remove(filepath.Join(templates, e.Name())); err != nil {
			return err
		}
		r.count++
	}
	return nil
}
