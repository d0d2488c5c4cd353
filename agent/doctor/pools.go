package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// PoolCheckerDeps is what PoolChecker needs of other components.
type PoolCheckerDeps struct {
	*host.Host
	Backends   *backends.Registry
	Configured []pool.Config
	Pools      *pool.Pools
	PoolMaker  *pool.Maker
	Space      *pool.Space
	Datasets   *operation.Operations
	Uses       *mounting.UseTable
	Moves      *move.MoveTable
	Copies     *move.Copies
	KeyChecker *KeyChecker
	IsNeeded   func(id uuid.UUID) bool // whether a dataset without a record is needed
}

// PoolChecker compares the pools of this node with the records of control. It examines each pool in one goroutine at a
// time, so that any number of examinations of a pool whose disk hangs occupy only one goroutine. Its methods are safe
// for concurrent use.
type PoolChecker struct {
	deps PoolCheckerDeps

	mu       sync.Mutex
	examined map[uuid.UUID]*examination // the running examinations, by pool
}

// examination is the running examination of a pool. It exists as long as the disk takes to answer.
type examination struct {
	done chan struct{} // closed when it has ended
	hung chan struct{} // closed once it has taken poolPatience
}

// NewPoolChecker returns a PoolChecker.
func NewPoolChecker(deps PoolCheckerDeps) *PoolChecker {
	return &PoolChecker{deps: deps, examined: map[uuid.UUID]*examination{}}
}

// checkInTime calls CheckPool for a pool that may never answer, and waits for it for poolPatience at most. If another
// examination of the pool runs, checkInTime waits for its end first. If that one takes longer than poolPatience,
// checkInTime adds the finding that the disk hangs, and does not examine the pool.
func (c *PoolChecker) checkInTime(ctx context.Context, r *Report, p *pool.Pool,
	known map[uuid.UUID]dataset.Dataset, sure bool) {
	own := &Report{StoreProblem: r.StoreProblem, StoreRemedy: r.StoreRemedy, Background: r.Background}
	for {
		now, mine := c.startExamination(p.ID, func() { c.CheckPool(ctx, own, p, known, sure) })
		var patience <-chan time.Time
		if mine {
			patience = c.deps.Clock.After(poolPatience)
		}
		select {
		case <-now.done:
			if mine {
				r.All, r.Unknown = append(r.All, own.All...), r.Unknown+own.Unknown
				return
			}
			continue
		case <-patience:
			close(now.hung)
		case <-now.hung:
		}
		r.Add(host.Error, "pool "+p.Name, "check its disk (dmesg)",
			"did not respond within %s: its disk hangs", poolPatience)
		return
	}
}

// startExamination starts to examine a pool in a new goroutine, or returns the examination of it that runs already.
// mine is true if it started one.
func (c *PoolChecker) startExamination(id uuid.UUID, examine func()) (now *examination, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now = c.examined[id]; now != nil {
		return now, false
	}
	now = &examination{done: make(chan struct{}), hung: make(chan struct{})}
	c.examined[id] = now
	go func() {
		examine()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.examined, id)
		close(now.done)
	}()
	return now, true
}

