// Package lease decides whether this node may open datasets whose home it is. Table has the moves that recall datasets
// from this node, and the epochs that this node has relinquished.
//
// Leases that are bounded in time have further parts. Renewals renews this node's session with control. Deadlines has
// the time until which each dataset may be open here, extends it, and sends it to the guard. Marks has the datasets
// whose lease is bounded although their record does not say so yet. Registrar registers datasets with the guard before
// they are mounted. Nodes has the addresses of the other nodes, which are asked for promises (Keeper, Client) while
// control is unreachable. PromiseServer answers other nodes that ask this node to open no later epoch of a dataset.
//
// The package owns the keys yields/, enrolled/, bounded/ and standing of the agent's database, and keeps their values
// in memory too. Each type with state has a mutex for its fields. The lock of a dataset serializes Registrar's changes
// to it. How a deadline is computed is in boundedlease.go, which is pure, when promises are requested in extend.go, and
// why a dataset must not be opened in Table (MayOpen, MayChange).
package lease

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Table knows which datasets of this node must not be opened here, and why: a move recalls the dataset, according to
// the last report of control, or this node has relinquished the epoch. Relinquished epochs are also recorded on disk.
// They stay relinquished even if control's records say otherwise. The methods of Table are safe for concurrent use.
type Table struct {
	db       records.DB
	nodeName func(uuid.UUID) string

	mu           sync.Mutex
	recalled     map[uuid.UUID]Recall       // by dataset
	relinquished map[uuid.UUID]Relinquished // by dataset
	kept         map[uuid.UUID]kept         // by relinquished dataset
}

// kept is why a dataset stays relinquished although control does not know its move.
type kept struct {
	why string // with what to do; empty: it is not known yet
	// since is Node.StatusSince of the target while it is reachable. seen is when this node got that value first, by
	// its own clock: the clocks of the hosts differ.
	since, seen time.Time
}

// Recall is a move that wants this node to relinquish a dataset.
type Recall struct {
	Move, To uuid.UUID // the operation, and the node that becomes the home
	Epoch    uint64    // the present epoch of the dataset, which this node must relinquish
}

// Relinquished is an epoch of a dataset that this node has relinquished: it neither opens nor changes the dataset at
// that epoch again. The record is removed in four cases: this node is the home of the dataset again at a later epoch,
// the dataset has left this node, the final snapshot cannot be taken, or control reports that the move ended without
// the answer of this node.
type Relinquished struct {
	Epoch uint64    `json:"epoch"`
	Move  uuid.UUID `json:"move"`            // the operation
	To    uuid.UUID `json:"to"`              // the node that the move makes the home
	Files bool      `json:"files,omitempty"` // the move copies file by file
	Share bool      `json:"share,omitempty"` // both pools are on one share, so no data is copied
	// Manifest describes the relinquished snapshots, once they are known. It is written to disk before control is
	// notified, because another node can continue from it as soon as control has it.
	Manifest *dataset.Manifest `json:"manifest,omitempty"`
	// Answered is when Manifest was written, by this node's clock.
	Answered time.Time `json:"answered,omitzero"`
	// Reported says that control has recorded that the epoch was relinquished, or may have recorded it and has lost it.
	Reported bool `json:"told,omitempty"`
}

// NewTable returns an empty table. nodeName returns the name of a node, for error messages.
func NewTable(db records.DB, nodeName func(uuid.UUID) string) *Table {
	return &Table{
		db: db, nodeName: nodeName,
		recalled: map[uuid.UUID]Recall{}, relinquished: map[uuid.UUID]Relinquished{}, kept: map[uuid.UUID]kept{},
	}
}

func relinquishedKey(id uuid.UUID) string { return "yields/" + id.String() }

// Load reads the relinquished epochs from disk.
func (t *Table) Load(ctx context.Context) error {
	return t.db.Each(ctx, "yields/", func(rest string, v []byte) error {
		id, err := uuid.Parse(rest)
		if err != nil {
			return err
		}
		var r Relinquished
		if err := dataset.DecodeRecord(v, &r); err != nil {
			return err
		}
		t.relinquished[id] = r
		return nil
	})
}

