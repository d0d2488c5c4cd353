package agent

import (
	"slices"
	"strings"
	"time"

	"github.com/droverhq/drover/internal/iolimit"
)

// checkLimits says what this host can hold volumes to, and whether it does.
func (a *Agent) checkLimits(r *report) {
	l := a.limits
	there := slices.DeleteFunc(slices.Clone(l.parents), func(g string) bool { return !l.hierarchy.Has(g) })
	switch {
	case l.why != nil:
		r.add(levelInfo, "speed limits", "mount a control group hierarchy with the controller io (systemd does), or boot a kernel with CONFIG_BLK_DEV_THROTTLING", "volumes with qos are refused: %v", l.why)
	case l.hierarchy.Version == iolimit.V1:
		r.add(levelOK, "speed limits", "", "%s (%s); profiles with qos strict are refused", heldV1, l.hierarchy.Dir)
	case len(there) == 0:
		r.add(levelInfo, "speed limits", "", "v2: none of the control groups %s (cgroup_parents in drover.yaml) has the controller io yet; the first mount of a volume with qos hands it down", strings.Join(l.parents, ", "))
	default:
		r.add(levelOK, "speed limits", "", "v2: for all containers below %s together, from the first moment (%s)", strings.Join(there, ", "), l.hierarchy.Dir)
	}
	for _, e := range l.all() {
		a.checkLimited(r, e)
	}
}

// above tells whether a group is one that rules are set on whoever is in it.
func (l *limits) above(g string) bool { return slices.Contains(l.parents, g) }

func (a *Agent) checkLimited(r *report, e *limited) {
	d, _ := a.cache.either(e.id)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lift != 0 {
		r.add(levelInfo, "volume "+d.Volume, "", "limit of its speed is lifted for a flush since %s", e.rec.Lifted.Format(time.RFC3339))
		return
	}
	groups, err := a.astray(e)
	if err != nil {
		r.add(levelError, "volume "+d.Volume, "", "whether its speed is limited cannot be read: %v", err)
	} else if len(groups) > 0 {
		r.add(levelError, "volume "+d.Volume, "", "its speed is not limited as its profile says in the control groups %s; that is mended within %s", strings.Join(groups, ", "), mendEvery)
	}
	if l := a.limits; l.hierarchy.Version == iolimit.V2 {
		for _, g := range e.rec.Groups {
			if !l.above(g) {
				r.add(levelWarning, "volume "+d.Volume, "name what is above it in cgroup_parents of drover.yaml", "is used in control group %s, which is below none of %s: it has a limit of its own there, from about a second after its start", g, strings.Join(l.parents, ", "))
			}
		}
	}
}
