package controlsync

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"

	"github.com/droverhq/drover/control/api"
)

// Reporter reports the datasets, pools and facts of this node to control. Its methods are safe for concurrent use.
type Reporter struct {
	*Sync
	replicaErrors replicaErrors
	everything    atomic.Bool // the next report has the status of every dataset, for every replica
}

// PurgeEvery is the interval at which the destruction of datasets is repeated: a dataset may have been in use, or
// its pool offline.
const PurgeEvery = 10 * time.Minute

// A status is reported to every control replica, and not only to the replica that is followed: a status is not stored,
// but every replica must be able to show it. Replicas could pass a status to each other only through the store, or by
// requests in which one replica waits for another. A few more requests every ten seconds cost less.

// replicaReporter is one control replica that gets reports.
type replicaReporter struct {
	index int // in Leases.Replicas
	to    api.Service
	// reported has the last reported status of the datasets that were reported as mounted or with a problem.
	reported map[uuid.UUID]dataset.DatasetStatus
	// generations are the reported generations of the pools.
	generations map[uuid.UUID]uint64
	// complete is true if the replica knows the status of every dataset. A replica that has restarted does not.
	complete    bool
	failed      bool // a report failed
	unreachable bool // a request failed, and it is sent no other one before the next heartbeat
}

type replicaReporters []*replicaReporter

func newReplicaReporters(list []api.Service) (out replicaReporters) {
	for i, to := range list {
		out = append(out, &replicaReporter{index: i, to: to, reported: map[uuid.UUID]dataset.DatasetStatus{}})
	}
	return out
}

// examineRounds is the number of heartbeats in which each dataset without a use is examined once, about an hour by
// default. Control relies on the reports when it removes copies.
const examineRounds = 360

// damageRounds is the number of heartbeats in which the data of each dataset is looked for once, less than a minute by
// default. With more than 2,500 datasets it takes longer.
const damageRounds = 5

// rotation selects the datasets that are examined in a heartbeat, in turn.
type rotation struct {
	rounds int // in which each dataset is examined once, unless that is more than maxPerHeartbeat in one round
	rest   []uuid.UUID
	each   int
}

func (r *rotation) next(all func() []uuid.UUID) []uuid.UUID {
	if len(r.rest) == 0 {
		r.rest = all()
		r.each = min((len(r.rest)+r.rounds-1)/r.rounds, maxPerHeartbeat)
	}
	n := min(r.each, len(r.rest))
	now := r.rest[:n]
	r.rest = r.rest[n:]
	return now
}

