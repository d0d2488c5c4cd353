package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
	"github.com/droverhq/drover/internal/linux/crypt"
)

// keyCheck examines the keys of what this node has. It reads each key once.
type keyCheck struct {
	*diagnosis
	a    *Agent
	now  map[string]dataset.Profile // that encrypt, by name, as control has them
	have map[string]keys.Key        // by place
	gone map[string]*goneKey
}

// goneKey is a place without a key, and who needs the key.
type goneKey struct {
	why                     error
	homes, copies, profiles []string
	trashed                 []dataset.Dataset
}

// sealedVolume is an encrypted dataset whose home is here, or of which a copy is here.
type sealedVolume struct {
	dataset.Dataset
	copied bool
}

func (v sealedVolume) name() string {
	if v.State == dataset.StateTrashed {
		return v.Volume + " in the trash"
	}
	return v.Volume
}

// checkKeys reports whether this node can encrypt, whether it has the keys of its profiles, volumes and copies,
// and what needs a key that its profile does not name any more. known are the datasets whose home is this node.
func (a *Agent) checkKeys(ctx context.Context, r *diagnosis, known map[uuid.UUID]dataset.Dataset) {
	c := &keyCheck{
		diagnosis: r,
		a:         a,
		now:       map[string]dataset.Profile{},
		have:      map[string]keys.Key{},
		gone:      map[string]*goneKey{},
	}
	if all, err := a.Control.Profiles(ctx); err == nil { // an unreachable control has a line already
		for _, p := range all {
			if p.Encryption.Wanted() {
				c.now[p.Name] = p
			}
		}
	}
	volumes := a.sealedVolumes(known)
	c.canEncrypt(volumes)
	for _, v := range volumes {
		c.volume(ctx, v)
	}
	for _, name := range slices.Sorted(maps.Keys(c.now)) {
		p := c.now[name]
		if key, why := c.read(ctx, p.Encryption, p); why == nil {
			c.Add(findings.OK, "profile "+p.Name, "", "has its key here: %s", key.ID())
		} else {
			why.profiles = append(why.profiles, p.Name)
		}
	}
	for _, at := range slices.Sorted(maps.Keys(c.gone)) {
		c.missing(at, c.gone[at])
	}
}

// sealedVolumes returns the encrypted datasets of this node by name, those whose home it is first.
func (a *Agent) sealedVolumes(known map[uuid.UUID]dataset.Dataset) (all []sealedVolume) {
	for _, d := range known {
		all = append(all, sealedVolume{d, false})
	}
	for _, id := range a.Cache.CopyIDs() {
		if k, kept := a.Cache.Copy(id); kept && k.Record != nil && k.Kind != dataset.CopyGoing {
			all = append(all, sealedVolume{*k.Record, true})
		}
	}
	all = slices.DeleteFunc(all, func(v sealedVolume) bool {
		return v.Encryption == nil || v.State == dataset.StatePurging
	})
	slices.SortFunc(all, func(x, y sealedVolume) int {
		if x.copied != y.copied {
			return map[bool]int{false: -1, true: 1}[x.copied]
		}
		return cmp.Or(cmp.Compare(x.Volume, y.Volume), slices.Compare(x.ID[:], y.ID[:]))
	})
	return all
}

func (c *keyCheck) canEncrypt(volumes []sealedVolume) {
	err := crypt.Available() // not every backend needs it
	can := map[uuid.UUID]bool{}
	for _, p := range c.a.pools.All() {
		if p.Storage != nil && p.Capabilities.Encryption {
			can[p.ID] = true
		}
	}
	volumes = slices.DeleteFunc(slices.Clone(volumes), func(v sealedVolume) bool { return can[v.Pool] })
	level := findings.Info // no volume lacks it
	switch {
	case err == nil || len(can) > 0 && len(volumes) == 0:
		c.Add(findings.OK, "encryption", "", "works on this host")
		return
	case len(volumes) > 0 && !volumes[0].copied:
		level = findings.Error
	case len(volumes)+len(c.now) > 0:
		level = findings.Warning
	}
	c.Add(level, "encryption", "", "cannot work on this host: %v", err)
}

// read returns the key at a place, or adds to those who miss it.
func (c *keyCheck) read(ctx context.Context, from dataset.KeySource, p dataset.Profile) (keys.Key, *goneKey) {
	at := placeOf(from)
	if key, before := c.have[at]; before {
		return key, nil
	}
	if c.gone[at] == nil {
		p.Encryption = from
		key, err := c.a.keys.OperatorKey(ctx, p, uuid.Nil)
		if err == nil {
			c.have[at] = key
			return key, nil
		}
		c.gone[at] = &goneKey{why: err}
	}
	return keys.Key{}, c.gone[at]
}

func placeOf(from dataset.KeySource) string {
	switch {
	case from.KeyFile != "":
		return "key file " + dataset.Clip(from.KeyFile)
	case from.Wanted():
		return "key program " + dataset.Clip(from.String())
	}
	return "key"
}