// CheckPool adds findings on a pool. known has the datasets that control has recorded for this node. They are
// compared with the pool only if sure is true.
func (c *PoolChecker) CheckPool(ctx context.Context, r *Report, p *pool.Pool, known map[uuid.UUID]dataset.Dataset,
	sure bool) {
	name := "pool " + p.Name
	if p.Record.Leaving != pool.NotLeaving {
		r.Add(host.Error, name, "drover pool inspect "+p.Name,
			"is being removed, and serves nothing: %s", cmp.Or(p.RemovalProblem, "the removal continues automatically"))
		return
	}
	if p.Storage == nil {
		r.Add(host.Error, name, c.offlineHint(ctx, p), "%s", offlineText(p.Name, p.OfflineReason))
		return
	}
	st, _ := c.deps.Pools.ReadStatus(ctx, p.ID) // its status has the error
	if !st.Online {
		r.Add(host.Error, name, c.offlineHint(ctx, p), "%s", offlineText(p.Name, st.Reason))
		return
	}
	if why := p.QuarantineReason(); why != "" {
		r.Add(host.Error, name, "drover pool accept "+p.Name+", unless the newer disk can be recovered",
			"is held: nothing in it is mounted or changed: %s", why)
		return
	}
	tight := st.Fullness() != dataset.NotFull
	switch {
	case st.Reason != "" && !tight: // for example, sizes are not enforced: more space would not help
		r.Add(host.Error, name, "", "%s", st.Reason)
	case st.Reason != "":
		r.Add(host.Error, name, c.roomHint(ctx, r, p, st), "creates are refused: %s", st.Reason)
	case tight:
		r.Add(host.Warning, name, c.roomHint(ctx, r, p, st), "%s: %s", st.Fullness(), st.Usage().Describe(st.Size))
	default:
		r.Add(host.OK, name, "", "%s free of %s at %s; %s", st.Free.Human(), st.Size.Human(), p.Record.Path, p.Note)
	}
	checkOvercommit(r, name, st)
	c.checkSharedFilesystem(r, p, st)
	if p.LockProblem != "" {
		r.Add(host.Warning, name, "end that process, then restart drover",
			"is served, but not locked against another drover: %s", p.LockProblem)
	}
	var entries []backends.Entry
	if !r.Background { // listing a pool reads each of its records
		var err error
		if entries, err = p.Storage.List(ctx); err != nil {
			r.Add(host.Error, name, "", "cannot be listed: %v", err)
			return
		}
	}
	if p.Memory != "" {
		r.Add(host.Warning, name, "move its volumes to a pool on a disk, unless losing them is acceptable", "%s",
			p.MemoryWarning())
	}
	checkWarnings(r, p)
	checkMissingCapabilities(r, p)
	checkTrials(r, p)
	if sure {
		c.CheckEntries(ctx, r, p, entries, known)
	}
	if sure && r.StoreProblem == "" {
		c.CheckSnapshots(ctx, r, p, entries, known)
	}
	c.checkStalls(ctx, r, p, known)
}

// offlineText says that a pool is offline, in a line that names the pool already.
func offlineText(name, why string) string {
	subject := "pool " + name
	why = strings.TrimPrefix(strings.TrimPrefix(why, subject+": "), subject+" is offline: ")
	return strings.TrimPrefix(pool.OfflineError(name, why).Error(), subject+" ")
}

// offlineHint returns what brings an offline pool online. It is "" if the pool's disk hangs, or if the backend
// cannot work on this host, because both are reported separately.
func (c *PoolChecker) offlineHint(ctx context.Context, p *pool.Pool) string {
	kind, err := c.deps.Backends.Kind(p.Backend)
	switch {
	case c.deps.Pools.ByID(p.ID).DiskFailure() != "":
		return "repair or replace the disk; stop the pool's containers, and if its filesystem was mounted " +
			"by hand or by /etc/fstab, unmount and mount it (xfs_repair, e2fsck or btrfs check before, if " +
			"dmesg asks for it): then the pool is online again by itself"
	case err != nil || c.deps.Pools.ByID(p.ID).HangReason != "" || backends.CheckOpen(ctx, kind) != nil:
		return ""
	case slices.ContainsFunc(c.deps.Configured, func(configured pool.Config) bool { return configured.Name == p.Name }):
		return "mount its disk at the same place; or set its new place in drover.yaml; or, if it is lost for " +
			"good, remove it from drover.yaml; then restart drover"
	}
	return "mount its disk at its previous path; or drover pool adopt PATH, with its present path; or, if it is " +
		"lost for good, drover pool rm " + p.Name + " --forget --dry-run"
}

func (c *PoolChecker) checkFailedPools(r *Report) {
	for _, u := range c.deps.PoolMaker.Failed {
		r.Add(host.Error, "pool "+u.Name, "", "%s", offlineText(u.Name, u.Status.Reason))
	}
}

