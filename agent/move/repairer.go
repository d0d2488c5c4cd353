package move

import (
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
)

// RepairerDeps are the dependencies of Repairer.
type RepairerDeps struct {
	*host.Host
	Guard     lease.Guard // nil if this host works alone
	Pools     *pool.Pools
	Deadlines *lease.Deadlines
	Registrar *lease.Registrar
	Uses      *mounting.UseTable
	Verifier  *mounting.Verifier
	Unmounter *mounting.Unmounter
	// ReconcileCopySoon starts the work on a copy of a dataset whose home is another node.
	ReconcileCopySoon func(dataset uuid.UUID)
	// Recorded returns all datasets of this node that control has recorded, in every state, and the reason why
	// control's store is inconsistent, if it is.
	Recorded func(context.Context) (known map[uuid.UUID]dataset.Dataset, halted string, err error)
}

// Repairer makes the guard's records agree with the datasets that are mounted here: it lets a fenced dataset continue
// once its epoch is confirmed, and ends the uses of datasets that have continued elsewhere. It has no state. Its
// methods are safe for concurrent use.
type Repairer struct{ RepairerDeps }

// NewRepairer returns a Repairer.
func NewRepairer(deps RepairerDeps) *Repairer { return &Repairer{deps} }

// ApplyGuard records the guard's status st, and calls RepairSoon for each dataset that the guard fences, has fenced or
// has superseded. answer is the value of Deadlines.AnswerCount before the status was requested.
func (r *Repairer) ApplyGuard(st guard.Status, answer uint64) {
	r.Registrar.RecordStatus(st, answer)
	for _, e := range st.Datasets {
		if e.State != guard.StateArmed && e.State != guard.StateRebooted {
			r.RepairSoon(e.Dataset)
		}
	}
}

// RepairAll calls RepairSoon for each dataset whose mount does not agree with the guard's record, and for each mounted
// dataset whose deadline has passed. It also starts jobs that call Deadlines.DropUnneededNodes and Marks.Settle. It
// does nothing on a host without a guard.
func (r *Repairer) RepairAll() {
	if r.Guard == nil {
		return
	}
	for _, id := range r.Deadlines.Registered() {
		_, home := r.Cache.Dataset(id)
		if mounted, err := host.IsMountPoint(r.MountPath(id)); err == nil && (!mounted || !home) {
			r.RepairSoon(id)
		}
	}
	for _, d := range r.Deadlines.Datasets() {
		_, armed := r.Deadlines.RegisteredEpoch(d.ID)
		if mounted, err := host.IsMountPoint(r.MountPath(d.ID)); err == nil && mounted &&
			(!armed || r.Deadlines.Until(d) <= r.Clock.Steady()) {
			r.RepairSoon(d.ID)
		}
	}
	r.Jobs.Start("enrolled", func(ctx context.Context, _ *host.Job) error {
		if err := r.Deadlines.DropUnneededNodes(ctx); err != nil && ctx.Err() == nil &&
			!errors.Is(err, dataset.ErrUnavailable) {
			r.Log.WithError(err).Warn("cannot compare the recorded holders of copies with the nodes that have " +
				"copies; retrying")
		}
		return nil
	})
	r.Jobs.Start("bounded", func(ctx context.Context, _ *host.Job) error {
		if err := r.Deadlines.Marks.Settle(ctx); err != nil && ctx.Err() == nil &&
			!errors.Is(err, dataset.ErrUnavailable) {
			r.Log.WithError(err).Warn("cannot find out how changes of the failover of volumes ended; retrying")
		}
		return nil
	})
}

// RepairSoon makes the guard's record of a dataset agree with its state, as a job. It does nothing on a host without a
// guard.
func (r *Repairer) RepairSoon(id uuid.UUID) {
	if r.Guard == nil {
		return
	}
	r.Jobs.Start("guard/"+id.String(), func(ctx context.Context, _ *host.Job) error {
		if err := r.repair(ctx, id); err != nil && ctx.Err() == nil {
			r.Log.WithError(err).WithField("dataset",
				id).Warn("cannot register a volume with the guard, retrying")
		}
		return nil
	})
}

