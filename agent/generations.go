package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A disk can be restored from an older backup without the agent noticing, as when a virtual machine is rolled
// back. What was recorded about it since is then missing, and a volume would silently have its old content.
// So each pool has a generation: a counter that its node raises first in the pool itself, and then reports to
// control. A pool with an older generation than was ever reported is quarantined: nothing in it is mounted,
// made, moved, promoted or destroyed until the newer disk is back, or a person accepts what is there (drover
// pool accept).
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
// container. If that database was restored too, nobody can say so, and the host may write to a volume that has moved on
// since, at its old epoch; once control is back the pool is quarantined. So whatever costs no container waits for
// control: other nodes get nothing from a pool that no replica was asked about since it was opened (see given).

// errNotKept says that a control replica has a version that does not keep generations.
var errNotKept = errors.New("control keeps no generations")

// tellGenerations reports the generations of this node's pools to control, and applies the generations that
// control returns. passing says that the store need not have them. errNotKept.
func (a *Agent) tellGenerations(ctx context.Context, to api.Service, is map[uuid.UUID]uint64,
	passing bool) (of []uuid.UUID, err error) {
	told := api.Generations{Incarnation: a.Incarnation, Pools: []api.Generation{}, Passing: passing}
	for id, generation := range is {
		told.Pools = append(told.Pools, api.Generation{Pool: id, Generation: generation})
	}
	was, err := to.Generations(ctx, a.NodeID, told)
	if passing && errors.Is(err, dataset.ErrInvalid) { // an older version writes everything that is reported
		told.Passing = false
		was, err = to.Generations(ctx, a.NodeID, told)
	}
	if errors.Is(err, dataset.ErrInvalid) {
		return slices.Collect(maps.Keys(is)), errNotKept // it knows no other
	}
	for _, g := range was.Pools {
		of = append(of, g.Pool)
		err = errors.Join(err, a.pools.WasOf(ctx, g.Pool, g.Generation))
	}
	return of, err
}

// storeGenerations has control record the generations of this node's pools.
func (a *Agent) storeGenerations(ctx context.Context) error {
	is := a.pools.Generations()
	_, err := a.tellGenerations(ctx, a.Control, is, false)
	if errors.Is(err, errNotKept) {
		return nil
	}
	for id, generation := range is {
		if err == nil {
			a.pools.Change(id, func(op *pool.Pool) { op.Unstored = op.Unstored && op.Generation != generation })
		}
	}
	return err
}

// askGenerations asks every control replica for the generations of this node's pools. It reports whether any of
// them keeps generations, and whether each was asked since this agent started: an unreachable one has what it
// knows from this agent then.
func (a *Agent) askGenerations(ctx context.Context) (kept, all bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, controlsync.ReportTime)
	defer cancel()
	is, of, errs := a.pools.Generations(), make([][]uuid.UUID, len(a.apart)), make([]error, len(a.apart))
	var wg sync.WaitGroup
	for i, to := range a.apart {
		wg.Go(func() { of[i], errs[i] = a.tellGenerations(ctx, to, is, true) })
	}
	wg.Wait()
	for i, err := range errs {
		for _, id := range of[i] {
			if err == nil || errors.Is(err, errNotKept) {
				a.pools.Change(id, func(op *pool.Pool) { op.Heard = true })
			}
		}
	}
	old := 0
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, err := range errs {
		switch {
		case err == nil:
			kept = true
		case errors.Is(err, errNotKept):
			old++
		default:
			continue
		}
		a.asked[i] = true
	}
	if !kept && old == 0 {
		err = errors.Join(errs...)
	}
	return kept, len(a.asked) == len(a.apart), err
}

// raisePools raises the pools that are due, as a job, with one goroutine for each pool: the disk of one may hang.
func (a *Agent) raisePools() {
	for _, id := range a.uses.InUse() {
		if d, known := a.Cache.Dataset(id); known {
			a.pools.Touched(d.Pool)
		}
	}
	a.Jobs.Start("generations", func(ctx context.Context, _ *jobs.Job) error { return a.raiseDue(ctx) })
}

