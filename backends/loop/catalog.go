package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// isComplete reports whether an incoming dataset has its head, which it gets last. A copy has no head. It is complete
// if its folder has any file: a crash can leave an empty folder.
func (i *images) isComplete(f *shelf.Folder) (bool, error) {
	if f.State == backends.EntryCopy {
		c, err := contentsOf(i.layout, f.Dir)
		return err == nil && len(c.Items)+len(c.Records)+len(c.Foreign) > 0, err
	}
	return f.Has(i.layout.Image(headItem))
}

// errNoHead says that a dataset exists, and its image was deleted.
var errNoHead = dataset.Errorf(dataset.ErrCorrupt, "the image")

// checkHead fails with errNoHead if the folder is that of a ready dataset whose image was deleted.
func (i *images) checkHead(f *shelf.Folder) error {
	if f.State != backends.EntryReady {
		return nil
	}
	_, err := f.Lstat(i.layout.Image(headItem))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w of %s is missing", errNoHead, f.Path())
	}
	return err
}

// untilSettled calls look again if it found no head while a dataset became a copy: look can have opened the folder
// before that.
func (p *Pool) untilSettled(look func() error) error {
	for {
		before := p.shelf.MovesBack()
		err := look()
		if !errors.Is(err, errNoHead) || p.shelf.MovesBack() == before {
			return err
		}
	}
}

// withDataset calls do with the folder of a dataset that is not a copy and has a head.
func (p *Pool) withDataset(id uuid.UUID, do func(f *shelf.Folder) error) error {
	return p.untilSettled(func() error {
		f, err := p.shelf.FindDataset(id)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := p.images.checkHead(f); err != nil {
			return err
		}
		return backends.NoSpace(do(f))
	})
}

// withDatasetOrCopy calls do with the folder of a dataset, which may have lost its head, or of a copy.
func (p *Pool) withDatasetOrCopy(id uuid.UUID, do func(f *shelf.Folder) error) error {
	f, err := p.shelf.FindDatasetOrCopy(id)
	if err != nil {
		return err
	}
	defer f.Close()
	return backends.NoSpace(do(f))
}

// List implements backends.Pool.
func (p *Pool) List(context.Context) ([]backends.Entry, error) {
	list, err := p.shelf.List(p.images.describe)
	if err != nil {
		err = fmt.Errorf("list pool %s: %w", p.name, err)
	}
	return list, err
}

// describe adds the content of a folder to its entry, and its problems.
func (i *images) describe(f *shelf.Folder, e *backends.Entry) {
	c, err := contentsOf(i.layout, f.Dir)
	if err != nil { // one bad directory must not hide the rest of the pool
		shelf.AddProblem(e, fmt.Errorf("cannot read its directory: %w", err))
		return
	}
	i.describeContents(f, e, c)
}

// describeContents is describe for a folder with the given files. It leaves out a dataset that is being made.
func (i *images) describeContents(f *shelf.Folder, e *backends.Entry, c contents) {
	headless := !slices.Contains(c.Items, headItem)
	if f.State == backends.EntryIncoming && headless && len(c.Foreign) == 0 {
		e.State = ""
		return
	}
	i.describeHead(f, e, c, headless)
	i.describeSnapshots(f, e, c)
	e.ForeignFiles = c.Foreign
	if len(c.Foreign) > 0 {
		shelf.AddProblem(e, fmt.Errorf("it contains foreign files: %s", strings.Join(c.Foreign, ", ")))
	}
}

// describeHead adds the problems of a head, or the received part of a snapshot.
func (i *images) describeHead(f *shelf.Folder, e *backends.Entry, c contents, headless bool) {
	if f.State == backends.EntryCopy {
		e.Promoted = !headless
		if partial, err := readPartial(f.Dir); err == nil && slices.Contains(c.Items, partItem) {
			e.Partial = &backends.Partial{
				Snapshot: partial.Header.Snapshot,
				Base:     partial.Header.Base,
				Bytes:    partial.Mark.Offset,
			}
		}
		return
	}
	_, _, err := i.Inspect(f.Dir, headItem)
	switch absent := errors.Is(err, os.ErrNotExist); {
	case absent && headless: // on btrfs a listing can miss an item that is renamed meanwhile
		shelf.AddProblem(e, errors.New("its image is missing"))
	case err != nil && !absent: // an absent image may have been renamed meanwhile
		shelf.AddProblem(e, errors.New(dataset.OneLine(err)))
	}
}

// describeSnapshots adds the snapshots.
func (i *images) describeSnapshots(f *shelf.Folder, e *backends.Entry, c contents) {
	for _, item := range c.Items {
		id, err := uuid.Parse(item)
		if err != nil {
			continue // head, next, part
		}
		s := dataset.Snapshot{}
		err = shelf.ReadJSON(f.Dir, snapshotRecord(id), &s)
		if err == nil && (s.ID != id || s.Dataset != e.ID) {
			err = fmt.Errorf("it belongs to snapshot %s of dataset %s", s.ID, s.Dataset)
		}
		if s.Kind == dataset.SnapshotRestore {
			if unfinished, err := i.Unfinished(f.Dir, item); err == nil && unfinished {
				continue
			}
		}
		if errors.Is(err, os.ErrNotExist) && i.wasRemoved(f.Dir, item) {
			continue
		}
		if err != nil {
			s = dataset.Snapshot{ID: id, Dataset: e.ID}
			shelf.AddProblem(e, fmt.Errorf("cannot read the record of snapshot %s: %w", id, err))
		}
		e.Snapshots = append(e.Snapshots, s)
	}
	slices.SortFunc(e.Snapshots, func(a, b dataset.Snapshot) int { return a.Created.Compare(b.Created) })
}

// wasRemoved reports whether an item was removed after it was listed. Readers hold no lock, and deleting a snapshot
// removes its record last.
func (i *images) wasRemoved(dir safefile.Dir, item string) bool {
	contents, err := contentsOf(i.layout, dir)
	return err == nil && !slices.Contains(contents.Items, item)
}

// Stat implements backends.Pool. If the image of the dataset was deleted, it returns the snapshots and an error.
func (p *Pool) Stat(_ context.Context, id uuid.UUID) (e backends.Entry, err error) {
	err = p.untilSettled(func() error {
		f, err := p.shelf.FindDatasetOrCopy(id)
		if err != nil {
			return err
		}
		defer f.Close()
		e = p.shelf.Describe(f, p.images.describe)
		return p.images.checkHead(f)
	})
	return e, err
}

// Used implements backends.Pool. It reads the number of allocated blocks from the inode of the head's image. If
// newUsage has the number for a new dataset, Used returns that number once, without searching for the dataset.
func (p *Pool) Used(_ context.Context, id uuid.UUID) (dataset.Size, error) {
	if used, known := p.newUsage.take(id); known {
		return used, nil
	}
	var used dataset.Size
	err := p.withDataset(id, func(found *shelf.Folder) error {
		f, err := found.Open(p.layout.Image(headItem))
		if err != nil {
			return err
		}
		defer f.Close()
		if used, err = allocated(f); err != nil {
			return err
		}
		_, _, err = inspectFile(f)
		return err
	})
	if err != nil {
		return used, fmt.Errorf("used space of dataset %s: %w", id, err)
	}
	return used, nil
}
