package move

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// Copies brings the copies that this node keeps of other nodes' datasets into their recorded state. The records are in
// the cache and in the agent's database (copies/<dataset>).
//
// Copies also mounts superseded heads read-only, so that a person can examine them. It mounts a clone of the head, so
// neither the mount nor the recovery of the filesystem's log changes the head. The clone has no record and stays
// incoming. Its UUID is derived from the head, so that each start finds it.
type Copies struct {
	*Moves

	mu     sync.Mutex
	failed map[uuid.UUID]failure // by dataset, as it was reported to control
}

// Load reads the records of copies from disk.
func (c *Copies) Load(ctx context.Context) error {
	return host.EachDataset(ctx, c.DB, "copies/", func(id uuid.UUID, k api.AssignedCopy) error {
		c.Cache.SetCopy(id, &k)
		return nil
	})
}

// Apply applies control's record of a dataset whose home is another node: this node keeps a copy of it, or must remove
// the copy. The record is written to disk first, so that an agent that starts without control does not consider this
// node the home. Apply ignores a record from before the dataset came here.
func (c *Copies) Apply(ctx context.Context, k api.AssignedCopy) error {
	d, home := c.Cache.Dataset(k.Dataset)
	if home && (k.Record != nil && k.Record.Epoch <= d.Epoch || c.Trust.Err() != nil) {
		return nil // the record is from before the dataset came here
	}
	key := k.Dataset.String()
	if err := c.DB.Put(ctx, map[string]any{"copies/" + key: k, "volumes/" + key: nil}); err != nil {
		return err
	}
	if !c.Cache.ReplaceByCopy(k) { // the dataset came here while the record was written
		d, _ := c.Cache.Dataset(k.Dataset)
		now, _ := host.NewerIndexed(c.Cache, d, 0)
		return c.DB.Put(ctx, map[string]any{"copies/" + key: nil, "volumes/" + key: now})
	}
	// only the home needs these
	c.Leases.EndRecall(k.Dataset)
	c.ForgetSent(k.Dataset)
	c.ReconcileSoon(k.Dataset)
	c.Replicas.Wake()
	return nil
}

// Forget removes the record of a copy that this node no longer keeps.
func (c *Copies) Forget(ctx context.Context, id uuid.UUID) error {
	k, kept := c.Cache.Copy(id)
	if !kept {
		return nil
	}
	if err := c.DB.Put(ctx, map[string]any{"copies/" + id.String(): nil}); err != nil {
		return err
	}
	c.Cache.SetCopy(id, nil)
	if host.IsInspected(k) {
		c.Uses.MarkIdle(host.InspectionID(k)) // the mount for its inspection must be removed
	}
	return nil
}

// ReconcileSoon starts a job that brings a copy into its recorded state.
func (c *Copies) ReconcileSoon(id uuid.UUID) {
	c.Jobs.StartAgain("copy/"+id.String(), func(ctx context.Context, _ *host.Job) error {
		if err := c.Reconcile(ctx, id); err != nil && ctx.Err() == nil {
			c.Log.WithError(err).WithField("dataset",
				id).Warn("copy is not in its final state yet, retrying")
		}
		return nil
	})
}

// ReconcileAll calls ReconcileSoon for all copies of this node.
func (c *Copies) ReconcileAll() {
	for _, id := range c.Cache.CopyIDs() {
		c.ReconcileSoon(id)
	}
}

