package pool

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// SyncPolicy makes the policy for overcommit in an open pool (backends.PolicyKeeper) and in its record agree. The
// record decides, because a user has set it. If this node had lost its record of the pool, the pool decides. A policy
// of drover.yaml is not written to the pool. If SyncPolicy fails, the next start repeats it, and the log says so. It
// does nothing for a pool that is offline or quarantined. Idempotent.
func (t *Pools) SyncPolicy(ctx context.Context, id uuid.UUID) {
	is := t.ByID(id)
	if is == nil || is.Storage == nil || is.QuarantineReason() != "" || is.Record.OvercommitConfigured {
		return
	}
	unknown, want := is.Record.OvercommitUnknown, is.Record.Overcommit
	var kept float64
	var failed error
	err := t.Ask(ctx, id, func(b backends.Pool) {
		keeper, can := b.(backends.PolicyKeeper)
		if !can {
			return
		}
		unlock, err := t.identities.Lock(ctx, id, "policy of pool "+is.Name)
		if err != nil {
			return // the agent is stopping
		}
		defer unlock()
		if kept, failed = keeper.Overcommit(); failed == nil && !unknown && kept != want {
			failed = keeper.KeepOvercommit(want)
		}
	})
	if err == nil {
		err = failed
	}
	if err == nil && unknown {
		err = dataset.CheckOvercommit(kept) // the pool can be a disk of another host
	}
	if err == nil && unknown {
		err = t.UpdateRecord(ctx, id, func(rec *Record) {
			if rec.OvercommitUnknown {
				rec.Overcommit, rec.OvercommitUnknown = kept, false
			}
		})
	}
	if err != nil && ctx.Err() == nil {
		t.Log.WithError(err).WithField("pool", is.Name).Warn("cannot synchronize the overcommit of the pool with its " +
			"pool.json: it would be lost together with the agent's database")
	}
}
