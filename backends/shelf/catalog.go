package shelf

import (
	"cmp"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/internal/safefile"
)

// MovesBack returns how often a dataset of the pool has become a copy. Safe for concurrent use.
func (s *Shelf) MovesBack() int { return s.moves.Count() }

// FindDataset opens the folder of a dataset that is ready, or incoming and complete. It fails with
// dataset.ErrNotFound if there is none, with dataset.ErrConflict if the dataset is a copy, and with
// dataset.ErrCorrupt if the name belongs to something else.
func (s *Shelf) FindDataset(id uuid.UUID) (*Folder, error) {
	f, err := s.FindDatasetOrCopy(id)
	if err == nil && f.State == backends.EntryCopy {
		return nil, errors.Join(s.isCopyError(id), f.Close())
	}
	return f, err
}

// FindDatasetOrCopy opens folders as FindDataset does, and also those of copies.
func (s *Shelf) FindDatasetOrCopy(id uuid.UUID) (*Folder, error) {
	root, err := s.Enter()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := s.findFolder(root, id)
	if err != nil {
		return nil, err
	}
	complete, err := s.isComplete(f)
	if complete && err == nil {
		return f, nil
	}
	return nil, errors.Join(cmp.Or(err, s.notFoundError(id)), f.Close())
}

// isComplete reports whether a folder is complete. It fails if the folder cannot be read: then nobody knows.
func (s *Shelf) isComplete(f *Folder) (bool, error) {
	switch {
	case f.State == backends.EntryReady:
		return true, nil
	case s.IsComplete == nil:
		return f.Has(RecordFile)
	}
	return s.IsComplete(f)
}

// findFolder opens the folder of a dataset, complete or not, in any area except that of deletions. It fails with
// dataset.ErrUnsupported if the record of the dataset has a later format, so that nothing is done to the folder.
func (s *Shelf) findFolder(root safefile.Dir, id uuid.UUID) (*Folder, error) {
	for {
		before := s.moves.Count()
		f, err := s.searchOnce(root, id)
		if err == nil {
			if err := s.formats.check(f); err != nil {
				return nil, errors.Join(err, f.Close())
			}
		}
		if err == nil || s.moves.Count() == before {
			return f, err
		}
	}
}

// searchOnce does the work of findFolder once. It misses a dataset that becomes a copy during the search, so
// findFolder repeats it.
func (s *Shelf) searchOnce(root safefile.Dir, id uuid.UUID) (*Folder, error) {
	for _, area := range s.areas()[:len(s.areas())-1] {
		done := s.claims.Use(id)
		f, err := openFolder(root, area, id, done)
		if err == nil {
			return f, nil
		}
		done()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, s.notFoundError(id)
}

// OpenUnclaimed opens the folder of a dataset, complete or not, without a claim on the dataset. It does not search the
// area of deletions. It is for callers that must not wait for a claim. They hold one on this dataset for Reap, or one
// on another dataset, or they only list. It fails with dataset.ErrNotFound if there is none.
func (s *Shelf) OpenUnclaimed(id uuid.UUID) (safefile.Dir, error) {
	root, err := s.Enter()
	if err != nil {
		return root, err
	}
	defer root.Close()
	for {
		before := s.moves.Count()
		for _, area := range s.areas()[:len(s.areas())-1] {
			sub, err := root.Sub(filepath.Join(area, id.String()))
			if !errors.Is(err, fs.ErrNotExist) {
				return sub, err
			}
		}
		if s.moves.Count() == before {
			return safefile.Dir{}, s.notFoundError(id)
		}
	}
}
