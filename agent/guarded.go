package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
)

// meetGuard asks the guard what it has, before anything is done about what is mounted,
// where that may be bounded in time.
func (a *Agent) meetGuard(ctx context.Context) (st guard.Status) {
	if a.config.Guard == nil || !a.recovered &&
		!slices.ContainsFunc(append(a.Cache.IDs(), a.Cache.CopyIDs()...), a.isBounded) {
		return st
	}
	st, err := a.config.Guard.Status(ctx)
	if err == nil {
		a.mu.Lock()
		a.guarded = true // so that the first that control hears says it
		a.mu.Unlock()
		a.bounds.inherit(st)
		a.armAll(st, 0)
	}
	return st
}

func (a *Agent) isBounded(id uuid.UUID) bool {
	d, known := a.Cache.DatasetOrCopy(id)
	return known && bounded(d)
}

// takeGuard takes in what the guard has, asked after an answer of it. What is mounted
// no more it is to forget.
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
		if e.State != guard.StateRebooted { // nothing of that is mounted since
			a.bounds.arm(e.Dataset, e.Epoch)
			a.bounds.fenceTakes(e.Dataset, e.Bound, answer)
		}
	}
}

// registration is what the guard is to know of a dataset that is open until a moment.
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

// ownFilesystem reports whether a dataset has a filesystem of its own. What is mounted shows
// that while its pool is not open.
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

// arm has the guard know of a dataset before it is mounted, or goes on: nothing for one
// that is not bounded in time. Its pool may be held, or offline: what is mounted of it goes
// on, and is fenced. Its lock is held.
func (a *Agent) arm(ctx context.Context, d dataset.Dataset) error {
	if !bounded(d) {
		return nil
	}
	if a.config.Guard == nil {
		return dataset.Errorf(dataset.ErrUnsupported, "volume %s has failover auto, and this host has no guard",
			d.Volume)
	}
	until, err := a.bounds.held(ctx, d)
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
	span := a.bounds.span()
	if mounted { // until it is known how slow a fence is, which would be too late otherwise
		r.Deadline = min(until, a.Clock.Steady()+span/10)
	}
	e, err := a.enter(ctx, d, r, mounted)
	if errors.Is(err, dataset.ErrStale) {
		if err = a.vouch(ctx, d, until); err == nil {
			e, err = a.enter(ctx, d, r, mounted)
		}
	}
	if err == nil {
		a.bounds.fenceTakes(d.ID, e.Bound, a.bounds.answers.Add(1))
	}
	a.bounds.arm(d.ID, d.Epoch) // or perhaps: an answer can be lost. From here on it is fed
	if err != nil {
		return a.noGuard(err)
	}
	if most := fenceMost(span); e.Bound > most {
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
		a.bounds.feedGuard(ctx, []dataset.Dataset{d})
	}
	steps.At("mount.registered")
	return nil
}

// enter registers a dataset. One that is mounted is never without a guard: where its policy
// is none for this host, as after its profile was changed, its writers are killed instead.
func (a *Agent) enter(ctx context.Context, d dataset.Dataset, r guard.Registration, mounted bool) (guard.Entry, error) {
	e, err := a.config.Guard.Register(ctx, r)
	none := errors.Is(err, dataset.ErrUnsupported) || err == nil && e.Bound > fenceMost(a.bounds.span())
	if !mounted || !none || r.Policy == guard.PolicyKill {
		return e, err
	}
	a.LogOf(d).WithError(err).WithField("bound",
		e.Bound).Errorf("its fence %s is too slow or missing on this host, and it is open already: its "+
		"writers would be killed instead", r.Policy)
	r.Policy = guard.PolicyKill
	return a.config.Guard.Register(ctx, r)
}

// vouch lets a dataset go on that was fenced: what holds it now says that the epoch is still
// this node's.
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

// noGuard says what would help when the guard does not answer.
func (a *Agent) noGuard(err error) error {
	if errors.Is(err, dataset.ErrUnavailable) {
		return fmt.Errorf("%w: with failover auto nothing is mounted without it (%s)", err, startGuard)
	}
	return err
}

