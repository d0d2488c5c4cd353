package deletion

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
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
