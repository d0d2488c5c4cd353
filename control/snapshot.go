package control

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// maxMessage bounds the message of a snapshot, in bytes.
const maxMessage = 1024

// planSnapshot decides to take a snapshot of a volume. The home of the volume takes it.
func (s *Service) planSnapshot(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.Volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	if len(req.Message) > maxMessage {
		return nil, nil, dataset.Errorf(dataset.ErrInvalid, "message of %d bytes is too long (%d at most)",
			len(req.Message), maxMessage)
	}
	if err := record.CheckSnapshotName(t, d, req.Name); err != nil {
		return nil, nil, err
	}
	snap := s.newSnapshot(d, dataset.SnapshotManual)
	snap.Name, snap.Message = req.Name, req.Message
	if req.Scheduled {
		snap.Kind = dataset.SnapshotScheduled
	}
	op := record.NewOperation(d)
	op.Snapshot = &snap
	return op, nil, nil
}

func (s *Service) newSnapshot(d dataset.Dataset, kind dataset.SnapshotKind) dataset.Snapshot {
	return dataset.Snapshot{
		ID: uuid.New(), Dataset: d.ID, Volume: d.Volume, Parent: d.HeadParent, Kind: kind,
		Size: d.Size, Profile: d.Profile.Clone(), Epoch: d.Epoch, Created: s.Clock.Now(),
	}
}

// commitSnapshot records a snapshot that was taken.
func commitSnapshot(t *record.Tx, op dataset.Operation, out *api.Committed) error {
	d, err := record.CurrentDataset(t, op)
	if err != nil {
		return err
	}
	out.Dataset = &d
	snap := *op.Snapshot
	if ok, err := t.Get(record.SnapshotKey(d.ID, snap.ID), &dataset.Snapshot{}); err != nil || ok {
		return err
	}
	if d.State != dataset.StateReady {
		return dataset.Errorf(dataset.ErrConflict, "volume %s was deleted meanwhile", d.Volume)
	}
	if err := record.CheckSnapshotName(t, d, snap.Name); err != nil {
		return err
	}
	// The parent is the snapshot that was committed last, which may have changed since the plan.
	snap.Parent = d.HeadParent
	d.HeadParent, d.Request = snap.ID, op.ID
	if err := record.PutSnapshot(t, snap); err != nil {
		return err
	}
	t.Event(api.EventSnapshotCreate, d, snap.ID.String())
	return t.PutDataset(d)
}

// planSnapshotDelete decides to delete a snapshot. The home of its dataset deletes it.
func planSnapshotDelete(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	snap, err := t.Snapshot(req.Volume, req.Snapshot)
	if err != nil {
		return nil, nil, err
	}
	d, err := t.Dataset(snap.Dataset)
	if err != nil {
		return nil, nil, err
	}
	op := record.NewOperation(d)
	op.Snapshot = &snap
	return op, nil, nil
}

// commitSnapshotDelete removes the record of a snapshot whose data is destroyed. It also writes the dataset, so that
// concurrent decisions that have read the dataset and the snapshot are repeated.
func commitSnapshotDelete(t *record.Tx, op dataset.Operation, out *api.Committed) error {
	d, err := record.CurrentDataset(t, op)
	if err != nil {
		return err
	}
	out.Dataset = &d
	var snap dataset.Snapshot
	if ok, err := t.Get(record.SnapshotKey(d.ID, op.Snapshot.ID), &snap); err != nil || !ok {
		return err
	}
	record.DeleteSnapshot(t, snap)
	if d.HeadParent == snap.ID {
		d.HeadParent = snap.Parent
	}
	d.Request = op.ID
	t.Event(api.EventSnapshotDelete, d, snap.ID.String())
	return t.PutDataset(d)
}

// planRestore decides to restore a volume to one of its snapshots.
func (s *Service) planRestore(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.Volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	snap, err := t.SnapshotOf(d, req.Snapshot)
	if err != nil {
		return nil, nil, err
	}
	keep := s.newSnapshot(d, dataset.SnapshotRestore)
	keep.Message = "before restore of " + snap.ID.String()
	next := d
	next.HeadParent = snap.ID
	op := record.NewOperation(d)
	op.DatasetRecord, op.Snapshot = &next, &keep
	op.Source = &dataset.Source{Dataset: d.ID, Snapshot: snap.ID}
	return op, nil, nil
}

// beginRestore records that the content of a dataset is about to be replaced. It must run in the same transaction as
// the plan.
func beginRestore(_ *Service, t *record.Tx, op *dataset.Operation) error {
	d, err := t.Dataset(op.DatasetID)
	if err != nil {
		return err
	}
	record.EndContent(t, &d)
	return t.PutDataset(d)
}

// commitRestore records that a dataset has the content of a snapshot, and records the snapshot that keeps its previous
// content. The size of the dataset does not change. The data has already changed, so a report from the present home and
// epoch is refused only if the dataset is being destroyed.
func commitRestore(t *record.Tx, op dataset.Operation, out *api.Committed) error {
	d, err := record.CurrentDataset(t, op)
	if err != nil {
		return err
	}
	out.Dataset = &d
	keep := *op.Snapshot
	if ok, err := t.Get(record.SnapshotKey(d.ID, keep.ID), &dataset.Snapshot{}); err != nil || ok {
		return err
	}
	if d.State == dataset.StatePurging {
		return dataset.Errorf(dataset.ErrConflict, "volume %s was destroyed meanwhile", d.Volume)
	}
	if err := record.CheckSnapshotName(t, d, keep.Name); err != nil {
		return err
	}
	there, err := t.Get(record.SnapshotKey(d.ID, op.Source.Snapshot), &dataset.Snapshot{})
	if err != nil {
		return err
	}
	keep.Parent, d.HeadParent = d.HeadParent, uuid.Nil
	if there {
		d.HeadParent = op.Source.Snapshot
	}
	d.Request = op.ID
	record.EndContent(t, &d)
	if err := record.PutSnapshot(t, keep); err != nil {
		return err
	}
	t.Event(api.EventSnapshotRestore, d, op.Source.Snapshot.String())
	return t.PutDataset(d)
}

// checkUndelete fails with dataset.ErrUnsupported if a dataset cannot be restored from the trash because its size would
// exceed the overcommit that the policy of its pool allows. Datasets in the trash do not count for the policy, so a
// restored dataset adds its size, as a new volume does.
//
// Only the policy is checked. The data is in the pool already, so the size of the pool does not matter.
func (s *Service) checkUndelete(t *record.Tx, op dataset.Operation) error {
	d, err := t.Dataset(op.DatasetID)
	if err != nil {
		return err
	}
	st := s.Reports.Pool(d.Pool)
	if st == nil || d.Trash == nil {
		return nil
	}
	is := *st
	sinceDelete := s.Clock.Now().Sub(d.Trash.At)
	if s.Ledger.Clock.Steady()-s.Reports.Heartbeat(d.Home).At >= sinceDelete {
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
