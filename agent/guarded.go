package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
)

// meetGuard asks the guard for its records before anything is done about what is mounted, if leases may be
// bounded in time.
func (a *Agent) meetGuard(ctx context.Context) (st guard.Status) {
	if a.config.Guard == nil || !a.recovered &&
		!slices.ContainsFunc(append(a.Cache.IDs(), a.Cache.CopyIDs()...), a.isBounded) {
		return st
	}
	st, err := a.config.Guard.Status(ctx)
	if err == nil {
		a.mu.Lock()
		a.guarded = true // so that the first report to control says it
		a.mu.Unlock()
		a.deadlines.Inherit(st)
		a.armAll(st, 0)
	}
	return st
}

func (a *Agent) isBounded(id uuid.UUID) bool {
	d, known := a.Cache.DatasetOrCopy(id)
	return known && lease.IsBounded(d)
}

// takeGuard applies the guard's records. asked is the number of its answers when it was asked. The guard forgets
// what is no longer mounted.
func (a *Agent) takeGuard(st guard.Status, answer uint64) {
	a.armAll(st, answer)
	for _, e := range st.Datasets {
		if e.State != guard.StateArmed && e.State != guard.StateRebooted {
			a.mendSoon(e.Dataset)
		}
	}
}

func (a *Agent) armAll(st guard.Status, answer uint64) {
	for _, e := range st.Datasets {
		if e.State != guard.StateRebooted { // nothing from before the reboot is mounted
			a.deadlines.Arm(e.Dataset, e.Epoch)
			a.deadlines.SetFenceTime(e.Dataset, e.Bound, answer)
		}
	}
}

// registration is what the guard must know about a dataset that may be open until a moment.
func (a *Agent) registration(d dataset.Dataset, until time.Duration) (guard.Registration, error) {
	policy := guard.PolicyKill
	if d.Profile.Failover.Fence.Kind == dataset.FenceWatchdog {
		policy = guard.PolicyWatchdog
	}
	own, err := a.ownFilesystem(d)
	return guard.Registration{
		Dataset: d.ID, Volume: d.Volume, Epoch: d.Epoch, Paths: []string{a.MountPath(d.ID)},
		Own: own, Policy: policy, Deadline: until,
	}, err
}

// ownFilesystem reports whether a dataset has a filesystem of its own. While its pool is not open, its mount
// shows that.
func (a *Agent) ownFilesystem(d dataset.Dataset) (bool, error) {
	for _, op := range a.pools.All() {
		if op.ID == d.Pool && op.Storage != nil {
			return op.Capabilities.OwnFilesystem, nil
		}
	}
	table, err := mount.Table()
	if err != nil {
		return false, err
	}
	e := table.At(a.MountPath(d.ID))
	return e != nil && e.Root == "/", nil
}

// arm registers a dataset with the guard before it is mounted or continues; it does nothing if its lease is not
// bounded in time. The pool may be quarantined or offline: a mounted dataset continues, and is fenced. The caller
// holds the dataset's lock.
func (a *Agent) arm(ctx context.Context, d dataset.Dataset) error {
	if !lease.IsBounded(d) {
		return nil
	}
	if a.config.Guard == nil {
		return dataset.Errorf(dataset.ErrUnsupported, "volume %s has failover auto, and this host has no guard",
			d.Volume)
	}
	until, err := a.deadlines.Wait(ctx, d)
	if err != nil {
		return err
	}
	mounted, err := host.IsMountPoint(a.MountPath(d.ID))
	if err != nil {
		return err
	}
	r, err := a.registration(d, until)
	if err != nil {
		return err
	}
	span := a.deadlines.TTL()
	if mounted { // until it is known how long a fence takes, which would be too late otherwise
		r.Deadline = min(until, a.Clock.Steady()+span/10)
	}
	e, err := a.enter(ctx, d, r, mounted)
	if errors.Is(err, dataset.ErrStale) {
		if err = a.vouch(ctx, d, until); err == nil {
			e, err = a.enter(ctx, d, r, mounted)
		}
	}
	if err == nil {
		a.deadlines.SetFenceTime(d.ID, e.Bound, a.deadlines.Answered())
	}
	a.deadlines.Arm(d.ID, d.Epoch) // the answer may have been lost; from here on the guard is fed
	if err != nil {
		return a.noGuard(err)
	}
	if most := lease.FenceMost(span); e.Bound > most {
		err := dataset.Errorf(dataset.ErrUnsupported,
			"a fence of volume %s takes up to %v, and another node may go on with it after %v (start the "+
				"guard with a shorter --step)", d.Volume, e.Bound, most)
		if !mounted {
			a.releaseSoon(d.ID)
			return err
		}
		// see overrun
		a.LogOf(d).WithError(err).Error("it is open already: it is held for so much less long, and fenced " +
			"when that is over")
	}
	if mounted {
		a.deadlines.Feed(ctx, []dataset.Dataset{d})
	}
	steps.At("mount.registered")
	return nil
}

// enter registers a dataset. A mounted dataset is never without a guard: if its policy is not possible on this
// host, as after a change of its profile, its writers are killed instead.
func (a *Agent) enter(ctx context.Context, d dataset.Dataset, r guard.Registration, mounted bool) (guard.Entry, error) {
	e, err := a.config.Guard.Register(ctx, r)
	none := errors.Is(err, dataset.ErrUnsupported) || err == nil && e.Bound > lease.FenceMost(a.deadlines.TTL())
	if !mounted || !none || r.Policy == guard.PolicyKill {
		return e, err
	}
	a.LogOf(d).WithError(err).WithField("bound",
		e.Bound).Errorf("its fence %s is too slow or missing on this host, and it is open already: its "+
		"writers would be killed instead", r.Policy)
	r.Policy = guard.PolicyKill
	return a.config.Guard.Register(ctx, r)
}

