package controlsync

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Holdings reports the content of this node's pools to control, so that a lost store can be updated. It has no state.
// Its methods are safe for concurrent use.
type Holdings struct{ *Sync }

// MaxSendAttempts is the maximum number of attempts of Send while a replica does not answer.
const MaxSendAttempts = 30

// SendSoon sends the report of this node to every replica, because one of them asked for it. SendSoon starts a job; if
// one is running, the job runs once more. The requests to the replicas run concurrently, because a replica may be
// unreachable.
func (r *Holdings) SendSoon(recovery uuid.UUID) {
	r.Jobs.StartAgain("hold/"+recovery.String(), func(ctx context.Context, _ *host.Job) error {
		h, err := r.List(ctx)
		if err != nil {
			r.Log.WithError(err).Error("cannot report the holdings of this node to control, for the recovery of " +
				"its store")
			return nil
		}
		h.Recovery = recovery
		var all sync.WaitGroup
		for _, to := range r.Leases.Replicas {
			all.Go(func() {
				if err := r.Send(ctx, to, h); err != nil && ctx.Err() == nil {
					r.Log.WithError(err).Warn("cannot report the holdings of this node to a control replica; " +
						"another replica may be the one that needs them")
				}
			})
		}
		all.Wait()
		return nil
	})
}

// Send reports holdings to one control replica. It retries, MaxSendAttempts times at most, while the replica does not
// answer. It returns nil if the replica has not asked for them.
func (r *Holdings) Send(ctx context.Context, to api.Service, h api.Holdings) (err error) {
	for range MaxSendAttempts {
		err = to.ReportHoldings(ctx, r.NodeID, h)
		if errors.Is(err, dataset.ErrConflict) { // another replica asked for it
			return nil
		}
		if !errors.Is(err, dataset.ErrUnavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-r.Clock.After(r.Timing.Retry):
		}
	}
	return err
}

// List returns the content of this node's pools, the copies on this node, and the epochs that this node has
// relinquished. For the datasets of a pool that is offline, it returns the agent's records. If control's store is
// inconsistent, List first marks all incoming datasets of the pools as doubtful.
func (r *Holdings) List(ctx context.Context) (h api.Holdings, err error) {
	h.Incarnation, h.StoreClock = r.Incarnation, r.StoreClock.Now()
	h.ExaminedPools, h.Datasets, h.Copies = []uuid.UUID{}, []api.FoundDataset{}, []api.AssignedCopy{}
	h.Relinquished = r.Leases.AllRelinquished()
	lies := map[uuid.UUID]bool{}
	for _, p := range r.Pools.All() {
		if r.Trust.Err() != nil {
			if err := r.Pools.MarkAllDoubtful(ctx, p.ID); err != nil {
				return h, err
			}
		}
		if _, err := r.Pools.Online(ctx, p.ID); errors.Is(err, dataset.ErrOffline) {
			continue
		} else if err != nil {
			return h, err
		}
		here, err := r.ListPool(ctx, p)
		if err != nil {
			return h, err
		}
		h.ExaminedPools = append(h.ExaminedPools, p.ID)
		for _, f := range here {
			f.Dataset.Written = 0
			if _, copied := r.Cache.Copy(f.Dataset.ID); !copied { // its head has not been removed yet
				h.Datasets, lies[f.Dataset.ID] = append(h.Datasets, f), true
			}
		}
	}
	for _, id := range r.Cache.IDs() {
		if d, known := r.Cache.Dataset(id); known && !lies[id] && !slices.Contains(h.ExaminedPools, d.Pool) {
			f := api.FoundDataset{Pool: d.Pool, Dataset: d, Index: r.Cache.Index(id)}
			h.Datasets = append(h.Datasets, f)
		}
	}
	for _, id := range r.Cache.CopyIDs() {
		if k, kept := r.Cache.Copy(id); kept {
			h.Copies = append(h.Copies, k)
		}
	}
	return h, nil
}

