// Package doctor reports what works on this host, what does not and why. It changes nothing. Examine is the command
// drover doctor. Watcher examines the host in the background, and controlsync.Reporter sends its last result with each
// heartbeat. WarnOfKeys is called by controlsync.Follower after each full response of control whose store is
// consistent, and by the daemon when profiles change.
//
// Doctor collects the findings of the components, and adds findings that need several of them: it compares the pools
// with the records of control, and checks the keys of encrypted datasets. Each examination collects its findings in a
// Report. Work continues during an examination, so it reads the records again before it reports a difference. Watcher
// has the result of the last examination, and Doctor the running examinations of pools. Each has a mutex.
//
// A finding belongs in the component that knows the problem. It belongs here if it compares several components:
// pools.go, entries.go and snapshots.go compare pools with control's records, and keycheck.go examines keys. The order
// of the checks is in doctor.go, and the order of the findings in report.go.
package doctor

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/pooladmin"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Doctor reports what works on this host. It examines each pool in one goroutine at a time, so that any number of
// examinations of a pool whose disk hangs occupy only one goroutine. Its methods are safe for concurrent use.
type Doctor struct {
	*pooladmin.Admin
	Watcher *Watcher

	backups *backup.Backups
	checks  []func(*condition.List)

	mu       sync.Mutex
	examined map[uuid.UUID]*examination // the running examinations, by pool
}

// New returns the Doctor of a host. The checks add findings that no component knows.
func New(a *pooladmin.Admin, b *backup.Backups, checks []func(*condition.List)) *Doctor {
	x := &Doctor{Admin: a, backups: b, checks: checks, examined: map[uuid.UUID]*examination{}}
	x.Watcher = &Watcher{ctx: a.Ctx, clock: a.Clock, examine: x.examineInBackground}
	return x
}

// DamagedMark is part of the names of files in the root that could not be read at a start and were renamed.
const DamagedMark = ".damaged-"

// Examine reports what works on this host, what does not and why, and the datasets in the pools that the store does not
// know. It changes nothing. The error is always nil, because each problem is a finding.
func (x *Doctor) Examine(ctx context.Context) ([]api.Finding, error) {
	r := &Report{StoreRemedy: x.Trust.Remedy(), StoreProblem: x.Trust.Why()}
	outside := x.Registration.Refusal()
	CheckBackends(ctx, r, x.Pools.Backends.Kinds(), x.Pools.All())
	known, halted, err := x.Recorded(ctx)
	switch {
	case err != nil:
		r.ControlSilent = true
		r.Add(condition.ControlUnreachable, "control", "", err)
	case outside != "":
		r.Add(condition.NodeRefused, "control", "", outside)
	default:
		r.Add(condition.ControlResponds, "control", "", len(known))
	}
	if halted != "" && r.StoreProblem == "" { // another node reports it, or control itself
		r.Add(condition.StoreHalted, "store", r.StoreRemedy, halted)
	}
	x.examineHost(ctx, r, known, err == nil)
	x.CheckKeys(ctx, r, known)
	r.sort()
	r.putStoreProblemFirst()
	return r.List, nil
}

// examineHost adds the findings that need no program of an operator. known has the datasets that control has recorded
// for this node. They are compared with the pools only if sure is true. Unless control is silent, examineHost also
// sends requests to control, for example for the profiles.
func (x *Doctor) examineHost(ctx context.Context, r *Report, known map[uuid.UUID]dataset.Dataset, sure bool) {
	x.checkDamaged(r)
	x.checkRoot(ctx, r)
	for _, p := range x.Pools.All() {
		x.checkInTime(ctx, r, p, known, sure)
	}
	for _, u := range x.Pools.Failed {
		r.Add(condition.PoolOffline, "pool "+u.Name, "", offlineReason(u.Name, u.Status.Reason))
	}
	for _, p := range x.Remover.PendingPurges() {
		r.Add(condition.DatasetPending, "dataset "+p.Dataset.ID.String(), "", p.Dataset.Volume,
			p.Since.UTC().Format(time.RFC3339), p.Reason)
	}
	x.CheckReplicas(r)
	x.SharedMounts.Check(&r.List)
	for _, ask := range []func(){
		func() { x.Leases.Registrar.Findings(ctx, &r.List) },
		func() { x.checkFences(ctx, r) },
	} {
		began := x.Clock.Steady()
		ask()
		r.Waited += x.Clock.Steady() - began
	}
	x.checkMounts(ctx, r)
	x.Throttle.Check(&r.List)
	x.Sizes.Check(&r.List)
	x.checkHung(r)
	x.Reporter.Check(&r.List)
	x.Status.Check(&r.List)
	x.LostWrites.Check(&r.List)
	x.backups.Repositories.Findings(&r.List)
	x.backups.Findings(&r.List)
	for _, check := range x.checks {
		check(&r.List)
	}
}

