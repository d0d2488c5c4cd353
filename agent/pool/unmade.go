package pool

import (
	"fmt"
	"strings"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// missing records that a pool of drover.yaml could neither be found nor made. It is shown as offline, and the
// other pools serve. It is not retried before the next start, because the operator may still be repairing the
// disk.
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

// WithPoolName adds the name of the pool to an error. Errors of backends may have it already.
func WithPoolName(name string, err error) error {
	if Reason(name, err) != err.Error() {
		return err
	}
	return fmt.Errorf("pool %s: %w", name, err)
}

// Reason returns the text of an error without the pool that it begins with, for callers that name the pool
// themselves.
func Reason(name string, err error) string { return strings.TrimPrefix(err.Error(), "pool "+name+": ") }

// Offline is the error for work on a pool that is offline.
func Offline(name, why string) error {
	if strings.HasPrefix(why, "pool "+name+" at ") {
		return dataset.Errorf(dataset.ErrOffline, "%s", why)
	}
	return dataset.Errorf(dataset.ErrOffline, "pool %s is offline: %s", name, why)
}

// unclaimed refuses the name of a pool that drover.yaml defines otherwise.
func (p *Pools) unclaimed(name string) error {
	for _, u := range p.Unmade {
		if u.Name == name {
			return dataset.Errorf(dataset.ErrExists, "pool %s stands in drover.yaml and is offline: %s", name,
				u.Status.Reason)
		}
	}
	return nil
}
