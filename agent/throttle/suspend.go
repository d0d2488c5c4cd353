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
	// LiftSnapshot and liftUnmount bound for how long a limit is lifted for a flush of this
	// agent's own: with it a freeze, or an unmount, would take as long as what is dirty takes
	// at that speed, with all writers held up. A snapshot has flushed by the end of the first or
	// is refused; while its filesystem is frozen nobody writes, and it is lifted for the second.
	LiftSnapshot = WriteOutTime + 5*time.Second
	LiftUnmount  = time.Minute
)

// Suspension is a limit that is lifted. The zero value is none.
type Suspension struct {
	l *Limits
	e *Limited
	d dataset.Dataset
}

// Suspend lifts the limits of a dataset for a flush of this agent's own, for so long at most,
// and puts that on record before. The dataset's lock is held. What it returns is to go back,
// unless endLimit is called.
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

// Resume sets the limits again.
func (up Suspension) Resume() {
	if up.e == nil {
		return
	}
	if err := up.l.lower(context.WithoutCancel(up.l.Ctx), up.e, true); err != nil {
		up.l.log(up.d).WithError(err).Error("speed is not limited again")
	}
}

// Extend has them lifted for so long from now, if they still are.
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

// lower sets limits again that were lifted, if that was for long enough, or at once. On disk
// that they were is only told with what is told next: a start sets all of them.
func (l *Limits) lower(ctx context.Context, e *Limited, now bool) error {
	e.Mu.Lock()
	defer e.Mu.Unlock()
	if e.over || e.Lift == 0 || !now && l.Clock.Steady() < e.Lift {
		return nil
	}
	e.Lift = 0                                          // and should this fail, the keeper sees to it
	if err := l.impose(e, l.Fence.Look()); err != nil { // before anything that can fail, or take its time
		return err
	}
	rec := e.Rec
	rec.Lifted = time.Time{}
	return l.Rule(ctx, e, rec)
}
