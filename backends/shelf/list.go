package shelf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// List returns all entries of the pool. describe adds the backend's part to the entry of a dataset or copy: its
// snapshots, and problems with AddProblem. It clears the state of an entry that is not to be listed.
func (s *Shelf) List(describe func(*Folder, *backends.Entry)) ([]backends.Entry, error) {
	root, err := s.Enter()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for {
		before := s.moves.Count()
		entries, err := s.list(root, describe)
		if err != nil || s.moves.Count() == before {
			return entries, err
		}
	}
}

// CheckEmpty fails with dataset.ErrConflict if List would return an entry. It changes nothing.
func (s *Shelf) CheckEmpty() error {
	entries, err := s.List(func(*Folder, *backends.Entry) {})
	if err != nil || len(entries) == 0 {
		return err
	}
	return dataset.Errorf(dataset.ErrConflict, "%s contains %q: it is not removed", s.title(), entries[0].Path)
}

// list does the work of List once. It misses a dataset that becomes a copy meanwhile, so List repeats it.
func (s *Shelf) list(root safefile.Dir, describe func(*Folder, *backends.Entry)) ([]backends.Entry, error) {
	entries, err := s.foreignNames(root)
	if err != nil {
		return nil, err
	}
	seen := map[uuid.UUID]int{}
	for _, area := range s.areas() {
		names, err := root.Names(area)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			e, ok := s.entry(root, area, name, describe)
			if !ok {
				continue
			}
			at, twice := seen[e.ID]
			twice = twice && e.ID != uuid.Nil && e.State != entries[at].State
			if twice && e.State != backends.EntryDeleting {
				entries[at] = e // it moved to the next area meanwhile
			}
			if twice { // remains of an earlier dataset do not hide the present one
				continue
			}
			seen[e.ID] = len(entries)
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// foreignNames returns an entry for each name beside the areas that is not the pool's or the backend's.
func (s *Shelf) foreignNames(root safefile.Dir) ([]backends.Entry, error) {
	names, err := root.Names(".")
	if err != nil {
		return nil, err
	}
	var entries []backends.Entry
	for _, name := range names {
		known := trialdir.IsSandbox(s.path, name) || name == MarkerFile || name == Temp+MarkerFile ||
			name == "lost+found" && isEmpty(root, name) || slices.Contains(s.areas(), name) ||
			slices.Contains(s.BackendNames, name)
		if !known {
			entries = append(entries, s.foreign(name, "drover did not create an object of that name there"))
		}
	}
	return entries, nil
}

// isEmpty reports whether a folder is empty. In lost+found, fsck puts files that somebody may still need.
func isEmpty(root safefile.Dir, name string) bool {
	names, err := root.Names(name)
	return err == nil && len(names) == 0
}

// foreign returns the entry for a name that Drover did not make.
func (s *Shelf) foreign(name, problem string) backends.Entry {
	return backends.Entry{State: backends.EntryForeign, Path: filepath.Join(s.path, name), Problem: problem}
}

// entry describes one name in an area. It returns false if the name was removed meanwhile.
func (s *Shelf) entry(root safefile.Dir, area, name string, describe func(*Folder, *backends.Entry)) (
	backends.Entry, bool) {
	path := filepath.Join(area, name)
	id, named := parseName(area, name)
	if !named {
		return s.foreign(path, "its name is not the UUID of a dataset"), true
	}
	if area == Deleting {
		return s.deletingEntry(root, path, id)
	}
	f, err := openFolder(root, area, id, func() {})
	switch {
	case errors.Is(err, os.ErrNotExist):
		return backends.Entry{}, false
	case errors.Is(err, errForeign):
		return s.foreign(path, err.Error()), true
	case err != nil: // one bad directory must not hide the rest of the pool
		e := backends.Entry{ID: id, State: stateOf(area), Path: filepath.Join(s.path, path)}
		AddProblem(&e, fmt.Errorf("cannot read its directory: %w", err))
		return e, true
	}
	defer f.Close()
	if area == Copies && f.isEmpty() {
		return backends.Entry{}, false
	}
	e := s.Describe(f, describe)
	return e, e.State != ""
}

// deletingEntry describes a folder in the area of deletions.
func (s *Shelf) deletingEntry(root safefile.Dir, path string, id uuid.UUID) (backends.Entry, bool) {
	st, err := root.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return backends.Entry{}, false
	case err != nil:
		return s.foreign(path, err.Error()), true
	case !safefile.IsDir(st):
		return s.foreign(path, "its name is the UUID of a dataset, but it is not a directory"), true
	}
	return backends.Entry{ID: id, State: backends.EntryDeleting, Path: filepath.Join(s.path, path)}, true
}

// Describe returns the entry of an open folder.
func (s *Shelf) Describe(f *Folder, describe func(*Folder, *backends.Entry)) backends.Entry {
	e := backends.Entry{ID: f.ID, State: f.State, Path: f.Path()}
	record, err := f.ReadRecord()
	if err != nil {
		AddProblem(&e, fmt.Errorf("cannot read its record: %w", err))
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
