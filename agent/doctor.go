package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/mount"
)

// The levels of a finding.
const (
	levelOK      = "ok"
	levelInfo    = "info"
	levelWarning = "warning"
	levelError   = "error"
)

// DamagedMark is in the names of files in the root that could not be read at a
// start and were put aside.
const DamagedMark = ".damaged-"

// report collects findings.
type report struct{ list []api.Finding }

func (r *report) add(level, subject, mend, format string, args ...any) {
	r.list = append(r.list, api.Finding{Level: level, Subject: subject, Text: fmt.Sprintf(format, args...), Mend: mend})
}

// Doctor says what on this host works, what does not and why, and what lies in
// the pools that the store does not know. It changes nothing.
func (a *Agent) Doctor(ctx context.Context) ([]api.Finding, error) {
	r := &report{}
	a.checkBackends(ctx, r)
	known, err := a.recorded(ctx)
	if err != nil {
		r.add(levelError, "control", "", "does not answer: %v (what is mounted goes on)", err)
	} else {
		r.add(levelOK, "control", "", "answers; %d datasets have their home here", len(known))
		a.checkStore(r)
	}
	a.checkDamaged(r)
	for _, p := range a.pools.all() {
		a.checkPool(ctx, r, p, known, err == nil)
	}
	a.checkMounts(r)
	return r.list, nil
}

func (a *Agent) checkStore(r *report) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.strange != "" {
		r.add(levelError, "store", "drover store rebuild", "%s; nothing is made, changed or destroyed until it is rebuilt", a.strange)
	}
}

// checkDamaged names the files that were put aside at a start as they could not
// be read.
func (a *Agent) checkDamaged(r *report) {
	files, err := filepath.Glob(filepath.Join(a.Root, "*"+DamagedMark+"*"))
	if err != nil {
		r.add(levelError, "root", "", "%v", err)
	}
	for _, f := range files {
		r.add(levelWarning, "store", "put a backup in its place, or have the store rebuilt; then remove it", "%s could not be read and was put aside", f)
	}
}

func (a *Agent) checkBackends(ctx context.Context, r *report) {
	for _, k := range a.Backends.Kinds() {
		if err := k.Available(ctx); err != nil {
			r.add(levelWarning, "backend "+k.Name(), "", "cannot work on this host: %v", err)
		} else {
			r.add(levelOK, "backend "+k.Name(), "", "works on this host")
		}
	}
}

func (a *Agent) checkPool(ctx context.Context, r *report, p *openPool, known map[uuid.UUID]dataset.Dataset, sure bool) {
	name := "pool " + p.Name
	if p.backend == nil {
		r.add(levelError, name, "", "is offline: %s", p.why)
		return
	}
	st := p.backend.Status(ctx)
	if !st.Online {
		r.add(levelError, name, "", "is offline: %s", st.Reason)
		return
	}
	switch {
	case st.Reason != "":
		r.add(levelError, name, "drover trash purge --all", "creates are refused: %s", st.Reason)
	case st.Size > 0 && st.Free*5 < st.Size:
		r.add(levelWarning, name, "drover trash ls", "is over 80 %% full: %s free of %s", st.Free.Human(), st.Size.Human())
	default:
		r.add(levelOK, name, "", "%s free of %s at %s; %s", st.Free.Human(), st.Size.Human(), p.rec.Path, p.Note)
	}
	if p.unheld != "" {
		r.add(levelWarning, name, "end that process, then restart drover", "is served, but another drover would not be kept from it: %s", p.unheld)
	}
	entries, err := p.backend.List(ctx)
	if err != nil {
		r.add(levelError, name, "", "cannot be listed: %v", err)
		return
	}
	if sure {
		a.checkEntries(ctx, r, p, entries, known)
		a.checkSnapshots(ctx, r, p, entries, known)
	}
	a.checkStalls(ctx, r, p, known)
}

