package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
)

// Registrar registers open datasets with the guard, and removes datasets that are closed. When the deadline of a
// registered dataset passes, the guard fences the dataset. A dataset whose lease is bounded in time is registered
// before it is mounted, and is not used before the guard has confirmed the registration. Its methods are safe for
// concurrent use.
type Registrar struct {
	*Leases

	mu        sync.Mutex
	answering bool // the guard answered when it was last asked
}

// AwaitGuard asks the guard for its records and applies them to Deadlines. The agent calls it when it starts, before it
// mounts or unmounts anything. If the guard does not answer, AwaitGuard returns the zero value and does not try again.
// AwaitGuard asks nothing if no known lease is bounded in time and no dataset is mounted. A dataset that is mounted may
// be fenced even if its lease is no longer bounded: the previous process of the agent may have ended after the profile
// of the dataset changed, and before the guard forgot the dataset. If the agent's database was lost, no lease is known.
func (g *Registrar) AwaitGuard(ctx context.Context) (st guard.Status) {
	if g.Guard == nil || !g.Recovered && !g.isAnyMounted() &&
		!slices.ContainsFunc(append(g.Cache.IDs(), g.Cache.CopyIDs()...), g.isBounded) {
		return st
	}
	st, err := g.Guard.Status(ctx)
	if err == nil {
		g.mu.Lock()
		g.answering = true // so that the first report to control is right
		g.mu.Unlock()
		g.Deadlines.Inherit(st)
		g.RecordStatus(st, 0)
	}
	return st
}

// isAnyMounted reports whether a dataset is, or may be, mounted at its mount point.
func (g *Registrar) isAnyMounted() bool {
	table, err := mount.Table()
	return err != nil || len(table.Under(g.MountRoot())) > 0
}

func (g *Registrar) isBounded(id uuid.UUID) bool {
	d, known := g.Cache.DatasetOrCopy(id)
	return known && g.Deadlines.IsBounded(d)
}

// RecordStatus records a status of the guard in Deadlines. answer is the value of Deadlines.AnswerCount before the
// status was requested.
func (g *Registrar) RecordStatus(st guard.Status, answer uint64) {
	for _, e := range st.Datasets {
		if e.State != guard.StateRebooted { // nothing from before the reboot is mounted
			g.Deadlines.SetRegistered(e.Dataset, e.Epoch)
			g.Deadlines.SetFenceTime(e.Dataset, e.Bound, answer)
		}
	}
}

// Registration returns the registration of a dataset that may be open until the given time.
func (g *Registrar) Registration(d dataset.Dataset, until time.Duration) (guard.Registration, error) {
	policy := guard.PolicyKill
	if d.Profile.Failover.Fence.Kind == dataset.FenceWatchdog {
		policy = guard.PolicyWatchdog
	}
	own, err := g.ownFilesystem(d)
	return guard.Registration{
		Dataset: d.ID, Volume: d.Volume, Epoch: d.Epoch, Paths: []string{g.MountPath(d.ID)},
		Own: own, Policy: policy, Deadline: until,
	}, err
}

// ownFilesystem reports whether a dataset has a filesystem of its own. While the dataset's pool is not open,
// ownFilesystem looks at the dataset's mount.
func (g *Registrar) ownFilesystem(d dataset.Dataset) (bool, error) {
	if p := g.Pools.ByID(d.Pool); p != nil && p.Storage != nil {
		return p.Capabilities.OwnFilesystem, nil
	}
	table, err := mount.Table()
	if err != nil {
		return false, err
	}
	e := table.At(g.MountPath(d.ID))
	return e != nil && e.Root == "/", nil
}

// Register registers a dataset with the guard before the dataset is mounted, or before a fenced dataset continues. It
// does nothing if the lease is not bounded in time. It does not require that the pool is open: a dataset that is
// already mounted continues to be used while its pool is quarantined or offline, and can be fenced. Register fails with
// ErrUnavailable if the lease is not confirmed or the guard does not answer. It fails with ErrUnsupported if this host
// has no guard, or if the guard cannot fence a dataset in time that is not mounted yet. It fails with ErrStale if the
// guard has a later epoch. The caller holds the dataset's lock.
func (g *Registrar) Register(ctx context.Context, d dataset.Dataset) error {
	if !g.Deadlines.IsBounded(d) {
		return nil
	}
	return g.register(ctx, d, false)
}

// Adopt registers a dataset whose lease becomes bounded in time, and has the guard check its mount. Unlike Register, it
// also refuses a dataset that is already mounted, if this host cannot enforce the policy in time. d has the profile
// that the dataset gets, and the caller has marked it (Marks). The caller holds the dataset's lock. After an error, and
// if the dataset is not mounted, the dataset may be registered, and the caller must release it (Release) unless its
// lease stays bounded.
func (g *Registrar) Adopt(ctx context.Context, d dataset.Dataset) (mounted bool, err error) {
	if err := g.register(ctx, d, true); err != nil {
		return false, err
	}
	if mounted, err = host.IsMountPoint(g.MountPath(d.ID)); err == nil && mounted {
		err = g.Check(ctx, d)
	}
	return mounted, err
}

