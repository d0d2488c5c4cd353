package agent

import (
	"context"
	"errors"
	"os"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
)

// recordsNow reads the records again when that is asked for, because work continues while doctor compares.
type recordsNow func() map[uuid.UUID]dataset.Dataset

// checkEntries compares the datasets in a pool with those in the store.
func (a *Agent) checkEntries(ctx context.Context, r *diagnosis, p *pool.Pool, entries []backends.Entry,
	known map[uuid.UUID]dataset.Dataset) {
	now := recordsNow(sync.OnceValue(func() map[uuid.UUID]dataset.Dataset {
		again, _, err := a.datasets.Recorded(ctx)
		if err != nil {
			return known
		}
		return again
	}))
	for _, e := range entries {
		d, onRecord := known[e.ID]
		a.checkRecordKey(r, p, e, now)
		switch {
		case e.State == backends.EntryForeign:
			r.Add(findings.Warning, "pool "+p.Name, "", "%s is not Drover's, and is left alone: %s", e.Path, e.Problem)
		case e.State == backends.EntryCopy, !onRecord && a.copies.IsRecorded(e.ID) && e.State != backends.EntryDeleting:
			a.checkCopy(r, p, e)
		case !onRecord && e.State != backends.EntryDeleting && r.strange != "":
			r.unknown++
		case !onRecord || e.State == backends.EntryDeleting:
			a.checkUnrecorded(ctx, r, p, e, now)
		case e.Problem != "":
			r.Add(findings.Error, "dataset "+e.ID.String(), "", "volume %s: %s", d.Volume, e.Problem)
		}
	}
	if r.strange == "" {
		a.checkMissing(ctx, r, p, entries, known, now)
	}
}

// checkCorners names what a drover backend verify has left in a pool.
func checkCorners(r *diagnosis, p *pool.Pool) {
	list, err := trialdir.Find(p.Storage.Info().Path)
	if err != nil {
		return // a pool that is not a folder has none
	}
	for _, l := range list {
		switch {
		case l.Foreign != "": // it is listed as foreign
		case l.Busy:
			r.Add(findings.Info, "pool "+p.Name, "", "is being verified, in %s (drover backend verify)", l.Path)
		default:
			r.Add(findings.Warning, "pool "+p.Name,
				"drover backend verify "+p.Name+" removes it, and so does drover doctor --gc "+l.ID.String(),
				"a drover backend verify that was killed has left %s", l.Path)
		}
	}
}

// checkUnrecorded examines a dataset that is being removed, or that the store does not know.
func (a *Agent) checkUnrecorded(ctx context.Context, r *diagnosis, p *pool.Pool, e backends.Entry, now recordsNow) {
	subject := "dataset " + e.ID.String()
	incoming := e.State == backends.EntryIncoming
	doubtful := incoming && a.pools.IsDistrusted(p.ID, e.ID)
	if a.making(e.ID) && e.State != backends.EntryReady || !exists(e.Path) {
		return
	}
	if e.State == backends.EntryReady || doubtful {
		_, since := now()[e.ID]
		if since && !doubtful || !since && a.checkElsewhere(ctx, r, p, e) {
			return
		}
	}
	switch {
	case doubtful:
		r.Add(findings.Warning, subject, a.wayOut(e, "drover store rebuild brings it back in the trash"),
			"lies in pool %s as %s, made shortly before the records were lost: it may have been "+
				"acknowledged, and is kept", p.Name, volumeOf(e))
	case incoming || e.State == backends.EntryDeleting:
		r.Add(findings.Info, subject, "", "was cut short by a crash; it goes at the next start of drover (%s)", e.Path)
	default:
		r.Add(findings.Warning, subject, a.wayOut(e, "drover store rebuild brings it back"),
			"lies in pool %s as %s but the store does not know it: quarantined", p.Name, volumeOf(e))
	}
}

// checkElsewhere examines whether a dataset that this node has no record of is another node's, or may be.
func (a *Agent) checkElsewhere(ctx context.Context, r *diagnosis, p *pool.Pool, e backends.Entry) bool {
	subject := "dataset " + e.ID.String()
	err := a.datasets.EnsureUnrecorded(ctx, e.ID)
	switch {
	case err == nil:
		return false
	case errors.Is(err, dataset.ErrExists):
		r.Add(findings.Warning, subject, "drover volume inspect "+e.ID.String()+", or drover trash ls",
			"lies in pool %s as %s, which has its home at another node: it is kept, as that may not have "+
				"taken it from here yet", p.Name, volumeOf(e))
	default:
		r.Add(findings.Warning, subject, "", "lies in pool %s as %s, and is kept: %v", p.Name, volumeOf(e), err)
	}
	return true
}

// wayOut returns what to do about a dataset that the store does not know.
func (a *Agent) wayOut(e backends.Entry, rebuild string) string {
	destroy := "drover doctor --gc " + e.ID.String() + " destroys it"
	if _, known := a.Cache.Dataset(e.ID); e.Record == nil && !known {
		return destroy
	}
	return rebuild + ", " + destroy
}

// checkMissing names the datasets that are recorded in a pool and are not there.
func (a *Agent) checkMissing(ctx context.Context, r *diagnosis, p *pool.Pool, entries []backends.Entry,
	known map[uuid.UUID]dataset.Dataset, now recordsNow) {
	there := map[uuid.UUID]bool{}
	for _, e := range entries {
		there[e.ID] = there[e.ID] || e.State == backends.EntryReady || e.State == backends.EntryIncoming
	}
	for id, d := range known {
		if d.Pool != p.ID || there[id] || d.State == dataset.StatePurging {
			continue
		}
		_, err := p.Storage.Stat(ctx, id)
		if still, ok := now()[id]; ok && still.State != dataset.StatePurging && errors.Is(err, dataset.ErrNotFound) {
			r.Add(findings.Error, "dataset "+id.String(), a.gone(d),
				"volume %s is on record in pool %s but does not lie there", d.Volume, p.Name)
		}
	}
}

// gone returns what to do about a dataset that is not where it is recorded.
func (a *Agent) gone(d dataset.Dataset) string {
	switch {
	case d.State == dataset.StateTrashed:
		return "drover trash purge " + d.ID.String()
	case len(d.Copies) > 0:
		return "drover volume inspect " + d.Volume +
			" says what copies there are; without a better one: drover volume rm " + d.Volume
	}
	return "bring back the disk that has it, or let go of it: drover volume rm " + d.Volume
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
