package agent

import (
	"context"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/agent/report"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// poolDeps is what pools needs of the rest of the agent.
type poolDeps struct {
	ctx      context.Context // of the agent's life
	root     string          // the agent's folder
	nodeName string
	config   []PoolConfig // of drover.yaml
	backends *backends.Registry
	control  interface {
		Pools(ctx context.Context) ([]api.Pool, error)
	}
	keys   backends.Keys
	limits func() dataset.Limits // what this host can promise a volume that has a device of its own
	db     records.DB
	cache  *records.Cache
	jobs   *jobs.Runner
	mounts throttle.DatasetMounts
	news   *report.News
	clock  clock.Clock
	log    logrus.FieldLogger
}

func newPools(deps poolDeps) *pools { return &pools{poolDeps: deps, byID: map[uuid.UUID]*openPool{}} }

// can returns what a pool can do on this host.
func (p *pools) can(b backends.Pool) dataset.Capabilities {
	c := b.Info().Capabilities
	if c.OwnDevice {
		c.Limits = p.limits()
	}
	return c
}
