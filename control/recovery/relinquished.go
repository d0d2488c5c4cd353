package recovery

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

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