// checkEntries compares what lies in a pool with what the store knows. Work goes
// on meanwhile: what does not fit is looked at again.
func (a *Agent) checkEntries(ctx context.Context, r *report, p *openPool, entries []backends.Entry, known map[uuid.UUID]dataset.Dataset) {
	now := sync.OnceValue(func() map[uuid.UUID]dataset.Dataset {
		again, err := a.recorded(ctx)
		if err != nil {
			return known
		}
		return again
	})
	there := map[uuid.UUID]bool{}
	for _, e := range entries {
		d, onRecord := known[e.ID]
		subject := "dataset " + e.ID.String()
		switch {
		case e.State == backends.EntryForeign:
			r.add(levelWarning, "pool "+p.Name, "", "%s is not Drover's, and is left alone: %s", e.Path, e.Problem)
			continue
		case e.State == backends.EntryIncoming && !onRecord && a.pools.doubts(p.ID, e.ID):
			if !a.making(e.ID) && exists(e.Path) {
				r.add(levelWarning, subject, "drover store rebuild brings it back in the trash, drover doctor --gc "+e.ID.String()+" destroys it",
					"lies in pool %s as %s, made shortly before the records were lost: it may have been acknowledged, and is kept", p.Name, volumeOf(e))
			}
			continue
		case e.State == backends.EntryDeleting || (e.State == backends.EntryIncoming && !onRecord):
			if !a.making(e.ID) && exists(e.Path) {
				r.add(levelInfo, subject, "", "was cut short by a crash; it goes at the next start of drover (%s)", e.Path)
			}
			continue
		case !onRecord:
			if _, since := now()[e.ID]; !since && exists(e.Path) {
				r.add(levelWarning, subject, "drover store rebuild brings it back, drover doctor --gc "+e.ID.String()+" destroys it",
					"lies in pool %s as %s but the store does not know it: quarantined", p.Name, volumeOf(e))
			}
			continue
		}
		there[e.ID] = true
		if e.Problem != "" {
			r.add(levelError, subject, "", "volume %s: %s", d.Volume, e.Problem)
		}
	}
	for id, d := range known {
		if d.Pool != p.ID || there[id] || d.State == dataset.StatePurging {
			continue
		}
		_, err := p.backend.Stat(ctx, id)
		if still, ok := now()[id]; ok && still.State != dataset.StatePurging && errors.Is(err, dataset.ErrNotFound) {
			r.add(levelError, "dataset "+id.String(), "", "volume %s is on record in pool %s but does not lie there", d.Volume, p.Name)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

func volumeOf(e backends.Entry) string {
	if e.Record == nil {
		return "a dataset without a readable record"
	}
	return "volume " + e.Record.Volume
}

// stallWarning is how long a snapshot may hold up writers before doctor says so.
const stallWarning = 100 * time.Millisecond

func (a *Agent) checkStalls(ctx context.Context, r *report, p *openPool, known map[uuid.UUID]dataset.Dataset) {
	staller, ok := p.backend.(backends.Staller)
	if !ok {
		return
	}
	for id, d := range known {
		if d.Pool != p.ID || d.State != dataset.StateReady {
			continue
		}
		nanos, why, err := staller.Stall(ctx, id)
		if err == nil && time.Duration(nanos) > stallWarning {
			r.add(levelWarning, "volume "+d.Volume, "", "a snapshot would hold up its writers for about %s (%s)", time.Duration(nanos).Round(time.Millisecond), why)
		}
	}
}

// checkMounts compares the mount records with the mounts.
func (a *Agent) checkMounts(r *report) {
	table, err := mount.Table()
	if err != nil {
		r.add(levelError, "mounts", "", "cannot be read: %v", err)
		return
	}
	n := 0
	for _, id := range a.mountedIDs() {
		n++
		rec, path := a.record(id), a.mountPath(id)
		d, _ := a.cache.dataset(id)
		if table.At(path) == nil {
			r.add(levelError, "volume "+d.Volume, "", "is in use by %d but not mounted at %s", len(rec.IDs), path)
		}
		for _, m := range rec.uses(a.currentGeneration()) {
			if m.Unverified {
				r.add(levelInfo, "volume "+d.Volume, "", "mount %s is from before the engine's last start and not verified yet", shortID(m.ID))
			}
		}
	}
	for _, m := range table.Under(a.mountRoot()) {
		id, err := uuid.Parse(filepath.Base(m.Mountpoint))
		if err == nil && len(a.record(id).IDs) == 0 {
			r.add(levelInfo, "mount "+m.Mountpoint, "", "nobody uses it; it is taken off soon")
		}
	}
	r.add(levelOK, "mounts", "", "%d datasets are mounted", n)
}
