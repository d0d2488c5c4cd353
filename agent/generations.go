package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A disk can be put back to an older state under us, as with a virtual machine that is
// rolled back: what is on record of it is then not there any more, and a volume that was
// written to would silently be what it was before. So each pool carries its generation, a
// counter that its node raises in the pool itself, and only then tells control of. A pool of
// an older generation than was ever told of is held: nothing in it is mounted, made, moved,
// promoted or destroyed until the newer disk is back, or a person accepts what is there
// (drover pool accept).
//
// It is raised once control has said that it knows of no higher one, so that a pool which
// was put back does not catch up: at a start, when a home comes to the pool, and each
// raiseEvery while something in it is in use or was changed. A disk that is put back to its
// state since the last of these cannot be told from one that was not; nor one that is put
// back together with all that knows better.
//
// What knows is this node's own record, the store, and the memory of every control replica.
// A volume that stays in use for days is no change that the store is to be written for: so
// that hears of the generation at each registration, of the raise at a start and when a home
// came, and of the first one after something on record changed or a volume that lay idle was
// mounted. All others are told to the replicas alone, to each, and again to one that was
// started anew. One that is away is asked when it is back, and a pool is held then.
//
// A host that starts while control is away mounts what is its own by its own record: losing
// control stops no container. When that was put back as well nobody is there to say so, and it
// may write to a volume that has moved on since, at the epoch that it had: once control is back
// the pool is held. So what costs no container waits for control: of a pool that nobody was
// asked about since it was opened other nodes are given nothing (see given).

// errNotKept says that a control replica is of a version that keeps no generations.
var errNotKept = errors.New("control keeps no generations")

// tellGenerations tells control of which generation this node's pools are, and takes in of
// which those were that it returns; in passing: the store need not have it. errNotKept.
func (a *Agent) tellGenerations(ctx context.Context, to api.Service, is map[uuid.UUID]uint64,
	passing bool) (of []uuid.UUID, err error) {
	told := api.Generations{Incarnation: a.Incarnation, Pools: []api.Generation{}, Passing: passing}
	for id, generation := range is {
		told.Pools = append(told.Pools, api.Generation{Pool: id, Generation: generation})
	}
	was, err := to.Generations(ctx, a.NodeID, told)
	if passing && errors.Is(err, dataset.ErrInvalid) { // an older one writes all that it is told
		told.Passing = false
		was, err = to.Generations(ctx, a.NodeID, told)
	}
	if errors.Is(err, dataset.ErrInvalid) {
		return slices.Collect(maps.Keys(is)), errNotKept // it knows of no other
	}
	for _, g := range was.Pools {
		of = append(of, g.Pool)
		err = errors.Join(err, a.pools.WasOf(ctx, g.Pool, g.Generation))
	}
	return of, err
}

// storeGenerations has control put on record of which generation this node's pools are.
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

// askGenerations asks every control replica of which generation this node's pools were. It
// reports whether any keeps them, and whether each was asked since this agent started: what
// one that is away knows it then has from this agent.
func (a *Agent) askGenerations(ctx context.Context) (kept, all bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
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

// raisePools raises the pools that are due, as a job of its own, and one a pool: the disk of
// one may hang.
func (a *Agent) raisePools() {
	for _, id := range a.mountedIDs() {
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
		return err // it is tried again; that control is away follow says
	}
	var work []*jobs.Job
	for _, op := range due() { // none of which is held
		if !all && a.Clock.Steady()-op.RaisedAt < pool.RaiseEvery {
			continue
		}
		a.pools.Change(op.ID, func(op *pool.Pool) { op.Raising = true })
		work = append(work, a.Jobs.Start("generation/"+op.ID.String(), func(ctx context.Context, _ *jobs.Job) error {
			a.raiseOne(ctx, op.ID)
			return nil
		}))
	}
	pool.WaitFor(ctx, a.Clock, pool.StartPatience, ends(work)) // what comes later is stored then
	return a.storeRaised(ctx)
}

// raiseOne raises a pool, unless its disk was put back since its generation was read last.
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

// storeRaised has what the store is to hear of put on record.
func (a *Agent) storeRaised(ctx context.Context) error {
	if !slices.ContainsFunc(a.pools.All(), func(op *pool.Pool) bool { return op.Unstored }) {
		return nil
	}
	return a.storeGenerations(ctx)
}

// unheard is how many generations more a pool is raised that is accepted while not every replica
// of control can be asked: one that is away may remember later ones, and would have it held again.
// In so many, ten minutes each, go twenty years.
const unheard = 1 << 20

// AcceptPool has a pool that is held serve with what it has, on a person's word. ErrConflict
// for one that is not held, ErrInvalid without that word, or for a pool that is not here.
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
	op, _ = a.pools.ByName(in.Pool) // it is to be above all that anybody knows
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
	a.noteAll()
	a.copies.SettleAll()
	a.purgeCondemned()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel() // it is accepted, and control is to know that whoever still waits
	return op.Pool, a.storeGenerations(ctx)
}
