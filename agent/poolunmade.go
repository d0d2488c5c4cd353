package agent

import (
	"context"
	"slices"
	"strings"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
)

// isOffline says that a pool is offline, in a line that names the pool already.
func isOffline(name, why string) string {
	subject := "pool " + name
	why = strings.TrimPrefix(strings.TrimPrefix(why, subject+": "), subject+" is offline: ")
	return strings.TrimPrefix(pool.Offline(name, why).Error(), subject+" ")
}

// offlineHint returns what brings an offline pool online. It is "" if its disk hangs, or if the host lacks what
// the backend needs, because that is reported separately.
func (a *Agent) offlineHint(ctx context.Context, p *pool.Pool) string {
	kind, err := a.config.Backends.Kind(p.Backend)
	switch {
	case a.pools.One(p.ID).DiskFailure() != "":
		return "repair or replace the disk; stop the pool's containers, and if its filesystem was mounted " +
			"by hand or by /etc/fstab, unmount and mount it (xfs_repair, e2fsck or btrfs check before, if " +
			"dmesg asks for it): then the pool is online again by itself"
	case err != nil || a.pools.One(p.ID).Hung != "" || backends.Serves(ctx, kind) != nil:
		return ""
	case slices.ContainsFunc(a.config.Pools, func(c pool.Config) bool { return c.Name == p.Name }):
		return "mount its disk where it was; or say in drover.yaml where it lies now, or, if it is gone for " +
			"good, take it out there, and restart drover"
	}
	return "mount its disk where it was; or drover pool adopt PATH, where it lies now; or, if it is gone " +
		"for good, drover pool rm --forget " + p.Name
}

func (a *Agent) checkUnmade(r *diagnosis) {
	for _, u := range a.pools.Unmade {
		r.Add(findings.Error, "pool "+u.Name, "", "%s", isOffline(u.Name, u.Status.Reason))
	}
}
