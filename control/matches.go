package control

import (
	"fmt"
	"maps"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// checkMatches fails with dataset.ErrExists unless the existing volume matches the request. The error names the value
// of the volume and the requested value. Options that the request leaves open may have any value. The name in the
// request can be an alias of the volume. Only an engine may use it: its containers were made with that name. A person
// would take the volume for a new one.
func (s *Service) checkMatches(t *record.Tx, d dataset.Dataset, w createRequest) error {
	o, p := w.opts, d.Profile
	differs := func(format string, args ...any) error {
		return dataset.Errorf(dataset.ErrExists, "volume %q exists "+format, append([]any{d.Volume}, args...)...)
	}
	switch {
	case w.spec.Name != d.Volume && !w.engine:
		return nameTakenError("volume "+w.spec.Name+" cannot be created", w.spec.Name, d)
	case w.kind == dataset.OpImport:
		return differs("already, and is not replaced (choose another name)")
	case w.spec.Profile != "" && w.spec.Profile != p.Name:
		if _, err := s.Deps.Profiles().Get(w.spec.Profile); err != nil {
			return differs("with profile %s: %s", p.Name, dataset.OneLine(err))
		}
		return differs("with profile %s, not %s (use %s, or drover volume set-profile %s %s)", p.Name,
			w.spec.Profile, d.Volume, d.Volume, w.spec.Profile)
	case o.Size != 0 && o.Size != d.Size:
		return differs("with size %s, not %s (drover volume resize %s %s)", d.Size.Readable(), o.Size, d.Volume, o.Size)
	case o.FS != "" && o.FS != p.Filesystem.Type:
		return differs("with %s, not filesystem %s", filesystem(p), o.FS)
	case o.ReadOnly && !d.ReadOnly:
		return differs("writable, not readonly")
	case o.Schedules != nil && *o.Schedules && p.SchedulesOff:
		return differs("without the schedules of its profile (drover volume set-profile %s %s applies them)", d.Volume,
			p.Name)
	case o.Schedules != nil && !*o.Schedules && p.HasSchedules():
		return differs("with the schedules of its profile")
	case o.Protect && !d.Protected:
		return differs("unprotected (drover volume protect %s)", d.Volume)
	case o.Owner != nil && (p.Owner == nil || p.Owner.UID != o.Owner.UID || p.Owner.GID != o.Owner.GID):
		return differs("with another owner than %d:%d", o.Owner.UID, o.Owner.GID)
	case o.Mode != nil && (p.Owner == nil || p.Owner.Mode == nil || *p.Owner.Mode != *o.Mode):
		return differs("with another mode than %04o", *o.Mode)
	case len(o.Labels) > 0 && !maps.Equal(o.Labels, d.Labels):
		return differs("with other labels (drover volume label %s KEY=VALUE changes them)", d.Volume)
	}
	if err := checkSamePool(t, d, o.Pool); err != nil {
		return err
	}
	if err := checkSameNode(t, d, w); err != nil {
		return err
	}
	return checkSameSource(t, d, w)
}

func filesystem(p dataset.Profile) string {
	if p.Filesystem.Type == "" {
		return "the filesystem that its pool chose"
	}
	return "filesystem " + p.Filesystem.Type
}

func checkSamePool(t *record.Tx, d dataset.Dataset, asked string) error {
	if asked == "" {
		return nil
	}
	p, err := t.Pool(d)
	if err == nil && p.Name != asked {
		err = dataset.Errorf(dataset.ErrExists, "volume %q exists on pool %s, not %s", d.Volume, p.Name, asked)
	}
	return err
}

func checkSameSource(t *record.Tx, d dataset.Dataset, w createRequest) error {
	from := w.spec.From
	if from == "" {
		return nil
	}
	if d.Origin == nil {
		return dataset.Errorf(dataset.ErrExists, "volume %q exists and is not a clone of %s", d.Volume,
			dataset.Clip(from))
	}
	src, err := t.Source(from, w.allowName)
	switch dataset.KindOf(err) {
	case nil:
		was := dataset.Source{Dataset: d.Origin.Dataset, Snapshot: d.Origin.Snapshot}
		if d.Origin.Implicit {
			was.Snapshot = uuid.Nil
		}
		if was == src {
			return nil
		}
	case dataset.ErrNotFound, dataset.ErrAmbiguous:
		// The source may no longer exist, and the prefix may match more objects than when the clone was made. The
		// recorded origin still shows whether the reference named it.
		same, lerr := matchesOrigin(t, *d.Origin, from, w.allowName)
		if lerr != nil {
			return lerr
		}
		if same {
			return nil
		}
	default:
		return err
	}
	return dataset.Errorf(dataset.ErrExists, "volume %q exists and is a clone of %s, not of %s", d.Volume,
		originText(*d.Origin), dataset.Clip(from))
}

// matchesOrigin reports whether from named the origin of a clone when the clone was made. If names is set, from may
// also be a name.
func matchesOrigin(t *record.Tx, o dataset.Origin, from string, names bool) (bool, error) {
	prefix := strings.ToLower(from)
	if !o.Implicit {
		return record.IsPrefixOf(prefix, o.Snapshot), nil
	}
	if record.IsPrefixOf(prefix, o.Dataset) {
		return true, nil
	}
	if !names {
		return false, nil
	}
	d, err := t.Dataset(o.Dataset)
	if dataset.KindOf(err) == dataset.ErrNotFound {
		return false, nil
	}
	return err == nil && d.State != dataset.StateReady && d.Volume == from, err
}

func originText(o dataset.Origin) string {
	if o.Implicit {
		return "dataset " + o.Dataset.String()
	}
	return "snapshot " + o.Snapshot.String()
}

// checkNodeOfSource fails with dataset.ErrUnsupported if option node names another node than the home of the source
// from: a clone is created beside its source.
func checkNodeOfSource(t *record.Tx, d, from dataset.Dataset, w createRequest) error {
	if w.opts.Node == "" {
		return nil
	}
	n, err := t.FindNode(w.opts.Node)
	if err != nil || n.ID == from.Home {
		return err
	}
	home, err := t.NodeName(from.Home)
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"volume %q: a clone shares the blocks of its source on node %s, and cannot be created on node %s (omit node, "+
			"then drover volume move %s %s)", d.Volume, home, n.Name, d.Volume, n.Name)
}

