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

// checkUnused fails if a dataset is in use, or if its folder contains files that Drover did not make. Package shelf
// calls it before it removes the dataset.
func (p *Pool) checkUnused(ctx context.Context, f *shelf.Folder) error {
	c, err := contentsOf(p.layout, f.Dir)
	if err == nil {
		err = foreignError(f.Dir, c)
	}
	if err != nil {
		return err
	}
	return p.release(ctx, f.Dir, true)
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
func (p *Pool) destroy(_ context.Context, area safefile.Dir, names ...string) error {
	for _, name := range names {
		if err := p.destroyOne(area, name); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pool) destroyOne(area safefile.Dir, name string) error {
	dir, err := area.Sub(name)
	if err != nil {
		return safefile.AbsentIsFine(err)
	}
	defer dir.Close()
	p.step("delete.hidden")
	c, err := contentsOf(p.layout, dir)
	if err == nil {
		err = errors.Join(foreignError(dir, c), p.discardMapping(dir))
	}
	if err != nil {
		return err
	}
	for _, item := range c.Items {
		if err := p.layout.Remove(dir, item); err != nil {
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
	root, err := p.Shelf.Enter()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	isIncomplete := func(id uuid.UUID) bool {
		_, err := root.Lstat(filepath.Join(shelf.Incoming, id.String(), p.layout.Image(headItem)))
		return errors.Is(err, os.ErrNotExist)
	}
	count, err := p.Shelf.Reap(ctx, func(id uuid.UUID) bool { return isIncomplete(id) || drop(id) }, p.tidy)
	templates, tErr := p.templates.Reap(root)
	if err = errors.Join(err, tErr); err != nil {
		err = fmt.Errorf("reap pool %s: %w", p.name, err)
	}
	return count + templates, err
}

// tidy removes temporary files and worthless items in a folder: next, the part of a snapshot that cannot be resumed,
// the future head of an interrupted restore, and records whose snapshot was not taken or is gone.
func (p *Pool) tidy(f *shelf.Folder) (count int, err error) {
	c, err := contentsOf(p.layout, f.Dir)
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
		unfinished, err := p.unfinished(f.Dir, item)
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
		if err := p.layout.Remove(f.Dir, item); err != nil {
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

var _ backends.Clearer = (*Pool)(nil)

// Clear implements backends.Clearer. It removes no images except that of the pool and the templates, and no directories
// except empty ones.
func (p *Pool) Clear(context.Context) (remains string, err error) {
	if err := p.Shelf.CheckEmpty(); err != nil {
		return "", err
	}
	if err := p.dropAllUnused(); err != nil {
		return "", err
	}
	if p.image != nil {
		return "", p.image.Clear(p.step)
	}
	root, err := p.Shelf.Enter()
	if err != nil {
		return "", err
	}
	if err := errors.Join(p.templates.Clear(root), root.Close()); err != nil {
		return "", err
	}
	p.step("clear.emptied")
	if p.disk != nil { // the marker stays on the disk, because it contains the generation that control has recorded
		return p.disk.Remains(Name), p.Close()
	}
	return "", p.Shelf.Clear()
}
