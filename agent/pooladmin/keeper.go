package pooladmin

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
)

// Keeper raises the generations of this node's pools, and compares them with those that control knows. Its methods are
// safe for concurrent use.
type Keeper struct {
	*Admin

	mu    sync.Mutex
	asked map[int]bool // the control replicas (index in Leases.Replicas) that have reported the generations
}

// askTime is how long the control replicas may take to answer.
const askTime = 5 * time.Second

// ReportTo reports the generations of pools to one control replica.
func (g *Keeper) ReportTo(ctx context.Context, to api.Service, generations map[uuid.UUID]uint64) error {
	_, err := g.report(ctx, to, generations, true)
	return err
}

// report reports the generations of this node's pools to control, and applies the generations that control returns. If
// transient is true, the replica keeps the report only in memory and does not write it to the store. answered lists the
// pools that the response names.
func (g *Keeper) report(ctx context.Context, to api.Service, generations map[uuid.UUID]uint64,
	transient bool) (answered []uuid.UUID, err error) {
	request := api.Generations{Incarnation: g.Incarnation, Pools: []api.Generation{}, Transient: transient}
	for id, generation := range generations {
		request.Pools = append(request.Pools, api.Generation{Pool: id, Generation: generation})
	}
	response, err := to.Generations(ctx, g.NodeID, request)
	for _, p := range response.Pools {
		answered = append(answered, p.Pool)
		err = errors.Join(err, g.Pools.RecordGeneration(ctx, p.Pool, p.Generation))
	}
	return answered, err
}

// Store has control record the generations of this node's pools.
func (g *Keeper) Store(ctx context.Context) error {
	generations := g.Pools.Generations()
	_, err := g.report(ctx, g.Control, generations, false)
	for id, generation := range generations {
		if err == nil {
			g.Pools.Change(id, func(p *pool.Pool) {
				p.RaiseUnreported = p.RaiseUnreported && p.Generation != generation
			})
		}
	}
	return err
}

// Ask asks every control replica for the generations of this node's pools. all reports whether each replica was asked
// since this agent started, or since a pool was opened late
// (see AnnounceLate). A replica that was asked earlier need not be reachable now: it can have learned a higher
// generation since then only from this agent. Ask fails only if no replica answers.
func (g *Keeper) Ask(ctx context.Context) (all bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	n := len(g.Leases.Replicas)
	is, of, errs := g.Pools.Generations(), make([][]uuid.UUID, n), make([]error, n)
	var wg sync.WaitGroup
	for i, to := range g.Leases.Replicas {
		wg.Go(func() { of[i], errs[i] = g.report(ctx, to, is, true) })
	}
	wg.Wait()
	for i, err := range errs {
		for _, id := range of[i] {
			if err == nil {
				g.Pools.Change(id, func(p *pool.Pool) { p.GenerationKnown = true })
			}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	answered := false
	for i, err := range errs {
		if err == nil {
			g.asked[i], answered = true, true
		}
	}
	if !answered {
		err = errors.Join(errs...)
	}
	return len(g.asked) == n, err
}

// RaiseDue starts a job that raises the generations of the pools that are due. The job has a goroutine for each pool,
// because the disk of a pool may hang.
func (g *Keeper) RaiseDue() {
	for _, id := range g.Uses.InUse() {
		if d, known := g.Cache.Dataset(id); known {
			g.Pools.MarkUsed(d.Pool)
		}
	}
	g.Jobs.Start("generations", func(ctx context.Context, _ *host.Job) error { return g.Raise(ctx) })
}

// Raise raises the generations of the pools that are due, and has control record those that the store must have.
func (g *Keeper) Raise(ctx context.Context) error {
	due := func() (list []*pool.Pool) {
		for _, p := range g.Pools.All() {
			if p.IsDue(g.Clock.Steady()) {
				list = append(list, p)
			}
		}
		return list
	}
	if len(due()) == 0 {
		return g.storeRaised(ctx)
	}
	all, err := g.Ask(ctx)
	if err != nil {
		return err // it is retried; controlsync.Follower logs that control is unreachable
	}
	var work []*host.Job
	for _, p := range due() { // due returns no quarantined pool
		if !all && g.Clock.Steady()-p.RaisedAt < pool.RaiseEvery { // wait for the other replicas: see pool.RaiseEvery
			continue
		}
		g.Pools.Change(p.ID, func(p *pool.Pool) { p.Raising = true })
		work = append(work, g.Jobs.Start("generation/"+p.ID.String(), func(ctx context.Context, _ *host.Job) error {
			g.raiseOne(ctx, p.ID)
			return nil
		}))
	}
	pool.WaitFor(ctx, g.Clock, pool.StartPatience, host.Ends(work)) // a longer raise is recorded by a later call
	return g.storeRaised(ctx)
}

// raiseOne raises the generation of a pool, unless the pool's disk was restored from a backup since its generation was
// last read.
func (g *Keeper) raiseOne(ctx context.Context, id uuid.UUID) {
	_, err := g.Pools.ReadStatus(ctx, id)
	if p := g.Pools.ByID(id); p.CheckServed() != nil {
		err = nil // a later call raises it
	} else if err == nil {
		err = g.Pools.Raise(ctx, p, p.Generation+1)
	}
	if err != nil {
		g.Log.WithError(err).Warn("cannot raise the generation of a pool; a restored disk is detected with the " +
			"last one")
		g.Pools.Change(id, func(p *pool.Pool) { p.RaiseSoon, p.RaisedAt = false, g.Clock.Steady() })
	}
	g.Pools.Change(id, func(p *pool.Pool) { p.Raising = false })
	g.Pools.Suspect(id, err)
	g.News.Soon()
}

// storeRaised has control record the raised generations that the store must have.
func (g *Keeper) storeRaised(ctx context.Context) error {
	if !slices.ContainsFunc(g.Pools.All(), func(p *pool.Pool) bool { return p.RaiseUnreported }) {
		return nil
	}
	return g.Store(ctx)
}

// AnnounceLate reports to control the pools that were opened late, and asks for their generations. After the call these
// pools are served, even if control did not answer: losing control must not stop a container.
//
// A pool is opened late if its disk did not answer in time. A request to a hanging disk may wait for ever, so
// pool.Pools opens each pool in a goroutine. Until the disk answers, the pool is offline, like one whose disk is
// absent.
func (g *Keeper) AnnounceLate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*askTime)
	defer cancel()
	g.mu.Lock()
	clear(g.asked) // no replica was asked about these pools
	g.mu.Unlock()
	err := g.Registration.Register(ctx)
	if err == nil {
		_, err = g.Ask(ctx)
	}
	for _, p := range g.Pools.All() {
		g.Pools.Change(p.ID, func(p *pool.Pool) { p.AwaitsGeneration = false })
	}
	return err
}