// repair makes the guard's record of a dataset agree with its mount. A fenced dataset continues once its epoch is
// confirmed. A mounted dataset that the guard has forgotten is registered. A dataset that is not mounted any more is
// removed from the guard. If the home is another node, repair starts the work on the copy (Copies) or, if
// this node has no copy, calls leaveShare. Idempotent.
func (r *Repairer) repair(ctx context.Context, id uuid.UUID) error {
	unlock, err := r.Locks.Lock(ctx, id, "confirmation of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	d, home := r.Cache.Dataset(id)
	if _, copied := r.Cache.Copy(id); copied {
		r.ReconcileCopySoon(id)
		return nil
	}
	e, there, err := r.Registrar.Entry(ctx, id)
	if err != nil {
		return err
	}
	mounted, err := host.IsMountPoint(r.MountPath(id))
	if err != nil {
		return err
	}
	if !home {
		return r.leaveShare(ctx, id) // also if this node has no record of the dataset, or if it was deleted
	}
	if !mounted && !there {
		r.Deadlines.ClearRegistered(id)
		return nil
	}
	if !mounted && !lease.IsFenced(e) {
		_ = r.Unmounter.ReleaseUnmounted(ctx, d) // a failure is logged, and a later repair tries again
		return nil
	}
	bounded := r.Deadlines.IsBounded(d)
	if !bounded && !lease.IsFenced(e) {
		return r.releaseUnbounded(ctx, d)
	}
	until := r.Deadlines.Until(d)
	if late := until <= r.Clock.Steady(); late && mounted && !there {
		return r.fenceLate(ctx, d)
	} else if late {
		return nil // once the deadline is extended, Deadlines.Feed starts the next repair
	}
	if there && lease.IsFenced(e) {
		if err := r.Registrar.Continue(ctx, d, until); err != nil {
			return err
		}
		steps.At("fence.thawed")
	}
	switch {
	case !mounted:
		_ = r.Unmounter.ReleaseUnmounted(ctx, d) // a failure is logged, and a later repair tries again
		return nil
	case !bounded:
		return r.releaseUnbounded(ctx, d)
	}
	if err = r.Registrar.Register(ctx, d); err == nil {
		_, err = r.Guard.Check(ctx, id, d.Epoch)
	}
	if err == nil && len(r.Uses.Get(id).IDs) == 0 {
		r.Uses.MarkIdle(id)
	}
	r.News.Changed(id)
	return err
}

// releaseUnbounded makes the guard forget a mounted dataset whose lease is not bounded in time any more, because its
// profile has failover manual. No other node takes over such a dataset: control plans and commits no automatic failover
// of it. releaseUnbounded first writes the record to disk, so that a restarted agent does not have the dataset fenced.
// While control's store is inconsistent, it does nothing. The caller holds the dataset's lock.
func (r *Repairer) releaseUnbounded(ctx context.Context, d dataset.Dataset) error {
	if r.Trust.Err() != nil {
		return nil // the record may be older than what control will decide after a recovery
	}
	if err := r.Cache.SaveChanged(ctx, r.DB); err != nil {
		return err
	}
	r.Registrar.Release(d.ID)
	r.News.Changed(d.ID)
	return nil
}

// fenceLate registers a mounted dataset that the guard does not know. If nothing confirms the lease, it registers the
// dataset with a deadline that has passed, so that the guard fences it. The caller holds the dataset's lock.
func (r *Repairer) fenceLate(ctx context.Context, d dataset.Dataset) error {
	err := r.Registrar.Register(ctx, d)
	if !errors.Is(err, dataset.ErrUnavailable) {
		return err
	}
	r.LogOf(ctx, d).WithError(err).
		Error("fencing a mounted volume: the guard did not know it, and no node confirms its lease")
	reg, err := r.Registrar.Registration(d, r.Clock.Steady())
	if err != nil {
		return err
	}
	r.Deadlines.SetRegistered(d.ID, d.Epoch)
	_, err = r.Guard.Register(ctx, reg)
	if errors.Is(err, dataset.ErrStale) { // the guard says that it is fenced
		return nil
	}
	return err
}

// leaveShare ends the guard's registration of a dataset on a share that continues on another node. First the guard
// kills the processes that hold the dataset here, because on a share they would write to the data of the other node.
// Then leaveShare removes the uses of the dataset and its mount point. The dataset's lock is held.
func (r *Repairer) leaveShare(ctx context.Context, id uuid.UUID) error {
	epoch, armed := r.Deadlines.RegisteredEpoch(id)
	if !armed || r.Trust.Err() != nil {
		return nil
	}
	now, err := r.FetchDataset(ctx, id)
	if errors.Is(err, dataset.ErrNotFound) { // it is in the trash or was purged, possibly after it had moved
		now, err = r.removedElsewhere(ctx, id, epoch)
	}
	if err != nil || now.Home == r.NodeID || now.Epoch <= epoch {
		return err
	}
	gone := dataset.Dataset{ID: id, Volume: now.Volume}
	if err := r.Unmounter.Supersede(ctx, gone); err != nil {
		return err
	}
	if err := r.Verifier.EnsureUnused(ctx, gone, "release"); err != nil {
		return err
	}
	return errors.Join(r.Uses.Drop(ctx, id), mounting.RemoveMountPoint(r.MountPath(id)))
}

// removedElsewhere returns the present state of a dataset that is registered with the guard here, but is not a volume
// any more: it is in the trash, or was purged. If the dataset is on a share, another node has become its home, so the
// returned epoch is higher. Otherwise the epoch is unchanged.
func (r *Repairer) removedElsewhere(ctx context.Context, id uuid.UUID, epoch uint64) (gone dataset.Dataset, err error) {
	gone = dataset.Dataset{ID: id, Epoch: epoch}
	known, halted, err := r.Recorded(ctx)
	if _, own := known[id]; err != nil || own || halted != "" {
		return gone, err
	}
	on, err := r.mountedOnShare(id)
	if on {
		gone.Epoch++
	}
	return gone, err
}

// mountedOnShare reports whether a dataset is mounted from a share on which this node has a pool. If the dataset is
// not mounted, it reports whether this node has a pool on a share.
func (r *Repairer) mountedOnShare(id uuid.UUID) (bool, error) {
	table, err := mount.Table()
	if err != nil {
		return false, err
	}
	at := table.At(r.MountPath(id))
	return slices.ContainsFunc(r.Pools.All(), func(p *pool.Pool) bool {
		if p.Share == uuid.Nil || p.Storage == nil {
			return false
		}
		on := table.On(p.Storage.Info().Path)
		return at == nil || on != nil && on.Major == at.Major && on.Minor == at.Minor
	}), nil
}
