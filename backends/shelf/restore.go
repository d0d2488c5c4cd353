package shelf

import (
	"errors"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// HasSnapshot reports whether the folder has a snapshot. A backend calls it before it takes the snapshot. It calls
// Sweep. If the snapshot exists, it is durable when HasSnapshot returns: the attempt that took it may have been
// interrupted before its flush.
func (f *Folder) HasSnapshot(id uuid.UUID) (bool, error) {
	if err := f.Sweep(); err != nil {
		return false, err
	}
	_, err := f.ReadSnapshot(id)
	switch {
	case err == nil:
		return true, SyncDir(f.Dir)
	case errors.Is(err, dataset.ErrNotFound):
		return false, nil
	}
	return false, err
}

// RestorePlan describes the remaining work of a restore. From and Old are set only if Done is false and FormerHead is
// nil.
type RestorePlan struct {
	// Done reports that an earlier attempt is complete and durable, so that no work remains.
	Done bool
	// FormerHead is the snapshot that an earlier attempt made of the former head, or nil. If it is set, the earlier
	// attempt has replaced the head, and the backend only has to finish the snapshot and make it durable.
	FormerHead *SnapshotRecord

	From SnapshotRecord // the snapshot whose content becomes the head
	Old  Head           // the present head
}

// PlanRestore finds out how far an earlier attempt of the restore came, and removes the remains of that attempt. The
// restore makes the snapshot id the head, and keeps the present head as the snapshot keep. checkIdle fails if the
// dataset is in use. remove removes a snapshot. PlanRestore calls Sweep.
func (f *Folder) PlanRestore(
	id, keep uuid.UUID, checkIdle func() error, remove func(uuid.UUID) error,
) (plan RestorePlan, err error) {
	if err := f.Sweep(); err != nil {
		return plan, err
	}
	earlier, err := f.ReadSnapshot(keep)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
	case err != nil:
		return plan, err
	case earlier.CopiedHead || earlier.Tree != TreeOf(keep):
		return RestorePlan{FormerHead: &earlier}, nil
	default: // a snapshot of the head, which may have been written to since
		if err := remove(keep); err != nil {
			return plan, err
		}
	}
	if plan.Done, err = f.Restored(keep); err != nil {
		return plan, err
	}
	if plan.Done { // the snapshot keep was deleted since, and the snapshot id may have been deleted too
		return plan, SyncDir(f.Dir)
	}
	if plan.From, err = f.ReadSnapshot(id); err != nil {
		return plan, err
	}
	if err := checkIdle(); err != nil {
		return plan, err
	}
	plan.Old, err = f.Head()
	return plan, err
}

// moves counts how often a dataset was moved back to an earlier place. Normally datasets move through the places in one
// order, so a search of the places in that order finds each dataset. A move back can make a search miss it. If Count
// differs before and after a search, repeat the search. The zero value is ready for use. Safe for concurrent use.
type moves struct {
	mu sync.RWMutex
	n  int
}

// MoveBack performs one move to an earlier place.
func (m *moves) MoveBack(move func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	return move()
}

// Count returns the number of moves so far. If two calls return the same number, no move was in progress at any time
// between the two calls.
func (m *moves) Count() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.n
}
