package agent

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/linux/mount"
)

const (
	// lookOften is how soon a container that starts is found, and for how long after a
	// mount one is expected; lookSeldom is later, and how soon a rule is set again that
	// somebody has changed. mendEvery is how often all processes are looked at anew, and
	// what failed is tried again.
	lookOften  = 500 * time.Millisecond
	startsSoon = 30 * time.Second
	lookSeldom = time.Second
	mendEvery  = 30 * time.Second
	askFencing = time.Second // bounds a question to the guard, with a limit locked
)

// keepLimits has new containers held to the limits of the volumes that they use, and changes
// limits with profiles, until the agent stops.
func (l *limits) keepLimits() {
	k := keeper{limits: l}
	full := l.clock.Steady()
	for {
		var next <-chan time.Time
		if wait := l.pause(l.clock.Steady()); wait > 0 {
			next = l.clock.After(wait)
		}
		told := false
		select {
		case <-l.ctx.Done():
			return
		case <-l.wake:
			told = true
		case <-next:
		}
		now := l.clock.Steady()
		all := now-full >= mendEvery
		if all {
			full = now
			l.clearLeft(l.ctx)
		}
		if told || all {
			l.renewLimits()
		}
		l.endLifts()
		if len(l.all()) > 0 {
			k.look(now, all)
		}
	}
}

// pause is until the next look; 0: until something is told.
func (l *limits) pause(now time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.of) == 0 && len(l.not)+len(l.left) == 0:
		return 0
	case len(l.of) == 0:
		return mendEvery
	case now-l.used < startsSoon:
		return lookOften
	}
	return lookSeldom
}

// heed has the keeper look at a record that may say another limit.
func (l *limits) heed(d dataset.Dataset) {
	if d.Profile.QoS.Limited() || l.get(d.ID) != nil {
		l.soon()
	}
}

// usedNow has the keeper look soon, and often for a while.
func (l *limits) usedNow(id uuid.UUID, now time.Duration) {
	l.mu.Lock()
	_, is := l.of[id]
	l.used = now
	l.mu.Unlock()
	if is {
		l.soon()
	}
}

// endLifts ends what was lifted for too long.
func (l *limits) endLifts() {
	for _, e := range l.all() {
		if err := l.lower(l.ctx, e, false); err != nil {
			l.logger.WithError(err).WithField("dataset", e.id).Error("speed is not limited again")
		}
	}
}

// renewLimits takes in what profiles say now, of what is mounted, and tries again what failed.
func (l *limits) renewLimits() {
	for _, id := range l.stale(l.cache.Dataset) {
		if d, known := l.cache.Dataset(id); known {
			l.relimit(d)
		}
	}
	for _, id := range l.mounts.InUse() {
		if d, known := l.cache.Dataset(id); known && d.Profile.QoS.Limited() && l.get(id) == nil {
			l.relimit(d)
		}
	}
}

