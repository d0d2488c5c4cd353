package agent

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/iolimit"
	"github.com/droverhq/drover/internal/mount"
)

const (
	// lookOften is how soon a container that starts is found, and for how long after a
	// mount one is expected; lookSeldom is later, and mendEvery is how often all is looked
	// at anew, and rules that somebody has changed are set again.
	lookOften  = 500 * time.Millisecond
	startsSoon = 30 * time.Second
	lookSeldom = time.Second
	mendEvery  = 30 * time.Second
)

// keepLimits has new containers held to the limits of the volumes that they use, and changes
// limits with profiles, until the agent stops.
func (a *Agent) keepLimits() {
	var users mount.Users
	mended := a.Clock.Steady()
	for {
		var next <-chan time.Time
		if wait := a.limits.pause(a.Clock.Steady()); wait > 0 {
			next = a.Clock.After(wait)
		}
		told := false
		select {
		case <-a.ctx.Done():
			return
		case <-a.limits.wake:
			told = true
		case <-next:
		}
		full := a.Clock.Steady()-mended >= mendEvery
		if told || full {
			a.renewLimits()
		}
		a.endLifts()
		if len(a.limits.all()) == 0 {
			continue
		}
		if err := users.Look(full); err != nil {
			a.Log.WithError(err).Warn("who uses volumes whose speed is limited was not found")
			continue
		}
		a.holdUsers(a.ctx, &users)
		if full {
			mended = a.Clock.Steady()
			a.mendLimits()
		}
	}
}

// pause is until the next look; 0: until something is told.
func (l *limits) pause(now time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.of) == 0:
		return 0
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
func (a *Agent) endLifts() {
	for _, e := range a.limits.all() {
		if err := a.lower(a.ctx, e, false); err != nil {
			a.Log.WithError(err).WithField("dataset", e.id).Error("speed is not limited again")
		}
	}
}

// renewLimits takes in what profiles say now, of what is mounted.
func (a *Agent) renewLimits() {
	for _, e := range a.limits.all() {
		d, known := a.cache.dataset(e.id)
		if known && limitsOf(d.Profile.QoS) != e.now() {
			a.relimit(d)
		}
	}
	for _, id := range a.mountedIDs() {
		if d, known := a.cache.dataset(id); known && d.Profile.QoS.Limited() && a.limits.get(id) == nil {
			a.relimit(d)
		}
	}
}

// now is what the groups are told.
func (e *limited) now() iolimit.Limits {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.rec.Limits
}

// relimit holds a dataset to what its profile says now, if it is mounted.
func (a *Agent) relimit(d dataset.Dataset) {
	a.jobs.start("limit/"+d.ID.String(), func(ctx context.Context, _ *job) error {
		unlock, err := a.locks.lock(ctx, d.ID, "limit of volume "+d.Volume)
		if err != nil {
			return err
		}
		defer unlock()
		d, known := a.cache.dataset(d.ID)
		if mounted, err := isMountPoint(a.mountPath(d.ID)); err != nil || !mounted || !known {
			return err
		}
		if err := a.limit(ctx, d); err != nil {
			a.log(d).WithError(err).Error("speed is not limited as the profile says")
			return nil
		}
		a.log(d).WithField("limits", d.Profile.QoS.String()).Info("speed is limited as the profile says")
		return nil
	})
}

// holdUsers sets the rules on the groups of those who use what is limited, where that on the
// groups above does not bind them.
func (a *Agent) holdUsers(ctx context.Context, users *mount.Users) {
	for _, e := range a.limits.all() {
		e.mu.Lock()
		rec := e.rec
		e.mu.Unlock()
		var found []string
		for _, pid := range users.Of(int(rec.Device.Major), int(rec.Device.Minor), a.mountPath(e.id)) {
			g, ok := a.limits.hierarchy.GroupOf(pid)
			if ok && !slices.Contains(found, g) && !a.limits.binds(rec.Groups, g) {
				found = append(found, g)
			}
		}
		if len(found) == 0 {
			continue
		}
		if err := a.addGroups(ctx, e, rec.Device, found); err != nil {
			a.Log.WithError(err).WithField("dataset", e.id).Error("speed of a container is not limited")
		}
	}
}

