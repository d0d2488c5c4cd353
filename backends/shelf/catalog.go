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

// catalog finds and lists the datasets of a pool, and keeps the claims on them.
type catalog struct {
	// IsComplete reports whether an incoming folder or a copy is complete. If nil, it is complete if it has its record:
	// the record of a dataset is the last file that is written, and that of a copy the first one. It is set before the
	// pool is used.
	IsComplete func(*Folder) (bool, error)

	dir     *directory
	claims  claims
	formats formats
	moves   moves // counts datasets that became copies; a search is repeated if the count has changed
}

// MovesBack returns how often a dataset of the pool has become a copy. Safe for concurrent use.
func (cat *catalog) MovesBack() int { return cat.moves.Count() }

// FindDataset opens the folder of a dataset that is ready, or incoming and complete. It fails with
// dataset.ErrNotFound if there is none, with dataset.ErrConflict if the dataset is a copy, and with
// dataset.ErrCorrupt if the name belongs to something else.
func (cat *catalog) FindDataset(id uuid.UUID) (*Folder, error) {
	f, err := cat.FindDatasetOrCopy(id)
	if err == nil && f.State == backends.EntryCopy {
		return nil, errors.Join(cat.dir.isCopyError(id), f.Close())
	}
	return f, err
}

// FindDatasetOrCopy opens folders as FindDataset does, and also those of copies.
func (cat *catalog) FindDatasetOrCopy(id uuid.UUID) (*Folder, error) {
	root, err := cat.dir.Enter()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := cat.findFolder(root, id)
	if err != nil {
		return nil, err
	}
	complete, err := cat.isComplete(f)
	if complete && err == nil {
		return f, nil
	}
	return nil, errors.Join(cmp.Or(err, cat.dir.notFoundError(id)), f.Close())
}

// isComplete reports whether a folder is complete. It fails if the folder cannot be read: then nobody knows.
func (cat *catalog) isComplete(f *Folder) (bool, error) {
	switch {
	case f.State == backends.EntryReady:
		return true, nil
	case cat.IsComplete == nil:
		return f.Has(RecordFile)
	}
	return cat.IsComplete(f)
}

// findFolder opens the folder of a dataset, complete or not, in any area except that of deletions. It fails with
// dataset.ErrUnsupported if the record of the dataset has a later format, so that nothing is done to the folder.
func (cat *catalog) findFolder(root safefile.Dir, id uuid.UUID) (*Folder, error) {
	for {
		before := cat.moves.Count()
		f, err := cat.searchOnce(root, id)
		if err == nil {
			if err := cat.formats.check(f); err != nil {
				return nil, errors.Join(err, f.Close())
			}
		}
		if err == nil || cat.moves.Count() == before {
			return f, err
		}
	}
}

// searchOnce does the work of findFolder once. It misses a dataset that becomes a copy during the search, so
// findFolder repeats it.
func (cat *catalog) searchOnce(root safefile.Dir, id uuid.UUID) (*Folder, error) {
	for _, area := range cat.dir.areas()[:len(cat.dir.areas())-1] {
		done := cat.claims.Use(id)
		f, err := openFolder(root, area, id, done)
		if err == nil {
			return f, nil
		}
		done()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, cat.dir.notFoundError(id)
}

// OpenUnclaimed opens the folder of a dataset, complete or not, without a claim on the dataset. It does not search the
// area of deletions. It is for callers that must not wait for a claim. They hold one on this dataset for Reap, or one
// on another dataset, or they only list. It fails with dataset.ErrNotFound if there is none.
func (cat *catalog) OpenUnclaimed(id uuid.UUID) (safefile.Dir, error) {
	root, err := cat.dir.Enter()
	if err != nil {
		return root, err
	}
	defer root.Close()
	for {
		before := cat.moves.Count()
		for _, area := range cat.dir.areas()[:len(cat.dir.areas())-1] {
			sub, err := root.Sub(filepath.Join(area, id.String()))
			if !errors.Is(err, fs.ErrNotExist) {
				return sub, err
			}
		}
		if cat.moves.Count() == before {
			return safefile.Dir{}, cat.dir.notFoundError(id)
		}
	}
}
