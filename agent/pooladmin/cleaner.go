package pooladmin

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Cleaner cleans up the pools after a crash: it makes recorded datasets that are still incoming ready
// (backends.Pool.Commit), and destroys datasets that were never acknowledged. Its methods are safe for concurrent use.
type Cleaner struct {
	*Admin

	mu   sync.Mutex
	lost map[uuid.UUID]bool // datasets that a full response of control has lacked since the start
}

// CleanUp cleans up after a crash. It works on each pool in a separate job, because a pool's disk may hang. Until the
// agent has joined, CleanUp waits up to pool.StartPatience for these jobs. It is best to clean up before other work
// begins, because a backend does not check which datasets are in use.
//
// lost are the datasets that were recorded when this agent last read control's records, and that are not recorded now.
// CleanUp does not destroy these datasets. It does not destroy an incoming dataset either, as long as the agent cannot
// know whether it was acknowledged. CleanUp is called only while control answers and its store is consistent.
func (c *Cleaner) CleanUp(ctx context.Context, lost map[uuid.UUID]bool) {
	c.mu.Lock()
	maps.Copy(c.lost, lost)
	c.mu.Unlock()
	waitFor := func(all ...*host.Job) {
		select {
		case <-c.Membership.Joined():
		default:
			pool.WaitFor(ctx, c.Clock, pool.StartPatience, host.Ends(all))
		}
	}
	waitFor(c.Jobs.StartAgain("take-overs", func(ctx context.Context, _ *host.Job) error {
		c.recordTakeOvers(ctx)
		// Each heartbeat starts a job with this key, too. If that job is running, it runs once more.
		pulls := c.Jobs.StartAgain("pulls", func(ctx context.Context, _ *host.Job) error {
			c.ResumeMoves(ctx)
			return nil
		})
		select {
		case <-pulls.Ended():
		case <-ctx.Done():
		}
		return nil
	}))
	var all []*host.Job
	for _, p := range c.Pools.All() {
		all = append(all, c.Jobs.StartAgain("incoming/"+p.ID.String(), func(ctx context.Context, _ *host.Job) error {
			if now, there := c.Pools.ByName(p.Name); there {
				c.cleanUpPool(ctx, now)
			}
			return nil
		}))
	}
	waitFor(all...)
}

// cleanUpPool cleans up one pool after a crash. It makes a recorded dataset that is still incoming ready. It destroys
// an incoming dataset that was never recorded, because such a dataset was not acknowledged. It keeps a dataset that is
// needed, lost or doubtful, or that may continue on another node. If a dataset cannot be destroyed, the next call of
// CleanUp tries again, and doctor names it.
func (c *Cleaner) cleanUpPool(ctx context.Context, p *pool.Pool) {
	if p.CheckServed() != nil {
		return
	}
	log := c.Log.WithField("pool", p.Name)
	if err := c.recordDoubtful(ctx, p); err != nil {
		log.WithError(err).Error("cleanup after a crash failed")
		return
	}
	incomplete, err := c.incompleteDatasets(ctx, p)
	if err != nil {
		log.WithError(err).Error("cleanup after a crash failed")
		return
	}
	var promote []uuid.UUID
	n, err := p.Storage.Reap(ctx, func(id uuid.UUID) bool {
		// Ask this before the cache: if the work on the dataset ends in between, the cache has its record.
		making := c.IsNeeded(id)
		if _, onRecord := c.Cache.Dataset(id); onRecord {
			if !making {
				promote = append(promote, id)
			}
			return false
		}
		return !making && !c.wasLost(id) && !c.Pools.IsDoubtful(p.ID, id) &&
			!c.mayContinueElsewhere(ctx, p, id, incomplete[id])
	})
	if err != nil {
		log.WithError(err).Error("cleanup after a crash is incomplete")
	}
	for _, id := range promote {
		if err := p.Storage.Commit(ctx, id); err != nil {
			log.WithError(err).WithField("dataset", id).Error("cannot put a dataset in its place")
		}
	}
	if n > 0 {
		log.WithField("count", n).Info("cleaned up the pool")
	}
}

// wasLost reports whether a full response of control has lacked the record of a dataset of this node since the start.
func (c *Cleaner) wasLost(id uuid.UUID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost[id]
}

