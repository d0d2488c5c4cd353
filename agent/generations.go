package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

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
// back together with what knows better, as with the store of a host that works alone or,
// while control is away, with this node's root.

// raiseEvery is how often a pool that is in use is raised: some flushes of its disk, and one
// write to the store.
const raiseEvery = 10 * time.Minute

// held says why nothing is done in a pool; empty: it is not held.
func (op *openPool) held() string {
	if op.backend == nil || op.generation >= op.rec.Generation {
		return ""
	}
	return fmt.Sprintf("its generation is %d and was %d: its disk was put back to an older state (bring back the newer one, or go on with what it has: drover pool accept %s --confirmed, on node %s)", op.generation, op.rec.Generation, op.Name, op.on)
}

// free fails with ErrOffline while a pool is held.
func (op *openPool) free() error {
	if why := op.held(); why != "" {
		return dataset.Errorf(dataset.ErrOffline, "pool %s is held: %s", op.Name, why)
	}
	return nil
}

// serves fails with ErrOffline while a pool is held, or offline.
func (op *openPool) serves() error {
	if op.backend == nil {
		return offline(op.Name, op.why)
	}
	return op.free()
}

// isDue reports whether a pool is to be raised.
func (op *openPool) isDue(now time.Duration) bool {
	return op.serves() == nil && (op.due || op.used && now-op.raised >= raiseEvery)
}

// change changes what is known of a pool, and says when it is held, or no more.
func (p *pools) change(id uuid.UUID, f func(op *openPool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	op := p.byID[id]
	if op == nil {
		return
	}
	next := *op
	f(&next)
	p.byID[id] = &next
	log, was, is := p.a.Log.WithField("pool", next.Name), op.held(), next.held()
	switch {
	case is != "" && was == "":
		log.Error("pool is held: " + is)
	case is == "" && was != "":
		log.Info("pool is not held any more")
	}
}

// keep changes what is on record of a pool, on disk first.
func (p *pools) keep(ctx context.Context, id uuid.UUID, f func(rec *poolRecord)) error {
	p.recording.Lock()
	defer p.recording.Unlock()
	p.mu.RLock()
	op := p.byID[id]
	p.mu.RUnlock()
	rec := op.rec
	f(&rec)
	if err := p.a.state.put(ctx, map[string]any{"pools/" + op.Name: rec}); err != nil {
		return fmt.Errorf("pool %s: %w", op.Name, err)
	}
	p.change(id, func(op *openPool) { op.rec = rec })
	return nil
}

// touched says that something in a pool is another than it was; home: that a home came to
// it, and so it is to be raised soon.
func (p *pools) touched(id uuid.UUID, home bool) {
	p.change(id, func(op *openPool) { op.used, op.due = true, op.due || home })
}

// look reads the generation of a pool again, whose disk may have been put back while nothing
// was mounted from it, and returns what is known of it now.
func (p *pools) look(op *openPool) *openPool {
	if g, err := op.backend.Generation(); err == nil && g != op.generation { // otherwise its status says so
		p.change(op.ID, func(now *openPool) {
			if now.generation == op.generation { // otherwise it was raised meanwhile
				now.generation = g
			}
		})
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byID[op.ID]
}

// wasOf takes in of which generation a pool was at most.
func (p *pools) wasOf(ctx context.Context, id uuid.UUID, generation uint64) error {
	p.mu.RLock()
	op := p.byID[id]
	p.mu.RUnlock()
	if op == nil || op.rec.Generation >= generation {
		return nil
	}
	return p.keep(ctx, id, func(rec *poolRecord) { rec.Generation = max(rec.Generation, generation) })
}

// raise has a pool be of a later generation: in the pool first.
func (p *pools) raise(ctx context.Context, op *openPool, to uint64) error {
	if err := op.backend.Raise(to); err != nil {
		return ofPool(op.Name, err)
	}
	p.change(op.ID, func(op *openPool) {
		op.generation, op.raised, op.due, op.used = max(op.generation, to), p.a.Clock.Steady(), false, false
	})
	return p.wasOf(ctx, op.ID, to)
}

// compareGenerations tells control of which generation this node's pools are, and takes in
// of which they were. It reports whether control keeps them, which one of an older version
// does not.
func (a *Agent) compareGenerations(ctx context.Context) (kept bool, err error) {
	told := api.Generations{Incarnation: a.incarnation, Pools: []api.Generation{}}
	for _, op := range a.pools.all() {
		if op.backend != nil {
			told.Pools = append(told.Pools, api.Generation{Pool: op.ID, Generation: op.generation})
		}
	}
	was, err := a.Control.Generations(ctx, a.node, told)
	if errors.Is(err, dataset.ErrInvalid) {
		return false, nil
	}
	for _, g := range was.Pools {
		err = errors.Join(err, a.pools.wasOf(ctx, g.Pool, g.Generation))
	}
	return err == nil, err
}

// raisePools raises the pools that are due, as a job of its own: a disk may hang.
func (a *Agent) raisePools() {
	for _, id := range a.mountedIDs() {
		if d, known := a.cache.dataset(id); known {
			a.pools.touched(d.Pool, false)
		}
	}
	a.jobs.start("generations", func(ctx context.Context, _ *job) error { return a.raiseDue(ctx) })
}

func (a *Agent) raiseDue(ctx context.Context) error {
	due := func() (list []*openPool) {
		for _, op := range a.pools.all() {
			if op.isDue(a.Clock.Steady()) {
				list = append(list, op)
			}
		}
		return list
	}
	if len(due()) == 0 {
		return nil
	}
	kept, err := a.compareGenerations(ctx)
	if err != nil || !kept {
		return err // it is tried again; that control is away follow says
	}
	for _, op := range due() { // none of which is held
		if err := a.pools.raise(ctx, op, op.generation+1); err != nil {
			a.Log.WithError(err).Warn("pool was not raised to a later generation: whether its disk is put back is known by the last one")
			a.pools.change(op.ID, func(op *openPool) { op.due, op.raised = false, a.Clock.Steady() })
		}
	}
	_, err = a.compareGenerations(ctx)
	return err
}

// AcceptPool has a pool that is held serve with what it has, on a person's word. Not held:
// nothing to do. ErrInvalid without that word, or for a pool that is not here.
func (a *Agent) AcceptPool(ctx context.Context, in api.AcceptPool) (dataset.Pool, error) {
	unlock, err := a.lockPools(ctx, "accepting of pool "+in.Pool)
	if err != nil {
		return dataset.Pool{}, err
	}
	defer unlock()
	op, known := a.pools.byName(in.Pool)
	switch {
	case !known:
		return dataset.Pool{}, dataset.Errorf(dataset.ErrInvalid, "unknown pool %q: it is not one of this node's (drover pool ls)", dataset.Clip(in.Pool))
	case op.backend == nil:
		return dataset.Pool{}, op.serves()
	case op.held() == "":
		return op.Pool, nil
	case !in.Confirmed:
		return dataset.Pool{}, dataset.Errorf(dataset.ErrInvalid, "pool %s: what was written to it since it was as it is now is lost when it is accepted (say --confirmed)", op.Name)
	}
	a.Log.WithField("pool", op.Name).Warnf("pool is accepted as it is, by word: %s", op.held())
	if err := a.pools.raise(ctx, op, op.rec.Generation+1); err != nil {
		return dataset.Pool{}, err
	}
	defer a.tellSoon()
	a.noteAll()
	a.copies()
	a.purgeCondemned()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel() // it is accepted, and control is to know that whoever still waits
	_, err = a.compareGenerations(ctx)
	return op.Pool, err
}