// checkRoot examines the agent's database and the disk of the root. When that disk is full, nothing can be made in any
// pool.
func (x *Doctor) checkRoot(ctx context.Context, r *Report) {
	if err := x.Identity.Check(ctx); err != nil {
		r.Add(condition.RootFailing, "root", "", err)
		return
	}
	free, size, least, err := x.Pools.RootSpace()
	switch {
	case err != nil:
		r.Add(condition.RootUnreadable, "root", "", err)
	case free < least:
		r.Add(condition.RootFull, "root", x.Pools.RootHint(ctx), x.Root, free.Human(), size.Human())
	case free < backends.Reserve(size):
		r.Add(condition.RootFilling, "root", x.Pools.RootHint(ctx), x.Root, free.Human(), size.Human(), least.Human())
	default:
		r.Add(condition.RootWorks, "root", "", free.Human(), size.Human(), x.Root)
	}
}

// checkDamaged names the files that could not be read at a start and were renamed.
func (x *Doctor) checkDamaged(r *Report) {
	files, err := filepath.Glob(filepath.Join(x.Root, "*"+DamagedMark+"*"))
	if err != nil {
		r.Add(condition.RootUnreadable, "root", "", err)
	}
	mend := "replace it with a backup, or rebuild the store; then remove it"
	if r.StoreProblem != "" {
		mend = "remove it after the rebuild"
	}
	for _, f := range files {
		r.Add(condition.StoreFileDamaged, "store", mend, f)
	}
}

// CheckBackends adds which backends work on this host. pools are all pools of this node.
func CheckBackends(ctx context.Context, r *Report, kinds []backends.Kind, pools []*pool.Pool) {
	for _, k := range kinds {
		name, err := "backend "+k.Name(), k.Available(ctx)
		switch {
		case err == nil:
			r.Add(condition.BackendWorks, name, "")
		// No pool needs the backend.
		case !slices.ContainsFunc(pools, func(p *pool.Pool) bool { return p.Backend == k.Name() }):
			r.Add(condition.BackendUnavailable, name, "", withoutName(k.Name(), err))
		case backends.CheckOpen(ctx, k) == nil:
			r.Add(condition.BackendLimited, name, "", withoutName(k.Name(), err))
		default:
			r.Add(condition.BackendBroken, name, "", withoutName(k.Name(), err))
		}
	}
}

// withoutName returns an error of a backend without the backend's name at its beginning, for a line that has the name
// already.
func withoutName(name string, err error) string {
	switch rest, named := strings.CutPrefix(err.Error(), "backend "+name); {
	case named && strings.HasPrefix(rest, ": "):
		return rest[2:]
	case named && strings.HasPrefix(rest, " "):
		return "it" + rest
	}
	return err.Error()
}

// checkMounts compares the recorded uses with the mounts.
func (x *Doctor) checkMounts(ctx context.Context, r *Report) {
	table, err := mount.Table()
	if err != nil {
		r.Add(condition.MountsUnreadable, "mounts", "", err)
		return
	}
	n, holders := 0, x.holders(ctx, r)
	for _, id := range x.Uses.InUse() {
		n++
		rec, path := x.Uses.Get(id), x.MountPath(id)
		d, _ := x.Cache.Dataset(id)
		if table.At(path) == nil {
			r.Add(condition.VolumeNotMounted, "volume "+d.Volume, "", len(rec.IDs), path)
		} else if d.State == dataset.StateTrashed {
			short := id.String()[:8]
			r.Add(condition.TrashInUse, "volume "+d.Volume,
				"stop its containers here, or restore it: drover trash restore "+short,
				len(rec.IDs), holders(id), short)
		} else if err := x.Disks.Check(ctx, d, path); err != nil {
			r.Add(condition.VolumeDiskFailing, "volume "+d.Volume, "", err)
		}
		for _, m := range x.Engines.MountsOf(rec) {
			if m.Unverified {
				r.Add(condition.MountUnverified, "volume "+d.Volume, "", mounting.ShortID(m.ID), holders(id))
			}
		}
	}
	for _, m := range table.Under(x.MountRoot()) {
		id, err := uuid.Parse(filepath.Base(m.Mountpoint))
		if err == nil && len(x.Uses.Get(id).IDs) == 0 && !x.checkInspection(r, id, m.Mountpoint) {
			x.addUnused(r, m.Mountpoint, id, holders(id))
		}
	}
	r.Add(condition.MountsWork, "mounts", "", n)
}

