package placement

import (
	"context"
	"github.com/google/uuid"
	"slices"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// AddLoss records a loss in a dataset, and sets HeadParent to the newest snapshot that is not lost. It drops an
// earlier loss if no recorded copy can be older than that loss.
func AddLoss(t *record.Tx, next *dataset.Dataset, loss dataset.Loss) error {
	behind := loss.EndedEpoch
	for _, node := range next.Copies {
		var c dataset.Copy
		if _, err := t.Get(record.CopyKey(node, next.ID), &c); err != nil {
			return err
		}
		behind = min(behind, c.Epoch)
	}
	next.Losses = slices.DeleteFunc(slices.Clone(next.Losses),
		func(l dataset.Loss) bool { return l.SnapshotsForgotten && l.EndedEpoch < behind })
	next.Losses = append(next.Losses, loss)
	var newest dataset.Snapshot
	err := record.EachSnapshot(t, next.ID, func(s dataset.Snapshot) {
		if !next.Lost(s) && s.At().Compare(newest.At()) > 0 {
			newest = s
		}
	})
	next.HeadParent = newest.ID
	return err
}

// ForgetLost removes the records of the snapshots that were lost when a dataset continued without its home. It works
// in several transactions. The data of these snapshots stays on the superseded home. Idempotent: a repeated call
// continues with the remaining records.
func (s *CopyKeeper) ForgetLost(ctx context.Context, d dataset.Dataset) error {
	for more := slices.ContainsFunc(d.Losses, lossesToForget); more; {
		_, err := s.Ledger.Update(ctx, func(t *record.Tx) (err error) {
			more, err = forgetSomeLost(t, d.ID)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func lossesToForget(l dataset.Loss) bool { return !l.SnapshotsForgotten }

// forgetSomeLost removes the records of some lost snapshots of a dataset. It reports whether more are left.
func forgetSomeLost(t *record.Tx, id uuid.UUID) (more bool, err error) {
	var d dataset.Dataset
	there, err := t.Get(record.DatasetKey(id), &d)
	i := slices.IndexFunc(d.Losses, lossesToForget)
	if err != nil || !there || i < 0 {
		return false, err
	}
	var lost []dataset.Snapshot
	if err := record.EachSnapshot(t, id, func(s dataset.Snapshot) {
		if d.Losses[i].Includes(s) {
			lost = append(lost, s)
		}
	}); err != nil {
		return false, err
	}
	for _, s := range lost[:min(len(lost), record.SnapshotsAtOnce)] {
		record.DeleteSnapshot(t, s)
	}
	if len(lost) <= record.SnapshotsAtOnce {
		d.Losses = slices.Clone(d.Losses)
		d.Losses[i].SnapshotsForgotten = true
		if err := t.PutDataset(d); err != nil {
			return false, err
		}
	}
	return len(lost) > record.SnapshotsAtOnce || slices.ContainsFunc(d.Losses, lossesToForget), nil
}
