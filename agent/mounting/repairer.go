package mounting

import (
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
)

// ApplyGuard records the guard's status st, and calls RepairSoon for each dataset that the guard fences, has fenced or
// has superseded. answer is the value of Deadlines.AnswerCount before the status was requested.
func (m *Mounts) ApplyGuard(st guard.Status, answer uint64) {
	m.Leases.Registrar.RecordStatus(st, answer)
	for _, e := range st.Datasets {
		if e.State != guard.StateArmed && e.State != guard.StateRebooted {
			m.RepairSoon(e.Dataset)
		}
	}
}

// RepairAll calls RepairSoon for each dataset whose mount does not agree with the guard's record, and for each mounted
// dataset whose deadline has passed. It also starts jobs that call Deadlines.DropUnneededNodes and Marks.Settle. It
// does nothing on a host without a guard.
func (m *Mounts) RepairAll() {
	if m.Leases.Guard == nil {
		return
	}
	for _, id := range m.Leases.Deadlines.Registered() {
		_, home := m.Cache.Dataset(id)
		if mounted, err := host.IsMountPoint(m.MountPath(id)); err == nil && (!mounted || !home) {
			m.RepairSoon(id)
		}
	}
	for _, d := range m.Leases.Deadlines.Datasets() {
		_, armed := m.Leases.Deadlines.RegisteredEpoch(d.ID)
		if mounted, err := host.IsMountPoint(m.MountPath(d.ID)); err == nil && mounted &&
			(!armed || m.Leases.Deadlines.Until(d) <= m.Clock.Steady()) {
			m.RepairSoon(d.ID)
		}
	}
	m.Jobs.Start("enrolled", func(ctx context.Context, _ *host.Job) error {
		if err := m.Leases.Deadlines.DropUnneededNodes(ctx); err != nil && ctx.Err() == nil &&
			!errors.Is(err, dataset.ErrUnavailable) {
			m.Log.WithError(err).Warn("cannot compare the recorded holders of copies with the nodes that have " +
				"copies; retrying")
		}
		return nil
	})
	m.Jobs.Start("bounded", func(ctx context.Context, _ *host.Job) error {
		if err := m.Leases.Deadlines.Marks.Settle(ctx); err != nil && ctx.Err() == nil &&
			!errors.Is(err, dataset.ErrUnavailable) {
			m.Log.WithError(err).Warn("cannot find out how changes of the failover of volumes ended; retrying")
		}
		return nil
	})
}

// RepairSoon makes the guard's record of a dataset agree with its state, as a job. It does nothing on a host without a
// guard.
func (m *Mounts) RepairSoon(id uuid.UUID) {
	if m.Leases.Guard == nil {
		return
	}
	m.Jobs.Start("guard/"+id.String(), func(ctx context.Context, _ *host.Job) error {
		if err := m.repair(ctx, id); err != nil && ctx.Err() == nil {
			m.Log.WithError(err).WithField("dataset",
				id).Warn("cannot register a volume with the guard, retrying")
		}
		return nil
	})
}

