package pool

import (
	"context"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// Deps has the values and functions of other components that the types of this package use.
type Deps struct {
	Ctx        context.Context // ends when the agent stops
	Root       string          // the agent's folder
	NodeName   string
	Configured []Config // from drover.yaml
	Backends   *backends.Registry
	Control    interface {
		Pools(ctx context.Context) ([]api.Pool, error)
	}
	Keys   backends.Keys
	Limits func() dataset.LimitEnforcement // which limits this host can enforce for volumes with a device of their own
	DB     records.DB
	Cache  *records.Cache
	Jobs   *host.Runner
	Mounts throttle.DatasetMounts
	News   *host.News
	Clock  clock.Clock
	Log    logrus.FieldLogger
}

// capabilities returns the capabilities of a pool on this host.
func (d Deps) capabilities(b backends.Pool) dataset.Capabilities {
	c := b.Info().Capabilities
	if c.OwnDevice {
		c.Limits = d.Limits()
	}
	return c
}

func (d Deps) warnNotLocked(name, whyUnlocked string) {
	if whyUnlocked != "" {
		d.Log.WithField("pool", name).Warnf("pool is not locked against another drover: %s", whyUnlocked)
	}
}
