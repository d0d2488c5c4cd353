package control

import (
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func (s *Service) planDelete(t *tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	op := on(d)
	if req.Force { // only then is a protection that comes meanwhile overridden
		next := d
		next.Protected = false
		op.Dataset = &next
		return op, nil, nil
	}
	return op, nil, protected(d)
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
	if op.Dataset == nil || op.Dataset.Protected {
		if err := protected(d); err != nil {
			return err
		}
	}
	var c claim
	if ok, err := t.get(nameKey(d.Volume), &c); err != nil {
		return err
	} else if !ok || c.ID != d.ID {
		return torn("%s does not point at %s, which has that name", nameKey(d.Volume), datasetKey(d.ID))
	}
	t.del(nameKey(d.Volume))
	d.Request, d.Protected = op.ID, false
	if d.Profile.OnDelete.Mode == dataset.DeletePurge {
		return s.condemn(t, &d, "volume.delete", "destroyed")
	}
	now := s.Clock.Now()
	d.State, d.Trash = dataset.StateTrashed, &dataset.Trash{At: now}
	if d.Profile.OnDelete.Mode == dataset.DeleteTrash {
		d.Trash.Until = now.Add(time.Duration(d.Profile.OnDelete.Trash))
	}
	if err := s.putInTrash(t, d.ID, *d.Trash); err != nil {
		return err
	}
	t.event("volume.delete", d, "in the trash")
	return t.putDataset(d)
}

// condemn marks a dataset as on its way out: its home's agent destroys it, and
// nothing brings it back.
func (s *Service) condemn(t *tx, d *dataset.Dataset, event, detail string) error {
	d.State = dataset.StatePurging
	t.del(trashKey(d.ID))
	if err := t.condemnCopies(*d); err != nil {
		return err
	}
	t.event(event, *d, detail)
	return t.putDataset(*d)
}
