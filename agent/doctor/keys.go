package doctor

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
)

// CheckKeys reports whether this node can encrypt, and whether it has the keys of its profiles, volumes and copies. It
// also reports which volumes still need a key that their profile does not name any more. known are the datasets whose
// home is this node.
func (x *Doctor) CheckKeys(ctx context.Context, r *Report, known map[uuid.UUID]dataset.Dataset) {
	c := &keyCheck{
		Report:      r,
		doctor:      x,
		now:         map[string]dataset.Profile{},
		have:        map[string]keys.Key{},
		missingKeys: map[string]*missingKey{},
	}
	for _, p := range x.profiles(ctx, r) {
		if p.Encryption.Wanted() {
			c.now[p.Name] = p.Profile
		}
	}
	volumes := x.sealedVolumes(known)
	c.checkCanEncrypt(volumes)
	for _, v := range volumes {
		c.checkVolume(ctx, v)
	}
	for _, name := range slices.Sorted(maps.Keys(c.now)) {
		p := c.now[name]
		if key, why := c.read(ctx, p.Encryption, p); why == nil {
			c.Add(condition.KeyWorks, "profile "+p.Name, "", key.ID())
		} else {
			why.profiles = append(why.profiles, p.Name)
		}
	}
	for _, at := range slices.Sorted(maps.Keys(c.missingKeys)) {
		c.addMissing(at, c.missingKeys[at])
	}
}

// profiles returns control's profiles, or none if control does not answer: a silent control has a finding already.
func (x *Doctor) profiles(ctx context.Context, r *Report) []api.ListedProfile {
	if r.ControlSilent {
		return nil
	}
	all, err := x.Control.Profiles(ctx)
	if err != nil {
		return nil
	}
	return all
}

// sealedVolumes returns the encrypted datasets of this node: first those whose home is this node, then the copies, each
// sorted by name.
func (x *Doctor) sealedVolumes(known map[uuid.UUID]dataset.Dataset) (all []sealedVolume) {
	for _, d := range known {
		all = append(all, sealedVolume{d, false})
	}
	for _, id := range x.Cache.CopyIDs() {
		if copied, kept := x.Cache.Copy(id); kept && copied.Record != nil && copied.Kind != dataset.CopyCondemned {
			all = append(all, sealedVolume{*copied.Record, true})
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

// warnOfKey logs a finding if it is a warning or an error, and if a key of a profile is missing: the log tells the
// author of the profile at once.
func (x *Doctor) warnOfKey(f api.Finding) {
	switch {
	case f.Level == api.LevelWarning, condition.KeyUnneeded.Is(f):
		x.Log.WithField("subject", f.Subject).Warn(f.Text)
	case f.Level == api.LevelError:
		x.Log.WithField("subject", f.Subject).Error(f.Text)
	}
}

// WarnOfKeys starts a job that logs what doctor reports about keys and fence programs. It is called after each full
// response of control whose store is consistent, and when the profiles change.
func (x *Doctor) WarnOfKeys() {
	x.Jobs.StartAgain("keys", func(ctx context.Context, _ *host.Job) error {
		r := &Report{}
		known := map[uuid.UUID]dataset.Dataset{}
		for _, id := range x.Cache.IDs() {
			known[id], _ = x.Cache.Dataset(id)
		}
		x.CheckKeys(ctx, r, known)
		x.checkFences(ctx, r)
		for _, f := range r.List {
			x.warnOfKey(f)
		}
		return nil
	})
}

// CheckRecord compares the record beside the data with control's record. If the data key is wrapped by different keys
// in the two records, it adds a finding: the key of the record beside the data must not be destroyed yet.
func (x *Doctor) CheckRecord(r *Report, p *pool.Pool, e backends.Entry, now recordsNow) {
	if e.Record == nil || e.Record.Encryption == nil || e.State == backends.EntryForeign ||
		e.State == backends.EntryDeleting {
		return
	}
	d, known := x.Cache.DatasetOrCopy(e.ID)
	home := d.Home == x.NodeID
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
	mend := "" // the record beside a copy is corrected when the copy is reconciled
	if home {
		mend = rekeyCommand(d)
	}
	r.Add(condition.KeyOfRecordDiffers, "dataset "+e.ID.String(), mend,
		d.Volume, p.Name, e.Record.Encryption.KeyID, d.Encryption.KeyID)
}

// checkFences warns of fence programs that this node would refuse to run: those of control's profiles, and those of
// volumes with a copy here. Without this check, a refused program would be noticed only when a home is lost.
// checkFences runs no program.
func (x *Doctor) checkFences(ctx context.Context, r *Report) {
	if x.Leases.Peers == nil { // no other node whose volumes this one could take over
		return
	}
	users := map[string][]string{} // profiles, by the program that they name
	uses := func(p dataset.Profile) {
		f := p.Failover
		if !f.Auto || f.Fence.Kind != dataset.FenceExec || len(f.Fence.Exec) == 0 {
			return
		}
		if program := f.Fence.Exec[0]; !slices.Contains(users[program], p.Name) {
			users[program] = append(users[program], p.Name)
		}
	}
	for _, p := range x.profiles(ctx, r) {
		uses(p.Profile)
	}
	for _, id := range x.Cache.CopyIDs() {
		if copied, kept := x.Cache.Copy(id); kept && copied.Record != nil && copied.Kind != dataset.CopyCondemned {
			uses(copied.Record.Profile)
		}
	}
	for _, program := range slices.Sorted(maps.Keys(users)) {
		if err := x.Keys.Programs.Check([]string{program}); err != nil {
			slices.Sort(users[program])
			r.Add(condition.FenceProgramRefused, "failover", "", strings.Join(users[program], ", "), err)
		}
	}
}
