package deletion

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/relocation"
	"github.com/droverhq/drover/dataset"
)

// PlanDiscard decides to discard a superseded copy of a volume. If the request names no node, the volume must have
// exactly one superseded copy. It fails with dataset.ErrNotFound if there is none, with ErrAmbiguous if there are
// several, and with ErrInUse while the copy is mounted.
func PlanDiscard(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, c, err := supersededCopy(t, req)
	if err != nil {
		return nil, nil, err
	}
	if c.MountReadOnly {
		name, err := t.NodeName(c.Node)
		if err == nil {
			err = dataset.Errorf(dataset.ErrInUse,
				"volume %s: the superseded copy on node %s is mounted there (run drover copy mount "+
					"%s %s --off, then discard it)", d.Volume, name, record.RefTo(d), name)
		}
		return nil, nil, err
	}
	op := record.NewOperation(d)
	op.OtherNode = c.Node
	return op, nil, nil
}

// supersededCopy returns the superseded copy that a request is about. It fails as PlanDiscard does.
func supersededCopy(t *record.Tx, req api.Request) (d dataset.Dataset, c dataset.Copy, err error) {
	if d, err = t.AnyDataset(req.Volume); err != nil {
		return d, c, err
	}
	var only uuid.UUID
	if req.Node != "" {
		n, err := t.FindNode(req.Node)
		if err != nil {
			return d, c, err
		}
		only = n.ID
	}
	found := 0
	for _, node := range d.Copies {
		var k dataset.Copy
		there, err := t.Get(record.CopyKey(node, d.ID), &k)
		if err != nil {
			return d, c, err
		}
		if there && k.Kind == dataset.CopySuperseded && (only == uuid.Nil || only == node) {
			c = k
			found++
		}
	}
	switch found {
	case 0:
		return d, c, dataset.Errorf(dataset.ErrNotFound,
			"volume %s: it has no superseded copy there (drover copy ls lists them)",
			d.Volume)
	case 1:
		return d, c, nil
	}
	return d, c, dataset.Errorf(dataset.ErrAmbiguous,
		"volume %s: several nodes have a superseded copy of it (add the node)", d.Volume)
}

// CheckNoSupersededCopy fails with dataset.ErrConflict if a node keeps a superseded copy of the dataset. Such a copy
// does not expire: only a person discards it.
func CheckNoSupersededCopy(t *record.Tx, d dataset.Dataset) error {
	for _, node := range d.Copies {
		var c dataset.Copy
		there, err := t.Get(record.CopyKey(node, d.ID), &c)
		if err != nil {
			return err
		}
		if !there || c.Kind != dataset.CopySuperseded {
			continue
		}
		name, err := t.NodeName(node)
		if err == nil {
			err = dataset.Errorf(dataset.ErrConflict,
				"dataset %s stays in the trash: node %s has a superseded copy of it (drover copy "+
					"mount %s %s shows it)", d.ID, name, d.ID, name)
		}
		return err
	}
	return nil
}

// SettleDiscard condemns a superseded copy, so that its node destroys it.
func SettleDiscard(t *record.Tx, op dataset.Operation) error {
	d, err := t.Dataset(op.DatasetID)
	if err != nil {
		return err
	}
	name, err := t.NodeName(op.OtherNode)
	if err != nil {
		return err
	}
	t.Event(api.EventVolumeDiscard, d, "the superseded copy on node "+name)
	return record.CondemnCopy(t, op.OtherNode, d.ID)
}

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
