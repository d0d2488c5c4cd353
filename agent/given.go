package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// givenKept is how many of the snapshots that a node was given are kept for it: the last
// one may not be there yet, and is a difference to the one before, of which a part may be.
const givenKept = 2

// handed is what other nodes were given of the datasets of this one, since this agent began:
// a snapshot that was taken for another node, or for all, does not say so itself.
type handed struct {
	mu sync.Mutex
	of map[uuid.UUID]map[uuid.UUID]given // by dataset and node
}

type given struct {
	had   uuid.UUID     // the newest that the node had when it asked last; nil: none
	last  []uuid.UUID   // at most givenKept since then, the newest at the end
	asked time.Duration // when that was, by the steady clock
	moves bool          // it had no copy on record then
}

// note takes in what a node had of an entry's snapshots as it asked, and what it was given. Of
// those that it was given since what it had, it is the first of which a part may have come.
func (h *handed) note(d dataset.Dataset, e backends.Entry, node uuid.UUID, had, snapshot dataset.Snapshot, now time.Duration) {
	var last []uuid.UUID
	before, _ := h.to(node, d.ID, e)
	for _, s := range before {
		if s.ID != snapshot.ID && (had.ID == uuid.Nil || s.At().Compare(had.At()) > 0) {
			last = append(last, s.ID)
		}
	}
	last = append(last[:min(len(last), givenKept-1)], snapshot.ID)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil {
		h.of = map[uuid.UUID]map[uuid.UUID]given{}
	}
	if h.of[d.ID] == nil {
		h.of[d.ID] = map[uuid.UUID]given{}
	}
	h.of[d.ID][node] = given{had.ID, last, now, !slices.Contains(d.Copies, node)}
}

// forget takes in that a dataset is not this node's any more.
func (h *handed) forget(ds uuid.UUID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.of, ds)
}

// forgetGiven forgets what other nodes were given of a dataset that is not this node's any more.
func (a *Agent) forgetGiven(ds uuid.UUID) {
	a.handed.forget(ds)
	a.sender.Forget(ds)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.movers, ds)
	delete(a.bases, ds)
}

// others returns the nodes without a copy on record that have something of a dataset all the
// same: a move brought it, and another try goes on from there. It forgets the rest.
func (h *handed) others(ds uuid.UUID, copies []uuid.UUID, now time.Duration) (nodes []uuid.UUID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for node, g := range h.of[ds] {
		switch {
		case slices.Contains(copies, node):
		case g.moves && now-g.asked < replication.KeepFailed:
			nodes = append(nodes, node)
		default:
			delete(h.of[ds], node)
		}
	}
	return nodes
}

// to returns those of an entry's snapshots that a node had when it asked last, or was given
// since. What an agent before this one gave is known by whom it was taken for alone; that is
// not certain then.
func (h *handed) to(node, ds uuid.UUID, e backends.Entry) (all []dataset.Snapshot, certain bool) {
	h.mu.Lock()
	g := h.of[ds][node]
	h.mu.Unlock()
	for _, s := range e.Snapshots {
		if s.ID == g.had || slices.Contains(g.last, s.ID) {
			all = append(all, s)
		}
	}
	certain = len(all) > 0
	if !certain {
		for _, s := range e.Snapshots {
			if lineage.IsTransfer(s) && !lineage.IsShared(s) && s.Request == node {
				all = append(all, s)
			}
		}
	}
	slices.SortFunc(all, func(x, y dataset.Snapshot) int { return x.At().Compare(y.At()) })
	if !certain {
		all = all[max(0, len(all)-givenKept):]
	}
	return all, certain
}