// binds tells whether rules on groups bind those in another.
func (l *limits) binds(groups []string, g string) bool {
	return slices.ContainsFunc(groups, func(has string) bool {
		return has == g || l.hierarchy.Version == iolimit.V2 && iolimit.Below(g, has)
	}) || l.hierarchy.Version == iolimit.V2 && g == iolimit.Root
}

func (a *Agent) addGroups(ctx context.Context, e *limited, dev iolimit.Device, found []string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over || e.rec.Device != dev {
		return nil
	}
	rec := e.rec
	rec.Groups = union(slices.DeleteFunc(slices.Clone(rec.Groups), func(g string) bool { return !a.limits.hierarchy.Has(g) }), found)
	return a.rule(ctx, e, rec)
}

// mendLimits sets the rules again that are not as they were set.
func (a *Agent) mendLimits() {
	for _, e := range a.limits.all() {
		e.mu.Lock()
		changed, err := a.astray(e)
		if len(changed) > 0 && err == nil {
			err = a.limits.set(e.rec)
		}
		e.mu.Unlock()
		d, _ := a.cache.either(e.id)
		switch {
		case err != nil:
			a.log(d).WithError(err).Error("speed is not limited")
		case len(changed) > 0:
			a.log(d).WithField("groups", changed).Warn("somebody has changed how its speed is limited: set again")
		}
	}
}

// astray returns the groups that do not hold what they were told. e.mu is held.
func (a *Agent) astray(e *limited) (groups []string, err error) {
	if e.over || e.lift != 0 {
		return nil, nil
	}
	for _, g := range e.rec.Groups {
		if !a.limits.hierarchy.Has(g) {
			continue
		}
		has, err := a.limits.hierarchy.Get(g, e.rec.Device)
		if err != nil {
			return nil, err
		}
		if has != e.rec.Limits {
			groups = append(groups, g)
		}
	}
	return groups, nil
}

// loadLimits takes in what was set before this start. What was set for a device that is
// another's now, or nobody's, is taken away: who got its number would inherit that. What is
// mounted still holds its limits from here on, also where a crash had left them lifted.
func (a *Agent) loadLimits(ctx context.Context) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	var errs []error
	forget := map[string]any{}
	var kept []*limited
	err = a.state.each(ctx, "limits/", func(rest string, v []byte) error {
		e := &limited{}
		var err error
		if e.id, err = uuid.Parse(rest); err != nil {
			return err
		}
		if err := json.Unmarshal(v, &e.rec); err != nil {
			return err
		}
		m := table.At(a.mountPath(e.id))
		if e.rec.Boot == a.boot && m != nil && e.rec.Device == (iolimit.Device{Major: uint32(m.Major), Minor: uint32(m.Minor)}) {
			kept = append(kept, e)
			return nil
		}
		if e.rec.Boot == a.boot && a.limits.why == nil {
			errs = append(errs, a.limits.disinherit(e.rec))
		}
		forget["limits/"+rest] = nil
		return nil
	})
	if err != nil {
		return err
	}
	if len(forget) > 0 {
		errs = append(errs, a.state.put(ctx, forget))
	}
	for _, e := range kept {
		e.rec.Lifted = time.Time{}
		a.limits.of[e.id] = e
		if a.limits.why == nil {
			errs = append(errs, a.rule(ctx, e, e.rec))
		}
	}
	if err := errors.Join(errs...); err != nil {
		a.Log.WithError(err).Error("what limited the speed of volumes before this start is not as it should be")
	}
	for _, m := range table.Under(a.mountRoot()) {
		id, err := uuid.Parse(filepath.Base(m.Mountpoint))
		if d, known := a.cache.dataset(id); err == nil && known && d.Profile.QoS.Limited() {
			a.relimit(d)
		}
	}
	return nil
}

// disinherit takes away what is still as a record says that it was set.
func (l *limits) disinherit(rec limitRecord) error {
	var errs []error
	for _, g := range rec.Groups {
		has, err := l.hierarchy.Get(g, rec.Device)
		if err == nil && has == rec.Limits {
			err = l.hierarchy.Clear(g, rec.Device)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
