package shelf

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// List returns all entries of the pool. Describe adds the backend's part to the entry of a ready or incoming
// dataset: its snapshots, and problems by AddProblem.
func (s *Shelf) List(describe func(*Folder, *backends.Entry)) ([]backends.Entry, error) {
	root, err := s.Enter()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for {
		before := s.back.Count()
		entries, err := s.list(root, describe)
		if err != nil || s.back.Count() == before {
			return entries, err
		}
	}
}

func (s *Shelf) list(root *os.Root, describe func(*Folder, *backends.Entry)) ([]backends.Entry, error) {
	entries, err := s.strangers(root)
	if err != nil {
		return nil, err
	}
	seen := map[uuid.UUID]int{}
	for _, area := range s.areas() {
		names, err := ReadNames(root, area)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			e, ok := s.entry(root, area, name, describe)
			if !ok {
				continue
			}
			if at, twice := seen[e.ID]; twice && e.ID != uuid.Nil && e.State != entries[at].State {
				entries[at] = e // it moved on since
				continue
			}
			seen[e.ID] = len(entries)
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// strangers returns the names beside the areas.
func (s *Shelf) strangers(root *os.Root) ([]backends.Entry, error) {
	names, err := ReadNames(root, ".")
	if err != nil {
		return nil, err
	}
	var entries []backends.Entry
	for _, name := range names {
		ours := trialdir.Is(s.path, name) || name == markerName || name == Temp+markerName || name == "lost+found" ||
			slices.Contains(s.areas(), name) || slices.Contains(s.Own, name)
		if !ours {
			entries = append(entries, s.foreign(name, "drover put nothing of that name there"))
		}
	}
	return entries, nil
}

func (s *Shelf) foreign(name, problem string) backends.Entry {
	return backends.Entry{State: backends.EntryForeign, Path: filepath.Join(s.path, name), Problem: problem}
}

// entry describes one name in an area; not ok: it went away meanwhile.
func (s *Shelf) entry(root *os.Root, area, name string, describe func(*Folder, *backends.Entry)) (backends.Entry,
	bool) {
	path := filepath.Join(area, name)
	info, err := root.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return backends.Entry{}, false
	}
	id, named := parseName(area, name)
	switch {
	case err != nil:
		return s.foreign(path, err.Error()), true
	case !named:
		return s.foreign(path, "its name is no dataset's UUID"), true
	case !info.IsDir():
		return s.foreign(path, "a dataset's name, but no directory"), true
	case area == deletingArea:
		return backends.Entry{ID: id, State: backends.EntryDeleting, Path: filepath.Join(s.path, path)}, true
	}
	f, err := s.open(root, area, id, func() {})
	if errors.Is(err, os.ErrNotExist) {
		return backends.Entry{}, false
	}
	if err != nil {
		return s.foreign(path, err.Error()), true
	}
	defer f.Close()
	if area == copiesArea && f.begun() {
		return backends.Entry{}, false
	}
	return s.Describe(f, describe), true
}

// Describe returns the entry of an open folder.
func (s *Shelf) Describe(f *Folder, describe func(*Folder, *backends.Entry)) backends.Entry {
	e := backends.Entry{ID: f.ID, State: f.State, Path: s.PathOf(f)}
	record, err := f.ReadRecord()
	if err != nil {
		AddProblem(&e, err)
	}
	e.Record = record
	describe(f, &e)
	return e
}

// AddProblem adds a problem to those of an entry.
func AddProblem(e *backends.Entry, err error) {
	if e.Problem != "" {
		e.Problem += "; "
	}
	e.Problem += err.Error()
}

// Status returns the size and the free space of the filesystem below the pool,
// and how many deletions are pending.
func (s *Shelf) Status() dataset.PoolStatus {
	st := dataset.PoolStatus{ID: s.ID()}
	root, err := s.Enter()
	if err != nil {
		st.Reason = err.Error()
		return st
	}
	defer root.Close()
	var free, size int64
	dir, err := root.Open(deletingArea)
	if err == nil {
		defer dir.Close()
		free, size, err = fsctl.SpaceOf(dir)
	}
	if err != nil {
		st.Reason = err.Error()
		return st
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		st.Reason = err.Error()
		return st
	}
	st.Online, st.Pending = true, len(names)
	st.Size, st.Free = dataset.Size(size), dataset.Size(free)
	return st
}

// Free returns how many bytes the pool has left.
func (s *Shelf) Free() (dataset.Size, error) {
	st := s.Status()
	if !st.Online {
		return 0, dataset.Errorf(dataset.ErrOffline, "%s", st.Reason)
	}
	return st.Free, nil
}

// PathOf returns the path of an open folder.
func (s *Shelf) PathOf(f *Folder) string {
	return filepath.Join(s.path, areaOf(f.State), f.ID.String())
}