// recordDoubtful records on disk which incoming datasets of a pool are doubtful. A dataset is made ready without a
// flush, so after a power cut an acknowledged one may be incoming again. A record of the dataset shows that it was
// acknowledged. But if this node found the pool without a record of the pool, or if the store was lost, the record may
// be missing. Such a dataset is doubtful: it stays until it is recorded again (drover store recover --from-pools) or an
// operator has it destroyed.
func (c *Cleaner) recordDoubtful(ctx context.Context, p *pool.Pool) error {
	if !p.Record.Unexamined && len(p.Record.Doubtful) == 0 {
		return nil
	}
	entries, err := p.Storage.List(ctx)
	if err != nil {
		return err
	}
	var left []uuid.UUID
	for _, e := range entries {
		_, onRecord := c.Cache.Dataset(e.ID)
		if e.State == backends.EntryIncoming && !onRecord && !c.IsNeeded(e.ID) && c.Pools.IsDoubtful(p.ID, e.ID) {
			left = append(left, e.ID)
		}
	}
	if !p.Record.Unexamined && slices.Equal(left, p.Record.Doubtful) {
		return nil
	}
	if len(left) > 0 {
		c.Log.WithField("pool", p.Name).Warnf("%d datasets may have been acknowledged before the records "+
			"were lost, and are kept (drover doctor names them)", len(left))
	}
	return c.Pools.MarkDoubtful(ctx, p.ID, false, left)
}

// mayContinueElsewhere reports whether a dataset in a pool on a share may be a volume that continues on another node.
// That node has not taken the dataset over yet. An incomplete dataset is not such a volume: it comes from an
// interrupted move that copied file by file.
func (c *Cleaner) mayContinueElsewhere(ctx context.Context, p *pool.Pool, id uuid.UUID, incomplete bool) bool {
	return p.Share != uuid.Nil && !incomplete && c.EnsureUnrecorded(ctx, id) != nil
}

func (c *Cleaner) incompleteDatasets(ctx context.Context, p *pool.Pool) (map[uuid.UUID]bool, error) {
	if p.Share == uuid.Nil {
		return nil, nil
	}
	list, err := p.Storage.List(ctx)
	if err != nil {
		return nil, err
	}
	incomplete := map[uuid.UUID]bool{}
	for _, e := range list {
		if e.State == backends.EntryIncoming {
			_, err := p.Storage.Stat(ctx, e.ID)
			incomplete[e.ID] = errors.Is(err, dataset.ErrNotFound)
		}
	}
	return incomplete, nil
}

// recordTakeOvers repairs lost move records of datasets on a share. Such a record says that this node, the home, must
// take the dataset over from another pool on the share.
func (c *Cleaner) recordTakeOvers(ctx context.Context) {
	for _, id := range c.Cache.IDs() {
		d, home := c.Cache.Dataset(id)
		if _, comes := c.MoveTable.Get(id); !home || comes || d.TakenOver == nil || d.State == dataset.StatePurging ||
			c.MoveTable.IsActive(id) {
			continue
		}
		pool, err := c.Pools.Online(ctx, d.Pool)
		if err != nil {
			continue // the volumes of this pool are offline anyway
		}
		if _, err := pool.Stat(ctx, id); errors.Is(err, dataset.ErrNotFound) {
			err = c.MoveTable.Set(ctx, id, move.MoveRecord{
				Pool:  d.Pool,
				Epoch: d.Epoch,
				Share: true,
				From:  d.TakenOver.FromPool,
				Since: c.Clock.Now(),
			})
			if err != nil {
				c.LogOf(ctx, d).WithError(err).Error("cannot take over a dataset from its place on the share")
			}
		}
	}
}

// IsNeeded reports whether a dataset without a record is needed: running work makes or reads it, a user inspects it, or
// a move continues from it. cleanUpPool leaves such a dataset incoming even if it is recorded, because running work
// commits it.
func (c *Cleaner) IsNeeded(id uuid.UUID) bool {
	if _, shown := c.Cache.InspectedCopy(id); shown || c.Keys.BorrowsKey(id) || c.MoveTable.IsBeside(id) {
		return true
	}
	return c.Jobs.WorksOn(id)
}
