package shelf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// Folder is the open folder of one dataset. The caller closes it.
type Folder struct {
	*os.Root
	ID    uuid.UUID
	State backends.EntryState // ready, incoming or copy
	done  func()
}

// Close closes the folder.
func (f *Folder) Close() error {
	f.done()
	return f.Root.Close()
}

// Find opens the folder of a dataset, ready or incoming and whole.
// dataset.ErrNotFound: there is none; dataset.ErrConflict: it is a copy, and has no head;
// dataset.ErrCorrupt: something else is in its place.
func (s *Shelf) Find(id uuid.UUID) (*Folder, error) {
	f, err := s.FindAny(id)
	if err == nil && f.State == backends.EntryCopy {
		return nil, errors.Join(s.isCopy(id), f.Close())
	}
	return f, err
}

func (s *Shelf) isCopy(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrConflict, "%s has a copy of dataset %s, without a head", s.title(), id)
}

// FindAny is Find for what needs no head: of a copy as well.
func (s *Shelf) FindAny(id uuid.UUID) (*Folder, error) {
	root, err := s.Enter()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := s.find(root, id)
	if err != nil {
		return nil, err
	}
	if f.State != backends.EntryReady && !f.whole() {
		_ = f.Close()
		return nil, s.notFound(id)
	}
	return f, nil
}

func (s *Shelf) notFound(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrNotFound, "%s has no dataset %s", s.title(), id)
}

// find opens the folder with the dataset's name, ready or incoming, whole or not.
func (s *Shelf) find(root *os.Root, id uuid.UUID) (*Folder, error) {
	for {
		before := s.back.Count()
		f, err := s.search(root, id)
		if err == nil || s.back.Count() == before {
			return f, err
		}
	}
}

func (s *Shelf) search(root *os.Root, id uuid.UUID) (*Folder, error) {
	for _, area := range s.areas()[:len(s.areas())-1] {
		done := s.claims.Use(id)
		f, err := s.open(root, area, id, done)
		if err == nil {
			return f, nil
		}
		done()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, s.notFound(id)
}

// open opens a folder; done is called when that is closed.
func (s *Shelf) open(root *os.Root, area string, id uuid.UUID, done func()) (*Folder, error) {
	sub, err := openSub(root, filepath.Join(area, id.String()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: %w", id, err)
	}
	f := &Folder{Root: sub, ID: id, State: backends.EntryReady, done: done}
	switch area {
	case incomingArea:
		f.State = backends.EntryIncoming
		return f, nil
	case copiesArea:
		f.State = backends.EntryCopy
		return f, nil
	}
	names, err := ReadNames(sub, ".")
	if err == nil && len(names) == 0 {
		err = dataset.Errorf(dataset.ErrCorrupt, "%s has a dataset's name, but is empty: drover made no such thing",
			filepath.Join(s.path, area, id.String()))
	}
	if err != nil {
		_ = sub.Close()
		return nil, err
	}
	return f, nil
}

// Make returns the incoming folder of a dataset, made if need be, and whether it
// is whole already; if not, it is empty. A ready dataset is whole.
func (s *Shelf) Make(id uuid.UUID) (f *Folder, whole bool, err error) {
	defer s.claims.Use(id)()
	root, err := s.Enter()
	if err != nil {
		return nil, false, err
	}
	defer root.Close()
	f, err = s.find(root, id)
	switch {
	case err == nil && f.State == backends.EntryCopy:
		return nil, false, errors.Join(s.isCopy(id), f.Close())
	case err == nil && (f.State == backends.EntryReady || f.whole()):
		return f, true, nil
	case err == nil:
		if err := f.Close(); err != nil {
			return nil, false, err
		}
		if err := s.destroy(context.Background(), root, incomingArea, id.String()); err != nil {
			return nil, false, fmt.Errorf("remove what an earlier try left: %w", err)
		}
	case !errors.Is(err, dataset.ErrNotFound):
		return nil, false, err
	}
	if err := root.Mkdir(filepath.Join(incomingArea, id.String()), 0o700); err != nil {
		return nil, false, err
	}
	f, err = s.find(root, id)
	return f, false, err
}

// Finish makes an incoming folder whole and durable: it writes the record, the
// last of its files. One that is whole already, from an earlier try, gets d as its
// record too; a ready one keeps its own, and is made durable, as that try may have
// been cut short before that.
func (s *Shelf) Finish(f *Folder, d dataset.Dataset) error {
	var err error
	if f.State == backends.EntryReady {
		err = SyncDir(f.Root)
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
	return s.syncArea(root, areaOf(f.State))
}

// areaOf returns where folders of a state are.
func areaOf(state backends.EntryState) string {
	switch state {
	case backends.EntryIncoming:
		return incomingArea
	case backends.EntryCopy:
		return copiesArea
	}
	return readyArea
}

func (s *Shelf) syncArea(root *os.Root, area string) error {
	sub, err := openSub(root, area)
	if err != nil {
		return err
	}
	defer sub.Close()
	return SyncDir(sub)
}

// Discard removes the incoming folder of a dataset that could not be made.
func (s *Shelf) Discard(id uuid.UUID) error {
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	return s.destroy(context.Background(), root, incomingArea, id.String())
}

// Glance opens the folder of a dataset, ready or incoming and whole or not, for work on another dataset: it
// does not wait for a lock. dataset.ErrNotFound: there is none.
func (s *Shelf) Glance(id uuid.UUID) (*os.Root, error) {
	root, err := s.Enter()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for {
		before := s.back.Count()
		for _, area := range s.areas()[:len(s.areas())-1] {
			sub, err := openSub(root, filepath.Join(area, id.String()))
			if !errors.Is(err, fs.ErrNotExist) {
				return sub, err
			}
		}
		if s.back.Count() == before {
			return nil, s.notFound(id)
		}
	}
}

// Commit moves an incoming dataset to the ready ones. A ready one is fine, one
// that is absent or not whole dataset.ErrNotFound. Not durable by itself.
func (s *Shelf) Commit(id uuid.UUID) error {
	f, err := s.Find(id)
	if err != nil {
		return err
	}
	defer f.Close()
	if f.State == backends.EntryReady {
		return nil
	}
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	return root.Rename(filepath.Join(incomingArea, id.String()), filepath.Join(readyArea, id.String()))
}

// whole says whether the folder has its record, the last file that is written.
func (f *Folder) whole() bool {
	_, err := f.Lstat(recordName)
	return err == nil
}

// WriteRecord replaces the record; see WriteJSON.
func (f *Folder) WriteRecord(d dataset.Dataset, sync bool) error {
	return WriteJSON(f.Root, recordName, d, sync)
}

// ReadRecord reads the record. dataset.ErrCorrupt: it is absent, cannot be read
// or is another dataset's.
func (f *Folder) ReadRecord() (*dataset.Dataset, error) {
	var d dataset.Dataset
	if err := ReadJSON(f.Root, recordName, &d); err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "record of dataset %s: %w", f.ID, err)
	}
	if d.ID != f.ID {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "record of dataset %s is that of %s", f.ID, d.ID)
	}
	return &d, nil
}

// ReadJSON reads a file that WriteJSON wrote.
func ReadJSON(root *os.Root, name string, v any) error {
	data, err := safefile.ReadIn(root, name)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}
