package agent

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// DamagedMark is part of the names of files in the root that could not be read at a start and were renamed.
const DamagedMark = ".damaged-"

// diagnosis is what doctor has found so far.
type diagnosis struct {
	findings.List
	strange string // 	why the store is inconsistent, or ""
	mend    string // 	the command that brings it up to date
	unknown int    // 	the number of datasets in the pools that such a store does not know
}

// Doctor reports what works on this host, what does not and why, and what is in the pools that the store does not
// know. It changes nothing.
func (a *Agent) Doctor(ctx context.Context) ([]api.Finding, error) {
	r := &diagnosis{mend: a.mendStore(), strange: a.Trust.Why()}
	a.mu.Lock()
	outside := a.outside
	a.mu.Unlock()
	a.checkBackends(ctx, r)
	known, halted, err := a.datasets.Recorded(ctx)
	switch {
	case err != nil:
		r.Add(findings.Error, "control", "", "does not answer: %v (what is mounted goes on)", err)
	case outside != "":
		r.Add(findings.Error, "control", "", "answers, and this node has no part in what it decides: %s "+
			"(what is mounted goes on)", outside)
	default:
		r.Add(findings.OK, "control", "", "answers; %d datasets have their home here", len(known))
	}
	if halted != "" && r.strange == "" { // another node reports it, or control itself
		r.Add(findings.Error, "store", r.mend, "%s", halted)
	}
	a.checkDamaged(r)
	a.checkRoot(ctx, r)
	for _, p := range a.pools.All() {
		a.checkPoolInTime(ctx, r, p, known, err == nil)
	}
	a.checkUnmade(r)
	a.checkReplicas(r)
	a.guests.Check(&r.List)
	a.checkKeys(ctx, r, known)
	a.registrar.Findings(ctx, &r.List)
	a.failover.Check(ctx, &r.List)
	a.checkFences(ctx, r)
	a.checkMounts(ctx, r)
	a.limits.Check(&r.List)
	a.sizes.Check(&r.List)
	a.checkHung(r)
	r.sort()
	r.first()
	return r.All, nil
}

// sort puts errors first, then warnings: among many pools they would be overlooked.
func (r *diagnosis) sort() {
	place := func(f api.Finding) int {
		if i := slices.Index([]string{findings.Error, findings.Warning}, f.Level); i >= 0 {
			return i
		}
		return 2
	}
	slices.SortStableFunc(r.All, func(x, y api.Finding) int { return place(x) - place(y) })
}

// first puts an inconsistent store before everything else. What follows from it has no line of its own, because a
// rebuild repairs all of it.
func (r *diagnosis) first() {
	if r.strange == "" {
		return
	}
	lie := ""
	if r.unknown > 0 {
		lie = fmt.Sprintf("%d datasets lie in the pools that it does not know; ", r.unknown)
	}
	r.Add(findings.Error, "store", r.mend, "%s; %snothing is made, changed or destroyed until it is rebuilt",
		r.strange, lie)
	n := len(r.All) - 1
	r.All = append(r.All[n:], r.All[:n]...)
}

// checkRoot examines the disk of the root: when it is full, nothing can be made in any pool.
func (a *Agent) checkRoot(ctx context.Context, r *diagnosis) {
	if _, err := a.DB.Get(ctx, "identity", &nodeIdentity{}); err != nil {
		r.Add(findings.Error, "root", "containers go on with the volumes that they have; repair or replace "+
			"the disk, then restart drover", "mounts and unmounts are refused: %v", err)
		return
	}
	free, size, least, err := a.pools.RootSpace()
	switch {
	case err != nil:
		r.Add(findings.Error, "root", "", "%v", err)
	case free < least:
		r.Add(findings.Error, "root", a.pools.RootHint(ctx),
			"creates are refused: the disk of %s is nearly full: %s free of %s", a.Root, free.Human(), size.Human())
	case free < backends.Reserve(size):
		r.Add(findings.Warning, "root", a.pools.RootHint(ctx),
			"the disk of %s fills up: %s free of %s; below %s creates are refused", a.Root, free.Human(),
			size.Human(), least.Human())
	default:
		r.Add(findings.OK, "root", "", "%s free of %s on the disk of %s", free.Human(), size.Human(), a.Root)
	}
}

