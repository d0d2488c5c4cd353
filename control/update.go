package control

import (
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func (s *Service) planResize(t *tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	size, err := dataset.ParseSize(req.Size)
	if err != nil {
		return nil, nil, err
	}
	next := d
	next.Profile = d.Profile.Clone()
	next.Size, next.Profile.Size = size, size
	return s.resizeTo(t, d, next)
}

// resizeTo plans the agent's part of a change whose size differs.
func (s *Service) resizeTo(t *tx, d, next dataset.Dataset) (*dataset.Operation, *dataset.Dataset, error) {
	var pool dataset.Pool
	if _, err := t.get(poolKey(d.Pool), &pool); err != nil {
		return nil, nil, err
	}
	switch {
	case next.Size == d.Size:
		return nil, &d, nil
	case !pool.Capabilities.EnforcesSize:
		return nil, nil, dataset.Errorf(dataset.ErrUnsupported, "volume %s: pool %s (backend %s) cannot enforce a size", d.Volume, pool.Name, pool.Backend)
	case next.Size < d.Size && !pool.Capabilities.Shrink:
		return nil, nil, dataset.Errorf(dataset.ErrUnsupported, "volume %s: size %s is smaller than its %s, and its filesystem cannot be made smaller (drover volume create a smaller one and copy)", d.Volume, next.Size, d.Size)
	}
	op := on(d)
	op.Kind, op.Dataset = dataset.OpResize, &next
	return op, nil, nil
}

// planUpdate decides on set-profile and protection.
func (s *Service) planUpdate(t *tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	next := d
	if req.Protect != nil {
		next.Protected = *req.Protect
	}
	if req.Profile != "" {
		p, err := s.Deps.Profiles().Get(req.Profile)
		if err != nil {
			return nil, nil, err
		}
		if next.Profile, err = onto(d.Profile, p); err != nil {
			return nil, nil, dataset.Errorf(dataset.KindOf(err), "volume %s: %w", d.Volume, err)
		}
		// A filesystem cannot be made smaller: a profile that promises less
		// leaves the size, and the answer shows it.
		next.Size = max(d.Size, next.Profile.Size)
		next.Profile.Size = next.Size
		if next.Anonymous {
			next.Profile.OnDelete = dataset.OnDelete{Mode: dataset.DeletePurge}
		}
		check := next.Profile
		if check.Size != 0 && p.Size == 0 {
			check.Size = 0
		}
		if err := s.fits(t, d.Pool, check, "volume "+d.Volume); err != nil {
			return nil, nil, err
		}
	}
	if next.Size != d.Size {
		return s.resizeTo(t, d, next)
	}
	if next.Protected == d.Protected && next.Profile.Revision == d.Profile.Revision && next.Profile.Name == d.Profile.Name {
		return nil, &d, nil
	}
	op := on(d)
	op.Dataset = &next
	return op, nil, nil
}

// commitUpdate puts a dataset's new size, profile and protection on record.
func (s *Service) commitUpdate(t *tx, op dataset.Operation, out *api.Committed) error {
	d, err := t.current(op)
	if err != nil {
		return err
	}
	out.Dataset = &d
	if d.Request == op.ID {
		return nil
	}
	if d.State != dataset.StateReady {
		return dataset.Errorf(dataset.ErrConflict, "volume %s was deleted meanwhile", d.Volume)
	}
	detail := "profile " + op.Dataset.Profile.Name
	if op.Dataset.Size != d.Size {
		detail += ", size " + op.Dataset.Size.String()
	}
	d.Size, d.Profile, d.Protected, d.Request = op.Dataset.Size, op.Dataset.Profile, op.Dataset.Protected, op.ID
	t.event("volume."+string(op.Kind), d, detail)
	return t.putDataset(d)
}
