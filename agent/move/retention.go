package move

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Retention decides which of the snapshots that were taken for other nodes this node, the home, still has to keep,
// and removes the others. Its methods are safe for concurrent use.
type Retention struct {
	*Moves
	Sent SentLog

	mu    sync.Mutex
	bases map[uuid.UUID]moveBases // by dataset
}

// moveBases are the snapshots that a running move brings to the next home, because the copies of other nodes need them
// as the base of their next difference.
type moveBases struct {
	move      uuid.UUID
	snapshots []uuid.UUID
}

// SetBases records the snapshots that a move brings to the next home for other copies. They are kept until the move
// has ended.
func (r *Retention) SetBases(ds, move uuid.UUID, snapshots []uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bases[ds] = moveBases{move, snapshots}
}

// basesOf returns the snapshots that a running move brings to the next home for other copies. It forgets those of
// any other move of the dataset.
func (r *Retention) basesOf(ds, move uuid.UUID) []uuid.UUID {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.bases[ds]
	if b.move != move {
		delete(r.bases, ds)
		return nil
	}
	return b.snapshots
}

// Forget drops the records of the snapshots that this node sent of a dataset. It is called when this node is no longer
// the home of the dataset.
func (r *Retention) Forget(ds uuid.UUID) {
	r.Sent.Forget(ds)
	r.TransferServer.Forget(ds)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.bases, ds)
}

