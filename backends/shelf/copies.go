package shelf

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/spool"
	"github.com/droverhq/drover/dataset"
)

// KeepCopies has the pool keep copies too: see backends.Copier. It is called before the shelf is
// used.
func (s *Shelf) KeepCopies() error {
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(copiesArea, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	s.copies = true
	return nil
}

// begun tells whether a copy's folder holds nothing of one: it was being made.
func (f *Folder) begun() bool {
	names, err := ReadNames(f.Root, ".")
	for _, name := range names {
		if !strings.HasPrefix(name, Temp) {
			return false
		}
	}
	return err == nil
}

// MakeCopy opens the folder of a copy. If the pool has nothing of that dataset, it makes the folder with its
// record, after a call of begin. dataset.ErrConflict: the pool has the dataset itself.
func (s *Shelf) MakeCopy(d dataset.Dataset, begin func() error) (*Folder, error) {
	root, err := s.Enter()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := s.find(root, d.ID)
	switch {
	case err == nil && f.State == backends.EntryCopy && f.whole():
		return f, nil
	case err == nil && f.State != backends.EntryCopy:
		return nil, errors.Join(dataset.Errorf(dataset.ErrConflict, "%s has the dataset itself, with a head",
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
	if err := root.Mkdir(filepath.Join(copiesArea, d.ID.String()), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if f, err = s.find(root, d.ID); err != nil {
		return nil, err
	}
	err = f.WriteRecord(d, true)
	if err == nil {
		err = s.syncArea(root, copiesArea)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Demote moves the folder of a dataset to the copies, durably. Promote moves it back.
func (s *Shelf) Demote(f *Folder) error { return s.move(f, backends.EntryCopy) }

// Promote makes a copy a ready dataset, durably.
func (s *Shelf) Promote(f *Folder) error { return s.move(f, backends.EntryReady) }

func (s *Shelf) move(f *Folder, to backends.EntryState) error {
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	from, there := areaOf(f.State), areaOf(to)
	move := func() error {
		return root.Rename(filepath.Join(from, f.ID.String()), filepath.Join(there, f.ID.String()))
	}
	if to == backends.EntryCopy {
		err = s.back.Back(move)
	} else {
		err = move()
	}
	if err != nil {
		return err
	}
	f.State = to
	return errors.Join(s.syncArea(root, there), s.syncArea(root, from))
}

// NoHead is the error where a copy is asked for its head.
func (f *Folder) NoHead() error {
	return dataset.Errorf(dataset.ErrConflict, "what is here of dataset %s is a copy, without a head", f.ID)
}

// Received says how much of a snapshot is here; see backends.Copier. By what it came where all of
// it is, whole says, or ErrNotFound.
func (s *Shelf) Received(ds, snapshot uuid.UUID,
	whole func(*Folder, uuid.UUID) (backends.Stream, error)) (backends.Received, error) {
	f, err := s.FindAny(ds)
	if errors.Is(err, dataset.ErrNotFound) {
		return backends.Received{}, nil
	}
	if err != nil {
		return backends.Received{}, err
	}
	defer f.Close()
	return f.Received(snapshot, whole)
}

// Received is that of the Shelf, of an open folder.
func (f *Folder) Received(snapshot uuid.UUID,
	whole func(*Folder, uuid.UUID) (backends.Stream, error)) (backends.Received, error) {
	last, err := whole(f, snapshot)
	switch {
	case err == nil:
		return backends.Received{Whole: true, Last: last}, nil
	case !errors.Is(err, dataset.ErrNotFound):
		return backends.Received{}, err
	}
	if part := spool.Partial(f.Root); f.State == backends.EntryCopy && part != nil && part.Snapshot == snapshot {
		return backends.Received{Bytes: part.Bytes, Base: part.Base}, nil
	}
	return backends.Received{}, nil
}

// Spool is where a folder gathers a snapshot that comes.
func (f *Folder) Spool(room func(came int64) error, step func(string)) spool.Spool {
	return spool.Spool{
		Root:  f.Root,
		Room:  room,
		Step:  step,
		Write: func(name string, v any) error { return WriteJSON(f.Root, name, v, true) },
	}
}

// Headless records durably that no tree of a folder is the head.
func (f *Folder) Headless() error {
	return f.SetHead(Head{Tree: RestoredTree(uuid.New())})
}

// Snapshots returns the whole snapshots of a folder, the newest first. One that cannot be read
// is none of them.
func (f *Folder) Snapshots() ([]Kept, error) {
	names, err := ReadNames(f.Root, ".")
	var out []Kept
	for _, name := range names {
		if id, ok := snapshotOf(name); ok {
			if s, err := f.Kept(id); err == nil {
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b Kept) int { return b.Created.Compare(a.Created) })
	return out, err
}