// reportedDatasets returns the datasets that were reported to any replica as mounted or as having a problem.
func (l replicaReporters) reportedDatasets() (ids []uuid.UUID) {
	seen := map[uuid.UUID]bool{}
	for _, t := range l {
		for id := range t.reported {
			if !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids
}

const (
	// maxPerHeartbeat is the maximum number of datasets in one heartbeat, because its body is bounded.
	maxPerHeartbeat = 500
	// ReportTime is how long one of several replicas may take for a heartbeat.
	ReportTime = 5 * time.Second
	// reportAtOnceTime is how long ReportPools and ReportDataset may take.
	reportAtOnceTime = 2 * time.Second
)

// report reads the status of the datasets ids, and reports those whose status differs from the reported one. To a
// replica that does not know the status of every dataset yet, it reports all datasets of this node instead.
func (r *Reporter) report(ctx context.Context, all replicaReporters, ids []uuid.UUID) {
	if r.everything.Swap(false) {
		for _, t := range all {
			t.complete = false
			clear(t.reported)
		}
	}
	var known, new replicaReporters
	for _, t := range all {
		switch {
		case t.unreachable:
		case t.complete:
			known = append(known, t)
		default:
			new = append(new, t)
		}
	}
	if len(known) > 0 {
		r.reportInParts(ctx, known, ids)
	}
	if len(new) == 0 {
		return
	}
	for _, t := range new {
		t.failed = false
	}
	r.reportInParts(ctx, new, slices.Concat(r.Cache.IDs(), r.Cache.CopyIDs(), r.SharedMounts.IDs()))
	for _, t := range new {
		t.complete = !t.failed
	}
}

// ReportEverythingSoon makes Run report the status of every dataset to every replica soon, even if it reported them
// before.
func (r *Reporter) ReportEverythingSoon() {
	r.everything.Store(true)
	r.News.Soon()
}

// ReportPools reports the state of the pools at once, for a user who has created, changed or adopted a pool and looks
// at it next. If the report fails, the next heartbeat repeats it.
func (r *Reporter) ReportPools(ctx context.Context) { r.reportAtOnce(ctx) }

// ReportDataset reports the status of a dataset at once, for a user who has changed its size and looks at it next. If
// the report fails, the next heartbeat repeats it.
func (r *Reporter) ReportDataset(ctx context.Context, id uuid.UUID) { r.reportAtOnce(ctx, id) }

func (r *Reporter) reportAtOnce(ctx context.Context, ids ...uuid.UUID) {
	ctx, cancel := context.WithTimeout(ctx, reportAtOnceTime)
	defer cancel()
	all := newReplicaReporters(r.Leases.Replicas)
	for _, t := range all {
		t.complete = true // the report has not all datasets, so mark it as incremental
	}
	r.reportPart(ctx, all, ids)
}

// reportInParts calls reportPart for at most maxPerHeartbeat datasets at a time.
func (r *Reporter) reportInParts(ctx context.Context, all replicaReporters, ids []uuid.UUID) {
	for {
		n := min(len(ids), maxPerHeartbeat)
		r.reportPart(ctx, all, ids[:n])
		if ids = ids[n:]; len(ids) == 0 || ctx.Err() != nil {
			return
		}
	}
}

// reportPart sends one heartbeat to each of the replicas: the pools, and the status of the datasets ids. It forgets the
// lost writes of a dataset whose home is no longer this node.
func (r *Reporter) reportPart(ctx context.Context, all replicaReporters, ids []uuid.UUID) {
	h := api.Heartbeat{
		Incarnation:  r.Incarnation,
		Pools:        r.Pools.Status(ctx),
		FailedPools:  r.Pools.Failed,
		Operations:   r.Jobs.Running(),
		GuardRunning: r.Leases.Registrar.IsAnswering(),
	}
	for _, st := range h.Pools {
		r.Moves.Retention.KeepReserve(st)
	}
	h.StoreDoubt, h.NodeTime, h.Found = r.Trust.Why(), r.Clock.Now(), r.findings.Last()
	var seen []dataset.DatasetStatus
	for _, id := range ids {
		d, ok := r.Cache.Dataset(id)
		if c, replica := r.Moves.Replicas.Status(id); replica && !ok {
			h.Copies = append(h.Copies, c)
		}
		if g, shared := r.SharedMounts.Get(id); shared && !ok {
			seen = append(seen, r.SharedMounts.Status(g))
			continue
		}
		if !ok {
			r.LostWrites.Forget(ctx, id)
			for _, t := range all {
				delete(t.reported, id)
			}
			continue
		}
		seen = append(seen, r.Status.Status(ctx, d))
	}
	if ctx.Err() != nil {
		return // a pool that did not answer before the stop is not offline
	}
	if len(r.Leases.Replicas) == 1 {
		r.reportOne(ctx, all[0], h, seen)
		return
	}
	var wg sync.WaitGroup
	for _, t := range all {
		if t.unreachable { // it did not answer an earlier part of the same report
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, ReportTime)
			defer cancel()
			r.reportOne(ctx, t, h, seen)
		})
	}
	wg.Wait()
}

// reportOne reports to one replica what differs from the last report. It logs nothing if control does not answer,
// because Follower.Run does (see Registration.SetRefusal).
func (r *Reporter) reportOne(ctx context.Context, t *replicaReporter, h api.Heartbeat, seen []dataset.DatasetStatus) {
	for _, st := range seen {
		if old, was := t.reported[st.ID]; !was || !sameStatus(old, st) {
			h.Datasets = append(h.Datasets, st)
		}
	}
	h.Incremental = t.complete
	err := t.to.Heartbeat(ctx, r.NodeID, h)
	r.replicaErrors.set(t.index, r.Clock.Now(), err)
	if err != nil {
		// The replica has restarted, or has missed a report.
		t.complete = false
		clear(t.reported)
		t.generations = nil
		t.unreachable = len(r.Leases.Replicas) > 1 && !errors.Is(err, dataset.ErrConflict)
		t.failed = true
		return
	}
	for _, st := range h.Datasets {
		t.reported[st.ID] = st
		if !st.Mounted && st.Problem == "" { // a problem may end by itself, as when a pool is online again
			delete(t.reported, st.ID)
		}
	}
	is := r.Pools.Generations()
	if maps.Equal(t.generations, is) {
		return
	}
	if r.generations.ReportTo(ctx, t.to, is) == nil {
		t.generations = is
	}
}

