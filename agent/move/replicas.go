package move

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
)

// Replicas refreshes the replicas that this node keeps, each as often as its profile says. Its methods are safe for
// concurrent use.
type Replicas struct {
	*Moves
	refresher refresher
	wake      chan struct{} // holds one token while Run should look for due refreshes

	mu        sync.Mutex
	byDataset map[uuid.UUID]*replica // by dataset
}

// refresher refreshes replicas. Replicas implements it. Tests replace it.
type refresher interface {
	Refresh(ctx context.Context, jb *host.Job, id uuid.UUID) error
}

func newReplicas(m *Moves) *Replicas {
	p := &Replicas{Moves: m, wake: make(chan struct{}, 1), byDataset: map[uuid.UUID]*replica{}}
	p.refresher = p
	return p
}

type replica struct {
	due      time.Duration // by the steady clock
	running  bool
	copy     dataset.Copy // its current state; the zero value until that is known
	reported dataset.Copy // the last state that was reported to control's store
	failure  string       // why the last refresh failed, or "" if it succeeded
	failures int          // how many refreshes in a row have failed
	reached  bool         // the home has answered the running refresh or the last one
	told     bool         // a failure was reported to control, so its end must be reported too
	stop     func()       // ends the running refresh
}

// isFailing reports whether a refresh of the replica probably waits for an unreachable home. Once the home has answered
// the running refresh, isFailing returns false, because that refresh can then transfer data for hours.
func (r *replica) isFailing() bool {
	return r.failures >= reportedFailures && !(r.running && r.reached)
}

// Wake makes Run look for due refreshes at once.
func (p *Replicas) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Failure returns why the last refresh of a replica failed, or an empty string if it succeeded.
func (p *Replicas) Failure(id uuid.UUID) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if of := p.byDataset[id]; of != nil {
		return of.failure
	}
	return ""
}

// SetFailure records why a refresh of a replica failed. Only tests call it.
func (p *Replicas) SetFailure(id uuid.UUID, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byDataset[id] == nil {
		p.byDataset[id] = &replica{}
	}
	p.byDataset[id].failure = why
}

// maxRefreshes is how many refreshes run at the same time. maxFailingRefreshes is how many of them may be of replicas
// that fail (see isFailing), because such a refresh can wait half a minute for an unreachable node. maxRefreshWait is
// the longest time between two searches of Run for new replicas.
const (
	maxRefreshes        = 4
	maxFailingRefreshes = 1
	maxRefreshWait      = time.Minute
)

// After the first failure, a refresh is tried again after backoffRetries times Timing.Retry (10 seconds). Each further
// failure doubles that time, up to maxBackoffRetries times Timing.Retry (5 minutes).
const (
	backoffRetries    = 10
	maxBackoffRetries = 300
)

// reportedFailures is how many refreshes in a row must fail before control is notified and the replica counts as
// failing. So a restart of the home's agent does not make the replica look broken.
const reportedFailures = 2

// backoff returns how long to wait before a refresh is tried again. every is how often the replica is refreshed while
// refreshes succeed: a replica that fails is tried at least as often. It is a pure function.
func backoff(failures int, every, retry time.Duration) time.Duration {
	wait := backoffRetries * retry
	for range failures - 1 {
		if wait *= 2; wait >= maxBackoffRetries*retry {
			wait = maxBackoffRetries * retry
			break
		}
	}
	return min(wait, max(every, retry))
}

// Run refreshes replicas when they are due, until the agent stops.
func (p *Replicas) Run() {
	for {
		wait := p.startDue()
		select {
		case <-p.Ctx.Done():
			return
		case <-p.wake:
		case <-p.Clock.After(wait):
		}
	}
}

