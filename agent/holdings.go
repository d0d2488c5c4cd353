package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// recoveryKey is the key of the last recovery of control's store that this node has applied.
const recoveryKey = "recovery"

// holdAgain is the interval at which a replica that does not answer, or that waits for other reports, is told
// again what this node holds.
const holdAgain = 30

// holdSoon reports to every replica what this node holds, because one of them asked for it. It is a job, and
// starts once more if one is running. The requests run beside each other, because a replica may be unreachable.
func (a *Agent) holdSoon(recovery uuid.UUID) {
	a.Jobs.StartAgain("hold/"+recovery.String(), func(ctx context.Context, _ *jobs.Job) error {
		h, err := a.holdings(ctx)
		if err != nil {
			a.Log.WithError(err).Error("control was not told what this node holds, for the recovery of its store")
			return nil
		}
		h.Recovery = recovery
		var all sync.WaitGroup
		for _, to := range a.apart {
			all.Go(func() {
				if err := a.tellHoldings(ctx, to, h); err != nil && ctx.Err() == nil {
					a.Log.WithError(err).Warn("a control replica was not told what this node holds; it may " +
						"not be the one that asks")
				}
			})
		}
		all.Wait()
		return nil
	})
}

func (a *Agent) tellHoldings(ctx context.Context, to api.Service, h api.Holdings) (err error) {
	for range holdAgain {
		err = to.Hold(ctx, a.NodeID, h)
		if errors.Is(err, dataset.ErrConflict) { // another replica asked for it
			return nil
		}
		if !errors.Is(err, dataset.ErrUnavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-a.Clock.After(a.Limits.Retry):
		}
	}
	return err
}

// holdings returns what is in this node's pools, what this node knows of pools that it cannot examine, and what
// it has relinquished.
func (a *Agent) holdings(ctx context.Context) (h api.Holdings, err error) {
	a.mu.Lock()
	h.Incarnation, h.Clock = a.Incarnation, a.clock
	a.mu.Unlock()
	h.Pools, h.Found, h.Copies, h.Given = []uuid.UUID{}, []api.Found{}, []api.Kept{}, a.leases.AllRelinquished()
	lies := map[uuid.UUID]bool{}
	for _, p := range a.pools.All() {
		if a.Trust.Err() != nil {
			if err := a.pools.DistrustAll(ctx, p.ID); err != nil {
				return h, err
			}
		}
		if _, err := a.pools.Online(ctx, p.ID); errors.Is(err, dataset.ErrOffline) {
			continue
		} else if err != nil {
			return h, err
		}
		here, err := a.inPool(ctx, p)
		if err != nil {
			return h, err
		}
		h.Pools = append(h.Pools, p.ID)
		for _, f := range here {
			if _, copied := a.Cache.Copy(f.Dataset.ID); !copied { // its head has not been removed yet
				h.Found, lies[f.Dataset.ID] = append(h.Found, f), true
			}
		}
	}
	for _, id := range a.Cache.IDs() {
		if d, known := a.Cache.Dataset(id); known && !lies[id] && !slices.Contains(h.Pools, d.Pool) {
			h.Found = append(h.Found, api.Found{Pool: d.Pool, Dataset: d, Index: a.Cache.Index(id)})
		}
	}
	for _, id := range a.Cache.CopyIDs() {
		if k, kept := a.Cache.Copy(id); kept {
			h.Copies = append(h.Copies, k)
		}
	}
	return h, nil
}

// newRecovery reports whether a full answer is the first after a recovery of the store that this node has not
// applied yet.
func (a *Agent) newRecovery(s api.Sync) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return s.Full && s.Recovery != nil && s.Recovery.Done && s.Recovery.ID != a.recovery
}

// takeRecovery applies a store that was brought up to date from the reports of the nodes: all its records count,
// whatever their indexes. If it is interrupted, the next answer applies it.
func (a *Agent) takeRecovery(ctx context.Context, s api.Sync) error {
	if s.Recovery.Heard {
		a.Cache.ForgetIndexes()
		if err := a.flush(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := a.belong(ctx, s.Cluster, ""); err != nil {
		return err
	}
	if err := a.DB.Put(ctx, map[string]any{recoveryKey: s.Recovery.ID}); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.recovery = s.Recovery.ID
	return nil
}