// SettleTime is how long a report waits for further changes, so that they are reported together.
const SettleTime = 50 * time.Millisecond

// Run reports this node's datasets, pools and facts to control. It reports changes soon after they happen. At each
// heartbeat it examines the datasets that are in use or were reported as mounted or with a problem, and some of the
// others, so that each dataset is examined once in examineRounds heartbeats. It sends what differs from the last report
// to the same replica, and everything to a replica that has restarted. Run calls begun once it has reported the state
// after the start.
//
// Each heartbeat also repeats work that earlier requests could not finish, and writes the records that changed in
// memory to disk.
func (r *Reporter) Run(begun func()) {
	all := newReplicaReporters(r.Leases.Replicas)
	r.report(r.Ctx, all, r.News.Take())
	r.Facts.Report(r.Ctx)
	begun()
	purgeAt := r.Clock.Steady() + PurgeEvery
	round := r.Clock.After(0)
	looks, damage := rotation{rounds: examineRounds}, rotation{rounds: damageRounds}
	for {
		select {
		case <-r.Ctx.Done():
			return
		case <-round:
			round = r.Clock.After(r.Timing.Heartbeat)
			back := r.worker.DoHeartbeatWork(r.Ctx)
			if now := r.Clock.Steady(); back || now >= purgeAt {
				r.Operations.PurgeAll()
				purgeAt = now + PurgeEvery
			}
			for _, t := range all {
				t.unreachable = false
			}
			damaged := r.Status.FindDamaged(r.Ctx, damage.next(r.Cache.IDs))
			r.report(r.Ctx, all,
				slices.Concat(r.Uses.InUse(), all.reportedDatasets(), damaged, looks.next(r.Cache.IDs)))
			r.Facts.Report(r.Ctx)
			if err := errors.Join(r.Cache.SaveChanged(r.Ctx, r.DB), r.StoreClock.Save(r.Ctx),
				r.Status.SaveUsages(r.Ctx), r.SaveAnswer(r.Ctx, saveAnswerEvery)); err != nil &&
				r.Ctx.Err() == nil {
				r.Log.WithError(err).Error("cannot write the agent's copy of its records")
			}
		case <-r.News.Wanted():
			select {
			case <-r.Ctx.Done():
				return
			case <-r.Clock.After(SettleTime):
			}
			r.report(r.Ctx, all, r.News.Take())
		}
	}
}

func sameStatus(x, y dataset.DatasetStatus) bool {
	return x.Mounted == y.Mounted && x.MountPath == y.MountPath && same(x.Used, y.Used) && same(x.InPool, y.InPool) &&
		x.Problem == y.Problem && slices.EqualFunc(x.Mounts, y.Mounts, sameMount) && same(x.Usage, y.Usage) &&
		x.Fullness == y.Fullness && slices.Equal(x.EngineAliases, y.EngineAliases)
}

// same reports whether two values are equal, or both absent.
func same[T comparable](x, y *T) bool { return x == y || x != nil && y != nil && *x == *y }

func sameMount(x, y dataset.Mount) bool {
	return x.ID == y.ID && x.Count == y.Count && x.Since == y.Since && x.Engine == y.Engine &&
		x.Unverified == y.Unverified && slices.Equal(x.Names, y.Names)
}

// ReportAll reports everything to every control replica, as if nothing had been reported before. Only tests use it.
func (r *Reporter) ReportAll(ctx context.Context) {
	r.report(ctx, newReplicaReporters(r.Leases.Replicas), nil)
}
