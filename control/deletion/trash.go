package deletion

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// PlanUndelete decides to restore a dataset from the trash, under its former name or another one. No agent takes part,
// because nothing changes on disk.
func PlanUndelete(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := record.FindDeleted(t, req.Volume, func(d dataset.Dataset) bool { return d.State == dataset.StateTrashed })
	if err != nil {
		return nil, nil, err
	}
	next := d
	if req.Name != "" && req.Name != d.Volume {
		next.Volume, next.RequestedAs, next.RequestedBy = req.Name, req.Name, uuid.Nil
	}
	if err := dataset.CheckName(next.Volume); err != nil {
		return nil, nil, err
	}
	if other, taken, err := t.VolumeByName(next.Volume); err != nil {
		return nil, nil, err
	} else if taken {
		is := "a volume " + next.Volume + " exists"
		if other.Volume != next.Volume {
			is = next.Volume + " is an alias of volume " + other.Volume
		}
		return nil, nil, dataset.Errorf(dataset.ErrExists,
			"%s (drover trash restore %s NAME restores this one under another name)", is, d.ID.String()[:8])
	}
	next.State, next.Trash = dataset.StateReady, nil
	op := record.NewOperation(next)
	op.DatasetRecord = &next
	return op, nil, nil
}

// SettleUndelete writes what PlanUndelete decided. It must run in the same transaction.
func SettleUndelete(t *record.Tx, op dataset.Operation) error {
	d := *op.DatasetRecord
	t.Delete(record.TrashKey(d.ID))
	if err := t.Put(record.NameKey(d.Volume), record.Claim{ID: d.ID}); err != nil {
		return err
	}
	t.Event(api.EventVolumeUndelete, d, "")
	record.NotifyCopies(t, d)
	return t.PutDataset(d)
}

// PlanPurge decides to destroy a dataset in the trash. It accepts a dataset that is already being destroyed, because
// the first attempt may have failed.
func PlanPurge(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := record.FindDeleted(t, req.Volume, func(d dataset.Dataset) bool { return d.State == dataset.StateTrashed })
	if dataset.KindOf(err) == dataset.ErrNotFound {
		isPurging := func(d dataset.Dataset) bool { return d.State == dataset.StatePurging }
		d, err = record.FindDeleted(t, req.Volume, isPurging)
	}
	if dataset.KindOf(err) == dataset.ErrNotFound {
		if live, verr := t.Volume(req.Volume); verr == nil {
			err = dataset.Errorf(dataset.ErrNotFound,
				"volume %s is not in the trash (drover volume inspect %s)", live.Volume, live.Volume)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if d.Home == uuid.Nil {
		name, err := t.NodeName(d.Copies[0])
		if err == nil {
			err = dataset.Errorf(dataset.ErrPending,
				"dataset %s is destroyed except for its copies: node %s, for example, has not confirmed the "+
					"deletion (drover node ls)", d.ID, name)
		}
		return nil, nil, err
	}
	return record.NewOperation(d), nil, nil
}

// CommitPurge removes the record of a dataset whose data and snapshots are destroyed. While other nodes have copies,
// the record stays so that they destroy the copies.
func CommitPurge(t *record.Tx, op dataset.Operation) error {
	d, gone, err := condemnedDataset(t, op)
	if err != nil || gone {
		return err
	}
	if d.State != dataset.StatePurging {
		return dataset.Errorf(dataset.ErrConflict, "dataset %s is %s, not being purged", d.ID, d.State)
	}
	d.Request = op.ID
	t.Event(api.EventVolumePurge, d, "destroyed")
	return ClearHome(t, d)
}

// ClearHome removes a condemned dataset from its home, and removes its record if no other node has a copy.
func ClearHome(t *record.Tx, d dataset.Dataset) error {
	t.NotifyDataset(d.ID, d.Home)
	t.Delete(record.HomeKey(d.Home, d.ID))
	t.Delete(record.TrashKey(d.ID))
	if len(d.Copies) == 0 {
		record.ForgetDataset(t, d)
		return nil
	}
	t.Delete(record.LeaseKey(d.ID))
	d.Home = uuid.Nil
	return t.Put(record.DatasetKey(d.ID), d)
}

// condemnedDataset reads the dataset of a purge. gone is true if its home has already destroyed it.
func condemnedDataset(t *record.Tx, op dataset.Operation) (d dataset.Dataset, gone bool, err error) {
	d, err = t.Dataset(op.DatasetID)
	if dataset.KindOf(err) == dataset.ErrNotFound || err == nil && d.Home == uuid.Nil {
		return d, true, nil
	}
	if err == nil {
		d, err = record.CurrentDataset(t, op)
	}
	return d, false, err
}

// ForgetSnapshots removes the records of a condemned dataset's snapshots, in as many transactions as necessary.
// Idempotent: it continues with the remaining ones.
func (r *Deleter) ForgetSnapshots(ctx context.Context, op dataset.Operation) error {
	for more := true; more; {
		_, err := r.Ledger.Update(ctx, func(t *record.Tx) error {
			more = false
			if rec, _, err := membership.RecordedOperation(t, op); err != nil || rec.State.Final() {
				return err
			}
			d, gone, err := condemnedDataset(t, op)
			if err != nil || gone || d.State != dataset.StatePurging {
				return err
			}
			more, err = DeleteSnapshots(t, d)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// DeleteSnapshots removes the records of as many snapshots of a dataset as one transaction can hold. more is true if
// the dataset may have further snapshots: the caller then calls DeleteSnapshots again in another transaction.
func DeleteSnapshots(t *record.Tx, d dataset.Dataset) (more bool, err error) {
	entries, err := t.List(record.SnapshotPrefix(d.ID), "", record.SnapshotsAtOnce)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		var snap dataset.Snapshot
		if err := record.Decode(e.Key, e.Value, &snap); err != nil {
			return false, err
		}
		record.DeleteSnapshot(t, snap)
	}
	return len(entries) == record.SnapshotsAtOnce, nil
}
