package throttle

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/linux/mount"
)

// The intervals of the checks, and the time limit of a question to the guard.
const (
	// Run looks for new containers every scanEvery. So a rule that another program changed is restored within
	// scanEvery. Every RetryEvery, Run examines all processes again and retries whatever failed.
	scanEvery    = time.Second
	RetryEvery   = 30 * time.Second
	GuardTimeout = time.Second // the time limit of a question to the guard while a Limited is locked
)

// Run sets the limits for new containers and for changed profiles until the agent stops.
func (l *Throttler) Run() {
	k := GroupScanner{Throttler: l}
	full := l.Clock.Steady()
	for {
		var next <-chan time.Time
		if wait := l.Pause(); wait > 0 {
			next = l.Clock.After(wait)
		}
		woken := false
		select {
		case <-l.Ctx.Done():
			return
		case <-l.wake:
			woken = true
		case <-next:
		}
		now := l.Clock.Steady()
		all := now-full >= RetryEvery
		if all {
			full = now
		}
		if woken || all {
			l.Renew()
		}
		l.EndSuspensions()
		if len(l.All()) > 0 {
			k.Scan(now, all)
		}
	}
}

// Pause returns the time until the next look. 0 means that Run waits until it is woken.
func (l *Throttler) Pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.Limited) == 0 && len(l.failures) == 0:
		return 0
	case len(l.Limited) == 0:
		return RetryEvery
	}
	return scanEvery
}

// ProfileChanged wakes Run if the changed record of a dataset may have another limit.
func (l *Throttler) ProfileChanged(d dataset.Dataset) {
	if d.Profile.QoS.Limited() || l.Get(d.ID) != nil {
		l.wakeRun()
	}
}

// NoteUse makes Run look at once, because a new container uses a volume.
func (l *Throttler) NoteUse(id uuid.UUID) {
	if l.Get(id) != nil {
		l.wakeRun()
	}
}

// EndSuspensions ends suspensions that have lasted too long.
func (l *Throttler) EndSuspensions() {
	for _, e := range l.All() {
		if err := l.endSuspension(l.Ctx, e, false); err != nil {
			l.Log.WithError(err).WithField("dataset", e.id).Error("cannot restore throttling")
		}
	}
}

// Renew applies the present profiles to the mounted datasets, and retries what failed.
func (l *Throttler) Renew() {
	for _, id := range l.stale(l.Cache.Dataset) {
		if d, known := l.Cache.Dataset(id); known {
			l.applyProfile(d)
		}
	}
	for _, id := range l.Uses.InUse() {
		if d, known := l.Cache.Dataset(id); known && d.Profile.QoS.Limited() && l.Get(id) == nil {
			l.applyProfile(d)
		}
	}
}

