package pool

import (
	"context"
	"errors"
	"fmt"

	"github.com/droverhq/drover/dataset"
	"github.com/google/uuid"
)

// A pool on a failing disk can often be opened and listed: the kernel answers from its cache and
// reports the error only to writers. So when something in a pool fails with an error that a failing
// disk causes, the agent probes the pool: it writes the pool's identity again and flushes it. If the
// probe fails, the pool is offline, and each round of the heartbeat repeats the probe until it
// succeeds. A pool without such errors is never probed.

// BlameOperation is Pools.Blame for the pool in which an operation was executed.
func BlameOperation(ctx context.Context, p *Pools, op dataset.Operation, err error) error {
	if !IsDiskError(err) || errors.Is(err, dataset.ErrUnavailable) { // that error is control's
		return err
	}
	id := uuid.Nil
	if d, known := p.Cache.Dataset(op.DatasetID); known {
		id = d.Pool
	}
	if op.Dataset != nil {
		id = op.Dataset.Pool
	}
	if p.One(id) == nil {
		return err
	}
	if cause := p.Blame(ctx, id, err); cause.Error() != err.Error() {
		return fmt.Errorf("volume %s: %w", op.Volume, cause)
	}
	return err
}
