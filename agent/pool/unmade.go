package pool

import (
	"fmt"
	"strings"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// missing keeps in mind that a pool of drover.yaml could be neither found nor made. It
// is shown as offline, and the other pools serve. Nothing tries again before the next
// start: who mends its disk may not be done yet.
func (p *Pools) missing(c Config, why error) {
	p.Log.WithFields(map[string]any{"pool": c.Name, "backend": c.Backend, "error": why}).
		Error("pool of drover.yaml is offline: it could not be made")
	p.Unmade = append(p.Unmade, api.Pool{
		Pool: dataset.Pool{
			Name:    c.Name,
			Node:    p.node,
			Backend: c.Backend,
			Path:    p.configured(c).Path,
			Devices: c.Devices,
			Reach:   dataset.ReachNode,
		},
		Status: &dataset.PoolStatus{
			Reason: dataset.Cut(Reason(c.Name, why) + " (it could not be made; restart drover when that is mended)"),
		},
	})
}

// WithPoolName says of which pool an error is. Those of a backend may say so themselves.
func WithPoolName(name string, err error) error {
	if Reason(name, err) != err.Error() {
		return err
	}
	return fmt.Errorf("pool %s: %w", name, err)
}

// Reason is an error's text without the pool that it begins with, for where that is
// named already.
func Reason(name string, err error) string { return strings.TrimPrefix(err.Error(), "pool "+name+": ") }

// Offline is the refusal of work on a pool, whose reason may say it all.
func Offline(name, why string) error {
	if strings.HasPrefix(why, "pool "+name+" at ") {
		return dataset.Errorf(dataset.ErrOffline, "%s", why)
	}
	return dataset.Errorf(dataset.ErrOffline, "pool %s is offline: %s", name, why)
}

// unclaimed refuses the name of a pool that drover.yaml has otherwise.
func (p *Pools) unclaimed(name string) error {
	for _, u := range p.Unmade {
		if u.Name == name {
			return dataset.Errorf(dataset.ErrExists, "pool %s stands in drover.yaml and is offline: %s", name,
				u.Status.Reason)
		}
	}
	return nil
}
