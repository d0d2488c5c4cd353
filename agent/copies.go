package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

func (a *Agent) loadCopies(ctx context.Context) error {
	return a.DB.Each(ctx, "copies/", func(_ string, v []byte) error {
		var k api.Kept
		err := json.Unmarshal(v, &k)
		if err == nil {
			a.Cache.SetCopy(k.Dataset, &k)
		}
		return err
	})
}

// takeCopy takes in that this node is to keep a copy of a dataset, or let go of it: its
// home is another node. That is on disk before anything is done about it, so that no
// start without control takes the dataset for its own again.
func (a *Agent) takeCopy(ctx context.Context, k api.Kept) error {
	if d, home := a.Cache.Dataset(k.Dataset); home && (k.Record != nil && k.Record.Epoch <= d.Epoch || a.Trust.Err() != nil) {
		return nil // from before it came here
	}
	key := k.Dataset.String()
	if err := a.DB.Put(ctx, map[string]any{"copies/" + key: k, "volumes/" + key: nil}); err != nil {
		return err
	}
	if !a.Cache.ReplaceByCopy(k) { // it came here while that was written
		d, _ := a.Cache.Dataset(k.Dataset)
		return a.DB.Put(ctx, map[string]any{"copies/" + key: nil, "volumes/" + key: api.Indexed{Dataset: d, Index: a.Cache.Index(k.Dataset)}})
	}
	a.leases.EndRecall(k.Dataset)
	a.forgetGiven(k.Dataset)
	a.copySoon(k.Dataset)
	a.replicas.Wake()
	return nil
}

// forgetCopy takes in that this node keeps no copy of a dataset any more.
func (a *Agent) forgetCopy(ctx context.Context, id uuid.UUID) error {
	k, kept := a.Cache.Copy(id)
	if !kept {
		return nil
	}
	if err := a.DB.Put(ctx, map[string]any{"copies/" + id.String(): nil}); err != nil {
		return err
	}
	a.Cache.SetCopy(id, nil)
	if records.IsShown(k) {
		a.idle(records.ShownAs(k)) // it is taken off
	}
	return nil
}

// copySoon makes a copy what it is to be, as a job of its own.
func (a *Agent) copySoon(id uuid.UUID) {
	a.Jobs.StartAgain("copy/"+id.String(), func(ctx context.Context, _ *jobs.Job) error {
		if err := a.settleCopy(ctx, id); err != nil && ctx.Err() == nil {
			a.Log.WithError(err).WithField("dataset", id).Warn("copy is not what it is to be yet; it is tried again")
		}
		return nil
	})
}

// copies tries again what could not be done about copies.
func (a *Agent) copies() {
	for _, id := range a.Cache.CopyIDs() {
		a.copySoon(id)
	}
}

