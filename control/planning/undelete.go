package planning

import (
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// CheckUndelete fails with dataset.ErrUnsupported if a dataset cannot be restored from the trash because its size would
// exceed the overcommit that the policy of its pool allows. Datasets in the trash do not count for the policy, so a
// restored dataset adds its size, as a new volume does.
//
// Only the policy is checked. The data is in the pool already, so the size of the pool does not matter.
func (v *Planner) CheckUndelete(t *record.Tx, op dataset.Operation) error {
	d, err := t.Dataset(op.DatasetID)
	if err != nil {
		return err
	}
	st := v.Reported.Pool(d.Pool)
	if st == nil || d.Trash == nil {
		return nil
	}
	is := *st
	sinceDelete := v.Clock.Now().Sub(d.Trash.At)
	if v.Reported.Silence(d.Home, v.Ledger.Clock.Steady()) >= sinceDelete {
		is.Provisioned -= min(is.Provisioned, d.Size) // the report is older than the deletion, and counts the dataset
	}
	why := is.WhyOvercommitted(d.Size)
	if why == "" {
		return nil
	}
	pool, err := t.Pool(d)
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"volume %s: pool %s is overcommitted: %s (remove or shrink other volumes, or raise the limit: drover pool set)",
		d.Volume, pool.Name, why)
}