// ListPool lists the datasets in a pool.
func (r *Holdings) ListPool(ctx context.Context, p *pool.Pool) (found []api.FoundDataset, err error) {
	return r.ListStorage(ctx, p.Storage, func(id uuid.UUID) bool { return r.Pools.IsDoubtful(p.ID, id) })
}

// ListStorage lists the datasets in the storage of a pool. The pool need not be in the table of this node. isDoubtful
// reports whether an incoming dataset may have been acknowledged.
func (r *Holdings) ListStorage(ctx context.Context, b backends.Pool, isDoubtful func(uuid.UUID) bool) (
	found []api.FoundDataset, err error) {
	entries, err := b.List(ctx)
	if err != nil {
		return nil, err
	}
	var unknown bool
	for _, e := range entries {
		if f, ok := r.FoundDataset(e, isDoubtful(e.ID)); ok {
			f.Pool = b.ID()
			found = append(found, f)
			unknown = unknown || !r.isCached(e.ID)
		}
	}
	if !unknown {
		return found, nil
	}
	// A create that failed or a purge may have ended since the entries were read. Then nothing needs the dataset any
	// more, the cache does not have it, and the data is gone.
	if entries, err = b.List(ctx); err != nil {
		return nil, err
	}
	there := map[uuid.UUID]bool{}
	for _, e := range entries {
		there[e.ID] = true
	}
	return slices.DeleteFunc(found, func(f api.FoundDataset) bool {
		return !there[f.Dataset.ID] && !r.isCached(f.Dataset.ID)
	}), nil
}

func (r *Holdings) isCached(id uuid.UUID) bool {
	_, known := r.Cache.Dataset(id)
	return known
}

// FoundDataset returns the record of a dataset in a pool: the record beside the data or the agent's copy of it,
// whichever is newer. Either can be out of date. The record beside the data is not flushed, so a power cut can lose a
// change of it. The agent's copy is written some time after a change, so a crash can lose the change. For an incoming
// dataset that may not have been acknowledged, the returned record is in the trash. ok is false if there is no record
// of the dataset, or if the entry is a copy, foreign or being deleted. For an incoming dataset without a record in the
// cache, ok is also false if the dataset was certainly not acknowledged, or if running work needs it.
func (r *Holdings) FoundDataset(e backends.Entry, doubtful bool) (f api.FoundDataset, ok bool) {
	copied, known := r.Cache.Dataset(e.ID)
	f = api.FoundDataset{Snapshots: slices.DeleteFunc(slices.Clone(e.Snapshots), host.IsInternal),
		Index: r.Cache.Index(e.ID)}
	whole := e.Record != nil && e.Record.ID == e.ID
	switch {
	case known && copied.State == dataset.StatePurging && !(whole && e.Record.Epoch > copied.Epoch):
		f.Dataset = copied // it was purged while the pool was offline, and no recovery has revived it since
	case whole && !(known && isCurrent(copied, f.Index, *e.Record)):
		f.Dataset = *e.Record
	case known:
		f.Dataset = copied
	default:
		return f, false
	}
	f.Dataset.Epoch = max(f.Dataset.Epoch, copied.Epoch)
	switch {
	case e.State == backends.EntryReady, e.State == backends.EntryIncoming && known:
		return f, true
	case e.State == backends.EntryIncoming && doubtful && !r.cleaner.IsNeeded(e.ID):
		f.Dataset.State = dataset.StateTrashed
		return f, true
	}
	return f, false
}

// isCurrent reports whether the agent's copy of a record is at least as new as the record beside the data. index is the
// index of the copy's transaction in the store, or 0 if it is not known. Indexes of different stores cannot be
// compared: each rebuild of a store starts an epoch.
func isCurrent(copied dataset.Dataset, index uint64, record dataset.Dataset) bool {
	if copied.Epoch != record.Epoch {
		return copied.Epoch > record.Epoch
	}
	return index != 0 && index >= record.Written
}
