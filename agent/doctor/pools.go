package doctor

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

// examination is the running examination of a pool. It exists as long as the disk takes to answer.
type examination struct {
	done chan struct{} // closed when it has ended
	hung chan struct{} // closed once it has taken poolPatience
}

// checkInTime calls CheckPool for a pool that may never answer, and waits for it for poolPatience at most. If another
// examination of the pool runs, checkInTime waits for its end first. If that one takes longer than poolPatience,
// checkInTime adds the finding that the disk hangs, and does not examine the pool.
func (x *Doctor) checkInTime(ctx context.Context, r *Report, p *pool.Pool,
	known map[uuid.UUID]dataset.Dataset, sure bool) {
	own := &Report{StoreProblem: r.StoreProblem, StoreRemedy: r.StoreRemedy, Background: r.Background}
	for {
		now, mine := x.startExamination(p.ID, func() { x.CheckPool(ctx, own, p, known, sure) })
		var patience <-chan time.Time
		if mine {
			patience = x.Clock.After(poolPatience)
		}
		select {
		case <-now.done:
			if mine {
				r.List, r.Unknown = append(r.List, own.List...), r.Unknown+own.Unknown
				return
			}
			continue
		case <-patience:
			close(now.hung)
		case <-now.hung:
		}
		r.Add(condition.PoolHanging, "pool "+p.Name, "", poolPatience)
		return
	}
}

// startExamination starts to examine a pool in a new goroutine, or returns the examination of it that runs already.
// mine is true if it started one.
func (x *Doctor) startExamination(id uuid.UUID, examine func()) (now *examination, mine bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if now = x.examined[id]; now != nil {
		return now, false
	}
	now = &examination{done: make(chan struct{}), hung: make(chan struct{})}
	x.examined[id] = now
	go func() {
		examine()
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.examined, id)
		close(now.done)
	}()
	return now, true
}

// CheckPool adds findings on a pool. known has the datasets that control has recorded for this node. They are
// compared with the pool only if sure is true.
func (x *Doctor) CheckPool(ctx context.Context, r *Report, p *pool.Pool, known map[uuid.UUID]dataset.Dataset,
	sure bool) {
	name := "pool " + p.Name
	if p.Record.Leaving != pool.NotLeaving {
		r.Add(condition.PoolLeaving, name, "drover pool inspect "+p.Name,
			cmp.Or(p.RemovalProblem, "the removal continues automatically"))
		return
	}
	if p.Storage == nil {
		r.Add(condition.PoolOffline, name, x.offlineHint(ctx, p), offlineReason(p.Name, p.OfflineReason))
		return
	}
	st, _ := x.Pools.ReadStatus(ctx, p.ID) // its status has the error
	if !st.Online {
		r.Add(condition.PoolOffline, name, x.offlineHint(ctx, p), offlineReason(p.Name, st.Reason))
		return
	}
	if why := p.QuarantineReason(); why != "" {
		r.Add(condition.PoolHeld, name, "drover pool accept "+p.Name+", unless the newer disk can be recovered", why)
		return
	}
	switch is := st.Fullness(); {
	case st.Reason != "" && is == dataset.NotFull: // for example, sizes are not enforced: more space would not help
		r.Add(condition.PoolFailing, name, "", st.Reason)
	case st.Reason != "":
		r.Add(condition.PoolRefuses, name, x.roomHint(ctx, r, p, st), st.Reason)
	case is == dataset.Full:
		r.Add(condition.PoolFull, name, x.roomHint(ctx, r, p, st), st.Usage().Describe(st.Size))
	case is == dataset.NearlyFull:
		r.Add(condition.PoolFilling, name, x.roomHint(ctx, r, p, st), st.Usage().Describe(st.Size))
	default:
		r.Add(condition.PoolWorks, name, "", st.Free.Human(), st.Size.Human(), p.Record.Path, p.Note)
	}
	checkOvercommit(r, p, st)
	x.checkSharedFilesystem(r, p, st)
	if p.LockProblem != "" {
		r.Add(condition.PoolUnlocked, name, "", p.LockProblem)
	}
	var entries []backends.Entry
	if !r.Background { // listing a pool reads each of its records
		var err error
		if entries, err = p.Storage.List(ctx); err != nil {
			r.Add(condition.PoolUnlistable, name, "", err)
			return
		}
	}
	if p.Memory != "" {
		r.Add(condition.PoolInMemory, name, "", p.MemoryWarning())
	}
	for _, line := range pool.Warnings(p.Storage) {
		r.Add(condition.PoolWarning, name, "", line)
	}
	checkMissingCapabilities(r, p)
	checkTrials(r, p)
	if sure {
		x.CheckEntries(ctx, r, p, entries, known)
	}
	if sure && r.StoreProblem == "" {
		x.CheckSnapshots(ctx, r, p, entries, known)
	}
	x.checkStalls(ctx, r, p, known)
}

// offlineReason returns why a pool is offline, for a line that names the pool already.
func offlineReason(name, why string) string {
	return strings.TrimPrefix(strings.TrimPrefix(why, "pool "+name+": "), "pool "+name+" is offline: ")
}

