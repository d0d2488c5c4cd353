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

// syncWait is how long one question for changes stays open.
const syncWait = 25 * time.Second

// follow takes in what control says of this node until the agent stops: level
// by level, so that what was missed is seen the next time.
func (a *Agent) follow(rev uint64) {
	joined := rev != 0
	for a.ctx.Err() == nil {
		var err error
		if !joined {
			rev, err = a.join(a.ctx)
		} else {
			var s api.Sync
			if s, err = a.Control.Sync(a.ctx, a.node, rev, syncWait); err == nil {
				rev, err = s.Rev, a.take(a.ctx, s)
			}
		}
		if err == nil {
			joined = true
			continue
		}
		if a.ctx.Err() != nil {
			return
		}
		a.Log.WithError(err).Warn("control does not answer; what is here goes on")
		joined = false
		select {
		case <-a.ctx.Done():
		case <-a.Clock.After(a.Limits.Retry):
		}
	}
}

// take takes in one answer.
func (a *Agent) take(ctx context.Context, s api.Sync) error {
	strange, err := a.meet(ctx, s.Cluster)
	if err != nil {
		return err
	}
	if s.Full && !strange {
		a.forgetOthers(s)
	}
	var changed []api.Indexed
	for _, d := range s.Datasets {
		if a.cache.apply(d.Dataset, d.Index) || d.State == dataset.StatePurging {
			changed = append(changed, d)
		}
	}
	for _, id := range s.Removed {
		a.cache.remove(id)
	}
	// Before there is work on the same datasets: the backend does not look at
	// what is in use.
	if s.Full && !strange {
		if err := a.resolveIncoming(ctx); err != nil {
			return err
		}
	}
	for _, d := range changed {
		a.converge(d)
	}
	if s.Full {
		for _, d := range s.Datasets {
			a.changed(d.ID) // what control heard from us may be gone with its process
		}
	}
	for _, op := range s.Operations {
		a.resume(op)
	}
	a.stopCancelled(ctx, s.Operations)
	return nil
}

// meet compares the identity of control's store with the one that this agent
// worked with before. Another one, as after the loss of the store, knows nothing of what
// lies in the pools: nothing is destroyed then.
func (a *Agent) meet(ctx context.Context, cluster uuid.UUID) (strange bool, err error) {
	a.mu.Lock()
	was := a.cluster
	a.mu.Unlock()
	if was == cluster {
		return false, nil
	}
	if was != uuid.Nil {
		a.Log.Warn("control has another store than before: nothing in the pools is touched (drover store rebuild brings the volumes back)")
		return true, nil
	}
	if err := a.state.put(ctx, map[string]any{"identity": nodeIdentity{Node: a.node, Cluster: cluster}}); err != nil {
		return false, err
	}
	a.mu.Lock()
	a.cluster = cluster
	a.mu.Unlock()
	return false, nil
}

// accept takes the identity of a store that was rebuilt from this node's pools.
func (a *Agent) accept(ctx context.Context) error {
	s, err := a.Control.Sync(ctx, a.node, 0, 0)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.cluster = uuid.Nil
	a.mu.Unlock()
	return a.take(ctx, s)
}

// forgetOthers drops what a full answer does not name.
func (a *Agent) forgetOthers(s api.Sync) {
	named := map[uuid.UUID]bool{}
	for _, d := range s.Datasets {
		named[d.ID] = true
	}
	for _, id := range a.cache.ids() {
		if !named[id] {
			a.cache.remove(id)
		}
	}
}

// converge acts on a record that changed: the copy beside the data follows, and
// a condemned dataset is destroyed.
func (a *Agent) converge(d api.Indexed) {
	if d.Home != a.node {
		return
	}
	a.changed(d.ID)
	if d.State == dataset.StatePurging {
		a.purgeLater(d.Dataset)
		return
	}
	a.mu.Lock()
	r := a.running[d.Request]
	a.mu.Unlock()
	if r != nil && r.notes {
		return
	}
	// A job for each change: one that runs may have looked before this one came.
	a.jobs.start(fmt.Sprintf("note/%s/%d", d.ID, d.Index), func(ctx context.Context, _ *job) error {
		unlock, err := a.locks.lock(ctx, d.ID, "update of volume "+d.Volume)
		if err != nil {
			return err
		}
		defer unlock()
		now, known := a.cache.dataset(d.ID)
		pool, err := a.pools.get(now.Pool)
		if !known || err != nil || now.State == dataset.StatePurging {
			return nil // gone; or noted when the pool is back: every full answer comes here
		}
		if err := a.note(ctx, pool, now); err != nil && !errors.Is(err, dataset.ErrNotFound) {
			a.log(now).WithError(err).Warn("the record beside the data was not written")
		}
		return nil
	})
}

// resume carries out an operation on record, unless that is under way.
func (a *Agent) resume(op dataset.Operation) {
	a.mu.Lock()
	r := a.running[op.ID]
	if r != nil {
		r.recorded = true
	}
	a.mu.Unlock()
	if r == nil {
		op.State = dataset.OpRunning
		a.background("op/"+op.ID.String(), op)
	}
}

// stopCancelled stops the operations that control has cancelled: on record, and
// no longer among those that are not final.
func (a *Agent) stopCancelled(ctx context.Context, open []dataset.Operation) {
	still := map[uuid.UUID]bool{}
	for _, op := range open {
		still[op.ID] = true
	}
	a.mu.Lock()
	var gone []uuid.UUID
	for id, r := range a.running {
		if r.recorded && !still[id] {
			gone = append(gone, id)
		}
	}
	a.mu.Unlock()
	for _, id := range gone {
		op, known := a.known(ctx, id)
		if !known || op.State != dataset.OpCancelled {
			continue // it ended by itself
		}
		a.mu.Lock()
		if r := a.running[id]; r != nil {
			r.cancel()
		}
		a.mu.Unlock()
	}
}
