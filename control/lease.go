package control

import (
	"cmp"
	"context"
	"reflect"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/relocation"
	"github.com/droverhq/drover/dataset"
)

// Recall asks the home of a move to relinquish its lease. From then on the home allows no new mounts of the volume.
// Idempotent: if the lease is already recalled or relinquished, Recall returns the present operation.
//
// It fails with dataset.ErrStale if the move has ended or has another epoch, with ErrCancelled if it was cancelled,
// with ErrConflict if the volume was deleted or the store is halted, and with ErrForbidden if the move belongs to
// another node.
func (s *Service) Recall(ctx context.Context, node uuid.UUID, r api.Report) (op dataset.Operation, err error) {
	_, err = s.Ledger.Update(ctx, func(t *record.Tx) error {
		if _, err := membership.FreshNode(t, node, r.Incarnation); err != nil {
			return err
		}
		rec, d, lease, err := relocation.ReadMove(t, r.Operation.ID)
		if err != nil {
			return err
		}
		op = rec
		if rec.Node != node {
			return dataset.Errorf(dataset.ErrForbidden, "operation %s belongs to node %s, not to "+
				"%s", rec.ID, rec.Node, node)
		}
		if lease.State != dataset.LeaseHeld {
			return nil
		}
		if err := t.Halted(); err != nil {
			return err
		}
		lease.State, lease.WantedBy = dataset.LeaseRecalled, node
		t.NotifyDataset(d.ID, d.Home)
		return t.Put(record.LeaseKey(d.ID), lease)
	})
	return op, err
}

// Yield records the home's answer to a recall. Idempotent. It fails with dataset.ErrStale if the recall was withdrawn,
// or if the answer comes from an older epoch, incarnation or home. It fails with ErrInvalid unless the answer has
// either a manifest or holders, and with ErrConflict if the move copies file by file and a snapshot was taken after the
// move began.
func (s *Service) Yield(ctx context.Context, node uuid.UUID, y api.Yield) error {
	if (y.Manifest == nil) == (len(y.InUseBy) == 0) {
		return dataset.Errorf(dataset.ErrInvalid, "yield of dataset %s: missing manifest or holders", y.Dataset)
	}
	_, err := s.Ledger.Update(ctx, func(t *record.Tx) error {
		if _, err := membership.FreshNode(t, node, y.Incarnation); err != nil {
			return err
		}
		op, d, lease, err := relocation.ReadMove(t, y.Operation)
		switch {
		case err != nil:
			return err
		case op.OtherNode != node || d.ID != y.Dataset || d.Epoch != y.Epoch:
			return dataset.Errorf(dataset.ErrStale,
				"dataset %s: node %s yields epoch %d, but the dataset is at epoch %d on node "+
					"%s", y.Dataset, node, y.Epoch,
				d.Epoch, d.Home)
		case lease.State == dataset.LeaseHeld:
			return dataset.Errorf(dataset.ErrStale, "dataset %s: it is not being recalled", d.ID)
		}
		next, was := op, lease
		if y.Manifest == nil {
			if lease.State == dataset.LeaseMoving {
				return nil // the answer is older than the relinquishment
			}
			next.InUseBy, lease.InUse = slices.Sorted(slices.Values(y.InUseBy)), true
		} else {
			if some, err := t.List(record.SnapshotPrefix(d.ID), "", 1); op.FileCopy && (err != nil || len(some) > 0) {
				return cmp.Or(err, dataset.Errorf(dataset.ErrConflict,
					"volume %s: a snapshot was taken after its move began, and a move file by file cannot transfer it",
					d.Volume))
			}
			next.Manifest, next.InUseBy = y.Manifest, nil
			lease.State, lease.InUse = dataset.LeaseMoving, false
		}
		if lease == was && reflect.DeepEqual(next, op) {
			return nil
		}
		if err := t.Put(record.LeaseKey(d.ID), lease); err != nil {
			return err
		}
		t.Notice.Ops = append(t.Notice.Ops, op.ID)
		t.WakeNode(op.Node)
		return t.Put(record.OperationKey(op.ID), next)
	})
	return err
}

// releaseLease gives the lease of an ended move back to the home. If the home has relinquished the lease, it gets a
// new epoch, because it must not use the old one again. In a move without the home, the home has not relinquished the
// lease, and keeps its epoch: it may be using the dataset while control cannot reach it.
func releaseLease(t *record.Tx, op dataset.Operation) error {
	var d dataset.Dataset
	there, err := t.Get(record.DatasetKey(op.DatasetID), &d)
	if err != nil || !there || d.Move != op.ID || d.Home == uuid.Nil { // no home: the data is destroyed
		return err
	}
	lease, err := t.Lease(d)
	if err != nil {
		return err
	}
	d.Move = uuid.Nil
	if lease.State == dataset.LeaseMoving && op.Loss == nil {
		// In a store that was restored from a backup, the target may already be the home at this epoch. Only a
		// recovery can know this, because it has asked the target.
		if err := t.Halted(); err != nil && !t.Recovering {
			return err
		}
		d.Epoch++
		t.Event(api.EventVolumeLease, d, "given back to its home")
	}
	lease.State, lease.WantedBy, lease.InUse, lease.Epoch = dataset.LeaseHeld, uuid.Nil, false, d.Epoch
	for _, node := range d.Copies { // the promises of these nodes contain the epoch, so they must learn the new one
		t.NotifyDataset(d.ID, node)
	}
	if err := t.Put(record.LeaseKey(d.ID), lease); err != nil {
		return err
	}
	return t.PutDataset(d)
}