// settleCopy makes a copy what it is to be: without a head, or gone. Again: nothing. In
// use it is left as it is: nobody new begins, and who holds it ends it.
func (a *Agent) settleCopy(ctx context.Context, id uuid.UUID) error {
	unlock, err := a.Locks.Lock(ctx, id, "check of the copy of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	k, kept := a.Cache.Copy(id)
	if !kept || a.Trust.Err() != nil {
		return nil
	}
	return a.tellShown(ctx, k, a.settleKept(ctx, k))
}

// settleKept does so. Its lock is held.
func (a *Agent) settleKept(ctx context.Context, k api.Kept) error {
	id := k.Dataset
	if p, comes := a.moveTable.Get(id); comes && p.Files {
		return nil // what lies here is made anew, file by file
	}
	d, _ := a.Cache.DatasetOrCopy(id)
	if err := a.supersede(ctx, d); err != nil {
		return err
	}
	if err := a.unused(ctx, d, "let go of"); err != nil {
		if errors.Is(err, dataset.ErrInUse) && !records.IsShown(k) {
			if pool, err := a.pools.Get(k.Pool); err == nil {
				return a.noteKey(ctx, pool, k) // who has it mounted needs no key any more
			}
			return nil // doctor says so
		}
		return err
	}
	pool, err := a.pools.Online(ctx, k.Pool)
	if err != nil {
		return err
	}
	condemned := k.Kind == dataset.CopyGoing
	if _, comes := a.moveTable.Get(id); condemned && (comes || a.moveTable.IsActive(id)) {
		return nil // a move goes on from it; what becomes of it then is seen when that has ended
	}
	wanted := k.Record != nil && k.Record.State != dataset.StatePurging && (k.Was == dataset.CopyReplica || k.Was == dataset.CopyLeft)
	if condemned && !wanted {
		return a.destroyCopy(ctx, pool, k)
	}
	keep, err := a.behead(ctx, pool, k)
	if err == nil && keep.ID == uuid.Nil {
		keep, err = lineage.Lost(ctx, pool, k)
	}
	switch {
	case err != nil:
		return err
	case keep.ID != uuid.Nil:
		err = a.tellSuperseded(ctx, k, keep)
	case condemned:
		return a.destroyCopy(ctx, pool, k)
	}
	err = errors.Join(err, a.noteKey(ctx, pool, k), a.leases.Drop(ctx, id), a.drop(ctx, id), a.removeMountpoint(a.MountPath(id)))
	return errors.Join(err, a.settleShown(ctx, pool, k))
}

// behead takes the head from what was a home. What a snapshot does not have is kept as
// one first, which is returned as long as control has not heard of it: a head is never
// dropped that holds anything of its own. A pool that keeps no copies leaves it as it
// lies, where nothing mounts it.
func (a *Agent) behead(ctx context.Context, pool backends.Pool, k api.Kept) (keep dataset.Snapshot, err error) {
	copier, can := pool.(backends.Copier)
	e, err := pool.Stat(ctx, k.Dataset)
	if !can || errors.Is(err, dataset.ErrNotFound) {
		return keep, nil
	}
	if err != nil {
		return keep, err
	}
	superseded := a.supersededSnapshot(k).TakenAfter(e.Snapshots, a.Clock.Now())
	if e.State == backends.EntryCopy && !e.Promoted {
		if i := lineage.IndexOf(e, superseded.ID); i >= 0 && k.Snapshot != superseded.ID {
			keep = e.Snapshots[i] // what was cut short before that
		} else if i < 0 && k.Kind == dataset.CopySuperseded && k.Snapshot == uuid.Nil {
			keep, _ = lineage.Best(e) // its head had nothing else
		}
		return keep, nil
	}
	if _, comes := a.moveTable.Get(k.Dataset); comes && e.State == backends.EntryCopy {
		return keep, nil // a move made it, and may be on record: it is looked at again when that is known
	}
	steps.At("leave.begin")
	if k.Kind != dataset.CopySuperseded {
		err = copier.Demote(ctx, k.Dataset, k.Snapshot)
		if err == nil || !errors.Is(err, dataset.ErrConflict) && !errors.Is(err, dataset.ErrNotFound) {
			steps.At("leave.demoted")
			return keep, err
		}
		a.Log.WithError(err).WithField("dataset", k.Dataset).Error("what was left is not what was given up: its head is kept as a superseded snapshot")
	}
	if err := copier.Supersede(ctx, k.Dataset, superseded); err != nil {
		return keep, err
	}
	steps.At("leave.superseded")
	a.Log.WithFields(map[string]any{"dataset": k.Dataset, "snapshot": superseded.ID}).Warn("head that was overtaken is kept as a superseded snapshot (drover volume superseded ls)")
	return superseded, nil
}

// tellSuperseded tells control which snapshot of this node's has what the volume has not:
// the next sync says that it is kept.
func (a *Agent) tellSuperseded(ctx context.Context, k api.Kept, s dataset.Snapshot) error {
	k.Kind, k.Snapshot, k.Taken, k.Order, k.Epoch = dataset.CopySuperseded, s.ID, s.Created, s.Order, max(k.Epoch, s.Epoch)
	return a.tellCopy(ctx, api.Copied{Copy: k.Copy})
}

// supersededSnapshot is the record of a head that was overtaken: one an epoch.
func (a *Agent) supersededSnapshot(k api.Kept) dataset.Snapshot {
	id := uuid.NewSHA1(k.Dataset, fmt.Appendf(nil, "superseded/%s/%d", a.NodeID, k.Epoch))
	s := dataset.Snapshot{ID: id, Dataset: k.Dataset, Kind: dataset.SnapshotSuperseded, Epoch: k.Epoch}
	if k.Record != nil {
		s.Volume, s.Size, s.Profile = k.Record.Volume, k.Record.Size, k.Record.Profile
	}
	return s
}

// destroyCopy destroys a copy and tells control, which says right before whether that is
// wanted still: it may have been condemned long ago, and be the last good one by now.
func (a *Agent) destroyCopy(ctx context.Context, pool backends.Pool, k api.Kept) error {
	if _, err := pool.Stat(ctx, k.Dataset); !errors.Is(err, dataset.ErrNotFound) {
		err := a.Control.Copied(ctx, a.NodeID, api.Copied{Incarnation: a.Incarnation, Copy: k.Copy, Asks: true})
		if errors.Is(err, dataset.ErrStale) {
			return nil // it stays, or the next sync says what it is
		} else if err != nil {
			return err
		}
	}
	if err := a.settleShown(ctx, pool, k); err != nil {
		return err
	}
	steps.At("let-go.begin")
	if err := pool.Delete(ctx, k.Dataset); err != nil {
		return err
	}
	steps.At("let-go.destroyed")
	if err := a.tellCopy(ctx, api.Copied{Copy: k.Copy, Gone: true}); err != nil {
		return err
	}
	return errors.Join(a.leases.Drop(ctx, k.Dataset), a.drop(ctx, k.Dataset), a.removeMountpoint(a.MountPath(k.Dataset)))
}

// tellCopy tells control of a copy of this node's. That it is to have none any more is
// heard with the next sync.
func (a *Agent) tellCopy(ctx context.Context, c api.Copied) error {
	c.Incarnation = a.Incarnation
	err := a.Control.Copied(ctx, a.NodeID, c)
	if errors.Is(err, dataset.ErrStale) {
		return nil
	}
	return err
}