func (c *keyCheck) volume(ctx context.Context, v sealedVolume) {
	if !v.Profile.Encryption.Wanted() {
		c.Add(findings.Error, "volume "+v.Volume,
			fmt.Sprintf("give profile %s one in profiles.yaml, then drover volume rekey %s", v.Profile.Name, v.Volume),
			"cannot be mounted: where its key is was lost with its record; its data key is wrapped by key %s",
			v.Encryption.KeyID)
		return
	}
	key, why := c.read(ctx, v.Profile.Encryption, v.Profile)
	switch {
	case why != nil && v.copied:
		why.copies = append(why.copies, v.Volume)
		return
	case why != nil && v.State == dataset.StateTrashed:
		why.trashed = append(why.trashed, v.Dataset)
		return
	case why != nil:
		why.homes = append(why.homes, v.Volume)
		return
	}
	if key.ID() != v.Encryption.KeyID && len(v.Profile.Encryption.Exec) > 0 { // each volume may have a key of its own
		if own, err := c.a.keys.OperatorKey(ctx, v.Profile, v.ID); err == nil {
			key = own
		}
	}
	at, now := placeOf(v.Profile.Encryption), c.now[v.Profile.Name].Encryption
	rekey := rekeyOf(v.Dataset)
	switch old := key.ID() != v.Encryption.KeyID; {
	case old && v.copied:
		c.Add(findings.Warning, "volume "+v.Volume, "bring the key here that its home has",
			"could not be mounted here if this node became its home: its data key is wrapped by key %s, and "+
				"%s is key %s here", v.Encryption.KeyID, at, key.ID())
	case old:
		c.Add(findings.Error, "volume "+v.name(), "put the old key back, or: "+rekey+" --old-key-file FILE",
			"cannot be mounted: its data key is wrapped by key %s, and %s is key %s", v.Encryption.KeyID, at, key.ID())
	case now.Wanted() && !now.Equal(v.Profile.Encryption) && !v.copied: // for copies, the home reports it
		if next, why := c.read(ctx, now, v.Profile); why == nil && next.ID() == key.ID() {
			return
		}
		c.Add(findings.Warning, "volume "+v.name(), rekey,
			"still needs key %s of %s: its profile has its key elsewhere now", key.ID(), at)
	}
}

// missing names everything that needs a key which is not here.
func (c *keyCheck) missing(at string, g *goneKey) {
	level, text, mend := findings.Warning, "", ""
	if len(g.homes) > 0 {
		level = findings.Error
	}
	var trashed, purges []string
	for _, d := range g.trashed {
		trashed = append(trashed, d.Volume)
		purges = append(purges, "drover trash purge "+d.ID.String()[:8])
	}
	if purges != nil {
		mend = "bring the key back; or, if it is gone for good, " + strings.Join(purges, "; ")
	}
	for _, who := range []struct {
		text  string
		names []string
	}{{"volumes that cannot be mounted", g.homes}, {"volumes in the trash that could not be restored", trashed},
		{"volumes with a copy here that could not be mounted if this node became their home", g.copies},
		{"profiles that make no volumes here", g.profiles}} {
		if len(who.names) > 0 {
			text += fmt.Sprintf("; %s: %s", who.text, howMany(who.names))
		}
	}
	c.Add(level, at, mend, "is not to be had here: %v%s", g.why, text)
}

// howMany returns the number of names, and the names.
func howMany(names []string) string {
	const shown = 50
	more := ""
	if n := len(names) - shown; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%d (%s%s)", len(names), strings.Join(names[:min(len(names), shown)], ", "), more)
}

// WarnOfKeys logs what doctor reports about keys and fence programs, at a start and whenever control has new
// profiles. It returns at once.
func (a *Agent) WarnOfKeys() {
	a.Jobs.StartAgain("keys", func(ctx context.Context, _ *jobs.Job) error {
		r := &diagnosis{}
		known := map[uuid.UUID]dataset.Dataset{}
		for _, id := range a.Cache.IDs() {
			known[id], _ = a.Cache.Dataset(id)
		}
		a.checkKeys(ctx, r, known)
		a.checkFences(ctx, r)
		for _, f := range r.All {
			a.warnOfKey(f)
		}
		return nil
	})
}

func (a *Agent) warnOfKey(f api.Finding) {
	switch f.Level {
	case findings.Warning:
		a.Log.WithField("subject", f.Subject).Warn(f.Text)
	case findings.Error:
		a.Log.WithField("subject", f.Subject).Error(f.Text)
	}
}

// rekeyOf returns the command that wraps the data key of a volume again.
func rekeyOf(d dataset.Dataset) string {
	rekey := "drover volume rekey " + d.Volume
	if d.State == dataset.StateTrashed {
		rekey = "drover trash restore " + d.ID.String()[:8] + ", then " + rekey
	}
	return rekey
}

// checkRecordKey names a record beside the data whose data key is wrapped by another key than in control's
// record: that key must not be destroyed yet.
func (a *Agent) checkRecordKey(r *diagnosis, p *pool.Pool, e backends.Entry, now recordsNow) {
	if e.Record == nil || e.Record.Encryption == nil || e.State == backends.EntryForeign ||
		e.State == backends.EntryDeleting {
		return
	}
	d, known := a.Cache.DatasetOrCopy(e.ID)
	home := d.Home == a.NodeID
	other := func() bool {
		return known && d.Encryption != nil && d.Encryption.ID == e.Record.Encryption.ID &&
			d.Encryption.KeyID != e.Record.Encryption.KeyID
	}
	if home && other() {
		d, known = now()[e.ID] // it may have changed since the pool was listed
	}
	if !other() {
		return
	}
	mend := "" // 	the record beside a copy is corrected by the next look at the copy
	if home {
		mend = rekeyOf(d)
	}
	r.Add(findings.Warning, "dataset "+e.ID.String(), mend,
		"volume %s: its record in pool %s still needs key %s, and the one that control has needs key %s: "+
			"keep the old key", d.Volume, p.Name, e.Record.Encryption.KeyID, d.Encryption.KeyID)
}
