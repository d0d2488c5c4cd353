// Package generation keeps the generations of pools, which show whether a pool's disk was restored from a backup.
package generation

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Deps are the dependencies of Keeper.
type Deps struct {
	*host.Host
	Replicas []api.Service // each control replica separately
	Pools    *pool.Pools
	Prober   *pool.Prober
	Uses     *mounting.UseTable
	// Register has control record this node and its pools.
	Register func(ctx context.Context, gone ...uuid.UUID) error
}

// Keeper raises the generations of this node's pools, and compares them with those that control knows. Its methods are
// safe for concurrent use.
type Keeper struct {
	Deps

	mu    sync.Mutex
	asked map[int]bool // the control replicas (index in Replicas) that have reported the generations
}

// New returns a Keeper that has asked no replica yet.
func New(deps Deps) *Keeper { return &Keeper{Deps: deps, asked: map[int]bool{}} }

// askTime is how long the control replicas may take to answer.
const askTime = 5 * time.Second

// ReportTo reports the generations of pools to one control replica. It returns nil for a replica of a version that
// keeps none.
func (g *Keeper) ReportTo(ctx context.Context, to api.Service, is map[uuid.UUID]uint64) error {
	if _, err := g.report(ctx, to, is, true); !errors.Is(err, errNotKept) {
		return err
	}
	return nil
}

// A disk can be restored from an older backup without the agent noticing, as when a virtual machine is rolled
// back. Later writes are then missing, and a volume would silently have its old content.
// So each pool has a generation: a counter that its node raises first in the pool itself, and then reports to
// control. A pool with an older generation than was ever reported is quarantined: nothing in it is mounted,
// made, moved, promoted or destroyed until the newer disk is back, or a person accepts the present content
// (drover pool accept).
//
// The generation is raised once control has confirmed that it knows no higher one, so that a restored pool does not
// catch up: at a start, when a dataset gets its home in the pool, and each RaiseEvery while something in it
// is in use or was changed. A disk that is restored to its state since the last raise cannot be recognised;
// nor one that is restored together with everything that knows better.
//
// The generations are known to this node's own database, the store, and the memory of every control replica. The store
// must not be written again and again for a volume that is in use for days. So the store gets the generation at each
// registration, at the raise of a start and of a new home, and at the first raise after a recorded change or after an
// idle volume was mounted. All other raises are reported only to the replicas, to each, and again to one that was
// restarted. A replica that is unreachable is asked when it is back, and the pool is quarantined then.
//
// A host that starts while control is unreachable mounts its own volumes by its own database: losing control stops no
// container. If that database was restored too, it is unknown, and the host may write to a volume that has moved on
// since, at its old epoch; once control is back the pool is quarantined. So whatever costs no container waits for
// control: other nodes get nothing from a pool that no replica was asked about since it was opened (see given).

// errNotKept says that a control replica has a version that does not keep generations.
var errNotKept = errors.New("control keeps no generations")

// report reports the generations of this node's pools to control, and applies the generations that
// control returns. passing says that the store need not have them. errNotKept.
func (g *Keeper) report(ctx context.Context, to api.Service, is map[uuid.UUID]uint64,
	passing bool) (of []uuid.UUID, err error) {
	told := api.Generations{Incarnation: g.Incarnation, Pools: []api.Generation{}, Passing: passing}
	for id, generation := range is {
		told.Pools = append(told.Pools, api.Generation{Pool: id, Generation: generation})
	}
	was, err := to.Generations(ctx, g.NodeID, told)
	if passing && errors.Is(err, dataset.ErrInvalid) { // an older version writes everything that is reported
		told.Passing = false
		was, err = to.Generations(ctx, g.NodeID, told)
	}
	if errors.Is(err, dataset.ErrInvalid) {
		return slices.Collect(maps.Keys(is)), errNotKept // it knows no other
	}
	for _, p := range was.Pools {
		of = append(of, p.Pool)
		err = errors.Join(err, g.Pools.WasOf(ctx, p.Pool, p.Generation))
	}
	return of, err
}

// Store has control record the generations of this node's pools.
func (g *Keeper) Store(ctx context.Context) error {
	is := g.Pools.Generations()
	_, err := g.report(ctx, g.Control, is, false)
	if errors.Is(err, errNotKept) {
		return nil
	}
	for id, generation := range is {
		if err == nil {
			g.Pools.Change(id, func(op *pool.Pool) { op.Unstored = op.Unstored && op.Generation != generation })
		}
	}
	return err
}

