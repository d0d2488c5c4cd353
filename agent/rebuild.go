package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// RebuildStore has control record every dataset in this node's pools that the store does not know, or knows from
// before a change that this node has seen, after the store was lost or restored from a backup. Idempotent. It
// fails with ErrOffline while a pool is offline, unless that pool is to be skipped.
func (a *Agent) RebuildStore(ctx context.Context, skipOffline bool) (all []api.Rebuilt, err error) {
	var found []api.Found // in all pools, before a name is claimed for any of it
	for _, p := range a.pools.All() {
		if a.Trust.Err() != nil {
			if err := a.pools.DistrustAll(ctx, p.ID); err != nil {
				return nil, err
			}
		}
		_, err := a.pools.Online(ctx, p.ID)
		if errors.Is(err, dataset.ErrOffline) && skipOffline {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w (bring it back first, so that its names are not taken by others, or "+
				"say --skip-offline)", err)
		}
		here, err := a.inPool(ctx, p)
		if err != nil {
			return nil, err
		}
		found = append(found, here...)
	}
	if all, err = a.Control.Rebuild(ctx, a.NodeID, found); err != nil {
		return all, err
	}
	return all, a.accept(ctx)
}

// inPool lists the datasets in a pool.
func (a *Agent) inPool(ctx context.Context, p *pool.Pool) (found []api.Found, err error) {
	entries, err := p.Storage.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if f, ok := a.lying(e, a.pools.IsDistrusted(p.ID, e.ID)); ok {
			f.Pool = p.ID
			found = append(found, f)
		}
	}
	return found, nil
}

// lying returns what is known of a dataset in a pool: its own record or the agent's copy of it, whichever is
// newer. A power cut can lose the one, which is not flushed, and a crash the other, which is written some time
// later. An incoming dataset that may not have been acknowledged is put into the trash.
func (a *Agent) lying(e backends.Entry, doubtful bool) (f api.Found, ok bool) {
	copied, known := a.Cache.Dataset(e.ID)
	f = api.Found{Snapshots: slices.DeleteFunc(slices.Clone(e.Snapshots), lineage.IsInternal),
		Index: a.Cache.Index(e.ID)}
	whole := e.Record != nil && e.Record.ID == e.ID
	switch {
	case whole && !(known && newer(copied, f.Index, *e.Record)):
		f.Dataset = *e.Record
		f.Dataset.Written = 0
	case known:
		f.Dataset = copied
	default:
		return f, false
	}
	f.Dataset.Epoch = max(f.Dataset.Epoch, copied.Epoch)
	switch {
	case e.State == backends.EntryReady, e.State == backends.EntryIncoming && known:
		return f, true
	case e.State == backends.EntryIncoming && doubtful && !a.making(e.ID):
		f.Dataset.State = dataset.StateTrashed
		return f, true
	}
	return f, false
}

// newer reports whether a copy with the index of its transaction is not older than a record. Index 0 means that
// none is known. Indexes belong to one store: each rebuild begins an epoch.
func newer(copied dataset.Dataset, index uint64, record dataset.Dataset) bool {
	if copied.Epoch != record.Epoch {
		return copied.Epoch > record.Epoch
	}
	return index != 0 && index >= record.Written
}

// accept records that a store is consistent that was rebuilt from this node's pools.
func (a *Agent) accept(ctx context.Context) error {
	s, err := a.Control.Sync(ctx, a.NodeID, 0, 0)
	if err != nil {
		return err
	}
	// On disk as well, or the next start would find the store older than it was.
	a.Cache.ForgetIndexes()
	if err := a.flush(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	a.cluster = uuid.Nil
	a.mu.Unlock()
	if err := a.take(ctx, s, known{}); err != nil {
		return err
	}
	return a.resolver.FindLostUses(ctx) // now with what was not known before
}
