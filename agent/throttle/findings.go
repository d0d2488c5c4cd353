package throttle

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/iolimit"
)

// Check adds findings on the limits that this host can set, and on every limit that is not in effect.
func (l *Throttler) Check(r *host.List) {
	there := slices.DeleteFunc(slices.Clone(l.parents), func(g string) bool { return !l.Hierarchy.Has(g) })
	switch {
	case l.problem() != nil:
		r.Add(host.Info, "throttling", "mount a control group hierarchy with the controllers io and "+
			"memory (systemd does; cgroup_enable=memory on the kernel's command line), or boot a kernel "+
			"with CONFIG_BLK_DEV_THROTTLING", "volumes with qos are refused: %v", l.problem())
	case l.Hierarchy.Version == iolimit.V1:
		r.Add(host.OK, "throttling", "", "%s (%s); profiles with qos strict are refused", noteV1, l.Hierarchy.Dir)
	case l.unavailableReason() != "":
		r.Add(host.Error, "throttling", "", "v2: %s", l.unavailableReason())
	case len(there) == 0:
		r.Add(host.Info, "throttling", "",
			"v2: none of the control groups %s (cgroup_parents in drover.yaml) has the controller io yet; the "+
				"first mount of a volume with qos enables it", strings.Join(l.parents, ", "))
	default:
		r.Add(host.OK, "throttling", "",
			"v2: for all containers in %s together, from their start (%s)", strings.Join(there, ", "),
			l.Hierarchy.Dir)
	}
	for _, e := range l.All() {
		l.checkLimited(r, e)
	}
	for id, err := range l.allFailures() {
		d, _ := l.Cache.DatasetOrCopy(id)
		r.Add(host.Error, "volume "+d.Volume, "",
			"cannot throttle it as its profile requires: %v; retrying every %s", err, RetryEvery)
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

func (l *Throttler) checkLimited(r *host.List, e *Limited) {
	d, _ := l.Cache.DatasetOrCopy(e.id)
	e.Mu.Lock()
	defer e.Mu.Unlock()
	if e.SuspendedUntil != 0 {
		r.Add(host.Info, "volume "+d.Volume, "", "throttling is suspended for a flush since %s",
			e.Record.Suspended.Format(time.RFC3339))
		return
	}
	groups, err := l.wrongGroups(e)
	if err != nil {
		r.Add(host.Error, "volume "+d.Volume, "", "cannot read whether it is throttled: %v", err)
	} else if len(groups) > 0 {
		r.Add(host.Error, "volume "+d.Volume, "",
			"it is not throttled in the control groups %s; checked again every %s",
			strings.Join(groups, ", "), scanEvery)
	}
	const mend = "add a parent of it to cgroup_parents of drover.yaml"
	if len(e.withoutLimit) > 0 {
		r.Add(host.Error, "volume "+d.Volume, mend, "%s", unlimitedIn(e.withoutLimit))
	}
	out := l.groupsOutside(e.Record.Groups)
	switch {
	case len(out) == 0:
	case d.Profile.QoS.Strict:
		r.Add(host.Error, "volume "+d.Volume, mend, "%s", l.strictLimitNote(out))
	default:
		r.Add(host.Warning, "volume "+d.Volume, mend,
			"is used in control group %s, which is outside of %s: it is throttled separately there, from about a "+
				"second after its start", strings.Join(out, ", "), strings.Join(l.parents, ", "))
	}
}
