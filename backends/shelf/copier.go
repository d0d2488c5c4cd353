package shelf

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// MakeCopy opens the folder of a copy. If the pool has no such copy yet, MakeCopy calls begin and then makes the folder
// with its record. begin fails if nothing new may be made in the pool. MakeCopy fails with dataset.ErrConflict if the
// pool has the dataset itself.
func (s *Shelf) MakeCopy(d dataset.Dataset, begin func() error) (*Folder, error) {
	defer s.claims.Use(d.ID)() // so that Reap does not remove the folder before it has its record
	root, err := s.Enter()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := s.findFolder(root, d.ID)
	complete := false
	if err == nil {
		if complete, err = s.isComplete(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	switch {
	case err == nil && f.State == backends.EntryCopy && complete:
		return f, nil
	case err == nil && f.State != backends.EntryCopy:
		return nil, errors.Join(dataset.Errorf(dataset.ErrConflict, "%s contains the dataset itself, with a head",
			s.title()), f.Close())
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
	if f, err = s.findFolder(root, d.ID); err != nil {
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
func (s *Shelf) Demote(f *Folder) error { return s.move(f, backends.EntryCopy) }

// Promote moves the folder of a copy to the ready datasets, durably.
func (s *Shelf) Promote(f *Folder) error { return s.move(f, backends.EntryReady) }

// move moves a folder to the area of another state, durably.
func (s *Shelf) move(f *Folder, to backends.EntryState) error {
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	from, dest := areaOf(f.State), areaOf(to)
	move := func() error {
		return root.Rename(filepath.Join(from, f.ID.String()), filepath.Join(dest, f.ID.String()))
	}
	if to == backends.EntryCopy {
		err = s.moves.MoveBack(move)
	} else {
		err = move()
	}
	if err != nil {
		return err
	}
	f.State = to
	return s.syncMove(root, f.Dir, dest, from)
}

// Received reports how much of a snapshot the pool has; see backends.Copier. streamOf returns the description of the
// stream of a complete snapshot. streamOf must fail with dataset.ErrNotFound if the snapshot is not complete.
func (s *Shelf) Received(ds, snapshot uuid.UUID,
	streamOf func(*Folder, uuid.UUID) (backends.Stream, error)) (backends.Received, error) {
	f, err := s.FindDatasetOrCopy(ds)
	if errors.Is(err, dataset.ErrNotFound) {
		return backends.Received{}, nil
	}
	if err != nil {
		return backends.Received{}, err
	}
	defer f.Close()
	return f.Received(snapshot, streamOf)
}