// vouch lets a fenced dataset continue, because its epoch was confirmed to be this node's.
func (a *Agent) vouch(ctx context.Context, d dataset.Dataset, until time.Duration) error {
	e, there, err := a.entry(ctx, d.ID)
	if err != nil || !there {
		return err
	}
	if e.Epoch > d.Epoch {
		return dataset.Errorf(dataset.ErrStale, "the guard has volume %s at epoch %d, and this is epoch %d",
			d.Volume, e.Epoch, d.Epoch)
	}
	if !isFenced(e) {
		return nil
	}
	if _, err = a.config.Guard.Thaw(ctx, d.ID, e.Epoch, until); err == nil {
		a.LogOf(d).Warn("it was fenced, and goes on: its epoch is still this node's")
	}
	return err
}

// noGuard is the error for a guard that does not answer, with the remedy.
func (a *Agent) noGuard(err error) error {
	if errors.Is(err, dataset.ErrUnavailable) {
		return fmt.Errorf("%w: with failover auto nothing is mounted without it (%s)", err, startGuard)
	}
	return err
}

// checkArmed fails unless the guard confirms that a mounted dataset may be written; it does nothing if its lease
// is not bounded in time. The caller holds the dataset's lock.
func (a *Agent) checkArmed(ctx context.Context, d dataset.Dataset) error {
	if !lease.IsBounded(d) {
		return nil
	}
	if a.config.Guard == nil {
		return dataset.Errorf(dataset.ErrUnsupported, "volume %s has failover auto, and this host has no guard",
			d.Volume)
	}
	steps.At("mount.unchecked")
	if _, err := a.config.Guard.Check(ctx, d.ID, d.Epoch); err != nil {
		return a.noGuard(err)
	}
	steps.At("mount.checked")
	return nil
}

// unmountable fails with dataset.ErrInUse while a dataset is fenced: nobody can thaw a frozen filesystem that is
// mounted nowhere.
func (a *Agent) unmountable(d dataset.Dataset) error {
	switch fenced, err := a.fenced(d.ID); {
	case err != nil:
		return fmt.Errorf("unmount of volume %s: it may be fenced: %w", d.Volume, err)
	case fenced:
		return dataset.Errorf(dataset.ErrInUse,
			"unmount of volume %s: it is fenced; it is unmounted once it is known where it goes on", d.Volume)
	}
	return nil
}

// releaseTime bounds a request to the guard after an unmount.
const releaseTime = 15 * time.Second

// release has the guard forget a dataset. The caller has examined the whole host, and nobody has the dataset
// mounted: the guard fences nobody after this. If the guard cannot be reached it is notified later. The caller
// holds the dataset's lock.
func (a *Agent) release(id uuid.UUID) {
	epoch, armed := a.deadlines.Armed(id)
	if !armed || a.config.Guard == nil {
		return
	}
	ctx, cancel := context.WithTimeout(a.Ctx, releaseTime)
	defer cancel()
	if err := a.config.Guard.Release(ctx, id, epoch); err != nil {
		if ctx.Err() == nil {
			a.Log.WithError(err).WithField("dataset",
				id).Warn("the guard has not forgotten a volume that is unmounted; it is told again")
		}
		return
	}
	a.deadlines.Disarm(id)
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
	e, there, err := a.entry(ctx, id)
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
	if !mounted && !isFenced(e) {
		_ = a.releaseUnheld(ctx, d) // it says why not, and is tried again
		return nil
	}
	until := a.deadlines.Until(d)
	if late := until <= a.Clock.Steady(); late && mounted && !there {
		return a.fenceLate(ctx, d)
	} else if late {
		return nil // once it is, the guard is fed, and reports what differs
	}
	if there && isFenced(e) {
		if err := a.vouch(ctx, d, until); err != nil {
			return err
		}
		steps.At("fence.thawed")
	}
	if !mounted {
		_ = a.releaseUnheld(ctx, d) // it says why not, and is tried again
		return nil
	}
	if err = a.arm(ctx, d); err == nil {
		_, err = a.config.Guard.Check(ctx, id, d.Epoch)
	}
	if err == nil && len(a.record(id).IDs) == 0 {
		a.idle(id)
	}
	a.News.Changed(id)
	return err
}

// fenceLate has the guard fence a dataset that is mounted here and that the guard does not know, unless control
// confirms it. The caller holds the dataset's lock.
func (a *Agent) fenceLate(ctx context.Context, d dataset.Dataset) error {
	err := a.arm(ctx, d)
	if !errors.Is(err, dataset.ErrUnavailable) {
		return err
	}
	a.LogOf(d).WithError(err).Error("it is mounted, the guard did not know it, and nobody vouches for it: it is fenced")
	r, err := a.registration(d, a.Clock.Steady())
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
	r := a.record(d.ID)
	if len(r.IDs) > 0 {
		a.LogOf(d).WithField("count", len(r.IDs)).
			Warn("it went on at another node while it was fenced here: those who used it are killed")
		clear(r.IDs)
		if err := a.save(ctx, d, r, nil); err != nil {
			return err
		}
	}
	if !mounted { // otherwise the unmount does it, after another look
		a.release(d.ID)
	}
	return nil
}