// Apply applies control's record of a dataset whose home is here. It reports whether control may wait for an answer of
// this node.
func (t *Table) Apply(d api.IndexedDataset) (pending bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d.Lease == nil || d.Lease.State == dataset.LeaseHeld {
		delete(t.recalled, d.ID)
	} else {
		t.recalled[d.ID] = Recall{Move: d.Move, To: d.Lease.WantedBy, Epoch: d.Lease.Epoch}
	}
	_, recalled := t.recalled[d.ID]
	_, relinquished := t.relinquished[d.ID]
	return recalled || relinquished
}

// EndRecall forgets the recall of a dataset whose home is another node now.
func (t *Table) EndRecall(id uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.recalled, id)
}

// Recall returns the move that recalls a dataset, if there is one.
func (t *Table) Recall(id uuid.UUID) (Recall, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.recalled[id]
	return r, ok
}

// Relinquished returns the epoch of a dataset that this node has relinquished, if there is one.
func (t *Table) Relinquished(id uuid.UUID) (Relinquished, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.relinquished[id]
	return r, ok
}

// AllRelinquished returns the relinquished epochs, sorted by dataset.
func (t *Table) AllRelinquished() []api.RelinquishedEpoch {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []api.RelinquishedEpoch{}
	byID := func(x, y uuid.UUID) int { return slices.Compare(x[:], y[:]) }
	for _, id := range slices.SortedFunc(maps.Keys(t.relinquished), byID) {
		r := t.relinquished[id]
		out = append(out, api.RelinquishedEpoch{Dataset: id, Epoch: r.Epoch, ToNode: r.To})
	}
	return out
}

// ReportedEpochs returns the relinquished epochs that are marked as reported, by dataset.
func (t *Table) ReportedEpochs() map[uuid.UUID]uint64 {
	return t.epochs(func(r Relinquished) bool { return r.Reported })
}

// AnsweredEpochs returns the epochs of ReportedEpochs, and those whose manifest is on disk, so that control may have
// recorded them.
func (t *Table) AnsweredEpochs() map[uuid.UUID]uint64 {
	return t.epochs(func(r Relinquished) bool { return r.Reported || r.Manifest != nil })
}

func (t *Table) epochs(of func(Relinquished) bool) map[uuid.UUID]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := map[uuid.UUID]uint64{}
	for id, r := range t.relinquished {
		if of(r) {
			at[id] = r.Epoch
		}
	}
	return at
}

// IsReturned reports whether control's record of a dataset gives this node an epoch that control has recorded as
// relinquished. After a move has failed, control gives this node a later epoch. So such a record is from a store that
// was restored from a backup, or from before the relinquishment. Control reads the lease after the record: a lease of
// another epoch is from after the end of the move, and shows nothing. A condemned dataset is not opened.
func (t *Table) IsReturned(d api.IndexedDataset) bool {
	r, relinquished := t.Relinquished(d.ID)
	if !relinquished || !r.Reported || d.Epoch > r.Epoch || d.State == dataset.StatePurging {
		return false
	}
	return d.Lease == nil || d.Lease.Epoch == d.Epoch && d.Lease.State != dataset.LeaseMoving
}

// Unanswered returns the datasets for which control may wait for an answer of this node.
func (t *Table) Unanswered() []uuid.UUID {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := make([]uuid.UUID, 0, len(t.recalled)+len(t.relinquished))
	for id := range t.recalled {
		ids = append(ids, id)
	}
	for id := range t.relinquished {
		if _, twice := t.recalled[id]; !twice {
			ids = append(ids, id)
		}
	}
	return ids
}

// Relinquish records that this node relinquishes an epoch, first on disk and then in memory.
func (t *Table) Relinquish(ctx context.Context, id uuid.UUID, r Relinquished) error {
	if err := t.db.Put(ctx, map[string]any{relinquishedKey(id): r}); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.relinquished[id] = r
	delete(t.kept, id)
	return nil
}

