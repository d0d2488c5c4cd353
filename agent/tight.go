package agent

import (
	"context"
	"errors"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// tight refuses a scheduled snapshot of a dataset while its pool has less free than a tenth of the dataset's used
// bytes. What is overwritten after a snapshot that shares blocks needs new blocks, and if there are none the
// writer gets an error (EIO): a snapshot that nobody asked for must not break a database. Pools that copy do not
// have this problem.
func tight(ctx context.Context, pool backends.Pool, d dataset.Dataset) error {
	if !pool.Info().Capabilities.InstantSnapshot {
		return nil
	}
	st := pool.Status(ctx)
	if !st.Online {
		return dataset.Errorf(dataset.ErrOffline, "%s", st.Reason)
	}
	used, err := pool.Used(ctx, d.ID)
	if err != nil {
		return err
	}
	least := max(used/10, backends.Reserve(st.Size))
	if st.Free >= least {
		return nil
	}
	return dataset.Errorf(dataset.ErrNoSpace,
		"no scheduled snapshot while the pool has less than %s free (it has %s): what is overwritten after "+
			"one takes new blocks (free some, or take one by hand)",
		least.Human(), st.Free.Human())
}

// checkTight names the volumes whose scheduled snapshots are refused for this reason.
func (a *Agent) checkTight(ctx context.Context, r *diagnosis, p *pool.Pool, d dataset.Dataset) {
	if d.State != dataset.StateReady || d.Profile.Snapshots.Schedule == "" {
		return
	}
	if err := tight(ctx, p.Storage, d); errors.Is(err, dataset.ErrNoSpace) {
		r.Add(findings.Warning, "volume "+d.Volume, "drover trash purge --all, drover snapshot rm", "pool %s: %v",
			p.Name, err)
	}
}
