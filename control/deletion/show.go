package deletion

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/relocation"
	"github.com/droverhq/drover/dataset"
)

// PlanShow decides that a node mounts its superseded copy read-only, so that a person can inspect it, or that the node
// unmounts it. The record of the copy says whether and where it is mounted. Idempotent. It fails as PlanDiscard does,
// and with dataset.ErrOffline if the node that must mount the copy is unreachable.
func (r *Deleter) PlanShow(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, c, err := supersededCopy(t, req)
	if err == nil && req.Kind == dataset.OpShow {
		err = r.checkReachable(t, d, c.Node)
	}
	if err != nil {
		return nil, nil, err
	}
	op := record.NewOperation(d)
	op.Kind, op.OtherNode = req.Kind, c.Node
	return op, nil, nil
}

// checkReachable fails with dataset.ErrOffline if the node that keeps a superseded copy is unreachable.
func (r *Deleter) checkReachable(t *record.Tx, d dataset.Dataset, node uuid.UUID) error {
	if !r.Ledger.Shared {
		return nil
	}
	since, alive, err := membership.LivingSession(t, node)
	if err != nil || alive {
		return err
	}
	name, err := t.NodeName(node)
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrOffline,
		"volume %s: node %s, which has the superseded copy, %s: it can be mounted once the node is reachable "+
			"again (drover node ls)", d.Volume, name, relocation.FormatUnreachable(since))
}

// SettleShow requests the mount or unmount of a superseded copy from its node. It removes the report on an earlier
// attempt, because the caller waits for a new report.
func SettleShow(t *record.Tx, op dataset.Operation) error {
	d, err := t.Dataset(op.DatasetID)
	if err != nil {
		return err
	}
	name, err := t.NodeName(op.OtherNode)
	if err != nil {
		return err
	}
	var c dataset.Copy
	if there, err := t.Get(record.CopyKey(op.OtherNode, d.ID), &c); err != nil || !there {
		return err // PlanShow has just read the copy
	}
	typ, detail := api.EventVolumeShow, "the superseded copy on node "+name+", mounted there read-only"
	if c.MountReadOnly = op.Kind == dataset.OpShow; !c.MountReadOnly {
		typ, detail = api.EventVolumeHide, "the superseded copy on node "+name+", no longer mounted there"
	}
	c.Problem = ""
	t.Event(typ, d, detail)
	t.NotifyDataset(d.ID, op.OtherNode)
	return t.Put(record.CopyKey(op.OtherNode, d.ID), c)
}