// SetReported records that control has recorded which epoch this node relinquished, first on disk and then in memory.
// If the move has ended and its record was removed meanwhile, SetReported does nothing: writing the record again would
// keep the final snapshot for ever. The caller holds the dataset's lock, under which records are removed.
func (t *Table) SetReported(ctx context.Context, id uuid.UUID, r Relinquished) error {
	if now, relinquished := t.Relinquished(id); !relinquished || now.Move != r.Move || now.Epoch != r.Epoch {
		return nil
	}
	r.Reported = true
	return t.Relinquish(ctx, id, r)
}

// Drop removes the record of a relinquished epoch, first on disk and then in memory. Idempotent: if there is no
// record, Drop returns nil.
func (t *Table) Drop(ctx context.Context, id uuid.UUID) error {
	if _, relinquished := t.Relinquished(id); !relinquished {
		return nil
	}
	if err := t.db.Put(ctx, map[string]any{relinquishedKey(id): nil}); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.relinquished, id)
	delete(t.kept, id)
	return nil
}

// TargetSeen returns for how long this node has seen the target of a move reachable without interruption. The caller
// asked control for the target at the time asked, and got it at the time answered.
func (t *Table) TargetSeen(id uuid.UUID, target api.Node, asked, answered time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.kept[id]
	switch {
	case !target.Live:
		k.seen = time.Time{}
	case k.seen.IsZero() || !k.since.Equal(target.StatusSince):
		k.since, k.seen = target.StatusSince, answered
	}
	t.kept[id] = k
	if k.seen.IsZero() {
		return 0
	}
	return asked.Sub(k.seen)
}

// SetKept records until Drop why a dataset stays relinquished although control does not know its move. MayChange says
// so. changed is false if the reason was recorded before.
func (t *Table) SetKept(id uuid.UUID, why string) (changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.kept[id]
	changed = k.why != why
	k.why = why
	t.kept[id] = k
	return changed
}

// MayChange fails with ErrInUse if this node has relinquished the present epoch of a dataset. The dataset must then be
// neither opened nor changed here. The argument what is a verb for the error message.
func (t *Table) MayChange(d dataset.Dataset, what string) error {
	if r, relinquished := t.Relinquished(d.ID); relinquished && d.Epoch <= r.Epoch {
		return t.movingError(d, what, r.Move, r.To)
	}
	return nil
}

// MayOpen fails as MayChange does, and also while a move recalls a dataset: present users of the dataset may continue,
// but no new user may begin.
func (t *Table) MayOpen(d dataset.Dataset, what string) error {
	if err := t.MayChange(d, what); err != nil {
		return err
	}
	if r, recalled := t.Recall(d.ID); recalled && d.Epoch <= r.Epoch {
		return t.movingError(d, what, r.Move, r.To)
	}
	return nil
}

func (t *Table) movingError(d dataset.Dataset, what string, move, to uuid.UUID) error {
	op, node := move.String()[:8], t.nodeName(to)
	t.mu.Lock()
	why := t.kept[d.ID].why
	t.mu.Unlock()
	if why != "" {
		return dataset.Errorf(dataset.ErrInUse, "cannot %s volume %s here: operation %s may have moved it to node "+
			"%s: %s", what, d.Volume, op, node, why)
	}
	return dataset.Errorf(dataset.ErrInUse, "cannot %s volume %s here: it is being moved to node %s by operation "+
		"%s (drover operation watch %s shows the progress)", what, d.Volume, node, op, op)
}

// RelinquishedSnapshots returns the snapshots of a relinquished dataset that the target of its move needs. If this node
// has not relinquished the dataset, it returns none.
func (t *Table) RelinquishedSnapshots(ds uuid.UUID) []uuid.UUID {
	r, relinquished := t.Relinquished(ds)
	if !relinquished {
		return nil
	}
	ids := []uuid.UUID{host.FinalSnapshotID(r.Move)}
	if r.Manifest != nil {
		ids = append(ids, r.Manifest.Snapshot, r.Manifest.Base)
	}
	return ids
}
