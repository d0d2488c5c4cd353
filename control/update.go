package control

import (
	"cmp"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/placement"
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
	if size == d.Profile.Size && d.Size >= size { // the backend may have rounded it up
		return nil, &d, nil
	}
	next := d
	next.Profile = d.Profile.Clone()
	next.Size, next.Profile.Size = size, size
	return s.resizeTo(t, d, next)
}

// resizeTo plans the agent's part of a change whose size differs.
func (s *Service) resizeTo(t *tx, d, next dataset.Dataset) (*dataset.Operation, *dataset.Dataset, error) {
	if next.Size == d.Size {
		return nil, &d, nil
	}
	pool, err := t.pool(d)
	if err != nil {
		return nil, nil, err
	}
	c := placement.Candidate{Pool: pool, Status: s.seen.pool(pool.ID)}
	why := cmp.Or(placement.WhyUnsuitable(c, dataset.Profile{Size: next.Size}), c.Less(next.Size, d.Size))
	switch {
	case c.IsUnasked():
		return nil, nil, dataset.Errorf(dataset.ErrOffline, "volume %s: pool %s is offline: %s", d.Volume,
			pool.Name, c.Status.Reason)
	case why != "":
		err := dataset.Errorf(dataset.ErrUnsupported, "volume %s: pool %s cannot give it size %s: %s", d.Volume,
			pool.Name, next.Size, why)
		return nil, nil, s.withOthers(t, err, []placement.Site{{Pools: []placement.Candidate{c}}},
			placement.Requirement{Profile: next.Profile, Had: d.Size})
	case next.Size < d.Size && !pool.Capabilities.Shrink:
		return nil, nil, dataset.Errorf(dataset.ErrUnsupported,
			"volume %s: size %s is smaller than its %s, and its filesystem cannot be made smaller (drover "+
				"volume export %s | drover volume import NEW@%s -o size=%s --from - makes another)", d.Volume,
			next.Size, d.Size.Said(d.Profile.Size), d.Volume, d.Profile.Name, next.Size)
	}
	op := on(d)
	op.Kind, op.Dataset = dataset.OpResize, &next
	return op, nil, nil
}

// commitResize puts a dataset's new size on record and, when that is what it was
// resized for, its new profile. What else changed since the plan stays. The
// bytes have changed by then: it is refused only for a dataset that is being
// destroyed.
func (s *Service) commitResize(t *tx, op dataset.Operation, out *api.Committed) error {
	d, err := t.current(op)
	if err != nil {
		return err
	}
	out.Dataset = &d
	if d.Request == op.ID {
		return nil
	}
	if d.State == dataset.StatePurging {
		return dataset.Errorf(dataset.ErrConflict, "volume %s was destroyed meanwhile", d.Volume)
	}
	next := op.Dataset
	detail := "size " + next.Size.Said(next.Profile.Size)
	if name := op.Options["profile"]; name != "" {
		where := d.Profile.Clone().Encryption // which a rekey may have changed since
		d.Profile = next.Profile.Clone()
		d.Profile.Encryption = where
		detail += ", profile " + name
	}
	d.Size, d.Profile.Size, d.Request = next.Size, next.Profile.Size, op.ID
	t.event("volume.resize", d, detail)
	return t.putDataset(d)
}

// planUpdate decides on set-profile and protection.
func (s *Service) planUpdate(t *tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case req.Profile != "" && req.Protect != nil:
		return nil, nil, dataset.Errorf(dataset.ErrInvalid,
			"volume %s: profile and protection cannot change at once (ask for one, then the other)", d.Volume)
	case req.Profile != "":
		return s.planProfile(t, d, req.Profile)
	case req.Protect == nil:
		return nil, nil, dataset.Errorf(dataset.ErrInvalid,
			"volume %s: nothing to change (say a profile, or whether it is protected)", d.Volume)
	case *req.Protect == d.Protected:
		return nil, &d, nil
	}
	op, next := on(d), d
	next.Protected = *req.Protect
	op.Dataset = &next
	return op, nil, nil
}

func (s *Service) planProfile(t *tx, d dataset.Dataset, profile string) (*dataset.Operation, *dataset.Dataset, error) {
	p, err := s.Deps.Profiles().Get(profile)
	if err != nil {
		return nil, nil, err
	}
	if p.Name == d.Profile.Name && p.Revision == d.Profile.Revision {
		return nil, &d, nil
	}
	next := d
	if next.Profile, err = onto(d, p); err != nil {
		return nil, nil, cmp.Or(s.unfit(t, d, p), dataset.Errorf(dataset.KindOf(err), "volume %s: %w", d.Volume, err))
	}
	if old := d.Profile.Failover.Auto; old != p.Failover.Auto {
		// Its home has it open as it was made: with the guard in the way, or without.
		return nil, nil, dataset.Errorf(dataset.ErrUnsupported,
			"volume %s: failover of profile %s is %s, of the one that it has %s, and a volume keeps what it "+
				"was made with (drover clone %s NEW@%s makes another)", d.Volume, p.Name, choice(p.Failover),
			choice(d.Profile.Failover), d.Volume, p.Name)
	}
	if d.Profile.Access == dataset.AccessMany && p.Access != dataset.AccessMany {
		if err := s.unguested(t, d, "give profile "+p.Name+" to"); err != nil {
			return nil, nil, err
		}
	}
	if d.Anonymous {
		next.Profile.OnDelete = dataset.OnDelete{Mode: dataset.DeletePurge}
		next.Profile.Snapshots.Schedule = ""
	}
	wanted := next.Profile
	wanted.Filesystem.Type = "" // that of what is there
	// What is too large is not resized to it below.
	if err := s.fits(t, d, wanted, next.Profile.Size); err != nil {
		return nil, nil, err
	}
	pool, err := t.pool(d)
	if err != nil {
		return nil, nil, err
	}
	next.Size, next.Profile.Size = resized(d, p, pool.Capabilities.Shrink)
	if err := s.replicable(t, next); err != nil { // of the size that it comes to
		return nil, nil, err
	}
	if next.Size != d.Size {
		op, done, err := s.resizeTo(t, d, next)
		if op != nil {
			op.Options = map[string]string{"profile": p.Name}
		}
		return op, done, err
	}
	op := on(d)
	op.Dataset = &next
	return op, nil, nil
}

// resized returns the size that a volume comes to with a profile's, and what is asked for then.
// Where a filesystem cannot be made smaller a profile that promises less leaves the size, and
// the answer shows it; so does one that promises none, and the newest revision of its own: the
// volume may have been made larger on purpose.
func resized(d dataset.Dataset, p dataset.Profile, shrinks bool) (to, asked dataset.Size) {
	size := p.Size
	if shrinks && p.Name != d.Profile.Name && size > 0 && size < d.Size && !d.Size.RoundedFrom(size) {
		return size, size
	}
	to = max(d.Size, size)
	return to, promise(to, max(d.Profile.Size, size))
}

// choice is what profiles.yaml says for failover.
func choice(f dataset.Failover) string {
	if f.Auto {
		return "auto"
	}
	return "manual"
}

// settleUpdate writes what planUpdate decided on, in the same transaction.
func (s *Service) settleUpdate(t *tx, op dataset.Operation) error {
	d := *op.Dataset
	detail := "profile " + d.Profile.Name
	if d.Protected {
		detail += ", protected"
	}
	t.event("volume.update", d, detail)
	if err := t.putDataset(d); err != nil {
		return err
	}
	_, err := s.replicas(t, d)
	return err
}