// Reconcile brings a copy into its recorded state: without a head, or destroyed. It is idempotent. A copy that is in
// use stays unchanged until its users end; no new user can open it.
func (c *Copies) Reconcile(ctx context.Context, id uuid.UUID) error {
	unlock, err := c.Locks.Lock(ctx, id, "check of the copy of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	k, kept := c.Cache.Copy(id)
	if !kept || c.Trust.Err() != nil {
		return nil
	}
	return c.ReportInspection(ctx, k, c.ReconcileLocked(ctx, k))
}

// ReconcileLocked does the work of Reconcile. The caller holds the lock of the dataset.
func (c *Copies) ReconcileLocked(ctx context.Context, k api.AssignedCopy) error {
	id := k.Dataset
	if p, comes := c.MoveTable.Get(id); comes && p.Files {
		return nil // the move replaces the copy file by file
	}
	d, _ := c.Cache.DatasetOrCopy(id)
	if err := c.Unmounter.Supersede(ctx, d); err != nil {
		return err
	}
	if err := c.Verifier.EnsureUnused(ctx, d, "release"); err != nil {
		if errors.Is(err, dataset.ErrInUse) && !host.IsInspected(k) {
			if pool, err := c.Pools.Get(k.Pool); err == nil {
				return c.Keys.UpdateCopyKey(ctx, pool, k) // the present mount does not need the key again
			}
			return nil // doctor reports it
		}
		return err
	}
	pool, err := c.Pools.Online(ctx, k.Pool)
	if err != nil {
		return err
	}
	condemned := k.Kind == dataset.CopyCondemned
	if _, comes := c.MoveTable.Get(id); condemned && (comes || c.MoveTable.IsActive(id)) {
		return nil // a move continues from the copy, which is reconciled when the move has ended
	}
	// A condemned copy of these kinds may have data that the volume lacks, so its data is examined before it is
	// destroyed.
	mayHaveLoss := k.Record != nil && k.Record.State != dataset.StatePurging &&
		(k.PreviousKind == dataset.CopyReplica || k.PreviousKind == dataset.CopyLeft)
	if condemned && !mayHaveLoss {
		return c.destroy(ctx, pool, k)
	}
	keep, err := c.removeHead(ctx, pool, k)
	if err == nil && keep.ID == uuid.Nil {
		keep, err = host.UnrecordedLoss(ctx, pool, k)
	}
	switch {
	case err != nil:
		return err
	case keep.ID != uuid.Nil:
		err = c.reportSuperseded(ctx, k, keep)
	case condemned:
		return c.destroy(ctx, pool, k)
	}
	err = errors.Join(
		err,
		c.Keys.UpdateCopyKey(ctx, pool, k),
		c.Leases.Drop(ctx, id),
		c.Uses.Drop(ctx, id),
		mounting.RemoveMountPoint(c.MountPath(id)),
	)
	return errors.Join(err, c.ReconcileInspection(ctx, pool, k))
}

// removeHead removes the head that this node has of a dataset whose home it was. A head may have data that no snapshot
// has, and such data is never dropped: removeHead first takes a snapshot of such a head. It returns that snapshot, also
// when it is called again, until control has recorded the snapshot. In a pool without copies (not a backends.Copier),
// the head stays, and no one mounts it.
func (c *Copies) removeHead(ctx context.Context, pool backends.Pool,
	k api.AssignedCopy) (keep dataset.Snapshot, err error) {
	copier, can := pool.(backends.Copier)
	e, err := pool.Stat(ctx, k.Dataset)
	if !can || errors.Is(err, dataset.ErrNotFound) {
		return keep, nil
	}
	if err != nil {
		return keep, err
	}
	superseded := c.supersededSnapshot(k).TakenAfter(e.Snapshots, c.Clock.Now())
	if e.State == backends.EntryCopy && !e.Promoted {
		if i := host.IndexOf(e, superseded.ID); i >= 0 && k.Snapshot != superseded.ID {
			keep = e.Snapshots[i] // an earlier attempt was interrupted before its report
		} else if i < 0 && k.Kind == dataset.CopySuperseded && k.Snapshot == uuid.Nil {
			keep, _ = host.Promotable(e) // the head had no data that this snapshot lacks
		}
		return keep, nil
	}
	if _, comes := c.MoveTable.Get(k.Dataset); comes && e.State == backends.EntryCopy {
		return keep, nil // a move made the head, and control may have recorded this node as the home
	}
	steps.At("leave.begin")
	if k.Kind != dataset.CopySuperseded {
		err = copier.Demote(ctx, k.Dataset, k.Snapshot)
		if err == nil || !errors.Is(err, dataset.ErrConflict) && !errors.Is(err, dataset.ErrNotFound) {
			steps.At("leave.demoted")
			return keep, err
		}
		log := c.Log.WithError(err).WithField("dataset", k.Dataset)
		log.Error("the data left behind differs from the relinquished content: it is kept as a superseded snapshot")
	}
	if err := copier.Supersede(ctx, k.Dataset, superseded); err != nil {
		return keep, err
	}
	steps.At("leave.superseded")
	log := c.Log.WithFields(map[string]any{"dataset": k.Dataset, "snapshot": superseded.ID})
	log.Warn("superseded data is kept as a snapshot (drover copy ls)")
	return superseded, nil
}

// reportSuperseded reports the snapshot here whose data the volume lacks. The next sync confirms that the snapshot is
// kept.
func (c *Copies) reportSuperseded(ctx context.Context, k api.AssignedCopy, s dataset.Snapshot) error {
	k.Kind, k.Snapshot, k.Taken, k.OrderTime, k.Epoch = dataset.CopySuperseded, s.ID, s.Created, s.OrderTime,
		max(k.Epoch, s.Epoch)
	return c.Report(ctx, api.CopyReport{Copy: k.Copy})
}

// supersededSnapshot returns the record of the snapshot of a superseded head. There is one for each epoch.
func (c *Copies) supersededSnapshot(k api.AssignedCopy) dataset.Snapshot {
	id := uuid.NewSHA1(k.Dataset, fmt.Appendf(nil, "superseded/%s/%d", c.NodeID, k.Epoch))
	s := dataset.Snapshot{ID: id, Dataset: k.Dataset, Kind: dataset.SnapshotSuperseded, Epoch: k.Epoch}
	if k.Record != nil {
		s.Volume, s.Size, s.Profile = k.Record.Volume, k.Record.Size, k.Record.Profile
	}
	return s
}

// destroy destroys a copy and reports the destruction. It first asks control again whether the copy may be destroyed.
// The decision may be old, and the copy may now be the last good one.
func (c *Copies) destroy(ctx context.Context, pool backends.Pool, k api.AssignedCopy) error {
	if _, err := pool.Stat(ctx, k.Dataset); !errors.Is(err, dataset.ErrNotFound) {
		err := c.Control.ReportCopy(ctx, c.NodeID, api.CopyReport{
			Incarnation: c.Incarnation, Copy: k.Copy, ConfirmRemoval: true,
		})
		if errors.Is(err, dataset.ErrStale) {
			return nil // the copy stays, or the next sync has its new record
		} else if err != nil {
			return err
		}
	}
	if err := c.ReconcileInspection(ctx, pool, k); err != nil {
		return err
	}
	steps.At("let-go.begin")
	if err := pool.Delete(ctx, k.Dataset); err != nil {
		return err
	}
	steps.At("let-go.destroyed")
	if err := c.Report(ctx, api.CopyReport{Copy: k.Copy, Removed: true}); err != nil {
		return err
	}
	return errors.Join(
		c.Leases.Drop(ctx, k.Dataset),
		c.Uses.Drop(ctx, k.Dataset),
		mounting.RemoveMountPoint(c.MountPath(k.Dataset)),
	)
}

// Report reports a copy of this node to control. If control no longer wants the copy, Report returns nil, and the next
// sync has the new record.
func (c *Copies) Report(ctx context.Context, r api.CopyReport) error {
	r.Incarnation = c.Incarnation
	err := c.Control.ReportCopy(ctx, c.NodeID, r)
	if errors.Is(err, dataset.ErrStale) {
		return nil
	}
	return err
}

// IsRecorded reports whether this node must keep its data of a dataset whose home is another node: it is a copy that
// control knows, or a move brings it.
func (c *Copies) IsRecorded(id uuid.UUID) bool {
	_, kept := c.Cache.Copy(id)
	return kept || c.MoveTable.IsIncoming(id) || c.MoveTable.IsBeside(id)
}