// stale returns what is limited as its profile does not say, or was not when it was tried.
func (l *limits) stale(of func(uuid.UUID) (dataset.Dataset, bool)) (ids []uuid.UUID) {
	for _, e := range l.all() {
		if d, known := of(e.id); known && limitsOf(d.Profile.QoS) != e.now() && l.missed(e.id) == nil {
			ids = append(ids, e.id)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.AppendSeq(ids, maps.Keys(l.not))
}

// now is what the groups are told.
func (e *limited) now() iolimit.Limits {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.rec.Limits
}

func (e *limited) device() iolimit.Device {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.rec.Device
}

// miss notes why a dataset that is mounted is not limited as its profile says; nil: it is.
func (l *limits) miss(id uuid.UUID, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.not, id); err != nil {
		l.not[id] = err
	}
}

func (l *limits) missed(id uuid.UUID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.not[id]
}

// relimit holds a dataset to what its profile says now, if it is mounted. What fails is tried
// again, and doctor says so meanwhile.
func (l *limits) relimit(d dataset.Dataset) {
	l.jobs.StartAgain("limit/"+d.ID.String(), func(ctx context.Context, _ *jobs.Job) error {
		unlock, err := l.locks.Lock(ctx, d.ID, "limit of volume "+d.Volume)
		if err != nil {
			return err
		}
		defer unlock()
		d, known := l.cache.Dataset(d.ID)
		if mounted, err := l.mounts.IsMounted(d.ID); err != nil || !mounted || !known {
			l.miss(d.ID, err)
			return err
		}
		err = l.limit(ctx, d)
		was := l.missed(d.ID)
		l.miss(d.ID, err)
		l.changed(d.ID)
		switch {
		case err == nil:
			l.log(d).WithField("limits", d.Profile.QoS.String()).Info("speed is limited as the profile says")
		case was == nil || was.Error() != err.Error():
			l.log(d).WithError(err).Error("speed is not limited as the profile says")
			l.soon() // which has the keeper try again, where it would wait to be told
		}
		return nil
	})
}

// keeper sees to it that control groups hold what they are to.
type keeper struct {
	*limits
	users mount.Users
	rules map[string]map[iolimit.Device]iolimit.Limits // of groups, in this look; nil: one cannot be limited
}

// look finds who uses what is limited, and sets what is missing.
func (k *keeper) look(now time.Duration, all bool) {
	if err := k.users.Look(now, all); err != nil {
		k.logger.WithError(err).Warn("who uses volumes whose speed is limited was not found")
		return
	}
	base, err := k.base()
	if k.lose(err) {
		k.logger.WithError(err).Error("speed of volumes is not limited")
	}
	k.rules = map[string]map[iolimit.Device]iolimit.Limits{}
	for _, e := range k.all() {
		if err := k.hold(k.ctx, e, base); err != nil {
			k.logger.WithError(err).WithField("dataset", e.id).Error("speed is not limited")
		}
	}
}

// lose notes why no group can be limited, and reports whether that is new.
func (l *limits) lose(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.lost
	if l.lost = ""; err != nil {
		l.lost = err.Error()
	}
	return l.lost != "" && l.lost != was
}

// hold has all groups hold a limit that are to: those above containers, also where their
// controller was taken back meanwhile, and those of containers that these do not bind.
func (k *keeper) hold(ctx context.Context, e *limited, base []string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over || e.lift != 0 || e.rec.Boot == "" {
		return nil
	}
	bind := union(base, k.held(e.rec.Groups))
	more, err := k.usedIn(e, bind)
	if err != nil {
		return err
	}
	groups := union(bind, more)
	var astray []string
	for _, g := range groups {
		rules, err := k.told(g)
		if err != nil {
			return err
		}
		if rules != nil && rules[e.rec.Device] != e.rec.Limits {
			astray = append(astray, g)
		}
	}
	known := !slices.ContainsFunc(groups, func(g string) bool { return !slices.Contains(e.rec.Groups, g) })
	if len(astray) == 0 && known {
		return nil
	}
	if fencing, err := k.fence.Look()(e.id); err != nil || fencing {
		return err
	}
	d, _ := k.cache.DatasetOrCopy(e.id)
	if known {
		k.log(d).WithField("groups", astray).Warn("its speed was not limited in control groups: somebody has changed that, or made them anew: it is again")
		return k.set(e.rec, astray)
	}
	defer k.changed(e.id)
	rec := e.rec
	rec.Groups = groups
	return k.rule(ctx, e, rec)
}

// usedIn returns the groups that a dataset is used in and that rules on others do not bind, and
// notes which of those cannot be limited. Whose they are hands the controller down to them, or not.
// e.mu is held.
func (k *keeper) usedIn(e *limited, bind []string) (groups []string, err error) {
	var bare []string
	for _, pid := range k.users.Of(int(e.rec.Device.Major), int(e.rec.Device.Minor), k.mounts.Path(e.id)) {
		g, ok := k.hierarchy.GroupOf(pid)
		if !ok || k.binds(bind, g) {
			continue
		}
		rules, err := k.told(g)
		switch {
		case err != nil:
			return nil, err
		case rules != nil:
			groups = union(groups, []string{g})
		case k.hierarchy.Exists(g):
			bare = union(bare, []string{g})
		}
	}
	if !slices.Equal(bare, e.bare) {
		d, _ := k.cache.DatasetOrCopy(e.id)
		if len(bare) > 0 {
			k.log(d).WithField("groups", bare).Error("its speed is not limited in control groups that have no controller io")
		}
		e.bare = bare
		defer k.changed(e.id)
	}
	return groups, nil
}

// held returns those of groups that can be limited.
func (k *keeper) held(groups []string) []string {
	return slices.DeleteFunc(slices.Clone(groups), func(g string) bool {
		rules, err := k.told(g)
		return err == nil && rules == nil
	})
}

// told returns the rules of a group, read once a look.
func (k *keeper) told(g string) (map[iolimit.Device]iolimit.Limits, error) {
	rules, is := k.rules[g]
	if is {
		return rules, nil
	}
	rules, err := k.hierarchy.Rules(g)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return nil, err
	}
	k.rules[g] = rules
	return rules, nil
}

// binds tells whether rules on groups bind those in another.
func (l *limits) binds(groups []string, g string) bool {
	return slices.ContainsFunc(groups, func(has string) bool {
		return has == g || l.hierarchy.Version == iolimit.V2 && iolimit.Below(g, has)
	}) || l.hierarchy.Version == iolimit.V2 && g == iolimit.Root
}

// astray returns the groups that do not hold what they were told. e.mu is held.
func (l *limits) astray(e *limited) (groups []string, err error) {
	if e.over || e.lift != 0 {
		return nil, nil
	}
	for _, g := range e.rec.Groups {
		rules, err := l.hierarchy.Rules(g)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !l.hierarchy.Exists(g): // nobody is in it
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		case rules[e.rec.Device] != e.rec.Limits:
			groups = append(groups, g)
		}
	}
	return groups, nil
}
