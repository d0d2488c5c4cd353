package control

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

func (s *Service) planDelete(t *tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	op := on(d)
	next := d
	next.Protected = d.Protected && !req.Force
	op.Dataset = &next
	return op, nil, protected(next)
}

func protected(d dataset.Dataset) error {
	if !d.Protected {
		return nil
	}
	return dataset.Errorf(dataset.ErrProtected, "volume %s is protected (drover volume unprotect %s)", d.Volume, d.Volume)
}

// commitDelete takes the name away. The data goes to the trash, or on its way
// out, by the profile.
func (s *Service) commitDelete(t *tx, op dataset.Operation, out *api.Committed) error {
	d, err := t.current(op)
	if err != nil {
		return err
	}
	out.Dataset = &d
	if d.Request == op.ID {
		return nil
	}
	if d.State != dataset.StateReady {
		return dataset.Errorf(dataset.ErrNotFound, "volume %s was deleted meanwhile", d.Volume)
	}
	forced := op.Dataset != nil && !op.Dataset.Protected
	if d.Protected && !forced {
		return protected(d)
	}
	var c claim
	if ok, err := t.get(nameKey(d.Volume), &c); err != nil {
		return err
	} else if !ok || c.ID != d.ID {
		return dataset.Errorf(dataset.ErrConflict, "volume %s points at another dataset meanwhile", d.Volume)
	}
	t.del(nameKey(d.Volume))
	d.Request = op.ID
	if d.Profile.OnDelete.Mode == dataset.DeletePurge {
		return s.condemn(t, d, "volume.delete")
	}
	now := s.Clock.Now()
	d.State, d.Trash, d.Protected = dataset.StateTrashed, &dataset.Trash{At: now}, false
	if d.Profile.OnDelete.Mode == dataset.DeleteTrash {
		d.Trash.Until = now.Add(time.Duration(d.Profile.OnDelete.Trash))
	}
	if err := t.put(trashKey(d.ID), d.Trash); err != nil {
		return err
	}
	t.event("volume.delete", d, "in the trash")
	return t.putDataset(d)
}

// condemn marks a dataset as on its way out: its home's agent destroys it, and
// nothing brings it back.
func (s *Service) condemn(t *tx, d dataset.Dataset, event string) error {
	d.State = dataset.StatePurging
	t.del(trashKey(d.ID))
	t.event(event, d, "purged")
	return t.putDataset(d)
}

// planUndelete brings a dataset back from the trash, under its old name or
// another. Control does it alone: nothing moves on disk.
func (s *Service) planUndelete(t *tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.trashed(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	next := d
	if req.Name != "" {
		if err := dataset.CheckName(req.Name); err != nil {
			return nil, nil, err
		}
		next.Volume, next.Spelling = req.Name, req.Name
	}
	var c claim
	if ok, err := t.get(nameKey(next.Volume), &c); err != nil {
		return nil, nil, err
	} else if ok {
		return nil, nil, dataset.Errorf(dataset.ErrExists, "a volume %s exists (drover trash restore %s NAME brings it back under another name)", next.Volume, d.ID.String()[:8])
	}
	op := on(next)
	op.Dataset = &next
	return op, nil, nil
}

func (s *Service) commitUndelete(t *tx, op dataset.Operation, out *api.Committed) error {
	d, err := t.current(op)
	if err != nil {
		return err
	}
	if d.State != dataset.StateTrashed {
		return dataset.Errorf(dataset.ErrConflict, "dataset %s is not in the trash any more", d.ID)
	}
	d.Volume, d.Spelling, d.Request = op.Dataset.Volume, op.Dataset.Spelling, op.ID
	d.State, d.Trash = dataset.StateReady, nil
	t.del(trashKey(d.ID))
	if err := t.put(nameKey(d.Volume), claim{d.ID}); err != nil {
		return err
	}
	t.event("volume.undelete", d, "")
	out.Dataset = &d
	return t.putDataset(d)
}

// trashed finds a dataset in the trash by UUID prefix, or by the name that it
// had when only one there had it.
func (t *tx) trashed(ref string) (dataset.Dataset, error) {
	d, err := t.byPrefix(ref, "dataset in the trash", func(d dataset.Dataset) bool { return d.State == dataset.StateTrashed })
	if err == nil || dataset.CheckName(ref) != nil {
		return d, err
	}
	entries, lerr := t.store.List(t.ctx, "trash/", "", 0)
	if lerr != nil {
		return d, unavailable(lerr)
	}
	var hits []dataset.Dataset
	for _, e := range entries {
		id, perr := uuid.Parse(e.Key[len("trash/"):])
		if perr != nil {
			return d, decode(e.Key, e.Value, nil)
		}
		hit, derr := t.dataset(id)
		if derr != nil {
			return d, derr
		}
		if hit.Volume == ref {
			hits = append(hits, hit)
		}
	}
	switch len(hits) {
	case 0:
		return d, err
	case 1:
		return hits[0], nil
	}
	return d, dataset.Errorf(dataset.ErrAmbiguous, "%d datasets in the trash were named %s: say which by its UUID (drover trash ls)", len(hits), ref)
}

func (s *Service) planPurge(t *tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.trashed(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	op := on(d)
	return op, nil, nil
}

// snapshotsAtOnce bounds the snapshots that one transaction forgets: three keys
// each, within the store's limit.
const snapshotsAtOnce = (store.MaxOps - 24) / 6

// commitPurge forgets a dataset whose bytes, and whose snapshots, are gone.
func (s *Service) commitPurge(t *tx, op dataset.Operation, out *api.Committed) error {
	var d dataset.Dataset
	ok, err := t.get(datasetKey(op.DatasetID), &d)
	if err != nil || !ok {
		return err
	}
	if d.Epoch != op.Epoch || d.Home != op.Node {
		return dataset.Errorf(dataset.ErrStale, "dataset %s: report of epoch %d, but it is at %d", d.ID, op.Epoch, d.Epoch)
	}
	if d.State != dataset.StatePurging {
		return dataset.Errorf(dataset.ErrConflict, "dataset %s is %s, not to be purged", d.ID, d.State)
	}
	for _, k := range []string{datasetKey(d.ID), uuidKey(d.ID), leaseKey(d.ID), homeKey(d.Home, d.ID), trashKey(d.ID)} {
		t.del(k)
	}
	t.touch(d.ID, d.Home)
	return nil
}

// forgetSnapshots removes the records of a condemned dataset's snapshots, in as
// many transactions as that takes. Again: what is left.
func (s *Service) forgetSnapshots(ctx context.Context, op dataset.Operation) error {
	for {
		more := false
		_, err := s.update(ctx, func(t *tx) error {
			d, err := t.current(op)
			if dataset.KindOf(err) == dataset.ErrNotFound {
				return nil
			}
			if err != nil || d.State != dataset.StatePurging {
				return err
			}
			entries, err := t.store.List(ctx, snapshotPrefix(d.ID), "", snapshotsAtOnce)
			if err != nil {
				return unavailable(err)
			}
			for _, e := range entries {
				var snap dataset.Snapshot
				if err := decode(e.Key, e.Value, &snap); err != nil {
					return err
				}
				t.delSnapshot(snap)
			}
			more = len(entries) == snapshotsAtOnce
			return nil
		})
		if err != nil || !more {
			return err
		}
	}
}
