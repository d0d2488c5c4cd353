// Package recovery corrects a store that was restored from an older backup, and rebuilds a lost store.
//
// Recover asks all agents for their datasets, compares them with the store, and corrects the differences once an
// operator has confirmed them. Rebuild restores the records of the datasets that a node found in its pools. The pure
// functions in evidence.go make the decision about each dataset.
//
// The reports for a recovery in progress are kept in memory, under the mutex of reportCollection. All other state is in
// the store, and transactions protect it. While the store is halted, package control plans nothing, and records no
// results of operations except those of purges. A rule about which report is right belongs in evidence.go. What is
// written to the store belongs in correct.go, and what happens to found datasets in rebuild.go. An epoch that a single
// host relinquished is replaced here.
package recovery

import (
	"context"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// Recovery corrects a store that was restored from an older backup, and rebuilds one that was lost. It uses the reports
// of agents and the datasets that they find in their pools. Safe for concurrent use.
type Recovery struct {
	Ledger     *record.Ledger
	Reports    *reports.Latest
	members    *membership.Members
	vetted     *reports.Profiles
	quit       <-chan struct{} // closed when the service stops
	finish     func(*record.Tx, dataset.Operation) error
	collection reportCollection
}

// NewRecovery returns a Recovery. No recovery is in progress.
// finish records the end of an operation. quit is closed when the service stops.
func NewRecovery(m *membership.Members, v *reports.Profiles, quit <-chan struct{},
	finish func(*record.Tx, dataset.Operation) error) *Recovery {
	return &Recovery{Ledger: m.Ledger, Reports: m.Reports, members: m, vetted: v, quit: quit, finish: finish}
}

// Expire drops the reports for a recovery that was not confirmed in time.
func (rc *Recovery) Expire() { rc.collection.expire(rc.Ledger.Clock.Steady()) }

// Collecting returns the recovery for which this service collects reports, and how many nodes have reported. It
// returns uuid.Nil if there is none.
func (rc *Recovery) Collecting() (id uuid.UUID, reports int) {
	of, byNode, _ := rc.collection.current()
	return of, len(byNode)
}

// Halted returns the reason why changes are suspended: the store is inconsistent. It returns "" if changes are
// possible.
func (rc *Recovery) Halted(ctx context.Context) (why string, err error) {
	var h record.Halt
	there, err := record.NewTx(ctx, rc.Ledger.Store).Peek(record.HaltedKey, &h)
	if err != nil || !there {
		return "", err
	}
	return h.Err().Error(), nil
}

// collectEvidence collects the records of the store and the reports of the agents, by dataset.
func collectEvidence(t *record.Tx, byNode map[uuid.UUID]api.Holdings) (list []*Evidence, err error) {
	all := map[uuid.UUID]*Evidence{}
	of := func(id uuid.UUID) *Evidence {
		a := all[id]
		if a == nil {
			a = &Evidence{
				ID:           id,
				copies:       map[uuid.UUID]dataset.Copy{},
				relinquished: map[uuid.UUID]api.RelinquishedEpoch{},
				strays:       map[uuid.UUID]bool{},
			}
			all[id] = a
		}
		return a
	}
	entries, err := t.List(record.DatasetsPrefix, "", 0)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var d dataset.Dataset
		if err := record.Decode(e.Key, e.Value, &d); err != nil {
			return nil, err
		}
		a := of(d.ID)
		a.stored, a.index = &d, e.Index
	}
	for _, node := range slices.SortedFunc(maps.Keys(byNode),
		func(x, y uuid.UUID) int { return slices.Compare(x[:], y[:]) }) {
		h := byNode[node]
		for _, f := range h.Datasets {
			if f.Dataset.ID == uuid.Nil {
				return nil, dataset.Errorf(dataset.ErrInvalid,
					"recover: node %s has a dataset without a UUID in pool %s", node, f.Pool)
			}
			if f.Dataset.Home != node {
				of(f.Dataset.ID).strays[node] = true
				continue
			}
			a := of(f.Dataset.ID)
			a.claims = append(a.claims, nodeReport{f, node, slices.Contains(h.ExaminedPools, f.Pool)})
		}
		for _, k := range h.Copies {
			a := of(k.Dataset)
			k.Copy.Node = node
			a.copies[node] = k.Copy
			if k.Record != nil {
				f := api.FoundDataset{Pool: k.Pool, Dataset: *k.Record}
				a.copyHolders = append(a.copyHolders, nodeReport{FoundDataset: f, node: node})
			}
		}
		for _, g := range h.Relinquished {
			of(g.Dataset).relinquished[node] = g
		}
	}
	return slices.Collect(maps.Values(all)), nil
}

// A cluster can shrink to a single host. If the store of this host is restored from a backup of before a move, it gives
// the host an epoch that the host relinquished to another node. The agent does not open such an epoch again: see
// lease.Table.IsReturned in package agent/lease. So a rebuild gives the dataset a later epoch.

// needsLaterEpoch reports whether the record of a dataset gives the node an epoch that the node has relinquished, so
// that the dataset needs a later one. It returns false while the move continues, and in a cluster, where the other node
// may have opened the next epoch.
func (rc *Recovery) needsLaterEpoch(t *record.Tx, d dataset.Dataset, f api.FoundDataset) (bool, error) {
	g := f.Relinquished
	if g == nil || rc.Ledger.Shared || d.Epoch > g.Epoch || d.State == dataset.StatePurging {
		return false, nil
	}
	l, err := t.Lease(d)
	return err == nil && l.State != dataset.LeaseMoving, err
}

// renewEpoch gives a later epoch to a dataset for which needsLaterEpoch is true. If a move of it is in progress
// according to the store, the move fails.
func (rc *Recovery) renewEpoch(t *record.Tx, d dataset.Dataset, f api.FoundDataset, r *api.Rebuilt) error {
	r.Action, r.Note = "restored", "its home relinquished this epoch, and gets a new one"
	if d.State == dataset.StateTrashed {
		r.Action = "trashed"
	}
	if d.Move != uuid.Nil {
		if err := rc.endMove(t, d.Move); err != nil {
			return err
		}
		if _, err := t.Get(record.DatasetKey(d.ID), &d); err != nil { // the end of the move may have changed it
			return err
		}
	}
	d.Epoch, d.Move, d.TakenOver = laterEpoch(f, d.Epoch), uuid.Nil, nil
	t.Event(api.EventVolumeRebuild, d, r.Action)
	return record.AddDataset(t, d, uuid.Nil)
}

// endMove records that a move has failed, unless it has ended.
func (rc *Recovery) endMove(t *record.Tx, id uuid.UUID) error {
	var op dataset.Operation
	if there, err := t.Get(record.OperationKey(id), &op); err != nil || !there || op.State.Final() {
		return err
	}
	op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrConflict,
		"the store was restored from a backup while operation %s was running: check whether it was carried out", id))
	return rc.finish(t, op)
}

// laterEpoch returns an epoch of a found dataset that is above all known ones. recorded is the epoch in the store, or
// 0. The node that got the dataset may have opened the epoch after the relinquished one. The result is above both.
func laterEpoch(f api.FoundDataset, recorded uint64) uint64 {
	epoch := max(f.Dataset.Epoch, recorded)
	if g := f.Relinquished; g != nil {
		epoch = max(epoch, g.Epoch+1)
	}
	return epoch + 1
}
