package shelf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// copier makes copies of datasets, and turns datasets into copies and back.
type copier struct {
	dir     *directory
	catalog *catalog
}

// MakeCopy opens the folder of a copy. If the pool has no such copy yet, MakeCopy calls begin and then makes the folder
// with its record. begin fails if nothing new may be made in the pool. MakeCopy fails with dataset.ErrConflict if the
// pool has the dataset itself.
func (cp *copier) MakeCopy(d dataset.Dataset, begin func() error) (*Folder, error) {
	defer cp.catalog.claims.Use(d.ID)() // so that Reap does not remove the folder before it has its record
	root, err := cp.dir.Enter()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := cp.catalog.findFolder(root, d.ID)
	complete := false
	if err == nil {
		if complete, err = cp.catalog.isComplete(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	switch {
	case err == nil && f.State == backends.EntryCopy && complete:
		return f, nil
	case err == nil && f.State != backends.EntryCopy:
		return nil, errors.Join(dataset.Errorf(dataset.ErrConflict, "%s contains the dataset itself, with a head",
			cp.dir.title()), f.Close())
	case err == nil:
		err = f.Close()
	case errors.Is(err, dataset.ErrNotFound):
		err = nil
	}
	if err == nil {
		err = begin()
	}
	if err != nil {
		return nil, err
	}
	if err := root.Mkdir(filepath.Join(Copies, d.ID.String())); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if f, err = cp.catalog.findFolder(root, d.ID); err != nil {
		return nil, err
	}
	err = f.WriteRecord(d, true)
	if err == nil {
		err = syncArea(root, Copies)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Demote moves the folder of a dataset to the copies, durably.
func (cp *copier) Demote(f *Folder) error { return cp.move(f, backends.EntryCopy) }

// Promote moves the folder of a copy to the ready datasets, durably.
func (cp *copier) Promote(f *Folder) error { return cp.move(f, backends.EntryReady) }

// move moves a folder to the area of another state, durably.
func (cp *copier) move(f *Folder, to backends.EntryState) error {
	root, err := cp.dir.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	from, dest := areaOf(f.State), areaOf(to)
	move := func() error {
		return root.Rename(filepath.Join(from, f.ID.String()), filepath.Join(dest, f.ID.String()))
	}
	if to == backends.EntryCopy {
		err = cp.catalog.moves.MoveBack(move)
	} else {
		err = move()
	}
	if err != nil {
		return err
	}
	f.State = to
	return cp.dir.syncMove(root, f.Dir, dest, from)
}

// Send opens the folder of the dataset or copy whose snapshot is sent, and calls send with it: see backends.Sender. It
// adds the snapshot and the dataset to the error.
func (cp *copier) Send(src dataset.Source, send func(*Folder) (backends.Stream, error)) (backends.Stream, error) {
	var out backends.Stream
	f, err := cp.catalog.FindDatasetOrCopy(src.Dataset)
	if err == nil {
		defer f.Close()
		out, err = send(f)
	}
	if err != nil {
		err = fmt.Errorf("send snapshot %s of dataset %s: %w", src.Snapshot, src.Dataset, err)
	}
	return out, err
}

// Received reports how much of a snapshot the pool has; see backends.Copier. streamOf returns the description of the
// stream of a complete snapshot. streamOf must fail with dataset.ErrNotFound if the snapshot is not complete.
func (cp *copier) Received(ds, snapshot uuid.UUID,
	streamOf func(*Folder, uuid.UUID) (backends.Stream, error)) (backends.Received, error) {
	f, err := cp.catalog.FindDatasetOrCopy(ds)
	if errors.Is(err, dataset.ErrNotFound) {
		return backends.Received{}, nil
	}
	if err != nil {
		return backends.Received{}, err
	}
	defer f.Close()
	return f.Received(snapshot, streamOf)
}
