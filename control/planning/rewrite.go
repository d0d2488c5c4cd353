package planning

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// PlanRewrite decides to rewrite a dataset in fewer extents. The home of the dataset does it.
func PlanRewrite(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.Volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	if d.Move != uuid.Nil {
		return nil, nil, dataset.Errorf(dataset.ErrConflict,
			"volume %s: it is being moved to another node (operation %s; try again when that has ended)", d.Volume,
			d.Move)
	}
	return record.NewOperation(d), nil, checkSupports(t, d, dataset.OpRewrite, "rewrite")
}

// checkSupports fails if the agent of a dataset's home is too old for an operation. Such an agent would never report a
// result.
func checkSupports(t *record.Tx, d dataset.Dataset, kind dataset.OpKind, what string) error {
	var n dataset.Node
	ok, err := t.Get(record.NodeKey(d.Home), &n)
	if err == nil && ok && !slices.Contains(n.OperationKinds, kind) {
		err = dataset.Errorf(dataset.ErrUnsupported,
			"%s of volume %s: its home, node %s, runs drover %s, which does not support this: update drover "+
				"there", what,
			d.Volume, n.Name, n.Version)
	}
	return err
}

// CommitRewrite changes no record: only the location of blocks has changed.
func CommitRewrite(t *record.Tx, op dataset.Operation, out *api.Committed) error {
	d, err := record.CurrentDataset(t, op)
	if err != nil {
		return err
	}
	out.Dataset = &d
	if d.Request == op.ID {
		return nil
	}
	t.Event(api.EventVolumeRewrite, d, "")
	d.Request = op.ID
	return t.PutDataset(d)
}
