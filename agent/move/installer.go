package move

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// A move that sends single files creates the dataset again. This node may already have a copy of the dataset. If the
// home is lost meanwhile, only that copy is left of the volume. So the files are received beside the copy: in an
// incoming dataset that has no record. Once the files are complete and verified, the record of the move says so and
// they survive a crash. Before that, the next start destroys them.
//
// In a pool with copies (a backends.Copier), the files replace the copy after control has recorded this node as the
// home. No one opens a copy, so the old data cannot be mistaken for the new data meanwhile. In other pools, the old
// data is a dataset that could be opened, so the files replace it just before control is asked. If control refuses,
// the files become the copy.

// InstallArrived implements mounting.Moves.
func (m *Moves) InstallArrived(ctx context.Context, d dataset.Dataset) error {
	p, comes := m.MoveTable.Get(d.ID)
	if !comes || p.Epoch != d.Epoch || m.MoveTable.IsActive(d.ID) {
		return nil
	}
	return m.Install(ctx, d, p)
}

// ResumeMoves finishes the moves that a crash interrupted. If this node has become the home, ResumeMoves makes the head
// unless there is one, and installs the dataset (see Install). The data of a failed move is destroyed: see
// discardFailed.
func (m *Moves) ResumeMoves(ctx context.Context) {
	for id, p := range m.MoveTable.Inactive() {
		if err := m.resumeMove(ctx, id, p); err != nil && ctx.Err() == nil {
			log := m.Log.WithError(err).WithField("dataset", id)
			log.Error("cannot put the data of a move in its place yet, retrying")
		}
	}
}

// resumeMove finishes one interrupted move.
func (m *Moves) resumeMove(ctx context.Context, id uuid.UUID, p MoveRecord) error {
	d, home := m.Cache.Dataset(id)
	if !home {
		return m.discardFailed(ctx, id, p)
	}
	unlock, err := m.Locks.Lock(ctx, id, "move of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	if m.MoveTable.IsActive(id) {
		return nil
	}
	return m.Install(ctx, d, p)
}

// Install makes a dataset that a move brought ready, after control has recorded this node as its home. Before that it
// takes over a dataset on a share, promotes the snapshot that arrived, or replaces the copy with the files beside it.
// Idempotent. The caller holds the dataset's lock.
func (m *Moves) Install(ctx context.Context, d dataset.Dataset, p MoveRecord) error {
	pool, err := m.Pools.Online(ctx, p.Pool)
	if err != nil {
		return err
	}
	if sharer, can := pool.(backends.Sharer); can && p.Share {
		previous := backends.PreviousHome{Pool: p.From, Epoch: p.Epoch - 1}
		if p.From == p.Pool && d.TakenOver != nil { // the lost home never took it over from this pool
			previous.Epoch = d.TakenOver.Epoch - 1
		}
		if err := sharer.Take(ctx, d, previous); err != nil {
			return fmt.Errorf("volume %s: its home is this node, but the takeover has not finished: %w", d.Volume, err)
		}
	}
	if copier, can := pool.(backends.Copier); can && !p.Files && p.Snapshot != uuid.Nil {
		if err := copier.Promote(ctx, d.ID, p.Snapshot); err != nil {
			return fmt.Errorf("volume %s: its home is this node, but its writable data has not been created yet: "+
				"%w", d.Volume, err)
		}
	} else if can && p.Beside != uuid.Nil {
		if err := m.ReplaceCopyAtHome(ctx, pool, d, p.Beside); err != nil {
			return fmt.Errorf("volume %s: its home is this node, but the data that was moved is still beside its "+
				"copy: %w", d.Volume, err)
		}
	}
	if err := pool.Commit(ctx, d.ID); err != nil {
		return fmt.Errorf("volume %s: its home is this node, but its data is not in its place yet: %w", d.Volume, err)
	}
	if p.Snapshot != uuid.Nil {
		if err := m.Sizes.ResizeAsRecorded(ctx, pool, d, p.Snapshot); err != nil {
			return err
		}
	}
	steps.At("move.committed")
	m.Pools.MarkChanged(p.Pool, true)
	m.WriteRecord(ctx, pool, d)
	m.Retention.PruneSoon(d.ID)
	return errors.Join(
		m.DropBeside(ctx, p),
		m.Copies.Forget(ctx, d.ID),
		m.Leases.Drop(ctx, d.ID),
		m.MoveTable.Drop(ctx, d.ID),
	)
}