// addUnused adds a finding on a mount without a recorded use. holders is a clause about who holds it, or "". A mount
// that somebody holds stays until that use ends, and the volume cannot be removed or moved, so it needs attention. The
// reason of a mount without a holder is usually a request that has not ended yet.
func (x *Doctor) addUnused(r *Report, path string, id uuid.UUID, holders string) {
	if d, ok := x.Cache.Dataset(id); ok && holders != "" {
		r.Add(condition.MountHeld, "mount "+path,
			"drover volume inspect "+d.Volume+" shows who holds it, and how to free it", holders)
		return
	}
	r.Add(condition.MountUnused, "mount "+path, "")
}

// maxHolderScans bounds the datasets whose holders one report names, because each examination reads all processes.
const maxHolderScans = 3

// holders returns a function that returns a clause about who uses a dataset whose recorded uses have ended or may have
// ended. The clause is "" for an examination in the background, and for all datasets after the first maxHolderScans.
func (x *Doctor) holders(ctx context.Context, r *Report) func(id uuid.UUID) string {
	known := map[uuid.UUID]string{}
	return func(id uuid.UUID) string {
		d, ok := x.Cache.Dataset(id)
		clause, scanned := known[id]
		if scanned || !ok || r.Background || len(known) == maxHolderScans {
			return clause
		}
		if held := x.Holders.Examine(ctx, d); !held.IsEmpty() {
			clause = ": " + held.Summary()
		}
		known[id] = clause
		return clause
	}
}

// checkInspection adds a finding for a mount that an operator has requested to inspect a superseded copy, and returns
// true for such a mount.
func (x *Doctor) checkInspection(r *Report, id uuid.UUID, path string) bool {
	k, is := x.Cache.InspectedCopy(id)
	if is {
		r.Add(condition.CopyInspected, "mount "+path,
			"drover copy mount "+k.Dataset.String()+" "+x.NodeName+" --off", k.Record.Volume)
	}
	return is
}

// CheckReplicas names the replicas that are recorded for this node and are missing, are not complete or cannot be
// refreshed.
func (x *Doctor) CheckReplicas(r *Report) {
	for _, id := range x.Cache.CopyIDs() {
		k, kept := x.Cache.Copy(id)
		if !kept || k.Kind != dataset.CopyReplica || k.Record == nil {
			continue
		}
		subject := "volume " + k.Record.Volume
		if p := x.Pools.ByID(k.Pool); p == nil || p.Gone {
			r.Add(condition.ReplicaPoolMissing, subject, "bring back the disk of that pool (drover pool adopt PATH), "+
				"or drover node drain "+x.NodeName+" moves the replica to another node", k.Pool)
		} else if why := x.Replicas.Failure(id); why != "" {
			r.Add(condition.ReplicaBehind, subject, "drover volume inspect "+k.Record.Volume+" shows its copies", why)
		} else if _, known := x.Replicas.Copy(id); !known && k.Snapshot == uuid.Nil {
			r.Add(condition.ReplicaBuilding, subject, "", formatProgress(x.Replicas.Progress(id)))
		}
	}
}

// formatProgress formats how much of a replica has arrived; "" if that is not known.
func formatProgress(p dataset.Progress) string {
	if p.Total <= 0 {
		return ""
	}
	return fmt.Sprintf(": %d%% (%s of %s)", p.Done*100/p.Total, dataset.Size(p.Done).Human(),
		dataset.Size(p.Total).Human())
}

// checkHung adds findings on work on datasets that takes long, and on the threads that wait in the kernel and cannot
// be interrupted.
func (x *Doctor) checkHung(r *Report) {
	slow := x.Locks.HeldFor(slowAfter, x.Clock.Steady())
	if len(slow) == 0 {
		return
	}
	stuck := threadsInKernel()
	for _, w := range slow {
		if since := w.For.Round(time.Second); len(stuck) == 0 {
			r.Add(condition.WorkSlow, w.What, "", since)
		} else {
			r.Add(condition.WorkHanging, w.What, "", since, strings.Join(stuck, ", "))
		}
	}
}
