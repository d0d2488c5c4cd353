package agent

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/steps"
)

// takeGuard applies the guard's records. asked is the number of its answers when it was asked. The guard forgets
// what is no longer mounted.
func (a *Agent) takeGuard(st guard.Status, answer uint64) {
	a.registrar.RecordAll(st, answer)
	for _, e := range st.Datasets {
		if e.State != guard.StateArmed && e.State != guard.StateRebooted {
			a.mendSoon(e.Dataset)
		}
	}
}

// mendAll repairs everything that the guard has or must have, and forgets nodes that no longer have copies.
func (a *Agent) mendAll() {
	if a.config.Guard == nil {
		return
	}
	for _, id := range a.deadlines.AllArmed() {
		_, home := a.Cache.Dataset(id)
		if mounted, err := host.IsMountPoint(a.MountPath(id)); err == nil && (!mounted || !home) {
			a.mendSoon(id)
		}
	}
	for _, d := range a.deadlines.Datasets() {
		_, armed := a.deadlines.Armed(d.ID)
		if mounted, err := host.IsMountPoint(a.MountPath(d.ID)); err == nil && mounted &&
			(!armed || a.deadlines.Until(d) <= a.Clock.Steady()) {
			a.mendSoon(d.ID)
		}
	}
	a.Jobs.Start("enrolled", func(ctx context.Context, _ *jobs.Job) error {
		if err := a.deadlines.DropEnrolled(ctx); err != nil && ctx.Err() == nil &&
			!errors.Is(err, dataset.ErrUnavailable) {
			a.Log.WithError(err).Warn("who was given copies was not compared with who has some; it is tried again")
		}
		return nil
	})
}

// mendSoon makes the guard's record of a dataset agree with its state, as a job.
func (a *Agent) mendSoon(id uuid.UUID) {
	a.Jobs.Start("guard/"+id.String(), func(ctx context.Context, _ *jobs.Job) error {
		if err := a.mend(ctx, id); err != nil && ctx.Err() == nil {
			a.Log.WithError(err).WithField("dataset",
				id).Warn("a volume is not as the guard is to have it; it is tried again")
		}
		return nil
	})
}

// mend lets a fenced dataset continue once its epoch is confirmed, registers one that the guard has forgotten,
// and has it forget one that is no longer mounted. For a dataset whose home is elsewhere Copies.Settle does the
// rest. Idempotent.
func (a *Agent) mend(ctx context.Context, id uuid.UUID) error {
	unlock, err := a.Locks.Lock(ctx, id, "confirmation of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	d, home := a.Cache.Dataset(id)
	if _, copied := a.Cache.Copy(id); copied {
		a.copies.SettleSoon(id)
		return nil
	}
	e, there, err := a.registrar.Entry(ctx, id)
	if err != nil {
		return err
	}
	mounted, err := host.IsMountPoint(a.MountPath(id))
	if err != nil {
		return err
	}
	if !home {
		return a.leaveShare(ctx, id) // also if nothing is known of it yet, or it was deleted
	}
	if !mounted && !there {
		a.deadlines.Disarm(id)
		return nil
	}
	if !mounted && !lease.IsFenced(e) {
		_ = a.unmounter.ReleaseUnheld(ctx, d) // it says why not, and is tried again
		return nil
	}
	until := a.deadlines.Until(d)
	if late := until <= a.Clock.Steady(); late && mounted && !there {
		return a.fenceLate(ctx, d)
	} else if late {
		return nil // once it is, the guard is fed, and reports what differs
	}
	if there && lease.IsFenced(e) {
		if err := a.registrar.Continue(ctx, d, until); err != nil {
			return err
		}
		steps.At("fence.thawed")
	}
	if !mounted {
		_ = a.unmounter.ReleaseUnheld(ctx, d) // it says why not, and is tried again
		return nil
	}
	if err = a.registrar.Arm(ctx, d); err == nil {
		_, err = a.config.Guard.Check(ctx, id, d.Epoch)
	}
	if err == nil && len(a.uses.Get(id).IDs) == 0 {
		a.uses.MarkIdle(id)
	}
	a.News.Changed(id)
	return err
}

// fenceLate has the guard fence a dataset that is mounted here and that the guard does not know, unless control
// confirms it. The caller holds the dataset's lock.
func (a *Agent) fenceLate(ctx context.Context, d dataset.Dataset) error {
	err := a.registrar.Arm(ctx, d)
	if !errors.Is(err, dataset.ErrUnavailable) {
		return err
	}
	a.LogOf(d).WithError(err).Error("it is mounted, the guard did not know it, and nobody vouches for it: it is fenced")
	r, err := a.registrar.Registration(d, a.Clock.Steady())
	if err != nil {
		return err
	}
	a.deadlines.Arm(d.ID, d.Epoch)
	_, err = a.config.Guard.Register(ctx, r)
	if errors.Is(err, dataset.ErrStale) { // the guard says that it is fenced
		return nil
	}
	return err
}

// supersede ends the uses of a dataset that has continued on another node while it was fenced here: the guard
// kills every process on the host that holds the dataset, and only then its uses end. It does nothing for a
// dataset that the guard does not have. The caller holds the dataset's lock.
func (a *Agent) supersede(ctx context.Context, d dataset.Dataset) error {
	epoch, armed := a.deadlines.Armed(d.ID)
	if !armed || a.config.Guard == nil {
		return nil
	}
	mounted, err := host.IsMountPoint(a.MountPath(d.ID))
	if err != nil {
		return err
	}
	_, err = a.config.Guard.Supersede(ctx, d.ID, epoch)
	if errors.Is(err, dataset.ErrNotFound) {
		a.deadlines.Disarm(d.ID)
		return nil
	}
	if err != nil {
		return err
	}
	steps.At("fence.superseded")
	r := a.uses.Get(d.ID)
	if len(r.IDs) > 0 {
		a.LogOf(d).WithField("count", len(r.IDs)).
			Warn("it went on at another node while it was fenced here: those who used it are killed")
		clear(r.IDs)
		if err := a.uses.Save(ctx, d, r, nil); err != nil {
			return err
		}
	}
	if !mounted { // otherwise the unmount does it, after another look
		a.registrar.Release(d.ID)
	}
	return nil
}