// prune removes the snapshots for other nodes that none needs any more: but for the
// newest, those that copies on record have or rest on, or have in common, and what each node
// was given last that has a copy or is to have one; none where no head is that has what they
// have. The dataset's lock is held.
func (a *Agent) prune(ctx context.Context, pool backends.Pool, d dataset.Dataset) error {
	e, err := pool.Stat(ctx, d.ID)
	if err != nil {
		return err
	}
	if e.State == backends.EntryCopy && !e.Promoted {
		return nil // the home on record, and without a head: what lies here may be the last of it
	}
	if _, any := lineage.Newest(e, lineage.IsTransfer); !any {
		return nil
	}
	v, err := a.Control.Volume(ctx, d.ID.String())
	if err != nil {
		return nil // another time
	}
	needed := lineage.NeededBy(e, v)
	nodes := append(slices.Clone(v.Copies), a.handed.others(d.ID, v.Copies, a.Clock.Steady())...)
	if v.Move != uuid.Nil { // to a node that the agent before this one may have given something
		for _, s := range e.Snapshots {
			nodes = append(nodes, s.Request)
		}
	}
	for _, node := range nodes {
		had, _ := a.handed.to(node, d.ID, e)
		for _, s := range had {
			needed[s.ID] = true
		}
	}
	for _, id := range a.basesOf(d.ID, v.Move) {
		needed[id] = true
	}
	if y, given := a.leases.yielded(d.ID); given {
		needed[lineage.FinalID(y.Move)] = true
		if y.Manifest != nil {
			needed[y.Manifest.Snapshot], needed[y.Manifest.Base] = true, true
		}
	}
	for _, s := range e.Snapshots {
		if lineage.IsTransfer(s) && !needed[s.ID] && !a.sender.InUse(d.ID, s.ID) {
			if err := pool.DeleteSnapshot(ctx, d.ID, s.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// tidyAfter is how long what is of no use any more is kept, so that whoever waits for the
// volume does not wait for that too: on btrfs the next commit frees the blocks, and XFS looks
// up what a file shares with others only between two that are freed.
const tidyAfter = time.Second

// tidyAtLast is how long one waits for what is being sent of a dataset: its blocks are freed at
// the price of what else is done in the pool, as many seconds as there are hundreds of thousands.
const tidyAtLast = time.Minute

// pruneSoon removes what no other node needs any more of a dataset, as a job, after a while.
func (a *Agent) pruneSoon(id uuid.UUID) {
	if a.config.PeerHTTP == nil {
		return
	}
	a.Jobs.StartAgain("prune/"+id.String(), func(ctx context.Context, _ *jobs.Job) error {
		for waited := time.Duration(0); waited < tidyAtLast; waited += tidyAfter {
			select {
			case <-ctx.Done():
				return nil
			case <-a.Clock.After(tidyAfter):
			}
			if !a.sender.Busy(id) {
				break
			}
		}
		unlock, err := a.Locks.Lock(ctx, id, "removal of what other nodes had of dataset "+id.String())
		if err != nil {
			return nil
		}
		defer unlock()
		d, home := a.Cache.Dataset(id)
		if !home || d.State == dataset.StatePurging || a.Trust.Err() != nil {
			return nil
		}
		pool, err := a.pools.Online(ctx, d.Pool)
		if err == nil {
			err = a.prune(ctx, pool, d)
		}
		if err != nil && ctx.Err() == nil {
			a.LogOf(d).WithError(err).Warn("snapshots for other nodes were not removed")
		}
		return nil
	})
}

// hasGot returns what a node has of a dataset, or is about to have: what it was given or,
// where that is not certain, also what control has on record of its copy.
func (a *Agent) hasGot(ctx context.Context, node, ds uuid.UUID, e backends.Entry) []dataset.Snapshot {
	has, certain := a.handed.to(node, ds, e)
	if certain {
		return has
	}
	v, err := a.Control.Volume(ctx, ds.String())
	if err != nil {
		return has
	}
	for _, k := range v.Kept {
		if s, rests := lineage.BaseOf(e, k.Copy); rests && k.Node == node {
			has = append(has, s)
		}
	}
	return has
}