// stale returns the mounted datasets whose limits differ from their profile.
func (l *Throttler) stale(of func(uuid.UUID) (dataset.Dataset, bool)) (ids []uuid.UUID) {
	for _, e := range l.All() {
		if d, known := of(e.id); known && LimitsOf(d.Profile.QoS) != e.limits() && l.Failure(e.id) == nil {
			ids = append(ids, e.id)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.AppendSeq(ids, maps.Keys(l.failures))
}

// limits returns the limits that are recorded for the dataset.
func (e *Limited) limits() iolimit.Limits {
	e.Mu.Lock()
	defer e.Mu.Unlock()
	return e.Record.Limits
}

func (e *Limited) device() iolimit.Device {
	e.Mu.Lock()
	defer e.Mu.Unlock()
	return e.Record.Device
}

// setFailure records why the limit of a mounted dataset differs from its profile. If err is nil, the limit agrees with
// the profile.
func (l *Throttler) setFailure(id uuid.UUID, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.failures, id); err != nil {
		l.failures[id] = err
	}
}

// Failure returns why the limit of a dataset differs from its profile, or nil if it agrees.
func (l *Throttler) Failure(id uuid.UUID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failures[id]
}

// applyProfile applies the present profile to a dataset, if it is mounted. A failure is retried, and doctor reports it
// meanwhile.
func (l *Throttler) applyProfile(d dataset.Dataset) {
	l.Jobs.StartAgain("limit/"+d.ID.String(), func(ctx context.Context, _ *host.Job) error {
		unlock, err := l.Locks.Lock(ctx, d.ID, "limit of volume "+d.Volume)
		if err != nil {
			return err
		}
		defer unlock()
		d, known := l.Cache.Dataset(d.ID)
		if mounted, err := host.IsMountPoint(l.MountPath(d.ID)); err != nil || !mounted || !known {
			l.setFailure(d.ID, err)
			return err
		}
		err = l.Limit(ctx, d)
		was := l.Failure(d.ID)
		l.setFailure(d.ID, err)
		l.News.Changed(d.ID)
		switch {
		case err == nil:
			l.log(d).WithField("limits", d.Profile.QoS.String()).Info("throttled as the profile requires")
		case was == nil || was.Error() != err.Error():
			l.log(d).WithError(err).Error("cannot throttle as the profile requires")
			l.wakeRun() // Run may be waiting to be woken, and must retry soon
		}
		return nil
	})
}

// GroupScanner finds out which control groups use which limited dataset, and sets missing rules.
type GroupScanner struct {
	*Throttler
	users mount.Users
	// rules contains the rules of each group that was read during this look. They are nil if the group cannot be
	// limited.
	rules map[string]map[iolimit.Device]iolimit.Limits
}

// Scan finds the groups that use limited datasets, and sets the rules that are missing. If all is false, it examines
// only processes that are new since the last Scan.
func (k *GroupScanner) Scan(now time.Duration, all bool) {
	if err := k.users.Update(now, all); err != nil {
		k.Log.WithError(err).Warn("cannot find the users of throttled volumes")
		return
	}
	base, err := k.enableBaseGroups()
	if k.setUnavailable(err) {
		k.Log.WithError(err).Error("volumes are not throttled")
	}
	k.rules = map[string]map[iolimit.Device]iolimit.Limits{}
	for _, e := range k.All() {
		if err := k.enforce(k.Ctx, e, base); err != nil {
			k.Log.WithError(err).WithField("dataset", e.id).Error("cannot throttle volume")
		}
	}
}

// setUnavailable records why no group can be limited. If err is nil, groups can be limited. setUnavailable reports
// whether there is a new reason.
func (l *Throttler) setUnavailable(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.unavailable
	if l.unavailable = ""; err != nil {
		l.unavailable = err.Error()
	}
	return l.unavailable != "" && l.unavailable != was
}

// enforce sets the limit of a dataset in all groups that need it: in the parents of containers, even if the controller
// was disabled there meanwhile, and in the groups of containers outside of these parents.
func (k *GroupScanner) enforce(ctx context.Context, e *Limited, base []string) error {
	e.Mu.Lock()
	defer e.Mu.Unlock()
	if e.ended || e.SuspendedUntil != 0 || e.Record.Boot == "" {
		return nil
	}
	limitable := slices.DeleteFunc(slices.Clone(e.Record.Groups), func(g string) bool {
		rules, err := k.rulesOf(g)
		return err == nil && rules == nil
	})
	limited := Union(base, limitable)
	more, err := k.usedIn(e, limited)
	if err != nil {
		return err
	}
	groups := Union(limited, more)
	var astray []string
	for _, g := range groups {
		rules, err := k.rulesOf(g)
		if err != nil {
			return err
		}
		if rules != nil && rules[e.Record.Device] != e.Record.Limits {
			astray = append(astray, g)
		}
	}
	known := !slices.ContainsFunc(groups, func(g string) bool { return !slices.Contains(e.Record.Groups, g) })
	if len(astray) == 0 && known {
		return nil
	}
	if fencing, err := k.Fences.FencingCheck()(e.id); err != nil || fencing {
		return err
	}
	d, _ := k.Cache.DatasetOrCopy(e.id)
	if known {
		k.log(d).WithField("groups", astray).
			Warn("its limits were missing in some control groups, because they were changed or recreated: restored")
		return k.set(e.Record, astray)
	}
	defer k.News.Changed(e.id)
	rec := e.Record
	rec.Groups = groups
	return k.SetRules(ctx, e, rec)
}

// usedIn returns the groups that use a dataset and need a separate rule. It leaves out the groups that are already
// covered by the rules of the groups in limited. It records the groups that cannot be limited. The owner of a group
// decides whether the controller io is enabled for the group. The caller holds e.Mu.
func (k *GroupScanner) usedIn(e *Limited, limited []string) (groups []string, err error) {
	var bare []string
	for _, pid := range k.users.Of(int(e.Record.Device.Major), int(e.Record.Device.Minor), k.MountPath(e.id)) {
		g, ok := k.Hierarchy.GroupOf(pid)
		if !ok || k.Covers(limited, g) {
			continue
		}
		rules, err := k.rulesOf(g)
		switch {
		case err != nil:
			return nil, err
		case rules != nil:
			groups = Union(groups, []string{g})
		case k.Hierarchy.Exists(g):
			bare = Union(bare, []string{g})
		}
	}
	if !slices.Equal(bare, e.withoutLimit) {
		d, _ := k.Cache.DatasetOrCopy(e.id)
		if len(bare) > 0 {
			k.log(d).WithField("groups", bare).
				Error("it is not throttled in control groups without the controller io")
		}
		e.withoutLimit = bare
		defer k.News.Changed(e.id)
	}
	return groups, nil
}

// rulesOf returns the rules of a group, or nil if it cannot be limited. It reads the rules once in each look.
func (k *GroupScanner) rulesOf(g string) (map[iolimit.Device]iolimit.Limits, error) {
	rules, is := k.rules[g]
	if is {
		return rules, nil
	}
	rules, err := k.Hierarchy.Rules(g)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return nil, err
	}
	k.rules[g] = rules
	return rules, nil
}

// wrongGroups returns the groups whose rules differ from the recorded ones. The caller holds e.Mu.
func (l *Throttler) wrongGroups(e *Limited) (groups []string, err error) {
	if e.ended || e.SuspendedUntil != 0 {
		return nil, nil
	}
	for _, g := range e.Record.Groups {
		rules, err := l.Hierarchy.Rules(g)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !l.Hierarchy.Exists(g): // the group was removed, and so has no processes
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		case rules[e.Record.Device] != e.Record.Limits:
			groups = append(groups, g)
		}
	}
	return groups, nil
}
