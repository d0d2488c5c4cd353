package shelf

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Make returns the folder of a dataset, and whether the dataset is complete already. If the dataset is absent or
// incomplete, Make returns a new and empty incoming folder. A ready dataset is complete. Make fails with
// dataset.ErrConflict if the pool has a copy of the dataset.
func (s *Shelf) Make(id uuid.UUID) (f *Folder, complete bool, err error) {
	defer s.claims.Use(id)()
	root, err := s.Enter()
	if err != nil {
		return nil, false, err
	}
	defer root.Close()
	f, err = s.findFolder(root, id)
	if err == nil {
		if complete, err = s.isComplete(f); err != nil {
			return nil, false, errors.Join(err, f.Close())
		}
	}
	switch {
	case err == nil && f.State == backends.EntryCopy:
		return nil, false, errors.Join(s.isCopyError(id), f.Close())
	case err == nil && complete:
		return f, true, nil
	case err == nil:
		if err := f.Close(); err != nil {
			return nil, false, err
		}
		if err := s.destroy(context.Background(), root, Incoming, id.String()); err != nil {
			return nil, false, fmt.Errorf("remove the remains of an earlier attempt: %w", err)
		}
	case !errors.Is(err, dataset.ErrNotFound):
		return nil, false, err
	}
	err = root.Mkdir(filepath.Join(Incoming, id.String()))
	if errors.Is(err, unix.ENOSPC) {
		err = dataset.Errorf(dataset.ErrNoSpace, "%s is full: %w", s.title(), err)
	}
	if err != nil {
		return nil, false, backends.NoSpace(err)
	}
	done := s.claims.Use(id)
	if f, err = openFolder(root, Incoming, id, done); err != nil {
		done()
	}
	return f, false, err
}

// Build makes a dataset, and returns its size. fill fills the empty folder. If an earlier attempt completed the
// dataset, Build calls measure instead. If fill fails, Build removes the folder.
func (s *Shelf) Build(
	d dataset.Dataset, measure, fill func(*Folder) (dataset.Size, error),
) (_ dataset.Size, err error) {
	defer func() { err = backends.NoSpace(err) }()
	f, complete, err := s.Make(d.ID)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if complete {
		size, err := measure(f)
		if err != nil {
			return 0, err
		}
		return size, s.Finish(f, d)
	}
	size, err := fill(f)
	if err != nil {
		if dErr := s.Discard(d.ID); dErr != nil {
			return 0, fmt.Errorf("%w (and the partial result stays: %v)", err, dErr)
		}
		return 0, err
	}
	return size, s.Finish(f, d)
}

// Finish makes an incoming folder complete and durable: it writes the record, which is the last of its files. A folder
// that an earlier attempt completed gets d as its record too. A ready folder keeps its record. Finish makes it durable,
// because the earlier attempt may have been interrupted before its flush.
func (s *Shelf) Finish(f *Folder, d dataset.Dataset) error {
	var err error
	if f.State == backends.EntryReady {
		err = SyncDir(f.Dir)
	} else {
		err = f.WriteRecord(d, true)
	}
	if err != nil {
		return err
	}
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	return syncArea(root, areaOf(f.State))
}

// Discard removes the incoming folder of a dataset that could not be made.
func (s *Shelf) Discard(id uuid.UUID) error {
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	return s.destroy(context.Background(), root, Incoming, id.String())
}

// Commit moves an incoming dataset to the ready ones. The move is not durable yet. Idempotent: if the dataset is ready,
// Commit returns nil. It fails with dataset.ErrNotFound if the dataset is absent or incomplete.
func (s *Shelf) Commit(_ context.Context, id uuid.UUID) error {
	return s.CommitAny(id, func(*Folder) error { return s.isCopyError(id) })
}

// CommitAny is Commit for a backend that keeps copies. commitCopy commits the head of a copy.
func (s *Shelf) CommitAny(id uuid.UUID, commitCopy func(*Folder) error) error {
	f, err := s.FindDatasetOrCopy(id)
	if err != nil {
		return err
	}
	defer f.Close()
	switch f.State {
	case backends.EntryReady:
		return nil
	case backends.EntryCopy:
		return commitCopy(f)
	}
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	return root.Rename(filepath.Join(Incoming, id.String()), filepath.Join(Datasets, id.String()))
}

// WriteRecord writes the record of a dataset or copy; see backends.Pool.
func (s *Shelf) WriteRecord(_ context.Context, d dataset.Dataset, sync bool) error {
	f, err := s.FindDatasetOrCopy(d.ID)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.WriteRecord(d, sync)
}