// checkDamaged names the files that could not be read at a start and were renamed.
func (a *Agent) checkDamaged(r *diagnosis) {
	files, err := filepath.Glob(filepath.Join(a.Root, "*"+DamagedMark+"*"))
	if err != nil {
		r.Add(findings.Error, "root", "", "%v", err)
	}
	mend := "put a backup in its place, or have the store rebuilt; then remove it"
	if r.strange != "" {
		mend = "remove it after the rebuild"
	}
	for _, f := range files {
		r.Add(findings.Warning, "store", mend, "%s could not be read and was put aside", f)
	}
}

func (a *Agent) checkBackends(ctx context.Context, r *diagnosis) {
	for _, k := range a.config.Backends.Kinds() {
		name, err := "backend "+k.Name(), k.Available(ctx)
		switch {
		case err == nil:
			r.Add(findings.OK, name, "", "works on this host")
		// nobody is without it
		case !slices.ContainsFunc(a.pools.All(), func(p *pool.Pool) bool { return p.Backend == k.Name() }):
			r.Add(findings.Info, name, "", "cannot work on this host: %s", unnamed(k.Name(), err))
		case backends.Serves(ctx, k) == nil:
			r.Add(findings.Warning, name, "", "serves what is there on this host, and makes nothing new: %s",
				unnamed(k.Name(), err))
		default:
			r.Add(findings.Warning, name, "", "cannot work on this host: %s", unnamed(k.Name(), err))
		}
	}
}

// unnamed returns an error of a backend without the backend's name at its beginning, for a line that has the name
// already.
func unnamed(name string, err error) string {
	switch rest, named := strings.CutPrefix(err.Error(), "backend "+name); {
	case named && strings.HasPrefix(rest, ": "):
		return rest[2:]
	case named && strings.HasPrefix(rest, " "):
		return "it" + rest
	}
	return err.Error()
}

func (a *Agent) checkPool(ctx context.Context, r *diagnosis, p *pool.Pool, known map[uuid.UUID]dataset.Dataset,
	sure bool) {
	name := "pool " + p.Name
	if p.Record.Leaving != pool.Staying {
		r.Add(findings.Error, name, "drover pool rm "+p.Name+" goes on with it",
			"is being removed, and serves nothing: %s", cmp.Or(p.Stuck, "that goes on by itself"))
		return
	}
	if p.Storage == nil {
		r.Add(findings.Error, name, a.offlineHint(ctx, p), "%s", isOffline(p.Name, p.OfflineReason))
		return
	}
	st, _ := a.pools.See(ctx, p.ID) // its status has what is wrong
	if !st.Online {
		r.Add(findings.Error, name, a.offlineHint(ctx, p), "%s", isOffline(p.Name, st.Reason))
		return
	}
	if why := p.Held(); why != "" {
		r.Add(findings.Error, name, "drover pool accept "+p.Name+" --confirmed, unless the newer disk can be had",
			"is held, and nothing in it is mounted or changed: %s", why)
		return
	}
	tight := st.Size > 0 && st.Free*5 < st.Size
	switch {
	case st.Reason != "" && !tight: // for example, sizes are not enforced: more space would not help
		r.Add(findings.Error, name, "", "%s", st.Reason)
	case st.Reason != "":
		r.Add(findings.Error, name, a.roomHint(ctx, r, p, st), "creates are refused: %s", st.Reason)
	case tight:
		r.Add(findings.Warning, name, a.roomHint(ctx, r, p, st), "is over 80 %% full: %s free of %s",
			st.Free.Human(), st.Size.Human())
	default:
		r.Add(findings.OK, name, "", "%s free of %s at %s; %s", st.Free.Human(), st.Size.Human(), p.Record.Path, p.Note)
	}
	if p.Unheld != "" {
		r.Add(findings.Warning, name, "end that process, then restart drover",
			"is served, but another drover would not be kept from it: %s", p.Unheld)
	}
	entries, err := p.Storage.List(ctx)
	if err != nil {
		r.Add(findings.Error, name, "", "cannot be listed: %v", err)
		return
	}
	if p.Memory != "" {
		r.Add(findings.Warning, name, "move its volumes to a pool on a disk, unless they may be lost", "%s",
			p.InMemory())
	}
	checkWarnings(r, p)
	checkLacks(r, p)
	checkCorners(r, p)
	if sure {
		a.checkEntries(ctx, r, p, entries, known)
	}
	if sure && r.strange == "" {
		a.checkSnapshots(ctx, r, p, entries, known)
	}
	a.checkStalls(ctx, r, p, known)
}