// discardFailed destroys the data of a failed move after KeepFailed, or at once if the volume was deleted. The data is
// only a transferred copy: the home of the dataset is another node. If this node has a recorded copy of the dataset,
// discardFailed keeps the copy, for Copies to reconcile, and destroys only the files beside it, without waiting for
// KeepFailed.
func (m *Moves) discardFailed(ctx context.Context, id uuid.UUID, p MoveRecord) error {
	if m.Trust.Err() != nil {
		return nil
	}
	op, err := m.Control.Operation(ctx, p.Move.String(), 0)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) || err == nil && !op.State.Final() {
		return nil // control is unreachable, or the move was started again
	}
	if _, kept := m.Cache.Copy(id); kept {
		v, err := m.Control.Volume(ctx, id.String())
		if err != nil && !errors.Is(err, dataset.ErrNotFound) || err == nil && v.Home == m.NodeID ||
			m.MoveTable.IsActive(id) {
			return nil // control may have recorded this node as the home; then the data is the head
		}
		err = errors.Join(m.DropBeside(ctx, p), m.MoveTable.Drop(ctx, id)) // the copy stays: control decides about it
		m.Copies.ReconcileSoon(id)
		return err
	}
	unlock, err := m.Locks.Lock(ctx, id, "removal of data of a failed move")
	if err != nil {
		return err
	}
	defer unlock()
	if _, home := m.Cache.Dataset(id); home || m.MoveTable.IsActive(id) {
		return nil
	}
	v, err := m.Control.Volume(ctx, id.String())
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	// A move of a deleted volume is not tried again.
	if err == nil && (v.Home == m.NodeID || m.Clock.Now().Sub(p.Since) < KeepFailed) {
		return nil
	}
	if p.Share { // no data is here
		return m.MoveTable.Drop(ctx, id)
	}
	pool, err := m.Pools.Online(ctx, p.Pool)
	if err != nil {
		return err
	}
	if err := errors.Join(pool.Delete(ctx, id), m.DropBeside(ctx, p)); err != nil {
		return err
	}
	return m.MoveTable.Drop(ctx, id)
}

// ReplaceCopy replaces the copy of a dataset with the files that arrived beside it. The caller holds its lock.
func (m *Moves) ReplaceCopy(ctx context.Context, pool backends.Pool, d dataset.Dataset, beside uuid.UUID) error {
	if _, err := pool.Stat(ctx, beside); err != nil { // before anything is deleted
		return err
	}
	if err := pool.Delete(ctx, d.ID); err != nil {
		return err
	}
	d.Size = 0 // lets the clone keep the size of its source
	_, err := pool.Clone(ctx, d, dataset.Source{Dataset: beside}, nil)
	return err
}

// ReplaceCopyAtHome calls ReplaceCopy after a crash between the record of the new home and the replacement of the
// copy.
func (m *Moves) ReplaceCopyAtHome(
	ctx context.Context, pool backends.Pool, d dataset.Dataset, beside uuid.UUID,
) error {
	e, err := pool.Stat(ctx, d.ID)
	if err == nil && e.State != backends.EntryCopy {
		return nil // it may have been written to since
	}
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	return m.ReplaceCopy(ctx, pool, d, beside)
}

// KeepAsCopy turns the files that replaced a copy into the copy, after control refused to record this node as the
// home. This is safe because no other copy is left here, and all files were verified. The caller holds the dataset's
// lock.
func (m *Moves) KeepAsCopy(ctx context.Context, pool backends.Pool, d dataset.Dataset, p MoveRecord) error {
	if err := pool.WriteRecord(ctx, d, true); err != nil { // until now, the record says that the home is this node
		return err
	}
	if err := pool.Commit(ctx, d.ID); err != nil {
		return err
	}
	return m.DropBeside(ctx, p)
}

// DropBeside destroys the files that a move brought beside a copy, after they replaced it or the move failed.
func (m *Moves) DropBeside(ctx context.Context, p MoveRecord) error {
	if p.Beside == uuid.Nil {
		return nil
	}
	pool, err := m.Pools.Online(ctx, p.Pool)
	if err != nil {
		return err
	}
	return pool.Delete(ctx, p.Beside)
}
