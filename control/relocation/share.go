package relocation

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// Sharing returns the pool of a node on the same share as a dataset, and why nothing can continue there if so.
// shared is false if the dataset is on no share.
func (r *Relocator) Sharing(t *record.Tx, d dataset.Dataset, target dataset.Node) (c placement.Candidate, shared bool,
	why string, err error) {
	from, err := t.Pool(d)
	if err != nil || from.Share == uuid.Nil {
		return c, false, "", err
	}
	cands, err := r.Placer.Candidates(t, target.ID)
	if err != nil {
		return c, false, "", err
	}
	cands, why = placement.OtherPools(cands, from, target)
	cands = slices.DeleteFunc(cands, func(c placement.Candidate) bool { return !placement.OnOneShare(from, c.Pool) })
	if len(cands) == 0 {
		if why == "" {
			why = "node " + target.Name + " has no pool on the share of the volume (drover pool create " +
				"there, beside " + from.Path + ")"
		}
		return c, true, why, nil
	}
	c = cands[max(0, slices.IndexFunc(cands, func(c placement.Candidate) bool { return c.WhyOffline() == "" }))]
	if why = c.WhyOffline(); why != "" {
		why = "pool " + c.Name + " of node " + target.Name + ": " + why
	}
	_, err = t.Get(record.PoolKey(c.ID), &dataset.Pool{}) // the decision depends on it
	return c, true, why, err
}

// takenFrom says where on its share a dataset is that a node has become the home of. The node takes it over once
// that is recorded: from the pool of its previous home, unless that home had not taken it over itself yet, which
// only a move without that home can say.
func takenFrom(rec, op dataset.Operation, d dataset.Dataset) *dataset.Taken {
	switch {
	case !rec.Share:
		return nil
	case rec.Loss != nil && op.Dataset != nil && op.Dataset.Taken != nil && d.Taken != nil &&
		*op.Dataset.Taken == *d.Taken:
		return d.Taken
	}
	return &dataset.Taken{From: d.Pool, Epoch: d.Epoch}
}

// planTake decides that a node takes over a dataset on a share. The node has a pool on that share, so it
// needs no copy. It reports whether it does.
func (r *Relocator) planTake(t *record.Tx, d dataset.Dataset, target, home dataset.Node, op *dataset.Operation) (
	shared bool, err error) {
	c, shared, why, err := r.Sharing(t, d, target)
	if err != nil || !shared {
		return false, err
	}
	switch {
	case c.ID == uuid.Nil:
		return false, dataset.Errorf(dataset.ErrNotFound, "move of volume %s: %s", d.Volume, why)
	case why != "":
		return false, dataset.Errorf(dataset.ErrOffline, "move of volume %s: %s", d.Volume, why)
	}
	op.Share, op.Dataset.Pool = true, c.ID
	op.Loss = &dataset.Loss{
		Epoch: d.Epoch, Taken: r.Clock.Now(), Fenced: d.Home, Why: "confirmed: --fenced " + home.Name,
	}
	return true, nil
}

// heir returns the copy, the pool and the node with which a dataset whose home is lost could continue. On a share
// all the data is there, so the asking node continues.
type heir struct {
	node  dataset.Node
	pool  uuid.UUID
	loss  dataset.Loss
	share bool
}

// heir returns it, or why there is none.
func (r *Relocator) heir(t *record.Tx, d dataset.Dataset, target dataset.Node) (h heir, why string, err error) {
	c, shared, why, err := r.Sharing(t, d, target)
	if err != nil {
		return h, "", err
	}
	if !shared {
		kept, node, why, err := r.successor(t, d, target)
		return heir{
			node: node,
			pool: kept.Pool,
			loss: dataset.Loss{Snapshot: kept.Snapshot, Epoch: kept.Epoch, Taken: kept.Taken, Order: kept.Order},
		}, why, err
	}
	switch {
	case why != "":
	case !c.Guarded:
		why = "node " + target.Name + " has no guard that responds (systemctl start drover-guard there)"
	default:
		why = placement.WhyFenceUnsuitable(c, d.Profile)
	}
	return heir{
		node:  target,
		pool:  c.ID,
		share: true,
		loss:  dataset.Loss{Epoch: d.Epoch, Taken: r.Clock.Now()},
	}, why, nil
}

// Underway reads a recorded move that has not ended, with its dataset as it is now and the lease.
// dataset.ErrStale if the move has ended, or if the dataset has another epoch.
func Underway(t *record.Tx, id uuid.UUID) (op dataset.Operation, d dataset.Dataset, l dataset.Lease, err error) {
	known, err := t.Get(record.OperationKey(id), &op)
	switch {
	case err != nil:
		return op, d, l, err
	case !known || op.Kind != dataset.OpMove:
		return op, d, l, dataset.Errorf(dataset.ErrStale, "operation %s is not a recorded move", id)
	case op.State == dataset.OpCancelled:
		return op, d, l, dataset.Errorf(dataset.ErrCancelled, "operation %s was cancelled meanwhile", id)
	case op.State.Final():
		return op, d, l, dataset.Errorf(dataset.ErrStale, "operation %s is already %s", id, op.State)
	}
	if d, err = t.Dataset(op.DatasetID); err != nil {
		return op, d, l, err
	}
	if d.State != dataset.StateReady {
		return op, d, l, dataset.Errorf(dataset.ErrConflict, "volume %s was deleted meanwhile", d.Volume)
	}
	if l, err = t.Lease(d); err != nil {
		return op, d, l, err
	}
	if (d.Move != op.ID || d.Home != op.From || d.Epoch != op.Epoch || l.Epoch != op.Epoch) && !steps.Off("epoch") {
		err = dataset.Errorf(dataset.ErrStale,
			"operation %s is of epoch %d of dataset %s on node %s, but the dataset is at epoch %d on node %s", op.ID,
			op.Epoch, d.ID, op.From, d.Epoch, d.Home)
	}
	return op, d, l, err
}

// guestsGoOn records the guests of a dataset that gets another home. A home that was bypassed may have it
// mounted: it counts as a guest until it reports otherwise, or until a person confirms that it is fenced.
func (r *Relocator) guestsGoOn(t *record.Tx, d dataset.Dataset, op dataset.Operation, next *dataset.Dataset) error {
	record.RemoveGuest(t, next, op.Node)
	record.RemoveGuest(t, next, d.Home) // the previous home needs it alone no longer
	switch {
	case !op.Share:
		return r.Unguested(t, *next, "move")
	case op.Loss == nil || d.Profile.Access != dataset.AccessMany:
		return nil
	}
	return record.AddGuest(t, next, dataset.Guest{Node: d.Home, ID: op.ID, Since: r.Clock.Now()})
}
