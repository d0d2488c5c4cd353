package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// remover removes datasets and the remains of interrupted operations.
type remover struct {
	*images
	containers *containers
	attacher   *attacher
}

// Delete implements backends.Pool. It renames, flushes once, and then removes the bytes.
func (p *Pool) Delete(ctx context.Context, id uuid.UUID) error {
	if err := p.shelf.Delete(ctx, id); err != nil {
		return fmt.Errorf("delete dataset %s: %w", id, err)
	}
	return nil
}

// checkUnused fails if a dataset is in use, or if its folder contains files that Drover did not make. Package shelf
// calls it before it removes the dataset.
func (r *remover) checkUnused(ctx context.Context, f *shelf.Folder) error {
	c, err := contentsOf(r.layout, f.Dir)
	if err == nil {
		err = foreignError(f.Dir, c)
	}
	if err != nil {
		return err
	}
	return r.attacher.Release(ctx, f.Dir, true)
}

// foreignError returns an error if a folder contains files that Drover did not make.
func foreignError(dir safefile.Dir, c contents) error {
	if len(c.Foreign) == 0 {
		return nil
	}
	return dataset.Errorf(dataset.ErrCorrupt, "%s contains foreign files: %s: they were not removed (move them "+
		"elsewhere)", dir.Name(), strings.Join(c.Foreign, ", "))
}

// destroy removes the folders of datasets with all of Drover's files in them. It leaves a folder that contains other
// files, and fails with ErrCorrupt. Idempotent. Package shelf calls it.
func (r *remover) destroy(_ context.Context, area safefile.Dir, names ...string) error {
	for _, name := range names {
		if err := r.destroyOne(area, name); err != nil {
			return err
		}
	}
	return nil
}

func (r *remover) destroyOne(area safefile.Dir, name string) error {
	dir, err := area.Sub(name)
	if err != nil {
		return safefile.AbsentIsFine(err)
	}
	defer dir.Close()
	r.step("delete.hidden")
	c, err := contentsOf(r.layout, dir)
	if err == nil {
		err = errors.Join(foreignError(dir, c), r.containers.Discard(dir))
	}
	if err != nil {
		return err
	}
	for _, item := range c.Items {
		if err := r.layout.Remove(dir, item); err != nil {
			return err
		}
	}
	for _, name := range slices.Concat(c.Tmp, c.Records) {
		if err := safefile.AbsentIsFine(dir.Remove(name)); err != nil {
			return err
		}
	}
	return area.Rmdir(name)
}

// Reap implements backends.Pool. It also removes incoming datasets without a head, which were never complete.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	root, err := p.shelf.Enter()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	isIncomplete := func(id uuid.UUID) bool {
		_, err := root.Lstat(filepath.Join(shelf.Incoming, id.String(), p.layout.Image(headItem)))
		return errors.Is(err, os.ErrNotExist)
	}
	count, err := p.shelf.Reap(ctx, func(id uuid.UUID) bool { return isIncomplete(id) || drop(id) }, p.remover.tidy)
	templates, tErr := p.templates.Reap(root)
	if err = errors.Join(err, tErr); err != nil {
		err = fmt.Errorf("reap pool %s: %w", p.name, err)
	}
	return count + templates, err
}

// tidy removes temporary files and worthless items in a folder: next, the part of a snapshot that cannot be resumed,
// the future head of an interrupted restore, and records whose snapshot was not taken or is gone.
func (r *remover) tidy(f *shelf.Folder) (count int, err error) {
	c, err := contentsOf(r.layout, f.Dir)
	if err != nil || f.State == backends.EntryIncoming {
		return 0, err
	}
	files := func(names ...string) error {
		for _, name := range names {
			if err := f.Remove(name); err != nil {
				return err
			}
			count++
		}
		return nil
	}
	if err := files(c.Tmp...); err != nil {
		return count, err
	}
	listed := make(map[string]bool, len(c.Items))
	for _, item := range c.Items {
		listed[item] = true
	}
	useless := map[string]bool{nextItem: true}
	for _, item := range c.Items {
		unfinished, err := r.Unfinished(f.Dir, item)
		if err != nil {
			return count, err
		}
		useless[item] = useless[item] || unfinished
	}
	partial, err := readPartial(f.Dir)
	if err != nil || f.State != backends.EntryCopy || listed[partial.Header.Snapshot.String()] {
		useless[partItem] = true
	}
	for item := range useless {
		if !useless[item] || !listed[item] {
			continue
		}
		if err := r.layout.Remove(f.Dir, item); err != nil {
			return count, err
		}
		listed[item] = false
		count++
	}
	for _, record := range c.Records {
		if record == shelf.RecordFile || listed[strings.TrimSuffix(record, recordSuffix)] {
			continue
		}
		if err := files(record); err != nil {
			return count, err
		}
	}
	return count, nil
}
