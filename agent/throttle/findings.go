package throttle

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/iolimit"
)

// Check adds findings on the limits that this host can set, and on every limit that is not in effect.
func (l *Throttler) Check(r *condition.List) {
	there := slices.DeleteFunc(slices.Clone(l.parents), func(g string) bool { return !l.Hierarchy.Has(g) })
	switch {
	case l.problem() != nil:
		r.Add(condition.ThrottlingUnavailable, "throttling", "", l.problem())
	case l.Hierarchy.Version == iolimit.V1:
		r.Add(condition.ThrottlingV1, "throttling", "", noteV1, l.Hierarchy.Dir)
	case l.unavailableReason() != "":
		r.Add(condition.ThrottlingBroken, "throttling", "", l.unavailableReason())
	case len(there) == 0:
		r.Add(condition.ThrottlingLater, "throttling", "", strings.Join(l.parents, ", "))
	default:
		r.Add(condition.ThrottlingWorks, "throttling", "", strings.Join(there, ", "), l.Hierarchy.Dir)
	}
	for _, e := range l.All() {
		l.checkLimited(r, e)
	}
	for id, err := range l.allFailures() {
		d, _ := l.Cache.DatasetOrCopy(id)
		r.Add(condition.ThrottleFailed, "volume "+d.Volume, "", err, RetryEvery)
	}
}

// unavailableReason returns why no control group can be limited at present. It returns "" if groups can be limited, or
// if no dataset has a limit.
func (l *Throttler) unavailableReason() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.Limited) == 0 {
		return ""
	}
	return l.unavailable
}

func (l *Throttler) allFailures() map[uuid.UUID]error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.failures)
}

// Problems describes how the speed of a dataset deviates from its profile, or returns "" if it does not.
func (l *Throttler) Problems(d dataset.Dataset) string {
	if err := l.Failure(d.ID); err != nil {
		return "cannot throttle it as its profile requires: " + err.Error()
	}
	e := l.Get(d.ID)
	if e == nil {
		return ""
	}
	if bare := e.groupsWithoutLimit(); len(bare) > 0 {
		return unlimitedIn(bare)
	}
	if !d.Profile.QoS.Strict {
		return ""
	}
	if lost := l.unavailableReason(); lost != "" {
		return "its profile has qos strict: " + lost
	}
	e.Mu.Lock()
	defer e.Mu.Unlock()
	if out := l.groupsOutside(e.Record.Groups); len(out) > 0 {
		return l.strictLimitNote(out)
	}
	if groups, err := l.wrongGroups(e); err != nil || len(groups) > 0 {
		return "its profile has qos strict, and it is not throttled in control group " +
			strings.Join(groups, ", ")
	}
	return ""
}

// groupsWithoutLimit returns the groups that use the dataset and that cannot be limited.
func (e *Limited) groupsWithoutLimit() []string {
	e.Mu.Lock()
	defer e.Mu.Unlock()
	return e.withoutLimit
}

func unlimitedIn(groups []string) string {
	return "it is not throttled in control group " + strings.Join(groups, ", ") +
		", in which it is used: the controller io is not enabled there"
}

func (l *Throttler) checkLimited(r *condition.List, e *Limited) {
	d, _ := l.Cache.DatasetOrCopy(e.id)
	e.Mu.Lock()
	defer e.Mu.Unlock()
	if e.SuspendedUntil != 0 {
		r.Add(condition.ThrottleSuspended, "volume "+d.Volume, "", e.Record.Suspended.Format(time.RFC3339))
		return
	}
	groups, err := l.wrongGroups(e)
	if err != nil {
		r.Add(condition.ThrottleUnknown, "volume "+d.Volume, "", err)
	} else if len(groups) > 0 {
		r.Add(condition.ThrottleLost, "volume "+d.Volume, "", strings.Join(groups, ", "), scanEvery)
	}
	if len(e.withoutLimit) > 0 {
		r.Add(condition.ThrottleWithout, "volume "+d.Volume, "", unlimitedIn(e.withoutLimit))
	}
	out := l.groupsOutside(e.Record.Groups)
	switch {
	case len(out) == 0:
	case d.Profile.QoS.Strict:
		r.Add(condition.ThrottleEscaped, "volume "+d.Volume, "", l.strictLimitNote(out))
	default:
		r.Add(condition.ThrottleApart, "volume "+d.Volume, "", strings.Join(out, ", "), strings.Join(l.parents, ", "))
	}
}