// register is Register for a dataset whose lease is bounded. If strict is true, it refuses a mounted dataset as it
// refuses one that is not mounted: no other node may take the dataset over yet.
func (g *Registrar) register(ctx context.Context, d dataset.Dataset, strict bool) error {
	if g.Guard == nil {
		return dataset.Errorf(dataset.ErrUnsupported, "volume %s has failover auto, and this host runs no guard",
			d.Volume)
	}
	until, err := g.Deadlines.Wait(ctx, d)
	if err != nil {
		return err
	}
	mounted, err := host.IsMountPoint(g.MountPath(d.ID))
	if err != nil {
		return err
	}
	r, err := g.Registration(d, until)
	if err != nil {
		return err
	}
	span := g.Deadlines.TTL()
	keep := mounted && !strict
	if keep { // a short deadline, until the answer says how long a fence takes
		r.Deadline = min(until, g.Clock.Steady()+span/10)
	}
	e, err := g.registerOrKill(ctx, d, r, keep)
	if errors.Is(err, dataset.ErrStale) {
		if err = g.Continue(ctx, d, until); err == nil {
			e, err = g.registerOrKill(ctx, d, r, keep)
		}
	}
	if err == nil {
		g.Deadlines.SetFenceTime(d.ID, e.Bound, g.Deadlines.answerCount.Add(1))
	}
	g.Deadlines.SetRegistered(d.ID, d.Epoch) // even after an error, because only the answer may have been lost
	if err != nil {
		return g.withRemedy(err)
	}
	if most := MaxFenceTime(span); e.Bound > most {
		err := dataset.Errorf(dataset.ErrUnsupported,
			"a fence of volume %s takes up to %v, and another node may continue after %v (start the guard with a "+
				"shorter --step)", d.Volume, e.Bound, most)
		if !keep {
			g.ReleaseSoon(d.ID)
			return err
		}
		// The lease takes the slow fence into account: see boundedLease.overrun.
		g.LogOf(ctx, d).WithError(err).Error("it is open already: its deadline is shortened accordingly, and it is " +
			"fenced then")
	}
	if mounted {
		g.Deadlines.Feed(ctx, []dataset.Dataset{d})
	}
	steps.At("mount.registered")
	return nil
}

// registerOrKill registers a dataset. If the host cannot enforce the policy of a mounted dataset, for instance after
// a change of its profile, registerOrKill uses PolicyKill instead: a mounted dataset must always be guarded. keep is
// false for a dataset that can be refused.
func (g *Registrar) registerOrKill(ctx context.Context, d dataset.Dataset, r guard.Registration, keep bool) (
	guard.Entry, error) {
	e, err := g.Guard.Register(ctx, r)
	none := errors.Is(err, dataset.ErrUnsupported) || err == nil && e.Bound > MaxFenceTime(g.Deadlines.TTL())
	if !keep || !none || r.Policy == guard.PolicyKill {
		return e, err
	}
	g.LogOf(ctx, d).WithError(err).WithField("bound",
		e.Bound).Errorf("its fence %s is too slow or missing on this host, and it is open already: its "+
		"writers would be killed instead", r.Policy)
	r.Policy = guard.PolicyKill
	return g.Guard.Register(ctx, r)
}

// Continue lets a fenced dataset continue. The caller has confirmed that this node still has the epoch. Continue does
// nothing if the guard does not have the dataset, or has not fenced it. It fails with ErrStale if the guard has a later
// epoch.
func (g *Registrar) Continue(ctx context.Context, d dataset.Dataset, until time.Duration) error {
	e, there, err := g.Entry(ctx, d.ID)
	if err != nil || !there {
		return err
	}
	if e.Epoch > d.Epoch {
		return dataset.Errorf(dataset.ErrStale, "the guard has volume %s at epoch %d, and this is epoch %d",
			d.Volume, e.Epoch, d.Epoch)
	}
	if !IsFenced(e) {
		return nil
	}
	if _, err = g.Guard.Thaw(ctx, d.ID, e.Epoch, until); err == nil {
		g.LogOf(ctx, d).Warn("it was fenced, and continues: this node still has its epoch")
	}
	return err
}

// withRemedy adds the remedy to the error of a guard that does not answer.
func (g *Registrar) withRemedy(err error) error {
	if errors.Is(err, dataset.ErrUnavailable) {
		return fmt.Errorf("%w: without the guard no volume with failover auto is mounted (%s)", err, StartGuard)
	}
	return err
}

