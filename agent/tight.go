package agent

import (
	"context"
	"errors"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/storage"
	"github.com/droverhq/drover/dataset"
)

// checkTight names the volumes whose scheduled snapshots are refused for this reason.
func (a *Agent) checkTight(ctx context.Context, r *diagnosis, p *pool.Pool, d dataset.Dataset) {
	if d.State != dataset.StateReady || d.Profile.Snapshots.Schedule == "" {
		return
	}
	if err := storage.CheckTight(ctx, p.Storage, d); errors.Is(err, dataset.ErrNoSpace) {
		r.Add(findings.Warning, "volume "+d.Volume, "drover trash purge --all, drover snapshot rm", "pool %s: %v",
			p.Name, err)
	}
}
