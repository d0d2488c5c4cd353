// Package lease decides whether this node may open datasets whose home it is. Leases has the moves that recall datasets
// from this node, and the epochs that this node has relinquished.
//
// Leases that are bounded in time have further parts. Deadlines renews this node's session with control. It has the
// time until which each dataset may be open here, extends it, and sends it to the guard. Marks has the datasets whose
// lease is bounded although their record does not say so yet. Registrar registers datasets with the guard before they
// are mounted. Nodes has the addresses of the other nodes, which are asked for promises (Ask) while control is
// unreachable. Keeper has the promises to other nodes to open no later epoch of a dataset.
//
// The package owns the keys yields/, enrolled/, bounded/ and standing of the agent's database, and keeps their values
// in memory too. Each type with state has a mutex for its fields. The lock of a dataset serializes Registrar's changes
// to it. How a deadline is computed is in boundedlease.go, which is pure, when promises are requested in extend.go, and
// why a dataset must not be opened in leases.go (MayOpen, MayChange).
package lease

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
)

// Leases knows which datasets of this node must not be opened here, and why: a move recalls the dataset, according to
// the last report of control, or this node has relinquished the epoch. Relinquished epochs are also recorded on disk.
// They stay relinquished even if control's records say otherwise. The methods of Leases are safe for concurrent use.
type Leases struct {
	*host.Host
	Pools    *pool.Pools
	Guard    Guard             // nil if the host has no guard; then no lease is bounded in time
	Peers    http.RoundTripper // reaches the agents of other nodes; nil if there are none
	Replicas []api.Service     // each control replica separately; at least one

	Keeper    *Keeper // the promises that this node has made to other nodes
	Nodes     *Nodes
	Deadlines *Deadlines
	Registrar *Registrar

	// These are set before the agent starts.
	Registration Registration
	Homes        Homes
	Repairer     Repairer
	Arrivals     Arrivals

	relinquished *host.Table[Relinquished]

	mu       sync.Mutex
	recalled map[uuid.UUID]Recall // by dataset
	kept     map[uuid.UUID]kept   // by relinquished dataset
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

// Registration has control record this node.
type Registration interface {
	Register(ctx context.Context, gone ...uuid.UUID) error
}

// Homes reads from control which datasets this node is the home of, and applies it.
type Homes interface {
	Join(ctx context.Context) (api.Sync, error)
}

// Repairer resolves the differences between the records of the guard and the datasets of this node.
type Repairer interface {
	// RepairSoon starts a job for one dataset.
	RepairSoon(id uuid.UUID)
	// ApplyGuard applies a status of the guard. answer is the value of Deadlines.AnswerCount before the status was
	// requested.
	ApplyGuard(st guard.Status, answer uint64)
}

// Arrivals knows the moves that bring datasets to this node.
type Arrivals interface {
	// IncomingEpoch returns the epoch at which a move will open a dataset here. comes is false if there is no move.
	IncomingEpoch(ds uuid.UUID) (epoch uint64, comes bool)
	// IsActive reports whether a move that brings a dataset here runs now.
	IsActive(ds uuid.UUID) bool
}

// New returns the leases of a node, without any lease. g is nil if the host has no guard, and peers is nil if there are
// no other nodes.
func New(h *host.Host, pools *pool.Pools, g Guard, peers http.RoundTripper, replicas []api.Service) *Leases {
	t := &Leases{
		Host: h, Pools: pools, Guard: g, Peers: peers, Replicas: replicas, Keeper: NewKeeper(h.Clock),
		relinquished: host.NewTable[Relinquished](h.DB, "yields/"), recalled: map[uuid.UUID]Recall{},
		kept: map[uuid.UUID]kept{},
	}
	t.Nodes = &Nodes{Leases: t}
	t.Deadlines = &Deadlines{
		Leases: t, Marks: &Marks{host: t.Host, Table: host.NewTable[uuid.UUID](t.DB, "bounded/")},
		leases: map[uuid.UUID]*boundedLease{}, registered: map[uuid.UUID]uint64{},
		keptReasons: map[uuid.UUID]string{},
		changed:     make(chan struct{}), wake: make(chan struct{}, 1),
	}
	t.Registrar = &Registrar{Leases: t}
	return t
}

// Load reads the state on disk.
func (t *Leases) Load(ctx context.Context) error {
	return errors.Join(t.relinquished.Load(ctx), t.Deadlines.load(ctx))
}

// Apply applies control's record of a dataset whose home is here. It reports whether control may wait for an answer of
// this node.
func (t *Leases) Apply(d api.IndexedDataset) (pending bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d.Lease == nil || d.Lease.State == dataset.LeaseHeld {
		delete(t.recalled, d.ID)
	} else {
		t.recalled[d.ID] = Recall{Move: d.Move, To: d.Lease.WantedBy, Epoch: d.Lease.Epoch}
	}
	_, recalled := t.recalled[d.ID]
	_, relinquished := t.Relinquished(d.ID)
	return recalled || relinquished
}

// EndRecall forgets the recall of a dataset whose home is another node now.
func (t *Leases) EndRecall(id uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.recalled, id)
}

// Recall returns the move that recalls a dataset, if there is one.
func (t *Leases) Recall(id uuid.UUID) (Recall, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.recalled[id]
	return r, ok
}

// Relinquished returns the epoch of a dataset that this node has relinquished, if there is one.
func (t *Leases) Relinquished(id uuid.UUID) (Relinquished, bool) {
	return t.relinquished.Get(id)
}