// checkOvercommit warns of a pool whose volumes may together become larger than its policy allows. If the pool has no
// policy, checkOvercommit only mentions, without a warning, that they may become larger than the pool.
func checkOvercommit(r *Report, name string, st dataset.PoolStatus) {
	ratio := st.OvercommitRatio()
	text := fmt.Sprintf("its volumes may become %s large, and it has %s: overcommit %s", st.Provisioned.Human(),
		st.Size.Human(), dataset.FormatRatio(ratio))
	switch {
	case st.Overcommit > 0 && ratio > st.Overcommit:
		r.Add(host.Warning, name, "enlarge the pool, or move volumes to another one (drover pool ls)",
			"%s, more than %s", text, dataset.FormatRatio(st.Overcommit))
	case st.Overcommit == 0 && ratio > 1:
		r.Add(host.OK, name, "", "%s", text)
	}
}

// checkSharedFilesystem compares what the pools on the filesystem of a pool have promised together with the policy of
// the pool. Each of them reports the free space of that filesystem as its own.
func (c *PoolChecker) checkSharedFilesystem(r *Report, p *pool.Pool, st dataset.PoolStatus) {
	var others []string
	together := st
	for _, o := range c.deps.Pools.All() {
		if o.ID != p.ID && o.Storage != nil && o.Filesystem != 0 && o.Filesystem == p.Filesystem {
			others = append(others, o.Name)
			together.Provisioned += c.deps.Pools.Cache.Provisioned(o.ID)
		}
	}
	if len(others) == 0 {
		return
	}
	text := "is on one filesystem with " + strings.Join(others, ", ") + ": they share its free space"
	if ratio := together.OvercommitRatio(); st.Overcommit > 0 && ratio > st.Overcommit {
		r.Add(host.Warning, "pool "+p.Name, "move volumes to a pool on another disk (drover pool ls)",
			"%s, and their volumes may become %s large together: overcommit %s, more than %s", text,
			together.Provisioned.Human(), dataset.FormatRatio(ratio), dataset.FormatRatio(st.Overcommit))
		return
	}
	r.Add(host.OK, "pool "+p.Name, "", "%s", text)
}

// checkWarnings reports the warnings of a pool.
func checkWarnings(r *Report, p *pool.Pool) {
	for _, line := range pool.Warnings(p.Storage) {
		r.Add(host.Warning, "pool "+p.Name, "", "%s", line)
	}
}

// roomHint returns a hint on how to free so much space that a pool no longer counts as nearly full. If the store is
// inconsistent, it returns "", because the store must be repaired first.
func (c *PoolChecker) roomHint(ctx context.Context, r *Report, p *pool.Pool, st dataset.PoolStatus) string {
	if r.StoreProblem != "" {
		return ""
	}
	return c.deps.Space.Hint(ctx, p, st, st.Size*(100-dataset.DefaultWarnAt+1)/100)
}

func (c *PoolChecker) checkStalls(ctx context.Context, r *Report, p *pool.Pool, known map[uuid.UUID]dataset.Dataset) {
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
			r.Add(host.Warning, "volume "+d.Volume,
				"keep fewer snapshots, or stop its containers and copy it: drover volume export "+d.Volume+
					" | drover volume import NEW@"+d.Profile.Name+" --from -",
				"a snapshot would block its writers for about %s (%s)",
				time.Duration(nanos).Round(time.Millisecond), why)
		}
	}
}

// CheckTight adds one finding on a pool that has too little space for the scheduled snapshots of some of its volumes.
func (c *PoolChecker) CheckTight(ctx context.Context, r *Report, p *pool.Pool, volumes ...dataset.Dataset) {
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
		r.Add(host.Warning, "pool "+p.Name, "drover trash ls and drover snapshot ls --size list what can be freed",
			"volumes without scheduled snapshots: %s: %v", countedNames(names), why)
	}
}
