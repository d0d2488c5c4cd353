package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

const (
	// liftSnapshot and liftUnmount bound for how long a limit is lifted for a flush of this
	// agent's own: with it a freeze, or an unmount, would take as long as what is dirty takes
	// at that speed, with all writers held up.
	liftSnapshot = writeOutTime + 5*time.Second
	liftUnmount  = time.Minute
)

// raise lifts the limits of a dataset for a flush of this agent's own, for so long at most,
// and puts that on record before. The dataset's lock is held. back sets them again, and is
// to be called, unless unlimited is.
func (a *Agent) raise(d dataset.Dataset, bound time.Duration) (back func(), err error) {
	e := a.limits.get(d.ID)
	if e == nil {
		return func() {}, nil
	}
	ctx := context.WithoutCancel(a.ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over {
		return func() {}, nil
	}
	rec := e.rec
	rec.Lifted = a.Clock.Now()
	if err := a.state.put(ctx, map[string]any{"limits/" + e.id.String(): rec}); err != nil {
		return func() {}, err
	}
	e.rec, e.lift = rec, a.Clock.Steady()+bound
	steps.At("limit.lifted")
	if err := a.limits.clear(rec); err != nil {
		e.lift = 0
		return func() {}, errors.Join(err, a.limits.set(rec))
	}
	a.log(d).Debug("limit of its speed is lifted for a flush")
	return func() {
		if err := a.lower(ctx, e, true); err != nil {
			a.log(d).WithError(err).Error("speed is not limited again")
		}
	}, nil
}

const (
	// shortStall is what a flush may take for a freeze to come next, whose own flush has what
	// was written meanwhile; longStall is what writers may be held up.
	shortStall = time.Second
	longStall  = 2 * time.Second
	flushes    = 5
)

// settled flushes a filesystem that is mounted on path until that is soon done: a limit that
// is lifted lets its writers make more dirty than the disk takes.
func (a *Agent) settled(d dataset.Dataset, path string) error {
	var took time.Duration
	for range flushes {
		began := a.Clock.Steady()
		if _, err := a.writeOutSoon(path); err != nil {
			return fmt.Errorf("write out volume %s: %w", d.Volume, err)
		}
		if took = a.Clock.Steady() - began; took <= shortStall {
			return nil
		}
	}
	return dataset.Errorf(dataset.ErrPending, "volume %s is written to faster than its disk takes it: what came within %s is written out in as long, and a freeze would hold up its writers for that (%s at most): try again", d.Volume, took.Round(100*time.Millisecond), longStall)
}

// lower sets limits again that were lifted, if that was for long enough, or at once. On disk
// that they were is only told with what is told next: a start sets all of them.
func (a *Agent) lower(ctx context.Context, e *limited, now bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over || e.lift == 0 || !now && a.Clock.Steady() < e.lift {
		return nil
	}
	e.lift = 0
	if err := a.limits.set(e.rec); err != nil { // before anything that can fail, or take its time
		return err
	}
	rec := e.rec
	rec.Lifted = time.Time{}
	return a.rule(ctx, e, rec)
}

// unlimited forgets the limits of a dataset that is mounted no more.
func (a *Agent) unlimited(id uuid.UUID) {
	e := a.limits.get(id)
	if e == nil {
		return
	}
	if err := a.unlimit(context.WithoutCancel(a.ctx), e); err != nil {
		a.Log.WithError(err).WithField("dataset", id).Error("limits of its speed were left over")
	}
}