// AllRelinquished returns the relinquished epochs, sorted by dataset.
func (t *Leases) AllRelinquished() []api.RelinquishedEpoch {
	all, out := t.relinquished.All(), []api.RelinquishedEpoch{}
	byID := func(x, y uuid.UUID) int { return slices.Compare(x[:], y[:]) }
	for _, id := range slices.SortedFunc(maps.Keys(all), byID) {
		r := all[id]
		out = append(out, api.RelinquishedEpoch{Dataset: id, Epoch: r.Epoch, ToNode: r.To})
	}
	return out
}

// ReportedEpochs returns the relinquished epochs that are marked as reported, by dataset.
func (t *Leases) ReportedEpochs() map[uuid.UUID]uint64 {
	return t.epochs(func(r Relinquished) bool { return r.Reported })
}

// AnsweredEpochs returns the epochs of ReportedEpochs, and those whose manifest is on disk, so that control may have
// recorded them.
func (t *Leases) AnsweredEpochs() map[uuid.UUID]uint64 {
	return t.epochs(func(r Relinquished) bool { return r.Reported || r.Manifest != nil })
}

func (t *Leases) epochs(of func(Relinquished) bool) map[uuid.UUID]uint64 {
	at := map[uuid.UUID]uint64{}
	for id, r := range t.relinquished.All() {
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
func (t *Leases) IsReturned(d api.IndexedDataset) bool {
	r, relinquished := t.Relinquished(d.ID)
	if !relinquished || !r.Reported || d.Epoch > r.Epoch || d.State == dataset.StatePurging {
		return false
	}
	return d.Lease == nil || d.Lease.Epoch == d.Epoch && d.Lease.State != dataset.LeaseMoving
}

// Unanswered returns the datasets for which control may wait for an answer of this node.
func (t *Leases) Unanswered() []uuid.UUID {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := slices.Collect(maps.Keys(t.recalled))
	for id := range t.relinquished.All() {
		if _, twice := t.recalled[id]; !twice {
			ids = append(ids, id)
		}
	}
	return ids
}

// Relinquish records that this node relinquishes an epoch, first on disk and then in memory.
func (t *Leases) Relinquish(ctx context.Context, id uuid.UUID, r Relinquished) error {
	return t.endKept(id, t.relinquished.Set(ctx, id, r))
}

// SetReported records that control has recorded which epoch this node relinquished, first on disk and then in memory.
// If the move has ended and its record was removed meanwhile, SetReported does nothing: writing the record again would
// keep the final snapshot for ever. The caller holds the dataset's lock, under which records are removed.
func (t *Leases) SetReported(ctx context.Context, id uuid.UUID, r Relinquished) error {
	if now, relinquished := t.Relinquished(id); !relinquished || now.Move != r.Move || now.Epoch != r.Epoch {
		return nil
	}
	r.Reported = true
	return t.Relinquish(ctx, id, r)
}

// Drop removes the record of a relinquished epoch, first on disk and then in memory. Idempotent: if there is no
// record, Drop returns nil.
func (t *Leases) Drop(ctx context.Context, id uuid.UUID) error {
	return t.endKept(id, t.relinquished.Drop(ctx, id))
}

// endKept removes a dataset from kept if err is nil. It returns err.
func (t *Leases) endKept(id uuid.UUID, err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		delete(t.kept, id)
	}
	return err
}

// TargetSeen returns for how long this node has seen the target of a move reachable without interruption. The caller
// asked control for the target at the time asked, and got it at the time answered.
func (t *Leases) TargetSeen(id uuid.UUID, target api.Node, asked, answered time.Time) time.Duration {
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
func (t *Leases) SetKept(id uuid.UUID, why string) (changed bool) {
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
func (t *Leases) MayChange(d dataset.Dataset, what string) error {
	if r, relinquished := t.Relinquished(d.ID); relinquished && d.Epoch <= r.Epoch {
		return t.movingError(d, what, r.Move, r.To)
	}
	return nil
}

// MayOpen fails as MayChange does, and also while a move recalls a dataset: present users of the dataset may continue,
// but no new user may begin.
func (t *Leases) MayOpen(d dataset.Dataset, what string) error {
	if err := t.MayChange(d, what); err != nil {
		return err
	}
	if r, recalled := t.Recall(d.ID); recalled && d.Epoch <= r.Epoch {
		return t.movingError(d, what, r.Move, r.To)
	}
	return nil
}

func (t *Leases) movingError(d dataset.Dataset, what string, move, to uuid.UUID) error {
	op, node := move.String()[:8], t.Nodes.Name(to)
	t.mu.Lock()
	why := t.kept[d.ID].why
	t.mu.Unlock()
	if why != "" {
		return dataset.Errorf(dataset.ErrInUse, "cannot %s volume %s here: operation %s may have moved it to node "+
			"%s: %s", what, d.Volume, op, node, why)
	}
	return dataset.Errorf(dataset.ErrInUse, "cannot %s volume %s here: it is being moved to node %s by operation "+
		"%s (drover operation inspect --wait %s shows the progress)", what, d.Volume, node, op, op)
}

// RelinquishedSnapshots returns the snapshots of a relinquished dataset that the target of its move needs. If this node
// has not relinquished the dataset, it returns none.
func (t *Leases) RelinquishedSnapshots(ds uuid.UUID) []uuid.UUID {
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
