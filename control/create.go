package control

import (
	"maps"
	"reflect"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// wish is a create request that was read: what is asked for, and no more.
type wish struct {
	spec  dataset.Spec
	opts  dataset.Options
	names bool // From may be a name too
}

func readWish(req api.Request) (w wish, err error) {
	if w.spec, err = dataset.ParseSpec(req.Volume); err != nil {
		return w, err
	}
	if w.opts, err = dataset.ParseOptions(req.Options); err != nil {
		return w, err
	}
	if w.opts.Profile != "" && w.spec.Profile != "" && w.opts.Profile != w.spec.Profile {
		return w, dataset.Errorf(dataset.ErrInvalid, "volume %q: the name asks for profile %s, option profile for %s (say one)", req.Volume, w.spec.Profile, w.opts.Profile)
	}
	if w.spec.Profile == "" {
		w.spec.Profile = w.opts.Profile
	}
	if w.opts.From != "" && w.spec.From != "" && w.opts.From != w.spec.From {
		return w, dataset.Errorf(dataset.ErrInvalid, "volume %q: the name asks for snapshot %s, option from for %s (say one)", req.Volume, w.spec.From, w.opts.From)
	}
	if w.spec.From == "" {
		w.spec.From, w.names = w.opts.From, true
	}
	return w, nil
}

// planCreate decides on create, clone and import: they make a dataset and claim
// a name.
func (s *Service) planCreate(t *tx, node uuid.UUID, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	w, err := readWish(req)
	if err != nil {
		return nil, nil, err
	}
	if old, ok, err := t.byName(w.spec.Name); err != nil {
		return nil, nil, err
	} else if ok {
		if req.Kind == dataset.OpImport && old.Request != req.ID {
			return nil, nil, dataset.Errorf(dataset.ErrExists, "volume %q exists: an import makes a new one (choose another name, or drover volume rm %s)", old.Volume, old.Volume)
		}
		return nil, &old, s.same(t, old, w)
	}
	d := dataset.Dataset{
		ID: uuid.New(), Volume: w.spec.Name, Spelling: req.Volume, State: dataset.StateReady,
		Labels: w.opts.Labels, Protected: w.opts.Protect, ReadOnly: w.opts.ReadOnly,
		Anonymous: w.spec.Anonymous() && len(req.Options) == 0 && w.spec.Profile == "" && w.spec.From == "",
		Epoch:     1, Created: s.Clock.Now(),
	}
	if req.Engine {
		d.SpelledBy = node
	}
	op := &dataset.Operation{Volume: d.Volume, DatasetID: d.ID, Epoch: d.Epoch, Dataset: &d, Path: req.Path, Live: req.Live}
	if w.spec.From != "" {
		if req.Kind == dataset.OpImport {
			return nil, nil, dataset.Errorf(dataset.ErrInvalid, "volume %q: an import cannot be a clone as well (leave out from or @snapshot-)", req.Volume)
		}
		err = s.planSource(t, op, w)
	} else {
		err = s.planNew(t, op, w, node)
	}
	if err != nil {
		return nil, nil, err
	}
	op.Node = d.Home
	return op, nil, nil
}

func (s *Service) planNew(t *tx, op *dataset.Operation, w wish, node uuid.UUID) error {
	p, err := s.Deps.Profiles().Get(w.spec.Profile)
	if err != nil {
		return err
	}
	d := op.Dataset
	d.Profile = w.opts.Apply(p)
	if d.Anonymous {
		d.Profile.OnDelete = dataset.OnDelete{Mode: dataset.DeletePurge}
		d.Profile.Snapshots.Schedule = ""
	}
	d.Size = d.Profile.Size
	pool, err := s.place(t, node, d.Profile, "volume "+d.Volume)
	if err != nil {
		return err
	}
	d.Pool, d.Home = pool.ID, pool.Node
	return nil
}

// planSource fills in a clone: it lies beside its source and has the source's
// profile, as it was then, unless another was asked for.
func (s *Service) planSource(t *tx, op *dataset.Operation, w wish) error {
	src, err := t.source(w.spec.From, w.names)
	if err != nil {
		return err
	}
	from, err := t.dataset(src.Dataset)
	if err != nil {
		return err
	}
	d := op.Dataset
	d.Pool, d.Home = from.Pool, from.Home
	d.Profile, d.Size = from.Profile.Clone(), from.Size
	d.Origin = &dataset.Origin{Dataset: src.Dataset, Snapshot: src.Snapshot}
	if src.Snapshot == uuid.Nil {
		d.Origin.Snapshot, d.Origin.Implicit = uuid.New(), true
	} else {
		snap, err := t.readSnapshot(src.Dataset, src.Snapshot)
		if err != nil {
			return err
		}
		d.Profile, d.Size = snap.Profile.Clone(), snap.Size
	}
	if w.opts.FS != "" && w.opts.FS != d.Profile.Filesystem.Type && d.Profile.Filesystem.Type != "" {
		return dataset.Errorf(dataset.ErrInvalid, "volume %q: a clone has its source's filesystem, %s, not %s", d.Volume, d.Profile.Filesystem.Type, w.opts.FS)
	}
	if w.spec.Profile != "" {
		p, err := s.Deps.Profiles().Get(w.spec.Profile)
		if err != nil {
			return err
		}
		if d.Profile, err = onto(d.Profile, p); err != nil {
			return err
		}
	}
	fs := d.Profile.Filesystem.Type
	d.Profile = w.opts.Apply(d.Profile)
	d.Profile.Filesystem.Type = fs
	if want := w.opts.Size; want != 0 && want < d.Size {
		return dataset.Errorf(dataset.ErrInvalid, "volume %q: size %s is smaller than its source's %s (leave the size out)", d.Volume, want, d.Size)
	}
	d.Size = max(d.Size, d.Profile.Size)
	d.Profile.Size = d.Size
	op.Source = &src
	op.Epoch = d.Epoch
	return s.fits(t, d.Pool, d.Profile, "volume "+d.Volume)
}

// onto changes a dataset's profile to another, keeping what lies on disk
// already: the filesystem, and the pool.
func onto(old, p dataset.Profile) (dataset.Profile, error) {
	p = p.Clone()
	if want := p.Filesystem.Type; want != "" && old.Filesystem.Type != "" && want != old.Filesystem.Type {
		return p, dataset.Errorf(dataset.ErrInvalid, "profile %s wants filesystem %s, but the data lies on %s (make a volume with profile %s and drover volume import into it)", p.Name, want, old.Filesystem.Type, p.Name)
	}
	p.Filesystem.Type = old.Filesystem.Type
	return p, nil
}

// same fails with ErrExists, naming both, unless the volume that is there is
// what was asked for.
func (s *Service) same(t *tx, d dataset.Dataset, w wish) error {
	differs := func(what, is, asked any) error {
		return dataset.Errorf(dataset.ErrExists, "volume %q exists with %s %v, not %v", d.Volume, what, is, asked)
	}
	o := w.opts
	switch {
	case w.spec.Profile != "" && w.spec.Profile != d.Profile.Name:
		return dataset.Errorf(dataset.ErrExists, "volume %q exists with profile %s, not %s (say %s, or drover volume set-profile %s %s)", d.Volume, d.Profile.Name, w.spec.Profile, d.Volume, d.Volume, w.spec.Profile)
	case o.Size != 0 && o.Size != d.Size:
		return differs("size", d.Size, o.Size)
	case o.FS != "" && o.FS != d.Profile.Filesystem.Type:
		return differs("filesystem", d.Profile.Filesystem.Type, o.FS)
	case o.ReadOnly != d.ReadOnly && o.ReadOnly:
		return differs("readonly", d.ReadOnly, o.ReadOnly)
	case o.Protect && !d.Protected:
		return dataset.Errorf(dataset.ErrExists, "volume %q exists unprotected (drover volume protect %s)", d.Volume, d.Volume)
	case o.Owner != nil && (d.Profile.Owner == nil || d.Profile.Owner.UID != o.Owner.UID || d.Profile.Owner.GID != o.Owner.GID):
		return dataset.Errorf(dataset.ErrExists, "volume %q exists with another owner than %d:%d", d.Volume, o.Owner.UID, o.Owner.GID)
	case o.Mode != nil && (d.Profile.Owner == nil || d.Profile.Owner.Mode == nil || *d.Profile.Owner.Mode != *o.Mode):
		return dataset.Errorf(dataset.ErrExists, "volume %q exists with another mode than %04o", d.Volume, *o.Mode)
	case len(o.Labels) > 0 && !maps.Equal(o.Labels, d.Labels):
		return dataset.Errorf(dataset.ErrExists, "volume %q exists with other labels", d.Volume)
	}
	if err := s.samePool(t, d, o.Pool); err != nil {
		return err
	}
	return sameSource(t, d, w)
}

func (s *Service) samePool(t *tx, d dataset.Dataset, asked string) error {
	if asked == "" {
		return nil
	}
	var p dataset.Pool
	if _, err := t.get(poolKey(d.Pool), &p); err != nil {
		return err
	}
	if p.Name != asked {
		return dataset.Errorf(dataset.ErrExists, "volume %q exists on pool %s, not %s", d.Volume, p.Name, asked)
	}
	return nil
}

func sameSource(t *tx, d dataset.Dataset, w wish) error {
	if w.spec.From == "" {
		return nil
	}
	if d.Origin == nil {
		return dataset.Errorf(dataset.ErrExists, "volume %q exists and is not a clone of %s", d.Volume, w.spec.From)
	}
	src, err := t.source(w.spec.From, w.names)
	if err != nil {
		// The source may be long gone; the prefix still says whether it was that.
		if prefixOf(w.spec.From, d.Origin.Snapshot) || (d.Origin.Implicit && prefixOf(w.spec.From, d.Origin.Dataset)) {
			return nil
		}
		return dataset.Errorf(dataset.ErrExists, "volume %q exists and is a clone of snapshot %s, not of %s", d.Volume, d.Origin.Snapshot, w.spec.From)
	}
	asked := dataset.Origin{Dataset: src.Dataset, Snapshot: src.Snapshot}
	was := *d.Origin
	if was.Implicit {
		was.Snapshot, was.Implicit = uuid.Nil, false
	}
	if reflect.DeepEqual(was, asked) {
		return nil
	}
	return dataset.Errorf(dataset.ErrExists, "volume %q exists and is a clone of %s, not of %s", d.Volume, d.Origin.Dataset, w.spec.From)
}

func prefixOf(prefix string, id uuid.UUID) bool {
	s := id.String()
	return len(prefix) >= 4 && len(prefix) <= len(s) && s[:len(prefix)] == prefix
}

// commitCreate claims the name for a dataset that its node has made, and gives
// the node the lease: all in one transaction.
func (s *Service) commitCreate(t *tx, op dataset.Operation, out *api.Committed) error {
	d := *op.Dataset
	if d.Home != op.Node || d.ID != op.DatasetID || d.Epoch != 1 || d.State != dataset.StateReady {
		return dataset.Errorf(dataset.ErrInvalid, "operation %s reports a dataset that it did not make", op.ID)
	}
	old, ok, err := t.byName(d.Volume)
	if err != nil {
		return err
	}
	if ok {
		out.Dataset, out.Lost = &old, old.Request != op.ID
		return nil
	}
	if err := s.checkSource(t, op); err != nil {
		return err
	}
	lease := dataset.Lease{Dataset: d.ID, Node: op.Node, Incarnation: op.Incarnation, Epoch: d.Epoch, State: dataset.LeaseHeld}
	for key, v := range map[string]any{
		nameKey(d.Volume): claim{d.ID}, uuidKey(d.ID): pointer{Dataset: d.ID},
		leaseKey(d.ID): lease, homeKey(d.Home, d.ID): claim{d.ID},
	} {
		if err := t.put(key, v); err != nil {
			return err
		}
	}
	t.event("volume."+string(op.Kind), d, d.Profile.Name)
	out.Dataset = &d
	return t.putDataset(d)
}

// checkSource makes sure that what a clone was made of was not on its way out
// while it was made.
func (s *Service) checkSource(t *tx, op dataset.Operation) error {
	if op.Source == nil {
		return nil
	}
	from, err := t.dataset(op.Source.Dataset)
	if err != nil {
		return err
	}
	if from.State == dataset.StatePurging {
		return dataset.Errorf(dataset.ErrConflict, "dataset %s is being destroyed", from.ID)
	}
	if op.Source.Snapshot == uuid.Nil {
		return nil
	}
	_, err = t.readSnapshot(op.Source.Dataset, op.Source.Snapshot)
	return err
}
