package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

// recordsNow reads the present records from control. Work continues while doctor compares records with pools. So doctor
// checks each difference again with the present records.
type recordsNow func() map[uuid.UUID]dataset.Dataset

// CheckEntries compares the datasets in a pool with those in the store.
func (x *Doctor) CheckEntries(ctx context.Context, r *Report, p *pool.Pool, entries []backends.Entry,
	known map[uuid.UUID]dataset.Dataset) {
	now := recordsNow(sync.OnceValue(func() map[uuid.UUID]dataset.Dataset {
		again, _, err := x.Recorded(ctx)
		if err != nil {
			return known
		}
		return again
	}))
	for _, e := range entries {
		d, onRecord := known[e.ID]
		x.CheckRecord(r, p, e, now)
		switch {
		case e.State == backends.EntryForeign:
			r.Add(condition.PoolForeign, "pool "+p.Name, foreignRemedy(e, known), e.Path, e.Problem)
		case e.State == backends.EntryCopy,
			!onRecord && x.Copies.IsRecorded(e.ID) && e.State != backends.EntryDeleting:
			x.checkCopy(r, p, e)
		case !onRecord && e.State != backends.EntryDeleting && r.StoreProblem != "":
			r.Unknown++
		case !onRecord || e.State == backends.EntryDeleting:
			x.checkUnrecorded(ctx, r, p, e, now)
		case e.Problem != "":
			fix := ""
			if d.State == dataset.StateReady {
				fix = host.Remedy(d, e.Snapshots)
			}
			if len(e.ForeignFiles) > 0 {
				fix = "find out whose files they are, and move them out of " + dataset.ShellQuote(e.Path)
			}
			r.Add(condition.DatasetDamaged, "dataset "+e.ID.String(), fix, d.Volume, e.Problem)
		}
	}
	if r.StoreProblem == "" {
		x.checkMissing(ctx, r, p, entries, known, now)
	}
}

// uuidInName matches the UUID in the name of a dataset in a pool.
var uuidInName = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// foreignRemedy returns what to do about an object in a pool that is not Drover's. It suggests nothing that destroys
// the object. A backend also reports a dataset that it cannot read as foreign, so an object with the name of a dataset
// must stay in its place. known has the datasets that control has recorded for this node.
func foreignRemedy(e backends.Entry, known map[uuid.UUID]dataset.Dataset) string {
	if name := uuidInName.FindString(filepath.Base(e.Path)); name != "" {
		what, ref := "it has the name of a dataset", name
		if d, onRecord := known[uuid.MustParse(name)]; onRecord {
			what, ref = "it has the name of the dataset of volume "+d.Volume, d.Volume
		}
		return "leave it there, because " + what + " (drover volume inspect " + ref + "); if it cannot be read, " +
			"check its disk (dmesg)"
	}
	if filepath.IsAbs(e.Path) && !strings.HasPrefix(e.Path, "/dev/") {
		return "see what it is (ls -la " + dataset.ShellQuote(e.Path) + "), and move it to a folder outside the pool"
	}
	return "find out who made it, and move it out of the pool"
}

// checkTrials names the trial folders that a drover backend verify has left in a pool.
func checkTrials(r *Report, p *pool.Pool) {
	list, err := trialdir.Find(p.Storage.Info().Path)
	if err != nil {
		return // a pool that is not a folder has none
	}
	for _, l := range list {
		switch {
		case l.Foreign != "": // it is listed as foreign
		case l.Busy:
			r.Add(condition.PoolVerified, "pool "+p.Name, "", l.Path)
		default:
			r.Add(condition.VerifyLeft, "pool "+p.Name, "drover backend verify "+p.Name+" removes it", l.Path)
		}
	}
}