// Prune removes the snapshots for other nodes that no node needs any more. It keeps these snapshots:
//
//   - the newest one,
//   - for each recorded copy: the snapshot that it has, the one on which the next difference to it is based, and the
//     one that it shares with all replicas,
//   - for each node that has a copy or receives one: the snapshots that were last sent to it,
//   - those that the target of a move needs, and those that a running transfer reads.
//
// Prune removes nothing if the dataset has no head. The caller holds the dataset's lock.
func (r *Retention) Prune(ctx context.Context, pool backends.Pool, d dataset.Dataset) error {
	e, err := pool.Stat(ctx, d.ID)
	if err != nil {
		return err
	}
	if e.State == backends.EntryCopy && !e.Promoted {
		return nil // this node is the recorded home and has no head: this copy may be the last one
	}
	if _, any := host.Newest(e, host.IsTransfer); !any {
		return nil
	}
	v, err := r.Control.Volume(ctx, d.ID.String())
	if err != nil {
		return nil // the next call prunes
	}
	needed := host.NeededBy(e, v)
	nodes := append(slices.Clone(v.Copies), r.Sent.nodesWithoutCopy(d.ID, v.Copies, r.Clock.Steady())...)
	if v.Move != uuid.Nil { // an earlier process of this agent may have sent something to the target
		for _, s := range e.Snapshots {
			nodes = append(nodes, s.Request)
		}
	}
	for _, node := range nodes {
		had, _ := r.Sent.sentTo(node, d.ID, e)
		for _, s := range had {
			needed[s.ID] = true
		}
	}
	for _, id := range append(r.Leases.RelinquishedSnapshots(d.ID), r.basesOf(d.ID, v.Move)...) {
		needed[id] = true
	}
	for _, s := range e.Snapshots {
		if host.IsTransfer(s) && !needed[s.ID] && !r.TransferServer.InUse(d.ID, s.ID) {
			if err := pool.DeleteSnapshot(ctx, d.ID, s.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// pruneDelay is how long unneeded snapshots are kept, so that a caller who waits for the volume does not also wait
// for their removal. On btrfs, the next commit of the filesystem frees their blocks. On XFS, a look-up of the blocks
// that a file shares with other files waits until a running removal of a file has ended.
const pruneDelay = time.Second

// maxPruneDelay is how long the removal waits for a running transfer of the dataset. Freeing the blocks slows other
// work in the pool, for about one second per 100 000 blocks.
const maxPruneDelay = time.Minute

// PruneSoon starts a job that removes the snapshots of a dataset that no other node needs any more, after a delay.
func (r *Retention) PruneSoon(id uuid.UUID) {
	if r.Leases.Peers == nil {
		return
	}
	r.Jobs.StartAgain("prune/"+id.String(), func(ctx context.Context, _ *host.Job) error {
		for waited := time.Duration(0); waited < maxPruneDelay; waited += pruneDelay {
			select {
			case <-ctx.Done():
				return nil
			case <-r.Clock.After(pruneDelay):
			}
			if !r.TransferServer.Busy(id) {
				break
			}
		}
		r.remove(ctx, id, r.Prune)
		return nil
	})
}

// KeepReserve removes the snapshots for other nodes of a volume in use, in the pool with the given status, if that has
// less free space than backends.Reserve. It takes the largest volume that has any, and only one, because the pool may
// be full for a moment only. A move keeps its base: without that, it would copy everything while nobody can use the
// volume. KeepReserve is called at each heartbeat, and returns before the removal.
func (r *Retention) KeepReserve(st dataset.PoolStatus) {
	if r.Leases.Peers == nil || !st.Online || st.Free >= backends.Reserve(st.Size) {
		return
	}
	var ids []uuid.UUID
	for _, id := range r.Cache.IDs() {
		if d, _ := r.Cache.Dataset(id); d.Pool == st.ID && d.Move == uuid.Nil {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int {
		return cmp.Compare(r.usages.Last(b).Used, r.usages.Last(a).Used)
	})
	r.dropSoon(true, ids...)
}

// dropSoon starts a job that calls dropAll for datasets, up to the first one whose snapshots it removes. used leaves
// out idle datasets.
func (r *Retention) dropSoon(used bool, ids ...uuid.UUID) {
	if len(ids) == 0 {
		return
	}
	r.Jobs.StartAgain("drop/"+ids[0].String(), func(ctx context.Context, _ *host.Job) error {
		dropped := false
		for _, id := range ids {
			r.remove(ctx, id, func(ctx context.Context, pool backends.Pool, d dataset.Dataset) (err error) {
				dropped, err = r.dropAll(ctx, pool, d, used)
				return err
			})
			if dropped {
				break
			}
		}
		return nil
	})
}

// remove calls Prune or dropAll for a dataset of this node, and logs a failure.
func (r *Retention) remove(ctx context.Context, id uuid.UUID,
	from func(context.Context, backends.Pool, dataset.Dataset) error) {
	unlock, err := r.Locks.Lock(ctx, id, "removal of sent snapshots of dataset "+id.String())
	if err != nil {
		return
	}
	defer unlock()
	d, home := r.Cache.Dataset(id)
	if !home || d.State == dataset.StatePurging || r.Trust.Err() != nil {
		return
	}
	pool, err := r.Pools.Online(ctx, d.Pool)
	if err == nil {
		err = from(ctx, pool, d)
	}
	if err != nil && ctx.Err() == nil {
		r.LogOf(ctx, d).WithError(err).Warn("cannot remove snapshots for other nodes")
	}
}

// dropAll removes the snapshots for other nodes that no running transfer reads, because they keep the blocks that users
// overwrite, and the pool is nearly full. The next refresh of a replica then transfers all data. Nobody writes to a
// relinquished dataset, so dropAll keeps its snapshots. used leaves out an idle dataset. The caller holds the dataset's
// lock.
func (r *Retention) dropAll(ctx context.Context, pool backends.Pool, d dataset.Dataset,
	used bool) (dropped bool, err error) {
	if _, relinquished := r.Leases.Relinquished(d.ID); relinquished {
		return false, nil
	}
	e, err := pool.Stat(ctx, d.ID)
	if err != nil || e.State == backends.EntryCopy && !e.Promoted {
		return false, err // without a head, this copy may be the last one
	}
	if _, any := host.Newest(e, host.IsTransfer); !any || used && len(r.Uses.Get(d.ID).IDs) == 0 &&
		backends.IsIdle(ctx, pool, d.ID) {
		return false, nil
	}
	for _, s := range e.Snapshots {
		if host.IsTransfer(s) && !r.TransferServer.InUse(d.ID, s.ID) {
			if err := pool.DeleteSnapshot(ctx, d.ID, s.ID); err != nil {
				return dropped, err
			}
			dropped = true
		}
	}
	if dropped {
		r.LogOf(ctx, d).Warn("removed the snapshots for other nodes, because the pool is nearly full: the next " +
			"refresh of each replica transfers all data (free some space)")
	}
	return dropped, nil
}

// Received returns the snapshots of a dataset that a node has or is receiving, according to the log of sent snapshots.
// If the log is not complete, the result includes the base of the node's recorded copy.
func (r *Retention) Received(ctx context.Context, node, ds uuid.UUID, e backends.Entry) []dataset.Snapshot {
	has, certain := r.Sent.sentTo(node, ds, e)
	if certain {
		return has
	}
	v, err := r.Control.Volume(ctx, ds.String())
	if err != nil {
		return has
	}
	for _, k := range v.CopyDetails {
		if s, rests := host.BaseOf(e, k.Copy); rests && k.Node == node {
			has = append(has, s)
		}
	}
	return has
}