// checkArmed fails unless the guard says that a dataset may be written to that is mounted:
// nothing for one that is not bounded in time. Its lock is held.
func (a *Agent) checkArmed(ctx context.Context, d dataset.Dataset) error {
	if !bounded(d) {
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

// unmountable fails with ErrInUse while a dataset is fenced: a filesystem that is frozen and
// mounted nowhere can be thawed by nobody.
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

// release has the guard forget a dataset. The caller has looked at the whole host, and nobody has
// the dataset mounted: the guard fences nobody after this. If the guard cannot be reached it is told
// later. The dataset's lock is held.
func (a *Agent) release(id uuid.UUID) {
	epoch, armed := a.bounds.armedAt(id)
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
	a.bounds.disarm(id)
}

// mendAll looks at all that the guard has or is to have, and forgets who has no copy any more.
func (a *Agent) mendAll() {
	if a.config.Guard == nil {
		return
	}
	a.bounds.mu.Lock()
	armed := slices.Collect(maps.Keys(a.bounds.armed))
	a.bounds.mu.Unlock()
	for _, id := range armed {
		_, home := a.Cache.Dataset(id)
		if mounted, err := host.IsMountPoint(a.MountPath(id)); err == nil && (!mounted || !home) {
			a.mendSoon(id)
		}
	}
	for _, d := range a.bounds.boundedHere() {
		_, armed := a.bounds.armedAt(d.ID)
		if mounted, err := host.IsMountPoint(a.MountPath(d.ID)); err == nil && mounted &&
			(!armed || a.bounds.until(d) <= a.Clock.Steady()) {
			a.mendSoon(d.ID)
		}
	}
	a.Jobs.Start("enrolled", func(ctx context.Context, _ *jobs.Job) error {
		if err := a.bounds.unenrol(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, dataset.ErrUnavailable) {
			a.Log.WithError(err).Warn("who was given copies was not compared with who has some; it is tried again")
		}
		return nil
	})
}

// mendSoon brings what the guard has of a dataset together with what is so, as a job.
func (a *Agent) mendSoon(id uuid.UUID) {
	a.Jobs.Start("guard/"+id.String(), func(ctx context.Context, _ *jobs.Job) error {
		if err := a.mend(ctx, id); err != nil && ctx.Err() == nil {
			a.Log.WithError(err).WithField("dataset",
				id).Warn("a volume is not as the guard is to have it; it is tried again")
		}
		return nil
	})
}

// mend lets a dataset that was fenced go on once its epoch is confirmed, has the guard know
// one that it has forgotten, and forget one that is mounted no more. Of one whose home is
// elsewhere Copies.Settle does the rest. Again: nothing.
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
		return a.leaveShare(ctx, id) // or nothing is known of it yet, or it is deleted
	}
	if !mounted && !there {
		a.bounds.disarm(id)
		return nil
	}
	if !mounted && !isFenced(e) {
		_ = a.releaseUnheld(ctx, d) // it says why not, and is tried again
		return nil
	}
	until := a.bounds.until(d)
	if late := until <= a.Clock.Steady(); late && mounted && !there {
		return a.fenceLate(ctx, d)
	} else if late {
		return nil // once it is, the guard is fed, and says what is not as it is to be
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

// fenceLate has the guard fence what is mounted here, and unknown to it, unless control
// confirms it. The dataset's lock is held.
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
	a.bounds.arm(d.ID, d.Epoch)
	_, err = a.config.Guard.Register(ctx, r)
	if errors.Is(err, dataset.ErrStale) { // the guard says that it is
		return nil
	}
	return err
}

// supersede gives up what is open here of a dataset that has gone on at another node while it was
// fenced here: the guard kills every process on the host that holds the dataset, and only then its
// uses end. It does nothing for a dataset that the guard does not have. The dataset's lock is held.
func (a *Agent) supersede(ctx context.Context, d dataset.Dataset) error {
	epoch, armed := a.bounds.armedAt(d.ID)
	if !armed || a.config.Guard == nil {
		return nil
	}
	mounted, err := host.IsMountPoint(a.MountPath(d.ID))
	if err != nil {
		return err
	}
	_, err = a.config.Guard.Supersede(ctx, d.ID, epoch)
	if errors.Is(err, dataset.ErrNotFound) {
		a.bounds.disarm(d.ID)
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
	if !mounted { // otherwise the unmount does, after another look
		a.release(d.ID)
	}
	return nil
}
