package planning

import (
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
	return record.NewOperation(d), nil, nil
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
