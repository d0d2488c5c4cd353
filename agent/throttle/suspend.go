package throttle

import (
	"context"
	"errors"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// WriteOutTime is how long a snapshot waits at most until a volume is written out. Its caller has a minute.
const WriteOutTime = 15 * time.Second

// For how long a limit is lifted at most.
const (
	// LiftSnapshot and LiftUnmount bound how long a limit is suspended for a flush by this agent. Without the
	// suspension, a freeze or an unmount would take as long as the dirty data takes at the limited speed, with
	// all writers blocked. A snapshot has flushed by the end of LiftSnapshot, or is refused. While its filesystem
	// is frozen nobody writes, and the limit is suspended for LiftUnmount.
	LiftSnapshot = WriteOutTime + 5*time.Second
	LiftUnmount  = time.Minute
)

// Suspension is a suspended limit. The zero value is none.
type Suspension struct {
	l *Limits
	e *Limited
	d dataset.Dataset
}

// Suspend removes the rules of a dataset for a flush by this agent, for the given time at most. It records that
// first. The caller holds the dataset's lock, and calls Resume on the result unless it calls End.
func (l *Limits) Suspend(d dataset.Dataset, bound time.Duration) (up Suspension, err error) {
	e := l.Get(d.ID)
	if e == nil {
		return up, nil
	}
	ctx := context.WithoutCancel(l.Ctx)
	e.Mu.Lock()
	defer e.Mu.Unlock()
	if e.over {
		return up, nil
	}
	rec := e.Rec
	rec.Lifted = l.Clock.Now()
	if err := l.DB.Put(ctx, map[string]any{"limits/" + e.id.String(): rec}); err != nil {
		return up, err
	}
	e.Rec, e.Lift = rec, l.Clock.Steady()+bound
	steps.At("limit.lifted")
	if err := l.clear(rec); err != nil {
		e.Lift = 0
		return up, errors.Join(err, l.impose(e, l.Fence.Look()))
	}
	l.log(d).Debug("limit of its speed is lifted for a flush")
	return Suspension{l, e, d}, nil
}

// Resume sets the rules again.
func (up Suspension) Resume() {
	if up.e == nil {
		return
	}
	if err := up.l.lower(context.WithoutCancel(up.l.Ctx), up.e, true); err != nil {
		up.l.log(up.d).WithError(err).Error("speed is not limited again")
	}
}

// Extend prolongs the suspension to the given time from now, if it has not ended.
func (up Suspension) Extend(bound time.Duration) {
	if up.e == nil {
		return
	}
	up.e.Mu.Lock()
	defer up.e.Mu.Unlock()
	if up.e.Lift != 0 {
		up.e.Lift = up.l.Clock.Steady() + bound
	}
}

// lower sets suspended rules again: at once, or if the suspension has lasted long enough. The end of the
// suspension is recorded with the next change only, because a start sets all rules anyway.
func (l *Limits) lower(ctx context.Context, e *Limited, now bool) error {
	e.Mu.Lock()
	defer e.Mu.Unlock()
	if e.over || e.Lift == 0 || !now && l.Clock.Steady() < e.Lift {
		return nil
	}
	e.Lift = 0                                          // if this fails, Run tries again
	if err := l.impose(e, l.Fence.Look()); err != nil { // before anything that can fail or take long
		return err
	}
	rec := e.Rec
	rec.Lifted = time.Time{}
	return l.Rule(ctx, e, rec)
}
