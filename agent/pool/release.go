package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// wanted makes a pool serve again that was put back into drover.yaml while it was being removed. A pool that may
// be cleared in part held nothing, and is made again as a new one.
func (p *Pools) wanted(ctx context.Context, name string, known map[string]Record) error {
	rec := known[name]
	log := p.Log.WithField("pool", name)
	switch {
	case rec.Leaving == Staying:
		return nil
	case rec.Off && rec.Leaving == Removed:
		log.Warn("pool was being removed, and stands in drover.yaml again: it held nothing, and is made again")
		delete(known, name)
		return p.DB.Put(ctx, map[string]any{"pools/" + name: nil})
	}
	log.Warn("pool was being removed, and stands in drover.yaml again: it is kept as it is")
	rec.Leaving, rec.Off = Staying, false
	known[name] = rec
	return p.DB.Put(ctx, map[string]any{"pools/" + name: rec})
}

// Leaves fails with ErrConflict while a pool is being removed.
func (op *Pool) Leaves() error {
	if op.Record.Leaving == Staying {
		return nil
	}
	return dataset.Errorf(dataset.ErrConflict,
		"pool %s, which lies at %s, is being removed: it can be adopted once that is over (drover doctor "+
			"says what holds it up)", op.Name, op.Record.Place())
}

// TakeBack returns the command that takes the remains of a pool back, so that it can be removed again. when is the
// condition for that.
func (r Record) TakeBack(when string) string {
	return when + ", drover pool adopt " + r.Place() + " takes it back, to be removed again"
}

// Release closes a pool and forgets it. Its path stays as it is.
func (p *Pools) Release(id uuid.UUID) (err error) {
	op := p.One(id)
	if op.Storage != nil {
		err = p.letGo(id)
	}
	p.mu.Lock()
	err = errors.Join(err, op.Opening.drop())
	p.mu.Unlock()
	p.Change(id, func(op *Pool) { op.Storage, op.Opening, op.OfflineReason = nil, nil, "it is being removed" })
	return errors.Join(err, p.Holds.Let(id))
}

// Drop removes a pool from this node's records. Callers that still ask about it learn that it is gone.
func (p *Pools) Drop(ctx context.Context, id uuid.UUID) error {
	p.recording.Lock()
	defer p.recording.Unlock()
	op := p.One(id)
	if err := p.DB.Put(ctx, map[string]any{"pools/" + op.Name: nil}); err != nil {
		return fmt.Errorf("pool %s: %w", op.Name, err)
	}
	p.Change(id, func(op *Pool) {
		op.Gone, op.Storage, op.Opening, op.Hung, op.OfflineReason, op.Record.Leaving = true, nil, nil, "",
			"it was removed from this node", Staying
	})
	p.mu.Lock()
	p.Order = slices.DeleteFunc(p.Order, func(o uuid.UUID) bool { return o == id })
	p.mu.Unlock()
	p.Tidy(op.Name)
	return nil
}

// Place returns what drover pool adopt finds a pool by.
func (r Record) Place() string {
	if len(r.Devices) > 0 && r.Path == r.Mount {
		return r.Devices[0]
	}
	return r.Path
}