// Ask asks every control replica for the generations of this node's pools. It reports whether any of
// them keeps generations, and whether each was asked since this agent started: an unreachable one has its
// knowledge from this agent then.
func (g *Keeper) Ask(ctx context.Context) (kept, all bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	is, of, errs := g.Pools.Generations(), make([][]uuid.UUID, len(g.Replicas)), make([]error, len(g.Replicas))
	var wg sync.WaitGroup
	for i, to := range g.Replicas {
		wg.Go(func() { of[i], errs[i] = g.report(ctx, to, is, true) })
	}
	wg.Wait()
	for i, err := range errs {
		for _, id := range of[i] {
			if err == nil || errors.Is(err, errNotKept) {
				g.Pools.Change(id, func(op *pool.Pool) { op.Heard = true })
			}
		}
	}
	old := 0
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, err := range errs {
		switch {
		case err == nil:
			kept = true
		case errors.Is(err, errNotKept):
			old++
		default:
			continue
		}
		g.asked[i] = true
	}
	if !kept && old == 0 {
		err = errors.Join(errs...)
	}
	return kept, len(g.asked) == len(g.Replicas), err
}

// RaiseDue raises the pools that are due, as a job, with one goroutine for each pool: the disk of one may hang.
func (g *Keeper) RaiseDue() {
	for _, id := range g.Uses.InUse() {
		if d, known := g.Cache.Dataset(id); known {
			g.Pools.Touched(d.Pool)
		}
	}
	g.Jobs.Start("generations", func(ctx context.Context, _ *jobs.Job) error { return g.Raise(ctx) })
}

// Raise raises the pools that are due, and has control record what belongs into the store.
func (g *Keeper) Raise(ctx context.Context) error {
	due := func() (list []*pool.Pool) {
		for _, op := range g.Pools.All() {
			if op.IsDue(g.Clock.Steady()) {
				list = append(list, op)
			}
		}
		return list
	}
	if len(due()) == 0 {
		return g.storeRaised(ctx)
	}
	kept, all, err := g.Ask(ctx)
	if err != nil || !kept {
		return err // it is retried; follow reports that control is unreachable
	}
	var work []*jobs.Job
	for _, op := range due() { // none of them is quarantined
		if !all && g.Clock.Steady()-op.RaisedAt < pool.RaiseEvery {
			continue
		}
		g.Pools.Change(op.ID, func(op *pool.Pool) { op.Raising = true })
		work = append(work, g.Jobs.Start("generation/"+op.ID.String(), func(ctx context.Context, _ *jobs.Job) error {
			g.raiseOne(ctx, op.ID)
			return nil
		}))
	}
	pool.WaitFor(ctx, g.Clock, pool.StartPatience, jobs.Ends(work)) // later ones are recorded then
	return g.storeRaised(ctx)
}

// raiseOne raises a pool, unless its disk was restored from a backup since its generation was last read.
func (g *Keeper) raiseOne(ctx context.Context, id uuid.UUID) {
	_, err := g.Pools.See(ctx, id)
	if op := g.Pools.One(id); op.Serves() != nil {
		err = nil // it stays due
	} else if err == nil {
		err = g.Pools.Raise(ctx, op, op.Generation+1)
	}
	if err != nil {
		g.Log.WithError(err).Warn("pool was not raised to a later generation: whether its disk is put back " +
			"is known by the last one")
		g.Pools.Change(id, func(op *pool.Pool) { op.Due, op.RaisedAt = false, g.Clock.Steady() })
	}
	g.Pools.Change(id, func(op *pool.Pool) { op.Raising = false })
	g.Prober.Suspect(id, err)
	g.News.Soon()
}

// storeRaised has control record the raised generations that belong into the store.
func (g *Keeper) storeRaised(ctx context.Context) error {
	if !slices.ContainsFunc(g.Pools.All(), func(op *pool.Pool) bool { return op.Unstored }) {
		return nil
	}
	return g.Store(ctx)
}

// A request to a hanging disk may wait for ever. So pools are opened beside other work. A pool that does not
// answer in time is offline, like one whose disk is absent, and is used when it answers.

// AnnounceLate reports to control the pools that were opened late, and asks for their generations. They serve
// after that with every answer: an unreachable control stops no container.
func (g *Keeper) AnnounceLate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*askTime)
	defer cancel()
	g.mu.Lock()
	clear(g.asked) // no replica was asked about these pools
	g.mu.Unlock()
	err := g.Register(ctx)
	if err == nil {
		_, _, err = g.Ask(ctx)
	}
	for _, op := range g.Pools.All() {
		g.Pools.Change(op.ID, func(op *pool.Pool) { op.Late = false })
	}
	return err
}