func (a *Agent) raiseDue(ctx context.Context) error {
	due := func() (list []*pool.Pool) {
		for _, op := range a.pools.All() {
			if op.IsDue(a.Clock.Steady()) {
				list = append(list, op)
			}
		}
		return list
	}
	if len(due()) == 0 {
		return a.storeRaised(ctx)
	}
	kept, all, err := a.askGenerations(ctx)
	if err != nil || !kept {
		return err // it is retried; follow reports that control is unreachable
	}
	var work []*jobs.Job
	for _, op := range due() { // none of them is quarantined
		if !all && a.Clock.Steady()-op.RaisedAt < pool.RaiseEvery {
			continue
		}
		a.pools.Change(op.ID, func(op *pool.Pool) { op.Raising = true })
		work = append(work, a.Jobs.Start("generation/"+op.ID.String(), func(ctx context.Context, _ *jobs.Job) error {
			a.raiseOne(ctx, op.ID)
			return nil
		}))
	}
	pool.WaitFor(ctx, a.Clock, pool.StartPatience, jobs.Ends(work)) // later ones are recorded then
	return a.storeRaised(ctx)
}

// raiseOne raises a pool, unless its disk was restored from a backup since its generation was last read.
func (a *Agent) raiseOne(ctx context.Context, id uuid.UUID) {
	_, err := a.pools.See(ctx, id)
	if op := a.pools.One(id); op.Serves() != nil {
		err = nil // it stays due
	} else if err == nil {
		err = a.pools.Raise(ctx, op, op.Generation+1)
	}
	if err != nil {
		a.Log.WithError(err).Warn("pool was not raised to a later generation: whether its disk is put back " +
			"is known by the last one")
		a.pools.Change(id, func(op *pool.Pool) { op.Due, op.RaisedAt = false, a.Clock.Steady() })
	}
	a.pools.Change(id, func(op *pool.Pool) { op.Raising = false })
	a.pools.Suspect(id, err)
	a.News.Soon()
}

// storeRaised has control record the raised generations that belong into the store.
func (a *Agent) storeRaised(ctx context.Context) error {
	if !slices.ContainsFunc(a.pools.All(), func(op *pool.Pool) bool { return op.Unstored }) {
		return nil
	}
	return a.storeGenerations(ctx)
}

// unheard is by how many generations an accepted pool is raised while not every control replica can be asked: an
// unreachable one may remember later generations, and would have the pool quarantined again. At ten minutes each,
// that many generations take twenty years.
const unheard = 1 << 20

// AcceptPool makes a quarantined pool serve with what it has, if a person confirms that. dataset.ErrConflict for
// a pool that is not quarantined, ErrInvalid without the confirmation, or for a pool that is not on this node.
func (a *Agent) AcceptPool(ctx context.Context, in api.AcceptPool) (dataset.Pool, error) {
	unlock, err := a.lockPools(ctx, "accepting of pool "+in.Pool)
	if err != nil {
		return dataset.Pool{}, err
	}
	defer unlock()
	op, known := a.pools.ByName(in.Pool)
	switch {
	case !known:
		return dataset.Pool{}, dataset.Errorf(dataset.ErrInvalid,
			"unknown pool %q: it is not one of this node's (drover pool ls)", dataset.Clip(in.Pool))
	case op.Record.Leaving != pool.Staying || op.Storage == nil || op.Hung != "":
		return dataset.Pool{}, op.Serves()
	case op.Held() == "":
		return dataset.Pool{}, dataset.Errorf(dataset.ErrConflict,
			"pool %s is not held on node %s: there is nothing to accept (drover pool ls says which is, and "+
				"on which node)", op.Name, a.NodeName)
	case !in.Confirmed:
		return dataset.Pool{}, dataset.Errorf(dataset.ErrInvalid,
			"pool %s: what was written to it since it was as it is now is lost when it is accepted (say "+
				"--confirmed)", op.Name)
	}
	_, all, err := a.askGenerations(ctx)
	op, _ = a.pools.ByName(in.Pool) // above everything that anybody knows
	to := op.Record.Generation + 1
	if err != nil || !all {
		to += unheard
	}
	a.Log.WithField("pool", op.Name).Warnf("pool is accepted as it is, by word: %s", op.Held())
	a.pools.Changed(op.ID, true)
	if err := a.pools.Raise(ctx, op, to); err != nil {
		return dataset.Pool{}, err
	}
	defer a.News.Soon()
	a.recordFiles.WriteAll()
	a.copies.SettleAll()
	a.executor.PurgeAll()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel() // the pool is accepted, and control must learn of it even if the caller no longer waits
	return op.Pool, a.storeGenerations(ctx)
}
