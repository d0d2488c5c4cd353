package pooladmin

import (
	"context"
	"time"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// QuarantineDeps are the dependencies of Quarantine.
type QuarantineDeps struct {
	*host.Host
	Pools       *pool.Pools
	Generations *Keeper
	RecordFiles *operation.Operations
	Copies      *move.Copies
	Executor    *operation.Operations
}

// Quarantine lets an operator accept pools that are quarantined. It has no state. Its methods are safe for concurrent
// use.
type Quarantine struct{ QuarantineDeps }

// NewQuarantine returns a Quarantine.
func NewQuarantine(deps QuarantineDeps) *Quarantine { return &Quarantine{deps} }

// UnreportedMargin is added to the generation of an accepted pool while some control replica cannot be asked. That
// replica may remember later generations, and would have the pool quarantined again. At one generation in ten minutes,
// 1 << 20 generations take twenty years.
const UnreportedMargin = 1 << 20

// Accept makes a quarantined pool serve with its present content. in must contain the operator's confirmation. It fails
// with ErrConflict if the pool is not quarantined, and with ErrInvalid without the confirmation or if the pool is not
// on this node. A dry run needs no confirmation, and changes nothing.
func (q *Quarantine) Accept(ctx context.Context, name string, in api.AcceptPool) (dataset.Pool, error) {
	unlock, err := lockPools(ctx, q.Host, "accepting of pool "+name)
	if err != nil {
		return dataset.Pool{}, err
	}
	defer unlock()
	p, known := q.Pools.ByName(name)
	switch {
	case !known:
		return dataset.Pool{}, dataset.Errorf(dataset.ErrInvalid,
			"no such pool: %q on this node (drover pool ls)", dataset.Clip(name))
	case p.Record.Leaving != pool.NotLeaving || p.Storage == nil || p.HangReason != "":
		return dataset.Pool{}, p.CheckServed()
	case p.QuarantineReason() == "":
		return dataset.Pool{}, dataset.Errorf(dataset.ErrConflict,
			"pool %s is not held on node %s: there is nothing to accept (drover pool ls shows held "+
				"pools)", p.Name, q.NodeName)
	case in.DryRun:
		return p.Pool, nil
	case !in.Confirmed:
		return dataset.Pool{}, dataset.Errorf(dataset.ErrInvalid,
			"pool %s: accepting it loses the data that is newer than its current state (set confirmed "+
				"in the request)", p.Name)
	}
	all, err := q.Generations.Ask(ctx)
	p, _ = q.Pools.ByName(name) // read again: the generation must be above every known one
	to := p.Record.Generation + 1
	if err != nil || !all {
		to += UnreportedMargin
	}
	q.Log.WithField("pool", p.Name).Warnf("a user confirmed that the pool is used as it is: %s", p.QuarantineReason())
	q.Pools.MarkChanged(p.ID, true)
	if err := q.Pools.Raise(ctx, p, to); err != nil {
		return dataset.Pool{}, err
	}
	defer q.News.Soon()
	q.RecordFiles.WriteAllRecords()
	q.Copies.ReconcileAll()
	q.Executor.PurgeAll()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel() // the pool is accepted, and control must learn of it even if the caller no longer waits
	return p.Pool, q.Generations.Store(ctx)
}
