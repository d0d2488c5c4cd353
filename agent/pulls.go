package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// pullRecord is a dataset that comes here with a move. What came in vain is kept for a
// while, for another try that goes on from it.
type pullRecord struct {
	Move     uuid.UUID `json:"move"`
	Pool     uuid.UUID `json:"pool"`
	Epoch    uint64    `json:"epoch"` // that is to be opened here
	Files    bool      `json:"files,omitempty"`
	Share    bool      `json:"share,omitempty"`   // nothing comes: it is taken once it is this node's
	From     uuid.UUID `json:"from,omitzero"`     // the pool that it is taken from
	Snapshot uuid.UUID `json:"snapshot,omitzero"` // that the head is made of, once it is known
	Since    time.Time `json:"since"`
	Beside   uuid.UUID `json:"beside,omitzero"` // as which all of it has come, beside a copy: see besideOf
}

// keptInVain is how long what a move brought is kept that did not come to its end.
const keptInVain = 24 * time.Hour

func (a *Agent) loadPulls(ctx context.Context) error {
	return a.DB.Each(ctx, "pulls/", func(rest string, v []byte) error {
		id, err := uuid.Parse(rest)
		if err != nil {
			return err
		}
		var p pullRecord
		if err := json.Unmarshal(v, &p); err != nil {
			return err
		}
		a.pulls[id] = p
		return nil
	})
}

// setPull puts on disk what comes here.
func (a *Agent) setPull(ctx context.Context, id uuid.UUID, p pullRecord) error {
	if err := a.DB.Put(ctx, map[string]any{"pulls/" + id.String(): p}); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pulls[id] = p
	return nil
}

// dropPull forgets what came here: it is in its place, or gone.
func (a *Agent) dropPull(ctx context.Context, id uuid.UUID) error {
	if _, known := a.pull(id); !known {
		return nil
	}
	if err := a.DB.Put(ctx, map[string]any{"pulls/" + id.String(): nil}); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pulls, id)
	return nil
}

func (a *Agent) pull(id uuid.UUID) (pullRecord, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, known := a.pulls[id]
	return p, known
}

// setPulling says that a move is under way here until what it returns is called. A refresh,
// which has the dataset's lock for as long as its home sends, ends: the home may be lost.
func (a *Agent) setPulling(id uuid.UUID) (done func()) {
	a.mu.Lock()
	a.pulling[id] = true
	a.mu.Unlock()
	a.stopRefresh(id)
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.pulling, id)
	}
}

func (a *Agent) isPulling(id uuid.UUID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pulling[id]
}

// resolvePulls finishes what a crash cut short: a dataset whose home this node became
// gets its head, if it has none yet, and takes its place. What came in vain goes when its
// time is over.
func (a *Agent) resolvePulls(ctx context.Context) {
	a.mu.Lock()
	open := make(map[uuid.UUID]pullRecord, len(a.pulls))
	for id, p := range a.pulls {
		if !a.pulling[id] {
			open[id] = p
		}
	}
	a.mu.Unlock()
	for id, p := range open {
		if err := a.resolvePull(ctx, id, p); err != nil && ctx.Err() == nil {
			a.Log.WithError(err).WithField("dataset", id).Error("what a move brought is not in its place yet; it is tried again")
		}
	}
}

func (a *Agent) resolvePull(ctx context.Context, id uuid.UUID, p pullRecord) error {
	d, home := a.Cache.Dataset(id)
	if !home {
		return a.letGoPull(ctx, id, p)
	}
	unlock, err := a.Locks.Lock(ctx, id, "move of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	if a.isPulling(id) {
		return nil
	}
	return a.settleHome(ctx, d, p)
}

// settleHome puts a dataset whose home this node became in its place. Its lock is held.
func (a *Agent) settleHome(ctx context.Context, d dataset.Dataset, p pullRecord) error {
	pool, err := a.pools.Online(ctx, p.Pool)
	if err != nil {
		return err
	}
	if sharer, can := pool.(backends.Sharer); can && p.Share {
		given := backends.Given{Pool: p.From, Epoch: p.Epoch - 1}
		if p.From == p.Pool && d.Taken != nil { // it lies here since before a home that never took it
			given.Epoch = d.Taken.Epoch - 1
		}
		if err := sharer.Take(ctx, d, given); err != nil {
			return fmt.Errorf("volume %s: its home is here, but it was not taken over yet: %w", d.Volume, err)
		}
	}
	if copier, can := pool.(backends.Copier); can && !p.Files && p.Snapshot != uuid.Nil {
		if err := copier.Promote(ctx, d.ID, p.Snapshot); err != nil {
			return fmt.Errorf("volume %s: its home is here, but it has no head yet: %w", d.Volume, err)
		}
	} else if can && p.Beside != uuid.Nil {
		if err := a.takePlaceAtHome(ctx, pool, d, p.Beside); err != nil {
			return fmt.Errorf("volume %s: its home is here, but what came is beside its copy yet: %w", d.Volume, err)
		}
	}
	if err := pool.Commit(ctx, d.ID); err != nil {
		return fmt.Errorf("volume %s: its home is here, but it is not in its place yet: %w", d.Volume, err)
	}
	if p.Snapshot != uuid.Nil {
		if err := a.sizeAsRecorded(ctx, pool, d, p.Snapshot); err != nil {
			return err
		}
	}
	steps.At("move.committed")
	a.pools.Changed(p.Pool, true)
	a.noteDone(ctx, pool, d)
	a.pruneSoon(d.ID)
	return errors.Join(a.dropBeside(ctx, p), a.forgetCopy(ctx, d.ID), a.dropGiven(ctx, d.ID), a.dropPull(ctx, d.ID))
}

// letGoPull destroys what came in vain when its time is over, or the volume is deleted:
// bytes that this node brought here itself, of a dataset whose home is elsewhere.
func (a *Agent) letGoPull(ctx context.Context, id uuid.UUID, p pullRecord) error {
	if a.Trust.Err() != nil {
		return nil
	}
	op, err := a.Control.Operation(ctx, p.Move.String(), 0)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) || err == nil && !op.State.Final() {
		return nil // control is away, or it is begun again
	}
	if _, kept := a.Cache.Copy(id); kept {
		v, err := a.Control.Volume(ctx, id.String())
		if err != nil && !errors.Is(err, dataset.ErrNotFound) || err == nil && v.Home == a.NodeID || a.isPulling(id) {
			return nil // it may be the home and not have heard so: what a move made is its head
		}
		err = errors.Join(a.dropBeside(ctx, p), a.dropPull(ctx, id)) // control says what becomes of it
		a.copySoon(id)
		return err
	}
	unlock, err := a.Locks.Lock(ctx, id, "removal of what a move brought in vain")
	if err != nil {
		return err
	}
	defer unlock()
	if _, home := a.Cache.Dataset(id); home || a.isPulling(id) {
		return nil
	}
	v, err := a.Control.Volume(ctx, id.String())
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err == nil && (v.Home == a.NodeID || a.Clock.Now().Sub(p.Since) < keptInVain) { // of what is deleted there is no other try
		return nil
	}
	if p.Share { // none of it is here
		return a.dropPull(ctx, id)
	}
	pool, err := a.pools.Online(ctx, p.Pool)
	if err != nil {
		return err
	}
	if err := errors.Join(pool.Delete(ctx, id), a.dropBeside(ctx, p)); err != nil {
		return err
	}
	return a.dropPull(ctx, id)
}
