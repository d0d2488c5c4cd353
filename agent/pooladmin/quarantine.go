package pooladmin

import (
	"context"
	"time"

	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// UnreportedMargin is added to the generation of an accepted pool while some control replica cannot be asked. That
// replica may remember later generations, and would have the pool quarantined again. At one generation in ten minutes,
// 1 << 20 generations take twenty years.
const UnreportedMargin = 1 << 20

// AcceptPool makes a quarantined pool serve with its present content. in must contain the operator's confirmation. It
// fails with ErrConflict if the pool is not quarantined, and with ErrInvalid without the confirmation or if the pool is
// not on this node. A dry run needs no confirmation, and changes nothing.
func (a *Admin) AcceptPool(ctx context.Context, name string, in api.AcceptPool) (dataset.Pool, error) {
	unlock, err := lockPools(ctx, a.Host, "accepting of pool "+name)
	if err != nil {
		return dataset.Pool{}, err
	}
	defer unlock()
	p, known := a.Pools.ByName(name)
	switch {
	case !known:
		return dataset.Pool{}, dataset.Errorf(dataset.ErrInvalid,
			"no such pool: %q on this node (drover pool ls)", dataset.Clip(name))
	case p.Record.Leaving != pool.NotLeaving || p.Storage == nil || p.HangReason != "":
		return dataset.Pool{}, p.CheckServed()
	case p.QuarantineReason() == "":
		return dataset.Pool{}, dataset.Errorf(dataset.ErrConflict,
			"pool %s is not held on node %s: there is nothing to accept (drover pool ls shows held "+
				"pools)", p.Name, a.NodeName)
	case in.DryRun:
		return p.Pool, nil
	case !in.Confirmed:
		return dataset.Pool{}, dataset.Errorf(dataset.ErrInvalid,
			"pool %s: accepting it loses the data that is newer than its current state (set confirmed "+
				"in the request)", p.Name)
	}
	all, err := a.Generations.Ask(ctx)
	p, _ = a.Pools.ByName(name) // read again: the generation must be above every known one
	to := p.Record.Generation + 1
	if err != nil || !all {
		to += UnreportedMargin
	}
	a.Log.WithField("pool", p.Name).Warnf("a user confirmed that the pool is used as it is: %s", p.QuarantineReason())
	a.Pools.MarkChanged(p.ID, true)
	if err := a.Pools.Raise(ctx, p, to); err != nil {
		return dataset.Pool{}, err
	}
	defer a.News.Soon()
	a.WriteAllRecords()
	a.Copies.ReconcileAll()
	a.PurgeAll()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel() // the pool is accepted, and control must learn of it even if the caller no longer waits
	return p.Pool, a.Generations.Store(ctx)
}
