package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/transfer"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// freshness is how the replicas are that this node keeps, each refreshed as often as its profile says.
type freshness struct {
	mu   sync.Mutex
	of   map[uuid.UUID]*replica
	wake chan struct{}
}

type replica struct {
	due     time.Duration // by the steady clock
	running bool
	copy    dataset.Copy // as it is; the zero value until that is known
	told    dataset.Copy // as control was told for its store
	failed  string       // why the last refresh did not come to its end
	stop    func()       // ends the refresh that runs
}

func newFreshness() *freshness {
	return &freshness{of: map[uuid.UUID]*replica{}, wake: make(chan struct{}, 1)}
}

func (r *freshness) soon() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// refreshAtOnce bounds the refreshes that run side by side, refreshLook is how often it is
// looked for new ones at least.
const (
	refreshAtOnce = 4
	refreshLook   = time.Minute
)

// keepFresh refreshes replicas when they are due, until the agent stops.
func (a *Agent) keepFresh() {
	for {
		wait := a.refreshDue()
		select {
		case <-a.Ctx.Done():
			return
		case <-a.copiesFresh.wake:
		case <-a.Clock.After(wait):
		}
	}
}

// refreshDue begins what is due and returns how long nothing else is.
func (a *Agent) refreshDue() (wait time.Duration) {
	every := map[uuid.UUID]time.Duration{}
	for _, id := range a.Cache.CopyIDs() {
		if k, kept := a.Cache.Copy(id); kept && k.Kind == dataset.CopyReplica && k.Record != nil {
			every[id] = time.Duration(k.Record.Profile.Replicas.Every)
		}
	}
	a.copiesFresh.mu.Lock()
	defer a.copiesFresh.mu.Unlock()
	maps.DeleteFunc(a.copiesFresh.of, func(id uuid.UUID, r *replica) bool {
		_, still := every[id]
		return !still && !r.running
	})
	running := 0
	for id := range every {
		if a.copiesFresh.of[id] == nil {
			a.copiesFresh.of[id] = &replica{}
		}
		if a.copiesFresh.of[id].running {
			running++
		}
	}
	now := a.Clock.Steady()
	wait = refreshLook
	byDue := slices.SortedFunc(maps.Keys(every), func(x, y uuid.UUID) int {
		return int(a.copiesFresh.of[x].due - a.copiesFresh.of[y].due)
	})
	for _, id := range byDue {
		r := a.copiesFresh.of[id]
		switch {
		case r.running:
		case r.due > now:
			wait = min(wait, r.due-now)
		case running < refreshAtOnce:
			running++
			r.running, r.due = true, now+max(every[id], a.Limits.Retry)
			a.startRefresh(id)
		}
	}
	return wait
}

func (a *Agent) startRefresh(id uuid.UUID) {
	a.Jobs.StartAgain("replica/"+id.String(), func(ctx context.Context, jb *jobs.Job) error {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		a.copiesFresh.mu.Lock()
		a.copiesFresh.of[id].stop = stop
		a.copiesFresh.mu.Unlock()
		err := a.refresh(ctx, jb, id)
		a.copiesFresh.mu.Lock()
		defer a.copiesFresh.mu.Unlock()
		r := a.copiesFresh.of[id]
		r.running = false
		why := ""
		if err != nil {
			why = dataset.OneLine(err)
		}
		if err != nil && why != r.failed && ctx.Err() == nil { // once, and not each time
			a.Log.WithError(err).WithField("dataset", id).Warn("replica was not refreshed; it is tried again")
		}
		r.failed = why
		a.copiesFresh.soon()
		return nil
	})
}

// failure is why the last refresh of a replica did not come to its end; "": it did.
func (r *freshness) failure(id uuid.UUID) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if of := r.of[id]; of != nil {
		return of.failed
	}
	return ""
}

// stopRefresh ends the refresh of a replica that runs. What has come of it stays.
func (a *Agent) stopRefresh(id uuid.UUID) {
	a.copiesFresh.mu.Lock()
	defer a.copiesFresh.mu.Unlock()
	if r := a.copiesFresh.of[id]; r != nil && r.stop != nil {
		r.stop()
	}
}