// offlineHint returns what brings an offline pool online. It is "" if the pool's disk hangs, or if the backend
// cannot work on this host, because both are reported separately.
func (x *Doctor) offlineHint(ctx context.Context, p *pool.Pool) string {
	kind, err := x.Pools.Backends.Kind(p.Backend)
	switch {
	case x.Pools.ByID(p.ID).DiskFailure() != "":
		return "repair or replace the disk; stop the pool's containers, and if its filesystem was mounted " +
			"by hand or by /etc/fstab, unmount and mount it (xfs_repair, e2fsck or btrfs check before, if " +
			"dmesg asks for it): then the pool is online again by itself"
	case err != nil || x.Pools.ByID(p.ID).HangReason != "" || backends.CheckOpen(ctx, kind) != nil:
		return ""
	case slices.ContainsFunc(x.Pools.Configured, func(c pool.Config) bool { return c.Name == p.Name }):
		return "mount its disk at the same place; or set its new place in drover.yaml; or, if it is lost for " +
			"good, remove it from drover.yaml; then restart drover"
	}
	return "mount its disk at its previous path; or drover pool adopt PATH, with its present path; or, if it is " +
		"lost for good, drover pool rm " + p.Name + " --forget --dry-run"
}

// checkOvercommit warns of a pool whose volumes may together become larger than its policy allows. If the pool has no
// policy, checkOvercommit only mentions, without a warning, that they may become larger than the pool.
func checkOvercommit(r *Report, p *pool.Pool, st dataset.PoolStatus) {
	name, ratio := "pool "+p.Name, st.OvercommitRatio()
	provisioned, size, is := st.Provisioned.Human(), st.Size.Human(), dataset.FormatRatio(ratio)
	switch {
	case st.Overcommit > 0 && ratio > st.Overcommit:
		r.Add(condition.PoolOverLimit, name, "", provisioned, size, is, dataset.FormatRatio(st.Overcommit))
	case st.Overcommit == 0 && ratio > 1:
		r.Add(condition.PoolOvercommitted, name, "drover pool set "+p.Name+" --overcommit 1 refuses more",
			provisioned, size, is)
	}
}

// checkSharedFilesystem compares what the pools on the filesystem of a pool have promised together with the policy of
// the pool. Each of them reports the free space of that filesystem as its own.
func (x *Doctor) checkSharedFilesystem(r *Report, p *pool.Pool, st dataset.PoolStatus) {
	var others []string
	together := st
	for _, o := range x.Pools.All() {
		if o.ID != p.ID && o.Storage != nil && o.Filesystem != 0 && o.Filesystem == p.Filesystem {
			others = append(others, o.Name)
			together.Provisioned += x.Pools.Cache.Provisioned(o.ID)
		}
	}
	if len(others) == 0 {
		return
	}
	if ratio := together.OvercommitRatio(); st.Overcommit > 0 && ratio > st.Overcommit {
		r.Add(condition.SharedOverLimit, "pool "+p.Name, "", strings.Join(others, ", "),
			together.Provisioned.Human(), dataset.FormatRatio(ratio), dataset.FormatRatio(st.Overcommit))
		return
	}
	r.Add(condition.PoolShared, "pool "+p.Name, "", strings.Join(others, ", "))
}

// roomHint returns a hint on how to free so much space that a pool no longer counts as nearly full. If the store is
// inconsistent, it returns "", because the store must be repaired first.
func (x *Doctor) roomHint(ctx context.Context, r *Report, p *pool.Pool, st dataset.PoolStatus) string {
	if r.StoreProblem != "" {
		return ""
	}
	return x.Pools.Hint(ctx, p, st, st.Size*(100-dataset.DefaultWarnAt+1)/100)
}

func (x *Doctor) checkStalls(ctx context.Context, r *Report, p *pool.Pool, known map[uuid.UUID]dataset.Dataset) {
	staller, ok := p.Storage.(backends.StallPredictor)
	if !ok {
		return
	}
	for id, d := range known {
		if d.Pool != p.ID || d.State != dataset.StateReady {
			continue
		}
		nanos, why, err := staller.PredictStall(ctx, id)
		if err == nil && time.Duration(nanos) > backends.LongStall {
			r.Add(condition.SnapshotsBlock, "volume "+d.Volume,
				"keep fewer snapshots, or stop its containers and copy it: drover volume export "+d.Volume+
					" | drover volume import NEW@"+d.Profile.Name+" --from -",
				time.Duration(nanos).Round(time.Millisecond), why)
		}
	}
}

// CheckTight adds one finding on a pool that has too little space for the scheduled snapshots of some of its volumes.
func (x *Doctor) CheckTight(ctx context.Context, r *Report, p *pool.Pool, volumes ...dataset.Dataset) {
	var names []string
	var why error
	for _, d := range volumes {
		if d.State != dataset.StateReady || d.Profile.Snapshots.Schedule == "" {
			continue
		}
		if err := host.CheckTight(ctx, p.Storage, d); errors.Is(err, dataset.ErrNoSpace) {
			names, why = append(names, d.Volume), err
		}
	}
	if why != nil {
		slices.Sort(names)
		r.Add(condition.SnapshotsSkipped, "pool "+p.Name, "", countedNames(names), why)
	}
}
