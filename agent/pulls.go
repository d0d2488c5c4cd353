package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// resolvePulls finishes what a crash cut short: a dataset whose home this node became
// gets its head, if it has none yet, and takes its place. What came in vain goes when its
// time is over.
func (a *Agent) resolvePulls(ctx context.Context) {
	for id, p := range a.moveTable.Inactive() {
		if err := a.resolvePull(ctx, id, p); err != nil && ctx.Err() == nil {
			a.Log.WithError(err).WithField("dataset", id).Error("what a move brought is not in its place yet; it is tried again")
		}
	}
}

func (a *Agent) resolvePull(ctx context.Context, id uuid.UUID, p replication.MoveRecord) error {
	d, home := a.Cache.Dataset(id)
	if !home {
		return a.letGoPull(ctx, id, p)
	}
	unlock, err := a.Locks.Lock(ctx, id, "move of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	if a.moveTable.IsActive(id) {
		return nil
	}
	return a.settleHome(ctx, d, p)
}

// settleHome puts a dataset whose home this node became in its place. Its lock is held.
func (a *Agent) settleHome(ctx context.Context, d dataset.Dataset, p replication.MoveRecord) error {
	pool, err := a.pools.Online(ctx, p.Pool)
	if err != nil {
		return err
	}
	if sharer, can := pool.(backends.Sharer); can && p.Share {
		given := backends.Given{Pool: p.From, Epoch: p.Epoch - 1}
		if p.From == p.Pool && d.Taken != nil { // it lies here since before a home that never took it
			given.Epoch = d.Taken.Epoch - 1
		}
		if err := sharer.Take(ctx, d, given); err != nil {
			return fmt.Errorf("volume %s: its home is here, but it was not taken over yet: %w", d.Volume, err)
		}
	}
	if copier, can := pool.(backends.Copier); can && !p.Files && p.Snapshot != uuid.Nil {
		if err := copier.Promote(ctx, d.ID, p.Snapshot); err != nil {
			return fmt.Errorf("volume %s: its home is here, but it has no head yet: %w", d.Volume, err)
		}
	} else if can && p.Beside != uuid.Nil {
		if err := a.takePlaceAtHome(ctx, pool, d, p.Beside); err != nil {
			return fmt.Errorf("volume %s: its home is here, but what came is beside its copy yet: %w", d.Volume, err)
		}
	}
	if err := pool.Commit(ctx, d.ID); err != nil {
		return fmt.Errorf("volume %s: its home is here, but it is not in its place yet: %w", d.Volume, err)
	}
	if p.Snapshot != uuid.Nil {
		if err := a.sizes.ResizeAsRecorded(ctx, pool, d, p.Snapshot); err != nil {
			return err
		}
	}
	steps.At("move.committed")
	a.pools.Changed(p.Pool, true)
	a.noteDone(ctx, pool, d)
	a.retention.PruneSoon(d.ID)
	return errors.Join(a.dropBeside(ctx, p), a.forgetCopy(ctx, d.ID), a.leases.Drop(ctx, d.ID), a.moveTable.Drop(ctx, d.ID))
}

// letGoPull destroys what came in vain when its time is over, or the volume is deleted:
// bytes that this node brought here itself, of a dataset whose home is elsewhere.
func (a *Agent) letGoPull(ctx context.Context, id uuid.UUID, p replication.MoveRecord) error {
	if a.Trust.Err() != nil {
		return nil
	}
	op, err := a.Control.Operation(ctx, p.Move.String(), 0)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) || err == nil && !op.State.Final() {
		return nil // control is away, or it is begun again
	}
	if _, kept := a.Cache.Copy(id); kept {
		v, err := a.Control.Volume(ctx, id.String())
		if err != nil && !errors.Is(err, dataset.ErrNotFound) || err == nil && v.Home == a.NodeID || a.moveTable.IsActive(id) {
			return nil // it may be the home and not have heard so: what a move made is its head
		}
		err = errors.Join(a.dropBeside(ctx, p), a.moveTable.Drop(ctx, id)) // control says what becomes of it
		a.copySoon(id)
		return err
	}
	unlock, err := a.Locks.Lock(ctx, id, "removal of what a move brought in vain")
	if err != nil {
		return err
	}
	defer unlock()
	if _, home := a.Cache.Dataset(id); home || a.moveTable.IsActive(id) {
		return nil
	}
	v, err := a.Control.Volume(ctx, id.String())
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err == nil && (v.Home == a.NodeID || a.Clock.Now().Sub(p.Since) < replication.KeepFailed) { // of what is deleted there is no other try
		return nil
	}
	if p.Share { // none of it is here
		return a.moveTable.Drop(ctx, id)
	}
	pool, err := a.pools.Online(ctx, p.Pool)
	if err != nil {
		return err
	}
	if err := errors.Join(pool.Delete(ctx, id), a.dropBeside(ctx, p)); err != nil {
		return err
	}
	return a.moveTable.Drop(ctx, id)
}