// roomHint returns what would bring a pool below 80 %. If the store is inconsistent it returns nothing, because
// that comes first.
func (a *Agent) roomHint(ctx context.Context, r *diagnosis, p *pool.Pool, st dataset.PoolStatus) string {
	if r.strange != "" {
		return ""
	}
	return a.pools.Hint(ctx, p, st, st.Size/5)
}

// stallWarning is how long a snapshot may delay writers before doctor reports it.
const stallWarning = 100 * time.Millisecond

func (a *Agent) checkStalls(ctx context.Context, r *diagnosis, p *pool.Pool, known map[uuid.UUID]dataset.Dataset) {
	staller, ok := p.Storage.(backends.StallPredictor)
	if !ok {
		return
	}
	for id, d := range known {
		if d.Pool != p.ID || d.State != dataset.StateReady {
			continue
		}
		nanos, why, err := staller.Stall(ctx, id)
		if err == nil && time.Duration(nanos) > stallWarning {
			r.Add(findings.Warning, "volume "+d.Volume,
				"stop its containers, then: drover volume rewrite "+d.Volume,
				"a snapshot would hold up its writers for about %s (%s)",
				time.Duration(nanos).Round(time.Millisecond), why)
		}
	}
}

// checkMounts compares the recorded uses with the mounts.
func (a *Agent) checkMounts(ctx context.Context, r *diagnosis) {
	table, err := mount.Table()
	if err != nil {
		r.Add(findings.Error, "mounts", "", "cannot be read: %v", err)
		return
	}
	n := 0
	for _, id := range a.uses.InUse() {
		n++
		rec, path := a.uses.Get(id), a.MountPath(id)
		d, _ := a.Cache.Dataset(id)
		if table.At(path) == nil {
			r.Add(findings.Error, "volume "+d.Volume, "", "is in use by %d but not mounted at %s", len(rec.IDs), path)
		} else if err := a.disks.Check(ctx, d, path); err != nil {
			r.Add(findings.Error, "volume "+d.Volume, "", "%v", err)
		}
		for _, m := range a.engines.MountsOf(rec) {
			if m.Unverified {
				r.Add(findings.Info, "volume "+d.Volume, "",
					"mount %s may have ended and is not verified yet: the engine restarted since, or "+
						"unmounted it while a process still had it mounted", mounting.ShortID(m.ID))
			}
		}
	}
	for _, m := range table.Under(a.MountRoot()) {
		id, err := uuid.Parse(filepath.Base(m.Mountpoint))
		if err == nil && len(a.uses.Get(id).IDs) == 0 && !a.checkShown(r, id, m.Mountpoint) {
			r.Add(findings.Info, "mount "+m.Mountpoint, "",
				"nobody uses it, as far as is recorded; it is taken off once no process has it mounted")
		}
	}
	r.Add(findings.OK, "mounts", "", "%d datasets are mounted", n)
}
