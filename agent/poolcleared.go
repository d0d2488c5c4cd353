package agent

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// leavePools continues the removals of pools that were interrupted, or that could not be finished.
func (a *Agent) leavePools() {
	for _, op := range a.pools.All() {
		if op.Record.Leaving == pool.Staying || op.Storage == nil && op.Opening != nil {
			continue
		}
		a.Jobs.Start("removal of pool "+op.Name, func(ctx context.Context, _ *jobs.Job) error {
			unlock, err := a.lockPool(ctx, op)
			if err != nil {
				return err
			}
			defer unlock()
			if now := a.pools.One(op.ID); now.Gone || now.Record.Leaving == pool.Staying {
				return nil
			}
			_, err = a.letPoolGo(ctx, op.ID)
			if err != nil && a.pools.One(op.ID).Stuck != err.Error() {
				a.Log.WithError(err).WithField("pool", op.Name).Warn("pool was not removed yet")
				a.pools.Change(op.ID, func(op *pool.Pool) { op.Stuck = err.Error() })
			}
			return nil
		})
	}
}

// clear removes what a pool made at its place. left names what stays there.
func (a *Agent) clear(ctx context.Context, id uuid.UUID) (left string, err error) {
	var b backends.Pool
	op := a.pools.One(id)
	if op.Storage != nil {
		b, err = a.pools.Eject(ctx, id, "it is being removed")
	} else {
		b, left, err = a.whole(ctx, op)
	}
	if err != nil || b == nil {
		return left, err
	}
	c, can := b.(backends.Clearer)
	if !can {
		return op.Record.Place() + " keeps an empty pool", errors.Join(b.Close(), a.pools.Holds.Let(id))
	}
	if left, err = c.Clear(ctx); err != nil {
		return "", errors.Join(err, b.Close())
	}
	return left, a.pools.Holds.Let(id)
}

// whole opens a pool that could not be opened and is being removed: it was cleared in part, and is completed
// first. It returns nil if the pool was cleared, or if nobody can tell because its place is absent; left then
// says what remains to do. It fails with ErrInUse while another drover has the pool.
func (a *Agent) whole(ctx context.Context, op *pool.Pool) (b backends.Pool, left string, err error) {
	if op.Opening != nil {
		return nil, "", op.Serves()
	}
	cfg := op.Record.Configured(op.Name, a.keys)
	cfg.Make = len(cfg.Devices) == 0 || cfg.Path != cfg.Mount // a filesystem on devices stays, so nothing lacks
	if _, err := os.Lstat(cfg.Path); errors.Is(err, os.ErrNotExist) && len(cfg.Devices) == 0 &&
		!pool.Within(cfg.Path, "/dev") {
		return nil, "there is nothing at " + cfg.Path + " now: " + op.Record.TakeBack("if its disk is away"), nil
	}
	kind, err := a.config.Backends.Kind(op.Record.Backend)
	if err != nil {
		return nil, "", err
	}
	b, err = kind.Open(ctx, cfg)
	switch {
	case ctx.Err() != nil:
		if b != nil {
			err = b.Close()
		}
		return nil, "", errors.Join(ctx.Err(), err)
	case err != nil:
		return nil, fmt.Sprintf("what lies at %s cannot be opened, and stays as it is: %s: %s", op.Record.Place(),
			dataset.OneLine(err), op.Record.TakeBack("if it is the pool still")), nil
	}
	if _, err := a.pools.Holds.Take(ctx, b); err != nil {
		return nil, "", errors.Join(fmt.Errorf("%w (drover pool rm --forget %s leaves its place as it is)", err,
			op.Name), b.Close())
	}
	return b, "", nil
}

// notHere refuses a request for a pool of another node, or one that does not exist.
func (a *Agent) notHere(ctx context.Context, name string) error {
	var have []string
	for _, o := range a.pools.All() {
		have = append(have, o.Name)
	}
	hint := "have: " + dataset.Have(have)
	if near := dataset.Nearest(name, have); near != "" {
		hint += "; did you mean " + near + "?"
	}
	list, _ := a.Control.Pools(ctx) // it is only a hint
	for _, p := range list {
		if p.Name == name && p.Node != a.NodeID {
			hint = "node " + p.NodeName + " has one of that name: ask there"
		}
	}
	return dataset.Errorf(dataset.ErrNotFound, "no pool %q on this node (%s)", dataset.Clip(name), hint)
}