// refresh brings over what a replica lacks. What its home does not have any more goes here
// too; the snapshot that the next difference rests on stays until that is here.
func (a *Agent) refresh(ctx context.Context, jb *jobs.Job, id uuid.UUID) error {
	k, kept := a.Cache.Copy(id)
	if !kept || k.Kind != dataset.CopyReplica || k.Record == nil || k.Record.State != dataset.StateReady ||
		a.moveTable.IsActive(id) || a.Trust.Err() != nil || a.config.PeerHTTP == nil {
		return nil
	}
	d := *k.Record
	home, err := a.peer(ctx, d.Home)
	if err != nil {
		return err
	}
	pool, err := a.pools.Online(ctx, k.Pool)
	if err != nil {
		return fmt.Errorf("replica of volume %s: %w", d.Volume, err)
	}
	if err := a.settleCopy(ctx, id); err != nil { // it may have been the home until just now
		return err
	}
	if keep, err := lineage.Lost(ctx, pool, k); err != nil || keep.ID != uuid.Nil {
		return err // it is not refreshed any more, once control has heard so
	}
	if err := a.recollect(ctx, pool, k); err != nil {
		return err
	}
	if err := a.pools.Room(ctx); err != nil {
		return fmt.Errorf("replica of volume %s: %w", d.Volume, err)
	}
	jb.Step("refreshing the replica of volume " + d.Volume)
	checked := a.Clock.Now().UTC().Round(0)
	peer := "https://" + home.Address
	have, err := lineage.SnapshotIDs(ctx, pool, id)
	if err != nil {
		return err
	}
	s, err := a.puller.Freshen(ctx, peer, id, have)
	if errors.Is(err, dataset.ErrNotFound) || errors.Is(err, dataset.ErrForbidden) {
		return errors.Join(err, a.relook(ctx, k)) // it may have gone to another node
	}
	if err != nil {
		return err
	}
	if s.Epoch > d.Epoch { // what it went on without meanwhile, if anything, the record says
		return a.relook(ctx, k)
	}
	unlock, err := a.Locks.Lock(ctx, id, "refresh of the replica of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	if now, kept := a.Cache.Copy(id); !kept || now.Kind != dataset.CopyReplica || a.moveTable.IsActive(id) {
		return nil
	}
	got, err := a.puller.Pull(ctx, transfer.Pull{Peer: peer, Dataset: d, Into: pool, Want: s.ID, Shared: true, Progress: jb.Moved})
	if err != nil {
		return err
	}
	if was, known := a.replicaOf(id); !known || was.Snapshot != s.ID {
		a.pools.Touched(k.Pool)
	}
	if err := lineage.DropMissing(ctx, pool, id, got.Gone, s.Snapshot); err != nil {
		return fmt.Errorf("replica of volume %s, of node %s: %w", d.Volume, home.Name, err)
	}
	c := k.Copy
	c.Epoch, c.Snapshot, c.Taken, c.Order, c.Checked, c.Current = s.Epoch, s.ID, s.Created, s.Order, checked, s.Current
	return a.fresh(ctx, c)
}

// fresh takes in how far a replica is, and tells of it.
func (a *Agent) fresh(ctx context.Context, c dataset.Copy) error {
	a.copiesFresh.mu.Lock()
	r := a.copiesFresh.of[c.Dataset]
	r.copy = c
	was := r.told
	a.copiesFresh.mu.Unlock()
	a.News.Changed(c.Dataset)
	if !c.Tells(was) {
		return nil
	}
	if err := a.tellCopy(ctx, api.Copied{Copy: c}); err != nil {
		return err
	}
	a.copiesFresh.mu.Lock()
	defer a.copiesFresh.mu.Unlock()
	r.told = c
	return nil
}

// recollect takes in what the pool has of a replica, after a start: its home may be away for
// good, and which copy is the freshest must be known then.
func (a *Agent) recollect(ctx context.Context, pool backends.Pool, k api.Kept) error {
	if _, known := a.replicaOf(k.Dataset); known {
		return nil
	}
	if k.Snapshot == uuid.Nil {
		// What a move left here makes no copy to go on from: its home knows nothing of that,
		// and would not ask this node for a promise. The next refresh does.
		return nil
	}
	e, err := pool.Stat(ctx, k.Dataset)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	s, found := lineage.Best(e)
	if !found {
		return nil
	}
	c := k.Copy
	if c.Snapshot != s.ID {
		c.Epoch, c.Snapshot, c.Taken, c.Order, c.Current = s.Epoch, s.ID, s.Created, s.Order, s.Created
	}
	return a.fresh(ctx, c)
}

// relook has the record of a dataset read again of which this node keeps a replica.
func (a *Agent) relook(ctx context.Context, k api.Kept) error {
	v, err := a.Control.Volume(ctx, k.Dataset.String())
	if errors.Is(err, dataset.ErrNotFound) {
		return nil // what becomes of the replica the next sync says
	}
	if err != nil {
		return err
	}
	k.Record = &v.Dataset
	return a.takeCopy(ctx, k)
}

// replicaOf returns how a replica of this node is; false as long as that is not known.
func (a *Agent) replicaOf(id uuid.UUID) (dataset.Copy, bool) {
	a.copiesFresh.mu.Lock()
	defer a.copiesFresh.mu.Unlock()
	r := a.copiesFresh.of[id]
	if r == nil || r.copy.Snapshot == uuid.Nil {
		return dataset.Copy{}, false
	}
	return r.copy, true
}