// checkSameNode fails with dataset.ErrExists if a person requests the existing volume d on another node. An engine
// repeats the options of the first request for as long as the volume exists. The volume may have been moved since then,
// so that option node says nothing about an existing volume.
func checkSameNode(t *record.Tx, d dataset.Dataset, w createRequest) error {
	if w.opts.Node == "" || w.engine {
		return nil
	}
	n, err := t.FindNode(w.opts.Node)
	if err != nil || n.ID == d.Home {
		return err
	}
	home, err := t.NodeName(d.Home)
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrExists, "volume %q exists on node %s, not %s (drover volume move %s %s)", d.Volume,
		home, n.Name, d.Volume, n.Name)
}

// checkPoolOfSource fails with dataset.ErrUnsupported if a clone is wanted in another pool than the pool of its source
// from. wanted is the name of the pool, or "" if any pool will do. The error has the commands that make a full copy in
// that pool, if the source can be exported.
func checkPoolOfSource(t *record.Tx, d, from dataset.Dataset, w createRequest, wanted string) error {
	pool, err := t.Pool(from)
	if err != nil || wanted == "" || pool.Name == wanted {
		return err
	}
	remedy := "omit the pool"
	if w.opts.Pool == "" {
		remedy = "choose another profile"
	}
	if from.State == dataset.StateReady {
		source, target := from.Volume, d.Volume
		if d.Origin.Snapshot != uuid.Nil && !d.Origin.Implicit {
			source += " --snapshot " + d.Origin.Snapshot.String()[:8]
		}
		if w.spec.Profile != "" {
			target += "@" + w.spec.Profile
		}
		if w.opts.Pool != "" {
			target += " -o pool=" + w.opts.Pool
		}
		remedy = fmt.Sprintf("for a full copy there: drover volume export %s | drover volume import %s --from -",
			source, target)
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"volume %q: a clone shares the blocks of its source, and stays in pool %s of %s, but pool %s was "+
			"requested (%s)", d.Volume, pool.Name, from.Volume, wanted, remedy)
}

// checkPoolOfProfile fails with dataset.ErrUnsupported if profile p requires another pool than that of volume d.
func checkPoolOfProfile(t *record.Tx, d dataset.Dataset, p dataset.Profile) error {
	pool, err := t.Pool(d)
	if err != nil || p.Pool == "" || pool.Name == p.Pool {
		return err
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"volume %s: profile %s requires pool %s, and a volume stays in its pool, here %s (for a full copy there: "+
			"%s)", d.Volume, p.Name, p.Pool, pool.Name, copyCommands(d, p))
}