// startDue starts the refreshes that are due, and returns how long to wait for the next one.
func (p *Replicas) startDue() (wait time.Duration) {
	every := map[uuid.UUID]time.Duration{}
	for _, id := range p.Cache.CopyIDs() {
		if k, kept := p.Cache.Copy(id); kept && k.Kind == dataset.CopyReplica && k.Record != nil {
			every[id] = time.Duration(k.Record.Profile.Replicas.Every)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.byDataset, func(id uuid.UUID, r *replica) bool {
		_, still := every[id]
		return !still && !r.running
	})
	running, failing := 0, 0
	for id := range every {
		if p.byDataset[id] == nil {
			p.byDataset[id] = &replica{}
		}
		if r := p.byDataset[id]; r.running {
			running++
			if r.isFailing() {
				failing++
			}
		}
	}
	now := p.Clock.Steady()
	wait = maxRefreshWait
	byDue := slices.SortedFunc(maps.Keys(every), func(x, y uuid.UUID) int {
		return int(p.byDataset[x].due - p.byDataset[y].due)
	})
	for _, id := range byDue {
		r := p.byDataset[id]
		switch {
		case r.running:
		case r.due > now:
			wait = min(wait, r.due-now)
		case running == maxRefreshes || r.isFailing() && failing >= maxFailingRefreshes:
			// it waits until another refresh ends
		default:
			running++
			if r.isFailing() {
				failing++
			}
			r.running, r.reached, r.due = true, false, now+max(every[id], p.Timing.Retry)
			p.start(id, every[id])
		}
	}
	return wait
}

// start starts the refresh of a replica as a job. every is how often the replica is refreshed. The caller holds mu.
func (p *Replicas) start(id uuid.UUID, every time.Duration) {
	p.Jobs.StartAgain(refreshKey(id), func(ctx context.Context, jb *host.Job) error {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		p.mu.Lock()
		p.byDataset[id].stop = stop
		p.mu.Unlock()
		err := p.refresher.Refresh(ctx, jb, id)
		p.mu.Lock()
		defer p.mu.Unlock()
		r := p.byDataset[id]
		r.running = false
		if ctx.Err() == nil { // it was not stopped
			p.recordResult(id, every, err)
		}
		p.Wake()
		return nil
	})
}

// recordResult records the result of a refresh: why it failed, when it is due again, and whether control must be
// notified. If a replica that failed succeeds and its home answered, the other failing replicas of the same home are
// due at once. The caller holds mu.
func (p *Replicas) recordResult(id uuid.UUID, every time.Duration, err error) {
	r, now := p.byDataset[id], p.Clock.Steady()
	if err == nil {
		if r.failures > 0 && r.reached {
			p.retryOthers(id, now)
		}
		r.failure, r.failures = "", 0
		if r.told {
			p.News.Changed(id)
		}
		return
	}
	if r.failures == 0 { // the status has the reasons of the next ones
		p.Log.WithError(err).WithField("dataset", id).Warn("cannot refresh a replica, retrying")
	}
	r.failures++
	r.due = now + backoff(r.failures, every, p.Timing.Retry)
	if r.failures >= reportedFailures {
		r.told = true
		p.News.Changed(id)
	}
	r.failure = dataset.OneLine(err)
}

// retryOthers makes the failing replicas of volumes with the same home due, because that home answers again. The
// caller holds mu.
func (p *Replicas) retryOthers(id uuid.UUID, now time.Duration) {
	home := p.home(id)
	for other, r := range p.byDataset {
		if r.failures > 0 && !r.running && other != id && p.home(other) == home {
			r.due = min(r.due, now)
		}
	}
}

// noteAnswer records that the home has answered the running refresh of a replica. Another failing replica can then be
// refreshed.
func (p *Replicas) noteAnswer(id uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.byDataset[id]; r != nil {
		r.reached = true
		p.Wake()
	}
}

// home returns the home of the volume of a replica, according to the record here; uuid.Nil if there is no record.
func (p *Replicas) home(id uuid.UUID) uuid.UUID {
	if k, kept := p.Cache.Copy(id); kept && k.Record != nil {
		return k.Record.Home
	}
	return uuid.Nil
}

// refreshKey is the key of the job that refreshes a replica.
func refreshKey(id uuid.UUID) string { return "replica/" + id.String() }

// Progress returns the progress of the running refresh of a replica; the zero value if none runs.
func (p *Replicas) Progress(id uuid.UUID) dataset.Progress {
	return p.Jobs.Progress(refreshKey(id))
}

// Stop ends a running refresh of a replica. The data that has arrived stays.
func (p *Replicas) Stop(id uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.byDataset[id]; r != nil && r.stop != nil {
		r.stop()
	}
}

// Copy returns the state of a replica of this node. It returns false while that is not known.
func (p *Replicas) Copy(id uuid.UUID) (dataset.Copy, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.byDataset[id]
	if r == nil || r.copy.Snapshot == uuid.Nil {
		return dataset.Copy{}, false
	}
	return r.copy, true
}

// Status returns what this node reports to control about a replica: its state and, as Copy.Problem, the reason why it
// cannot be refreshed. Until the replica has its first snapshot, Status returns only the problem. Status returns false
// if there is nothing to report. It also returns false while the state of a replica that has a snapshot is not known.
// A report without a snapshot would say that this node has just begun the replica.
func (p *Replicas) Status(id uuid.UUID) (dataset.Copy, bool) {
	k, kept := p.Cache.Copy(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.byDataset[id]
	if !kept || r == nil || r.copy.Snapshot == uuid.Nil && (!r.told || k.Snapshot != uuid.Nil) {
		return dataset.Copy{}, false
	}
	c := r.copy
	if c.Snapshot == uuid.Nil {
		c = dataset.Copy{Dataset: id, Node: k.Node, Pool: k.Pool, Kind: k.Kind}
	}
	if r.failures >= reportedFailures {
		c.Problem = dataset.Cut(r.failure)
	}
	return c, true
}
