package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// leavePools goes on with the removals that were cut short, or that something was in the way of.
func (a *Agent) leavePools() {
	for _, op := range a.pools.all() {
		if op.rec.Leaving == staying || op.backend == nil && op.opening != nil {
			continue
		}
		a.jobs.Start("removal of pool "+op.Name, func(ctx context.Context, _ *jobs.Job) error {
			unlock, err := a.lockPool(ctx, op)
			if err != nil {
				return err
			}
			defer unlock()
			if now := a.pools.one(op.ID); now.gone || now.rec.Leaving == staying {
				return nil
			}
			_, err = a.letPoolGo(ctx, op.ID)
			if err != nil && a.pools.one(op.ID).stuck != err.Error() {
				a.Log.WithError(err).WithField("pool", op.Name).Warn("pool was not removed yet")
				a.pools.change(op.ID, func(op *openPool) { op.stuck = err.Error() })
			}
			return nil
		})
	}
}

// wanted has a pool that was put back into drover.yaml while it was leaving be one again. One that may
// be cleared in part held nothing, and is made again as if it had never been there.
func (p *pools) wanted(ctx context.Context, name string, known map[string]poolRecord) error {
	rec := known[name]
	log := p.log.WithField("pool", name)
	switch {
	case rec.Leaving == staying:
		return nil
	case rec.Off && rec.Leaving == removed:
		log.Warn("pool was being removed, and stands in drover.yaml again: it held nothing, and is made again")
		delete(known, name)
		return p.db.Put(ctx, map[string]any{"pools/" + name: nil})
	}
	log.Warn("pool was being removed, and stands in drover.yaml again: it is kept as it is")
	rec.Leaving, rec.Off = staying, false
	known[name] = rec
	return p.db.Put(ctx, map[string]any{"pools/" + name: rec})
}

// leaves fails with ErrConflict while a pool is being removed.
func (op *openPool) leaves() error {
	if op.rec.Leaving == staying {
		return nil
	}
	return dataset.Errorf(dataset.ErrConflict, "pool %s, which lies at %s, is being removed: it can be adopted once that is over (drover doctor says what holds it up)", op.Name, op.rec.place())
}

// clear leaves the place of a pool as it was before there was one. left says what stays there.
func (a *Agent) clear(ctx context.Context, id uuid.UUID) (left string, err error) {
	var b backends.Pool
	op := a.pools.one(id)
	if op.backend != nil {
		b, err = a.pools.takeOut(ctx, id, "it is being removed")
	} else {
		b, left, err = a.whole(ctx, op)
	}
	if err != nil || b == nil {
		return left, err
	}
	c, can := b.(backends.Clearer)
	if !can {
		return op.rec.place() + " keeps an empty pool", errors.Join(b.Close(), a.pools.holds.let(id))
	}
	if left, err = c.Clear(ctx); err != nil {
		return "", errors.Join(err, b.Close())
	}
	return left, a.pools.holds.let(id)
}

// whole opens a pool that could not be opened, and is removed: it was cleared in part, and is made
// whole again first. nil: it was cleared, or nobody can tell, as its place is away; then what left
// says is all there is to do. ErrInUse while another drover has it.
func (a *Agent) whole(ctx context.Context, op *openPool) (b backends.Pool, left string, err error) {
	if op.opening != nil {
		return nil, "", op.serves()
	}
	cfg := op.rec.config(op.Name, keyring{a})
	cfg.Make = len(cfg.Devices) == 0 || cfg.Path != cfg.Mount // a filesystem on devices stays, so nothing lacks
	if _, err := os.Lstat(cfg.Path); errors.Is(err, os.ErrNotExist) && len(cfg.Devices) == 0 && !within(cfg.Path, "/dev") {
		return nil, "there is nothing at " + cfg.Path + " now: " + op.rec.takeBack("if its disk is away"), nil
	}
	kind, err := a.Backends.Kind(op.rec.Backend)
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
		return nil, fmt.Sprintf("what lies at %s cannot be opened, and stays as it is: %s: %s", op.rec.place(), dataset.OneLine(err), op.rec.takeBack("if it is the pool still")), nil
	}
	if _, err := a.pools.holds.take(ctx, b); err != nil {
		return nil, "", errors.Join(fmt.Errorf("%w (drover pool rm --forget %s leaves its place as it is)", err, op.Name), b.Close())
	}
	return b, "", nil
}

// takeBack says how to remove what may lie at a pool's place once its record is gone.
func (r poolRecord) takeBack(when string) string {
	return when + ", drover pool adopt " + r.place() + " takes it back, to be removed again"
}

// release lets go of a pool whose place stays as it is.
func (p *pools) release(id uuid.UUID) (err error) {
	op := p.one(id)
	if op.backend != nil {
		err = p.letGo(id)
	}
	p.mu.Lock()
	err = errors.Join(err, op.opening.drop())
	p.mu.Unlock()
	p.change(id, func(op *openPool) { op.backend, op.opening, op.why = nil, nil, "it is being removed" })
	return errors.Join(err, p.holds.let(id))
}

// drop takes a pool off this node's record. What still asks about it is told that it is gone.
func (p *pools) drop(ctx context.Context, id uuid.UUID) error {
	p.recording.Lock()
	defer p.recording.Unlock()
	op := p.one(id)
	if err := p.db.Put(ctx, map[string]any{"pools/" + op.Name: nil}); err != nil {
		return fmt.Errorf("pool %s: %w", op.Name, err)
	}
	p.change(id, func(op *openPool) {
		op.gone, op.backend, op.opening, op.hung, op.why, op.rec.Leaving = true, nil, nil, "", "it was removed from this node", staying
	})
	p.mu.Lock()
	p.order = slices.DeleteFunc(p.order, func(o uuid.UUID) bool { return o == id })
	p.mu.Unlock()
	p.tidy(op.Name)
	return nil
}

// place is what drover pool adopt finds a pool by.
func (r poolRecord) place() string {
	if len(r.Devices) > 0 && r.Path == r.Mount {
		return r.Devices[0]
	}
	return r.Path
}

// notHere is the refusal of a pool of another node, or of none.
func (a *Agent) notHere(ctx context.Context, name string) error {
	var have []string
	for _, o := range a.pools.all() {
		have = append(have, o.Name)
	}
	hint := "have: " + dataset.Have(have)
	if near := dataset.Nearest(name, have); near != "" {
		hint += "; did you mean " + near + "?"
	}
	list, _ := a.Control.Pools(ctx) // it is a hint
	for _, p := range list {
		if p.Name == name && p.Node != a.node {
			hint = "node " + p.NodeName + " has one of that name: ask there"
		}
	}
	return dataset.Errorf(dataset.ErrNotFound, "no pool %q on this node (%s)", dataset.Clip(name), hint)
}
