package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

const (
	// liftSnapshot and liftUnmount bound for how long a limit is lifted for a flush of this
	// agent's own: with it a freeze, or an unmount, would take as long as what is dirty takes
	// at that speed, with all writers held up. A snapshot has flushed by the end of the first or
	// is refused; while its filesystem is frozen nobody writes, and it is lifted for the second.
	liftSnapshot = writeOutTime + 5*time.Second
	liftUnmount  = time.Minute
)

// lifting is a limit that is lifted. The zero value is none.
type lifting struct {
	a *Agent
	e *limited
	d dataset.Dataset
}

// raise lifts the limits of a dataset for a flush of this agent's own, for so long at most,
// and puts that on record before. The dataset's lock is held. What it returns is to go back,
// unless endLimit is called.
func (a *Agent) raise(d dataset.Dataset, bound time.Duration) (up lifting, err error) {
	e := a.limits.get(d.ID)
	if e == nil {
		return up, nil
	}
	ctx := context.WithoutCancel(a.ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over {
		return up, nil
	}
	rec := e.rec
	rec.Lifted = a.Clock.Now()
	if err := a.state.Put(ctx, map[string]any{"limits/" + e.id.String(): rec}); err != nil {
		return up, err
	}
	e.rec, e.lift = rec, a.Clock.Steady()+bound
	steps.At("limit.lifted")
	if err := a.limits.clear(rec); err != nil {
		e.lift = 0
		return up, errors.Join(err, a.impose(e, a.askGuard))
	}
	a.log(d).Debug("limit of its speed is lifted for a flush")
	return lifting{a, e, d}, nil
}

// back sets the limits again.
func (up lifting) back() {
	if up.e == nil {
		return
	}
	if err := up.a.lower(context.WithoutCancel(up.a.ctx), up.e, true); err != nil {
		up.a.log(up.d).WithError(err).Error("speed is not limited again")
	}
}

// extend has them lifted for so long from now, if they still are.
func (up lifting) extend(bound time.Duration) {
	if up.e == nil {
		return
	}
	up.e.mu.Lock()
	defer up.e.mu.Unlock()
	if up.e.lift != 0 {
		up.e.lift = up.a.Clock.Steady() + bound
	}
}

const (
	// shortStall is what a flush may take for a freeze to come next, whose own flush has what
	// was written meanwhile; longStall is what writers may be held up.
	shortStall = time.Second
	longStall  = 2 * time.Second
	flushes    = 5
)

// settled flushes a filesystem that is mounted on path until that is soon done, at that moment at
// the latest: a limit that is lifted until then lets its writers make more dirty than the disk
// takes.
func (a *Agent) settled(d dataset.Dataset, path string, until time.Duration) error {
	var took time.Duration
	for range flushes {
		began := a.Clock.Steady()
		if began+shortStall > until {
			break
		}
		done, err := a.writeOutSoon(path, until-began)
		if err != nil {
			return fmt.Errorf("write out volume %s: %w", d.Volume, err)
		}
		if took = a.Clock.Steady() - began; done && took <= shortStall {
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
	e.lift = 0                                      // and should this fail, the keeper sees to it
	if err := a.impose(e, a.askGuard); err != nil { // before anything that can fail, or take its time
		return err
	}
	rec := e.rec
	rec.Lifted = time.Time{}
	return a.rule(ctx, e, rec)
}
