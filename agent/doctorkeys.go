package agent

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/crypt"
	"github.com/droverhq/drover/internal/keys"
)

// checkKeys says whether this node can encrypt, and whether it has the keys of its profiles and
// of its volumes. known are the datasets whose home it is.
func (a *Agent) checkKeys(ctx context.Context, r *report, known map[uuid.UUID]dataset.Dataset) {
	volumes := slices.SortedFunc(maps.Values(known), func(x, y dataset.Dataset) int { return cmp.Compare(x.Volume, y.Volume) })
	volumes = slices.DeleteFunc(volumes, func(d dataset.Dataset) bool { return d.Encryption == nil })
	var profiles []dataset.Profile
	if all, err := a.Control.Profiles(ctx); err == nil { // that control is away is said already
		profiles = slices.DeleteFunc(all, func(p dataset.Profile) bool { return !p.Encryption.Wanted() })
	}
	if err := crypt.Available(); err != nil {
		level := levelInfo // nobody is without it
		if len(volumes) > 0 {
			level = levelError
		} else if len(profiles) > 0 {
			level = levelWarning
		}
		r.add(level, "encryption", "", "cannot work on this host: %v", err)
	} else {
		r.add(levelOK, "encryption", "", "works on this host")
	}
	have := map[string]keys.Key{}
	read := func(level string, p dataset.Profile, subject string) (keys.Key, bool) {
		at := p.Encryption.String()
		if key, before := have[at]; before {
			return key, key.Known()
		}
		key, err := a.operatorKey(ctx, p, uuid.Nil)
		if err != nil {
			r.add(level, subject, "", "has no key here: %v", err)
		}
		have[at] = key
		return key, err == nil
	}
	for _, d := range volumes {
		key, ok := read(levelError, d.Profile, "volume "+d.Volume)
		if ok && key.ID() != d.Encryption.KeyID {
			r.add(levelError, "volume "+d.Volume, "put the old key back, or: drover volume rekey "+d.Volume+" --old-key-file FILE",
				"cannot be mounted: its data key is wrapped by key %s, and %s is key %s", d.Encryption.KeyID, dataset.Clip(d.Profile.Encryption.String()), key.ID())
		}
	}
	for _, p := range profiles {
		if key, ok := read(levelWarning, p, "profile "+p.Name); ok {
			r.add(levelOK, "profile "+p.Name, "", "has its key here: %s", key.ID())
		}
	}
}

// warnOfKeys has the log say at a start what doctor would of keys.
func (a *Agent) warnOfKeys() {
	a.jobs.start("keys", func(ctx context.Context, _ *job) error {
		r := &report{}
		known := map[uuid.UUID]dataset.Dataset{}
		for _, id := range a.cache.ids() {
			known[id], _ = a.cache.dataset(id)
		}
		a.checkKeys(ctx, r, known)
		for _, f := range r.list {
			a.warnOfKey(f)
		}
		return nil
	})
}

func (a *Agent) warnOfKey(f api.Finding) {
	switch f.Level {
	case levelWarning:
		a.Log.WithField("subject", f.Subject).Warn(f.Text)
	case levelError:
		a.Log.WithField("subject", f.Subject).Error(f.Text)
	}
}