// checkUnrecorded examines a dataset that is being removed, or that the store does not know.
func (x *Doctor) checkUnrecorded(ctx context.Context, r *Report, p *pool.Pool, e backends.Entry, now recordsNow) {
	subject := "dataset " + e.ID.String()
	incoming := e.State == backends.EntryIncoming
	doubtful := incoming && x.Pools.IsDoubtful(p.ID, e.ID)
	if x.Cleaner.IsNeeded(e.ID) && e.State != backends.EntryReady || !exists(e.Path) {
		return
	}
	if e.State == backends.EntryReady || doubtful {
		_, since := now()[e.ID]
		if since && !doubtful || !since && x.checkElsewhere(ctx, r, p, e) {
			return
		}
	}
	switch {
	case doubtful:
		r.Add(condition.DatasetUncertain, subject, x.remedy(p, e, " restores it to the trash"), p.Name, volumeOf(e))
	case len(e.ForeignFiles) > 0 && e.State != backends.EntryReady:
		r.Add(condition.DatasetWithFiles, subject, "", e.Path, strings.Join(e.ForeignFiles, ", "))
	case e.State == backends.EntryDeleting && host.IsDiscarding(x.Host, p.Storage):
		r.Add(condition.DatasetDiscarded, subject, "", e.Path)
	case incoming || e.State == backends.EntryDeleting:
		r.Add(condition.DatasetInterrupted, subject, "", e.Path)
	default:
		r.Add(condition.DatasetUnknown, subject, x.remedy(p, e, " restores it"), p.Name, volumeOf(e))
	}
}

// checkElsewhere adds a finding and returns true if a dataset without a record on this node belongs to another node, or
// if that cannot be found out.
func (x *Doctor) checkElsewhere(ctx context.Context, r *Report, p *pool.Pool, e backends.Entry) bool {
	subject := "dataset " + e.ID.String()
	err := x.EnsureUnrecorded(ctx, e.ID)
	switch {
	case err == nil:
		return false
	case errors.Is(err, dataset.ErrExists):
		r.Add(condition.DatasetElsewhere, subject, "drover volume inspect "+e.ID.String()+", or drover trash ls",
			p.Name, volumeOf(e))
	default:
		r.Add(condition.DatasetUnclear, subject, "", p.Name, volumeOf(e), err)
	}
	return true
}

// remedy returns what to do about a dataset that the store does not know.
func (x *Doctor) remedy(p *pool.Pool, e backends.Entry, restores string) string {
	look := "drover doctor --gc " + e.ID.String() + " --dry-run shows what it is"
	if _, known := x.Cache.Dataset(e.ID); e.Record == nil && !known {
		return look
	}
	return "drover pool adopt " + p.Record.AdoptPath() + restores + ", " + look
}

// checkMissing names the datasets that are recorded in a pool and are not there.
func (x *Doctor) checkMissing(ctx context.Context, r *Report, p *pool.Pool, entries []backends.Entry,
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
			r.Add(condition.DatasetMissing, "dataset "+id.String(), x.missingHint(d), d.Volume, p.Name)
		}
	}
}

// missingHint returns what to do about a dataset that is not where it is recorded.
func (x *Doctor) missingHint(d dataset.Dataset) string {
	switch {
	case d.State == dataset.StateTrashed:
		return "put back the disk that has it; drover trash ls shows the dataset"
	case len(d.Copies) > 0:
		return "drover volume inspect " + d.Volume +
			" lists the copies; drover volume rm " + d.Volume + " --dry-run shows what is lost without them"
	}
	return "put back the disk that has it; drover volume rm " + d.Volume + " --dry-run shows what is lost without it"
}

// checkCopy examines the data here of a dataset whose home is another node.
func (x *Doctor) checkCopy(r *Report, p *pool.Pool, e backends.Entry) {
	subject := "volume " + volumeName(e)
	k, kept := x.Cache.Copy(e.ID)
	switch {
	case e.Problem != "":
		r.Add(condition.CopyDamaged, "dataset "+e.ID.String(), "", volumeOf(e), p.Name, e.Problem)
	case !kept:
		if !x.MoveTable.IsIncoming(e.ID) {
			r.Add(condition.CopyUnknown, "dataset "+e.ID.String(),
				"drover doctor --gc "+e.ID.String()+" --dry-run shows what it is", p.Name, volumeOf(e))
		} else if !x.MoveTable.IsActive(e.ID) {
			r.Add(condition.MoveUnfinished, subject, "", p.Name, move.KeepFailed)
		}
	case len(x.Uses.Get(e.ID).IDs) > 0:
		r.Add(condition.SupersededInUse, subject, "", k.Epoch, len(x.Uses.Get(e.ID).IDs))
	case k.Kind == dataset.CopySuperseded:
		r.Add(condition.CopySuperseded, subject, "", x.NodeName)
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

func volumeName(e backends.Entry) string {
	if e.Record == nil {
		return e.ID.String()
	}
	return e.Record.Volume
}
