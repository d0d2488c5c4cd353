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
func (p *Pool) isComplete(f *shelf.Folder) (bool, error) {
	if f.State == backends.EntryCopy {
		c, err := contentsOf(p.layout, f.Dir)
		return err == nil && len(c.Items)+len(c.Records)+len(c.Foreign) > 0, err
	}
	return f.Has(p.layout.Image(headItem))
}

// errNoHead says that a dataset exists, and its image was deleted.
var errNoHead = dataset.Errorf(dataset.ErrCorrupt, "the image")

// checkHead fails with errNoHead if the folder is that of a ready dataset whose image was deleted.
func (p *Pool) checkHead(f *shelf.Folder) error {
	if f.State != backends.EntryReady {
		return nil
	}
	_, err := f.Lstat(p.layout.Image(headItem))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w of %s is missing", errNoHead, f.Path())
	}
	return err
}

// findHead opens the folder of a dataset that is not a copy and has a head. If a dataset became a copy meanwhile, it
// looks again, because it can have opened the folder before that.
func (p *Pool) findHead(id uuid.UUID) (*shelf.Folder, error) {
	for {
		before := p.MovesBack()
		f, err := p.FindDataset(id)
		if err != nil {
			return nil, err
		}
		if err = p.checkHead(f); err == nil {
			return f, nil
		}
		err = errors.Join(err, f.Close())
		if !errors.Is(err, errNoHead) || p.MovesBack() == before {
			return nil, err
		}
	}
}

// List implements backends.Pool.
func (p *Pool) List(context.Context) ([]backends.Entry, error) {
	list, err := p.Shelf.List(p.describe)
	if err != nil {
		err = fmt.Errorf("list pool %s: %w", p.name, err)
	}
	return list, err
}

// describe adds the content of a folder to its entry, and its problems.
func (p *Pool) describe(f *shelf.Folder, e *backends.Entry) {
	c, err := contentsOf(p.layout, f.Dir)
	if err != nil { // one bad directory must not hide the rest of the pool
		shelf.AddProblem(e, fmt.Errorf("cannot read its directory: %w", err))
		return
	}
	p.describeContents(f, e, c)
}

// describeContents is describe for a folder with the given files. It leaves out a dataset that is being made.
func (p *Pool) describeContents(f *shelf.Folder, e *backends.Entry, c contents) {
	headless := !slices.Contains(c.Items, headItem)
	if f.State == backends.EntryIncoming && headless && len(c.Foreign) == 0 {
		e.State = ""
		return
	}
	p.describeHead(f, e, c, headless)
	p.describeSnapshots(f, e, c)
	e.ForeignFiles = c.Foreign
	if len(c.Foreign) > 0 {
		shelf.AddProblem(e, fmt.Errorf("it contains foreign files: %s", strings.Join(c.Foreign, ", ")))
	}
}

// describeHead adds the problems of a head, or the received part of a snapshot.
func (p *Pool) describeHead(f *shelf.Folder, e *backends.Entry, c contents, headless bool) {
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
	_, _, err := p.inspect(f.Dir, headItem)
	switch absent := errors.Is(err, os.ErrNotExist); {
	case absent && headless: // on btrfs a listing can miss an item that is renamed meanwhile
		shelf.AddProblem(e, errors.New("its image is missing"))
	case err != nil && !absent: // an absent image may have been renamed meanwhile
		shelf.AddProblem(e, errors.New(dataset.OneLine(err)))
	}
}

func (p *Pool) describeSnapshots(f *shelf.Folder, e *backends.Entry, c contents) {
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
			if unfinished, err := p.unfinished(f.Dir, item); err == nil && unfinished {
				continue
			}
		}
		if errors.Is(err, os.ErrNotExist) && p.wasRemoved(f.Dir, item) {
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
func (p *Pool) wasRemoved(dir safefile.Dir, item string) bool {
	contents, err := contentsOf(p.layout, dir)
	return err == nil && !slices.Contains(contents.Items, item)
}

// Stat implements backends.Pool. If the image of the dataset was deleted, it returns the snapshots and an error.
func (p *Pool) Stat(_ context.Context, id uuid.UUID) (e backends.Entry, err error) {
	for {
		before := p.MovesBack()
		f, err := p.FindDatasetOrCopy(id)
		if err != nil {
			return e, err
		}
		e = p.Describe(f, p.describe)
		err = errors.Join(p.checkHead(f), f.Close())
		if !errors.Is(err, errNoHead) || p.MovesBack() == before { // see findHead
			return e, err
		}
	}
}

// Used implements backends.Pool. It reads the number of allocated blocks from the inode of the head's image. If
// newUsage has the number for a new dataset, Used returns that number once, without searching for the dataset.
func (p *Pool) Used(_ context.Context, id uuid.UUID) (used dataset.Size, err error) {
	if used, known := p.newUsage.take(id); known {
		return used, nil
	}
	defer backends.Wrap(&err, "used space of dataset %s", id)
	found, err := p.findHead(id)
	if err != nil {
		return 0, err
	}
	defer found.Close()
	f, err := found.Open(p.layout.Image(headItem))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if used, err = allocated(f); err != nil {
		return 0, err
	}
	_, _, err = inspectFile(f)
	return used, err
}
