package throttle

import (
	"context"
	"errors"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// WriteOutTime is how long a snapshot waits at most until a volume is flushed. The caller of the snapshot waits a
// minute.
const WriteOutTime = 15 * time.Second

// How long a limit is suspended at most.
const (
	// LiftSnapshot and LiftUnmount bound how long a limit is suspended for a flush by this agent. Without the
	// suspension, a freeze or an unmount would take as long as writing the dirty data at the limited speed, and all
	// writers would be blocked meanwhile. A snapshot whose flush has not ended after LiftSnapshot is refused. While the
	// filesystem is frozen nobody can write, and the limit is suspended for LiftUnmount.
	LiftSnapshot = WriteOutTime + 5*time.Second
	LiftUnmount  = time.Minute
)

// Suspension is a suspended limit. The zero value suspends nothing.
type Suspension struct {
	l *Limits
	e *Limited
	d dataset.Dataset
}

// Suspend removes the rules of a dataset for a flush by this agent, for bound at most. It first records that the rules
// are suspended. The caller holds the dataset's lock, and must call Resume on the result unless it calls End.
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
	l.log(d).Debug("throttling is suspended for a flush")
	return Suspension{l, e, d}, nil
}

// Resume sets the rules again.
func (up Suspension) Resume() {
	if up.e == nil {
		return
	}
	if err := up.l.lower(context.WithoutCancel(up.l.Ctx), up.e, true); err != nil {
		up.l.log(up.d).WithError(err).Error("cannot restore throttling")
	}
}

// Extend prolongs the suspension until bound from now, if it has not ended.
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

// lower ends a suspension: at once if now is true, otherwise only if the suspension has lasted long enough. It sets the
// rules before it records the end, because recording may fail or take long, and a start sets all rules anyway.
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
