package relocation

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// PoolOnShare returns the pool of the target that is on the same share as a dataset. why is the reason if the target
// has no such pool, or if the pool cannot be used now. shared is false if the dataset is on no share.
func (r *Relocator) PoolOnShare(t *record.Tx, d dataset.Dataset, target dataset.Node) (c placement.Candidate,
	shared bool,
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
	cands = slices.DeleteFunc(cands, func(c placement.Candidate) bool { return !placement.OnSameShare(from, c.Pool) })
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

// takeoverSource returns the pool on the share from which the new home of a dataset takes the data over. The new home
// does so after the move is recorded.
//
// Usually the data is in the pool of the previous home. After a move without the home, the previous home may not have
// taken the data over yet. Then the data is still in the pool that is recorded in d.TakenOver.
func takeoverSource(rec, op dataset.Operation, d dataset.Dataset) *dataset.TakenOver {
	switch {
	case !rec.SameShare:
		return nil
	case rec.Loss != nil && op.DatasetRecord != nil && op.DatasetRecord.TakenOver != nil && d.TakenOver != nil &&
		*op.DatasetRecord.TakenOver == *d.TakenOver:
		return d.TakenOver
	}
	return &dataset.TakenOver{FromPool: d.Pool, Epoch: d.Epoch}
}

// planTakeover decides that a node takes over a dataset on a share. The node has a pool on that share, so it needs no
// copy. shared is false if the dataset is on no share.
func (r *Relocator) planTakeover(t *record.Tx, d dataset.Dataset, target, home dataset.Node, op *dataset.Operation) (
	shared bool, err error) {
	c, shared, why, err := r.PoolOnShare(t, d, target)
	if err != nil || !shared {
		return false, err
	}
	switch {
	case c.ID == uuid.Nil:
		return false, dataset.Errorf(dataset.ErrNotFound, "move of volume %s: %s", d.Volume, why)
	case why != "":
		return false, dataset.Errorf(dataset.ErrOffline, "move of volume %s: %s", d.Volume, why)
	}
	op.SameShare, op.DatasetRecord.Pool = true, c.ID
	op.Loss = &dataset.Loss{
		Epoch: d.Epoch, Taken: r.Clock.Now(), PreviousHome: d.Home, Reason: "confirmed: --fenced " + home.Name,
	}
	return true, nil
}

// shareSuccessor is the node on which a dataset whose home is lost could continue, with the pool there and the loss of
// data. share is true if the dataset is on a share. The requesting node is then the successor, because it has access
// to the data.
type shareSuccessor struct {
	node  dataset.Node
	pool  uuid.UUID
	loss  dataset.Loss
	share bool
}

// findSuccessor returns the successor of the lost home of a dataset. If there is none, why is the reason; otherwise it
// is "".
func (r *Relocator) findSuccessor(t *record.Tx, d dataset.Dataset, target dataset.Node) (h shareSuccessor,
	why string, err error) {
	c, shared, why, err := r.PoolOnShare(t, d, target)
	if err != nil {
		return h, "", err
	}
	if !shared {
		kept, node, why, err := r.successor(t, d, target)
		return shareSuccessor{
			node: node,
			pool: kept.Pool,
			loss: dataset.Loss{
				Snapshot: kept.Snapshot, Epoch: kept.Epoch, Taken: kept.Taken, OrderTime: kept.OrderTime,
			},
		}, why, err
	}
	switch {
	case why != "":
	case !c.Guarded:
		why = "node " + target.Name + " has no guard that responds (systemctl start drover-guard there)"
	default:
		why = placement.WhyFenceUnsuitable(c, d.Profile)
	}
	return shareSuccessor{
		node:  target,
		pool:  c.ID,
		share: true,
		loss:  dataset.Loss{Epoch: d.Epoch, Taken: r.Clock.Now()},
	}, why, nil
}

// ReadMove reads a recorded move that has not ended, with its dataset as it is now and the lease. It fails with
// dataset.ErrStale if the move has ended, or if the dataset has another epoch. It fails with ErrCancelled if the move
// was cancelled, and with ErrConflict if the volume was deleted.
func ReadMove(t *record.Tx, id uuid.UUID) (op dataset.Operation, d dataset.Dataset, l dataset.Lease, err error) {
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
	if (d.Move != op.ID || d.Home != op.OtherNode || d.Epoch != op.Epoch || l.Epoch != op.Epoch) &&
		!steps.Off("epoch") {
		err = dataset.Errorf(dataset.ErrStale,
			"operation %s is of epoch %d of dataset %s on node %s, but the dataset is at epoch %d on node %s", op.ID,
			op.Epoch, d.ID, op.OtherNode, d.Epoch, d.Home)
	}
	return op, d, l, err
}

// carrySharedMounts records which shared mounts a dataset keeps when it gets another home. After a move without the
// home, the previous home may still have the dataset mounted. It keeps a shared mount until it reports that it
// unmounted the dataset, or until a person confirms that it is fenced.
func (r *Relocator) carrySharedMounts(t *record.Tx, d dataset.Dataset, op dataset.Operation,
	next *dataset.Dataset) error {
	record.RemoveSharedMount(t, next, op.Node)
	record.RemoveSharedMount(t, next, d.Home) // the exclusive use by the previous home ends
	switch {
	case !op.SameShare:
		return r.Views.CheckNoSharedMounts(t, *next, "move")
	case op.Loss == nil || d.Profile.Access != dataset.AccessMany:
		return nil
	}
	return record.AddSharedMount(t, next, dataset.SharedMount{Node: d.Home, ID: op.ID, Since: r.Clock.Now()})
}