// repair makes the guard's record of a dataset agree with its mount. A fenced dataset continues once its epoch is
// confirmed. A mounted dataset that the guard has forgotten is registered. A dataset that is not mounted any more is
// removed from the guard. If the home is another node, repair starts the work on the copy (move.Copies) or, if
// this node has no copy, calls leaveShare. Idempotent.
func (m *Mounts) repair(ctx context.Context, id uuid.UUID) error {
	unlock, err := m.Locks.Lock(ctx, id, "confirmation of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	d, home := m.Cache.Dataset(id)
	if _, copied := m.Cache.Copy(id); copied {
		m.copies.ReconcileSoon(id)
		return nil
	}
	e, there, err := m.Leases.Registrar.Entry(ctx, id)
	if err != nil {
		return err
	}
	mounted, err := host.IsMountPoint(m.MountPath(id))
	if err != nil {
		return err
	}
	if !home {
		return m.leaveShare(ctx, id) // also if this node has no record of the dataset, or if it was deleted
	}
	if !mounted && !there {
		m.Leases.Deadlines.ClearRegistered(id)
		return nil
	}
	if !mounted && !lease.IsFenced(e) {
		_ = m.Unmounter.ReleaseUnmounted(ctx, d) // a failure is logged, and a later repair tries again
		return nil
	}
	bounded := m.Leases.Deadlines.IsBounded(d)
	if !bounded && !lease.IsFenced(e) {
		return m.releaseUnbounded(ctx, d)
	}
	until := m.Leases.Deadlines.Until(d)
	if late := until <= m.Clock.Steady(); late && mounted && !there {
		return m.fenceLate(ctx, d)
	} else if late {
		return nil // once the deadline is extended, Deadlines.Feed starts the next repair
	}
	if there && lease.IsFenced(e) {
		if err := m.Leases.Registrar.Continue(ctx, d, until); err != nil {
			return err
		}
		steps.At("fence.thawed")
	}
	switch {
	case !mounted:
		_ = m.Unmounter.ReleaseUnmounted(ctx, d) // a failure is logged, and a later repair tries again
		return nil
	case !bounded:
		return m.releaseUnbounded(ctx, d)
	}
	if err = m.Leases.Registrar.Register(ctx, d); err == nil {
		_, err = m.Leases.Guard.Check(ctx, id, d.Epoch)
	}
	if err == nil && len(m.Uses.Get(id).IDs) == 0 {
		m.Uses.MarkIdle(id)
	}
	m.News.Changed(id)
	return err
}

// releaseUnbounded makes the guard forget a mounted dataset whose lease is not bounded in time any more, because its
// profile has failover manual. No other node takes over such a dataset: control plans and commits no automatic failover
// of it. releaseUnbounded first writes the record to disk, so that a restarted agent does not have the dataset fenced.
// While control's store is inconsistent, it does nothing. The caller holds the dataset's lock.
func (m *Mounts) releaseUnbounded(ctx context.Context, d dataset.Dataset) error {
	if m.Trust.Err() != nil {
		return nil // the record may be older than what control will decide after a recovery
	}
	if err := m.Cache.SaveChanged(ctx, m.DB); err != nil {
		return err
	}
	m.Leases.Registrar.Release(d.ID)
	m.News.Changed(d.ID)
	return nil
}

// fenceLate registers a mounted dataset that the guard does not know. If nothing confirms the lease, it registers the
// dataset with a deadline that has passed, so that the guard fences it. The caller holds the dataset's lock.
func (m *Mounts) fenceLate(ctx context.Context, d dataset.Dataset) error {
	err := m.Leases.Registrar.Register(ctx, d)
	if !errors.Is(err, dataset.ErrUnavailable) {
		return err
	}
	m.LogOf(ctx, d).WithError(err).
		Error("fencing a mounted volume: the guard did not know it, and no node confirms its lease")
	reg, err := m.Leases.Registrar.Registration(d, m.Clock.Steady())
	if err != nil {
		return err
	}
	m.Leases.Deadlines.SetRegistered(d.ID, d.Epoch)
	_, err = m.Leases.Guard.Register(ctx, reg)
	if errors.Is(err, dataset.ErrStale) { // the guard says that it is fenced
		return nil
	}
	return err
}

// leaveShare ends the guard's registration of a dataset on a share that continues on another node. First the guard
// kills the processes that hold the dataset here, because on a share they would write to the data of the other node.
// Then leaveShare removes the uses of the dataset and its mount point. The dataset's lock is held.
func (m *Mounts) leaveShare(ctx context.Context, id uuid.UUID) error {
	epoch, armed := m.Leases.Deadlines.RegisteredEpoch(id)
	if !armed || m.Trust.Err() != nil {
		return nil
	}
	now, err := m.FetchDataset(ctx, id)
	if errors.Is(err, dataset.ErrNotFound) { // it is in the trash or was purged, possibly after it had moved
		now, err = m.removedElsewhere(ctx, id, epoch)
	}
	if err != nil || now.Home == m.NodeID || now.Epoch <= epoch {
		return err
	}
	gone := dataset.Dataset{ID: id, Volume: now.Volume}
	if err := m.Unmounter.Supersede(ctx, gone); err != nil {
		return err
	}
	if err := m.Verifier.EnsureUnused(ctx, gone, "release"); err != nil {
		return err
	}
	return errors.Join(m.Uses.Drop(ctx, id), RemoveMountPoint(m.MountPath(id)))
}

// removedElsewhere returns the present state of a dataset that is registered with the guard here, but is not a volume
// any more: it is in the trash, or was purged. If the dataset is on a share, another node has become its home, so the
// returned epoch is higher. Otherwise the epoch is unchanged.
func (m *Mounts) removedElsewhere(ctx context.Context, id uuid.UUID, epoch uint64) (gone dataset.Dataset, err error) {
	gone = dataset.Dataset{ID: id, Epoch: epoch}
	known, halted, err := m.Recorded(ctx)
	if _, own := known[id]; err != nil || own || halted != "" {
		return gone, err
	}
	on, err := m.mountedOnShare(id)
	if on {
		gone.Epoch++
	}
	return gone, err
}

// mountedOnShare reports whether a dataset is mounted from a share on which this node has a pool. If the dataset is
// not mounted, it reports whether this node has a pool on a share.
func (m *Mounts) mountedOnShare(id uuid.UUID) (bool, error) {
	table, err := mount.Table()
	if err != nil {
		return false, err
	}
	at := table.At(m.MountPath(id))
	return slices.ContainsFunc(m.Pools.All(), func(p *pool.Pool) bool {
		if p.Share == uuid.Nil || p.Storage == nil {
			return false
		}
		on := table.On(p.Storage.Info().Path)
		return at == nil || on != nil && on.Major == at.Major && on.Minor == at.Minor
	}), nil
}