// Check fails unless the guard confirms that a mounted dataset may be written to. It does nothing if the lease is not
// bounded in time. The caller holds the dataset's lock.
func (g *Registrar) Check(ctx context.Context, d dataset.Dataset) error {
	if !g.Deadlines.IsBounded(d) {
		return nil
	}
	if g.Guard == nil {
		return dataset.Errorf(dataset.ErrUnsupported, "volume %s has failover auto, and this host runs no guard",
			d.Volume)
	}
	steps.At("mount.unchecked")
	if _, err := g.Guard.Check(ctx, d.ID, d.Epoch); err != nil {
		return g.withRemedy(err)
	}
	steps.At("mount.checked")
	return nil
}

// CheckUnmount fails with dataset.ErrInUse while a dataset is fenced. A fenced dataset must stay mounted, because a
// frozen filesystem without a mount cannot be thawed.
func (g *Registrar) CheckUnmount(d dataset.Dataset) error {
	// A fence ends only after the dataset's epoch was confirmed.
	switch fenced, err := g.IsDatasetFenced(d.ID, func() (guard.Status, error) { return g.Guard.Status(g.Ctx) }); {
	case err != nil:
		return fmt.Errorf("unmount of volume %s: it may be fenced: %w", d.Volume, err)
	case fenced:
		return dataset.Errorf(dataset.ErrInUse,
			"unmount of volume %s: it is fenced, and is unmounted once control says where it continues", d.Volume)
	}
	return nil
}

// Release makes the guard forget a dataset, which it then no longer fences. The caller has examined the whole host and
// found no mount of the dataset, or the lease of the dataset is not bounded in time. If the guard cannot be reached, a
// later repair calls Release again. The caller holds the dataset's lock.
func (g *Registrar) Release(id uuid.UUID) {
	epoch, armed := g.Deadlines.RegisteredEpoch(id)
	if !armed || g.Guard == nil {
		return
	}
	ctx, cancel := context.WithTimeout(g.Ctx, releaseTime)
	defer cancel()
	if err := g.Guard.Release(ctx, id, epoch); err != nil {
		if ctx.Err() == nil {
			g.Log.WithError(err).WithField("dataset",
				id).Warn("cannot make the guard forget a volume, retrying")
		}
		return
	}
	g.Deadlines.ClearRegistered(id)
}

// releaseTime bounds a request of Release to the guard.
const releaseTime = 15 * time.Second

// Watch asks the guard for its status at each heartbeat, until the agent stops. It calls Repairer.ApplyGuard with each
// status, or with the zero value if the guard does not answer, and reports to control when the guard starts or stops
// answering.
func (g *Registrar) Watch() {
	for {
		answer := g.Deadlines.AnswerCount()
		st, err := g.Guard.Status(g.Ctx)
		g.mu.Lock()
		was := g.answering
		g.answering = err == nil
		g.mu.Unlock()
		if was != (err == nil) {
			g.News.Soon()
		}
		g.Repairer.ApplyGuard(st, answer)
		select {
		case <-g.Ctx.Done():
			return
		case <-g.Clock.After(g.Timing.Heartbeat):
		}
	}
}

// IsAnswering reports whether the guard answered when it was last asked.
func (g *Registrar) IsAnswering() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.answering
}

// Status returns the present status of the guard. It fails with ErrUnavailable if the guard does not answer, and with
// ErrUnsupported if there is none.
func (g *Registrar) Status(ctx context.Context) (guard.Status, error) {
	if g.Guard == nil {
		return guard.Status{}, dataset.Errorf(dataset.ErrUnsupported, "this host works alone, without a guard")
	}
	return g.Guard.Status(ctx)
}

// Entry returns the guard's record of a dataset on this boot. The host must have a guard.
func (g *Registrar) Entry(ctx context.Context, id uuid.UUID) (e guard.Entry, there bool, err error) {
	st, err := g.Guard.Status(ctx)
	if err != nil {
		return e, false, err
	}
	e, there = entryOf(st, id)
	return e, there, nil
}

// IsDatasetFenced reports whether a dataset is fenced, according to the status of the guard that the function status
// returns. It calls status only for a dataset that may be fenced, and fails as status does.
func (g *Registrar) IsDatasetFenced(id uuid.UUID, status func() (guard.Status, error)) (bool, error) {
	if !g.MayBeFenced(id) {
		return false, nil
	}
	st, err := status()
	e, there := entryOf(st, id)
	return err == nil && there && IsFenced(e), err
}

// MayBeFenced reports whether the guard may have a dataset registered. It returns true for a dataset that this node has
// no record of, for instance after the agent's database was lost.
func (g *Registrar) MayBeFenced(id uuid.UUID) bool {
	d, known := g.Cache.DatasetOrCopy(id)
	_, armed := g.Deadlines.RegisteredEpoch(id)
	return g.Guard != nil && (armed || !known || g.Deadlines.IsBounded(d))
}

