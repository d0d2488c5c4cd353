package pooladmin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// ContinueRemovals resumes the removals of pools that were interrupted or could not be finished. Each runs as a job.
func (a *Admin) ContinueRemovals() {
	for _, p := range a.Pools.All() {
		if p.Record.Leaving == pool.NotLeaving || p.Storage == nil && p.Opening != nil {
			continue
		}
		a.Jobs.Start("removal of pool "+p.Name, func(ctx context.Context, _ *host.Job) error {
			unlock, err := a.lockPool(ctx, p)
			if err != nil {
				return err
			}
			defer unlock()
			if now := a.Pools.ByID(p.ID); now.Gone || now.Record.Leaving == pool.NotLeaving {
				return nil
			}
			_, err = a.finish(ctx, p.ID)
			if err != nil && a.Pools.ByID(p.ID).RemovalProblem != err.Error() {
				a.Log.WithError(err).WithField("pool", p.Name).Warn("cannot remove pool yet")
				a.Pools.Change(p.ID, func(p *pool.Pool) { p.RemovalProblem = err.Error() })
			}
			return nil
		})
	}
}

// clearPath removes a pool's files from its path. left describes the files that remain.
func (a *Admin) clearPath(ctx context.Context, id uuid.UUID) (left string, err error) {
	var b backends.Pool
	p := a.Pools.ByID(id)
	if p.Storage != nil {
		b, err = a.Pools.Detach(ctx, id, "it is being removed")
	} else {
		b, left, err = a.openLeaving(ctx, p)
	}
	if err != nil || b == nil {
		return left, err
	}
	c, can := b.(backends.Clearer)
	if !can {
		return p.Record.AdoptPath() + " keeps an empty pool", errors.Join(b.Close(), a.Pools.PoolLocks.Unlock(id))
	}
	if left, err = c.Clear(ctx); err != nil {
		return "", errors.Join(err, b.Close())
	}
	return left, a.Pools.PoolLocks.Unlock(id)
}

// openLeaving opens a pool that is being removed and is not open. Its path may be cleared in part, so the backend first
// makes the missing parts again (backends.Config.Make). openLeaving returns nil if there is nothing at the pool's path
// or if the pool cannot be opened; left then says what the operator must do. It fails with ErrInUse while another
// drover process has the pool.
func (a *Admin) openLeaving(ctx context.Context, p *pool.Pool) (b backends.Pool, left string, err error) {
	if p.Opening != nil {
		return nil, "", p.CheckServed()
	}
	cfg := p.Record.Config(p.Name, a.Keys, a.MountRoot())
	cfg.Make = len(cfg.Devices) == 0 || cfg.Path != cfg.Mount // a filesystem on devices is never cleared in part
	if _, err := os.Lstat(cfg.Path); errors.Is(err, os.ErrNotExist) && len(cfg.Devices) == 0 &&
		!pool.IsWithin(cfg.Path, "/dev") {
		return nil, "there is nothing at " + cfg.Path + " now: " + p.Record.AdoptHint("if its disk is "+
			"disconnected"), nil
	}
	kind, err := a.Pools.Backends.Kind(p.Record.Backend)
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
		return nil, fmt.Sprintf("%s: cannot be opened, and is not changed: %s: %s", p.Record.AdoptPath(),
			dataset.OneLine(err), p.Record.AdoptHint("if it is still the pool")), nil
	}
	if _, err := a.Pools.PoolLocks.Lock(ctx, b); err != nil {
		return nil, "", errors.Join(fmt.Errorf("%w (drover pool rm %s --forget --dry-run)", err,
			p.Name), b.Close())
	}
	return b, "", nil
}

// unknownPoolError returns the error for a pool that is on another node or does not exist.
func (a *Admin) unknownPoolError(ctx context.Context, name string) error {
	var have []string
	for _, o := range a.Pools.All() {
		have = append(have, o.Name)
	}
	hint := "available: " + dataset.FormatChoices(have)
	if near := dataset.Nearest(name, have); near != "" {
		hint += "; did you mean " + near + "?"
	}
	list, _ := a.Control.Pools(ctx) // it is only a hint
	for _, p := range list {
		isUUID := dataset.CheckPrefix(strings.ToLower(name)) == nil &&
			strings.HasPrefix(p.ID.String(), strings.ToLower(name))
		isOther := isUUID || name == p.NodeName+"/"+p.Name // names that drover pool inspect accepts
		switch {
		case p.Name == name && p.Node != a.NodeID:
			hint = "node " + p.NodeName + " has a pool of that name: run this there"
		case isOther && p.Node == a.NodeID:
			hint = "that is pool " + p.Name + " of this node: use its name"
		case isOther:
			hint = "that is pool " + p.Name + " of node " + p.NodeName + ": run this there, with the name of the pool"
		}
	}
	return dataset.Errorf(dataset.ErrNotFound, "no pool %q on this node (%s)", dataset.Clip(name), hint)
}
