package move

import (
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
)

// MoveTable has the datasets that moves bring to this node. Each is recorded on disk, so that a move resumes
// after a crash. Its methods are safe for concurrent use.
type MoveTable struct {
	*Moves
	*host.Table[MoveRecord] // includes ended moves until their data is installed or destroyed

	mu     sync.Mutex
	active map[uuid.UUID]bool // datasets that a running move brings here
}

// MoveRecord is a dataset that a move brings here. If the move fails, the record is kept for KeepFailed, so that
// another attempt can continue from the data that has arrived. If this node has a recorded copy, the record is not
// kept, because the copy has that data.
type MoveRecord struct {
	Move     uuid.UUID `json:"move"`
	Pool     uuid.UUID `json:"pool"`
	Epoch    uint64    `json:"epoch"` // the epoch of the dataset if this move succeeds
	Files    bool      `json:"files,omitempty"`
	Share    bool      `json:"share,omitempty"`   // no data is sent: a pool on the same share hands it over
	From     uuid.UUID `json:"from,omitzero"`     // the pool on the share that hands it over
	Snapshot uuid.UUID `json:"snapshot,omitzero"` // the head is made of this snapshot; set at the end of the transfer
	Since    time.Time `json:"since"`
	Beside   uuid.UUID `json:"beside,omitzero"` // the dataset with all files, beside a copy; see BesideID
}

// KeepFailed is how long the data that a failed move brought here is kept: see Moves.ResumeMoves.
const KeepFailed = 24 * time.Hour

// IncomingEpoch returns the epoch at which a move will open a dataset here. comes is false if no move brings the
// dataset to this node.
func (t *MoveTable) IncomingEpoch(id uuid.UUID) (epoch uint64, comes bool) {
	p, comes := t.Get(id)
	return p.Epoch, comes
}

// Begin marks a dataset as being moved here until done is called. It ends a running refresh of the dataset. A refresh
// holds the dataset's lock for as long as the home sends, and the home may be lost.
func (t *MoveTable) Begin(id uuid.UUID) (done func()) {
	t.mu.Lock()
	t.active[id] = true
	t.mu.Unlock()
	t.Replicas.Stop(id)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.active, id)
	}
}

// IsActive reports whether a move of a dataset to this node runs now.
func (t *MoveTable) IsActive(id uuid.UUID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.active[id]
}

// Inactive returns the records of the moves that do not run now.
func (t *MoveTable) Inactive() map[uuid.UUID]MoveRecord {
	t.mu.Lock() // a move that ends meanwhile has set its last record before
	active := maps.Clone(t.active)
	t.mu.Unlock()
	all := t.All()
	maps.DeleteFunc(all, func(id uuid.UUID, _ MoveRecord) bool { return active[id] })
	return all
}

// IsBeside reports whether a dataset contains the files that a move brought beside a copy.
func (t *MoveTable) IsBeside(id uuid.UUID) bool {
	_, is := t.CopyBeside(id)
	return is
}

// CopyBeside returns the dataset that is moved, if id is the dataset in which a move collects its files beside a copy
// (see BesideID). Otherwise it returns false.
func (t *MoveTable) CopyBeside(id uuid.UUID) (ds uuid.UUID, is bool) {
	if id == uuid.Nil {
		return ds, false
	}
	for ds, p := range t.All() {
		if p.Beside == id {
			return ds, true
		}
	}
	return uuid.Nil, false
}

// BesideID returns the UUID of the dataset in which a move collects files beside a copy of ds.
func BesideID(ds, move uuid.UUID) uuid.UUID {
	return uuid.NewSHA1(ds, fmt.Appendf(nil, "beside/%s", move))
}

// IsIncoming reports whether a move brings, or has brought, data of a dataset here. It returns false for a move on a
// share, which brings no data: the data on the share may be the only data.
func (t *MoveTable) IsIncoming(id uuid.UUID) bool {
	p, comes := t.Get(id)
	return comes && !p.Share
}