// StartGuard is the command for a host whose guard does not answer.
const StartGuard = "systemctl start drover-guard"

func entryOf(st guard.Status, id uuid.UUID) (e guard.Entry, there bool) {
	i := slices.IndexFunc(st.Datasets, func(e guard.Entry) bool {
		return e.Dataset == id && e.State != guard.StateRebooted
	})
	if i < 0 {
		return e, false
	}
	return st.Datasets[i], true
}

// IsFenced reports whether the guard fences, or has fenced, the dataset of an entry.
func IsFenced(e guard.Entry) bool {
	return e.State == guard.StateFencing || e.State == guard.StateFenced
}

// isFencing reports whether the guard fences a dataset, or will do so soon. Limits must not be set on such a dataset.
//
// The guard removes the speed limit for the flush of a fence, and sets it again once the dataset is thawed. That flush
// may still run after the deadline of the dataset was extended again, so only the guard knows whether it has ended. An
// agent that stops asks the guard too, before it restores the limits that it has suspended. If the guard does not
// answer, isFencing fails, and no limit is set.
func (g *Registrar) isFencing(id uuid.UUID, asked func() (guard.Status, error)) (bool, error) {
	d, known := g.Cache.Dataset(id)
	if _, armed := g.Deadlines.RegisteredEpoch(id); known && g.Deadlines.IsBounded(d) && armed &&
		g.Deadlines.Until(d) <= g.Clock.Steady() {
		return true, nil
	}
	fenced, err := g.IsDatasetFenced(id, asked)
	if err != nil {
		err = fmt.Errorf("whether it is fenced, which suspends throttling, is unknown: %w", err)
	}
	return fenced, err
}

// statusForLimits asks the guard for its status. It waits at most throttle.GuardTimeout, because the caller holds the
// lock of a limit.
func (g *Registrar) statusForLimits() (guard.Status, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(g.Ctx), throttle.GuardTimeout)
	defer cancel()
	return g.Guard.Status(ctx)
}

// ReleaseSoon makes the guard forget a dataset that is not mounted, in the background: see
// mounting.Unmounter.ReleaseUnmounted.
func (g *Registrar) ReleaseSoon(id uuid.UUID) {
	if _, armed := g.Deadlines.RegisteredEpoch(id); armed && g.Guard != nil {
		g.Repairer.RepairSoon(id)
	}
}

// FencingCheck returns a function that reports whether the guard fences a dataset. The function asks the guard once,
// when it is first called. Package throttle uses it.
func (g *Registrar) FencingCheck() func(uuid.UUID) (bool, error) {
	asked := sync.OnceValues(g.statusForLimits)
	return func(id uuid.UUID) (bool, error) { return g.isFencing(id, asked) }
}

// countBounded returns how many datasets with failover auto have their home or a copy on this host.
func (g *Registrar) countBounded() (n int) {
	for _, id := range append(g.Cache.IDs(), g.Cache.CopyIDs()...) {
		if g.isBounded(id) {
			n++
		}
	}
	return n
}

// Findings adds findings on the guard, if this host should have one. A guard that does not answer is an error if a
// volume on this host needs it.
func (g *Registrar) Findings(ctx context.Context, r *condition.List) {
	if g.Guard == nil {
		return
	}
	st, err := g.Guard.Status(ctx)
	if err != nil {
		if n := g.countBounded(); n > 0 {
			r.Add(condition.GuardMissing, "guard", StartGuard, err, n)
		} else {
			r.Add(condition.GuardUnneeded, "guard", StartGuard, err)
		}
		return
	}
	r.Add(condition.GuardResponds, "guard", "", len(st.Datasets))
	for _, m := range st.Missing {
		r.Add(condition.GuardReduced, "guard", "", m)
	}
	for _, e := range st.Datasets {
		if e.State == guard.StateFencing || e.State == guard.StateFenced {
			r.Add(condition.VolumeFenced, "volume "+e.Volume, "", e.State)
		}
	}
}

// Guard is the part of the host's guard that an agent needs. guard.Client implements it and documents the methods.
type Guard interface {
	Register(ctx context.Context, r guard.Registration) (guard.Entry, error)
	Feed(ctx context.Context, feeds []guard.Feed) (refused map[uuid.UUID]error, err error)
	Check(ctx context.Context, id uuid.UUID, epoch uint64) (guard.Entry, error)
	Thaw(ctx context.Context, id uuid.UUID, epoch uint64, deadline time.Duration) (guard.Entry, error)
	Supersede(ctx context.Context, id uuid.UUID, epoch uint64) (guard.Entry, error)
	Release(ctx context.Context, id uuid.UUID, epoch uint64) error
	Status(ctx context.Context) (guard.Status, error)
}
