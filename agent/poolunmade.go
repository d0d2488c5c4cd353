package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// missing keeps in mind that a pool of drover.yaml could be neither found nor made. It
// is shown as offline, and the other pools serve. Nothing tries again before the next
// start: who mends its disk may not be done yet.
func (p *pools) missing(c PoolConfig, why error) {
	p.log.WithFields(map[string]any{"pool": c.Name, "backend": c.Backend, "error": why}).Error("pool of drover.yaml is offline: it could not be made")
	p.unmade = append(p.unmade, api.Pool{
		Pool: dataset.Pool{Name: c.Name, Node: p.node, Backend: c.Backend, Path: p.configured(c).Path, Devices: c.Devices, Reach: dataset.ReachNode},
		Status: &dataset.PoolStatus{
			Reason: dataset.Cut(reason(c.Name, why) + " (it could not be made; restart drover when that is mended)"),
		},
	})
}

// ofPool says of which pool an error is. Those of a backend may say so themselves.
func ofPool(name string, err error) error {
	if reason(name, err) != err.Error() {
		return err
	}
	return fmt.Errorf("pool %s: %w", name, err)
}

// reason is an error's text without the pool that it begins with, for where that is
// named already.
func reason(name string, err error) string { return strings.TrimPrefix(err.Error(), "pool "+name+": ") }

// offline is the refusal of work on a pool, whose reason may say it all.
func offline(name, why string) error {
	if strings.HasPrefix(why, "pool "+name+" at ") {
		return dataset.Errorf(dataset.ErrOffline, "%s", why)
	}
	return dataset.Errorf(dataset.ErrOffline, "pool %s is offline: %s", name, why)
}

// isOffline says that a pool is offline, for where it is named already.
func isOffline(name, why string) string {
	pool := "pool " + name
	why = strings.TrimPrefix(strings.TrimPrefix(why, pool+": "), pool+" is offline: ")
	return strings.TrimPrefix(offline(name, why).Error(), pool+" ")
}

// offlineHint is what mends a pool that is offline; "" where its disk hangs, or its host lacks what its
// backend needs, which is told for itself.
func (a *Agent) offlineHint(ctx context.Context, p *openPool) string {
	kind, err := a.Backends.Kind(p.Backend)
	switch {
	case a.pools.one(p.ID).diskFailure() != "":
		return "repair or replace the disk; stop the pool's containers, and if its filesystem was mounted by hand or by /etc/fstab, unmount and mount it (xfs_repair, e2fsck or btrfs check before, if dmesg asks for it): then the pool is online again by itself"
	case err != nil || a.pools.one(p.ID).hung != "" || backends.Serves(ctx, kind) != nil:
		return ""
	case slices.ContainsFunc(a.Pools, func(c PoolConfig) bool { return c.Name == p.Name }):
		return "mount its disk where it was; or say in drover.yaml where it lies now, or, if it is gone for good, take it out there, and restart drover"
	}
	return "mount its disk where it was; or drover pool adopt PATH, where it lies now; or, if it is gone for good, drover pool rm --forget " + p.Name
}

// unclaimed refuses the name of a pool that drover.yaml has otherwise.
func (p *pools) unclaimed(name string) error {
	for _, u := range p.unmade {
		if u.Name == name {
			return dataset.Errorf(dataset.ErrExists, "pool %s stands in drover.yaml and is offline: %s", name, u.Status.Reason)
		}
	}
	return nil
}

func (a *Agent) checkUnmade(r *diagnosis) {
	for _, u := range a.pools.unmade {
		r.Add(findings.Error, "pool "+u.Name, "", "%s", isOffline(u.Name, u.Status.Reason))
	}
}
