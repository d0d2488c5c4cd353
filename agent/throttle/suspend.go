package throttle

import (
	"context"
	"errors"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// WriteOutTime is how long a snapshot waits at most for the flush of a volume. It is shorter than the minute that the
// caller of the snapshot waits.
const WriteOutTime = 15 * time.Second

// How long a limit is suspended at most.
const (
	// SuspendForSnapshot and SuspendForUnmount bound how long a limit is suspended for a flush by this agent. Without
	// the suspension, a freeze or an unmount would have to write the dirty data at the limited speed, and all writers
	// would be blocked meanwhile. A snapshot waits for its flushes only for WriteOutTime, and the rest of
	// SuspendForSnapshot is for the freeze.
	SuspendForSnapshot = WriteOutTime + 5*time.Second
	SuspendForUnmount  = time.Minute
)

// Suspension is a suspended limit. The zero value suspends nothing.
type Suspension struct {
	l *Throttler
	e *Limited
	d dataset.Dataset
}

// Suspend removes the rules of a dataset for a flush by this agent, for bound at most. It first records that the rules
// are suspended. The caller holds the dataset's lock, and must call Resume on the result unless it calls End.
func (l *Throttler) Suspend(d dataset.Dataset, bound time.Duration) (up Suspension, err error) {
	e := l.Get(d.ID)
	if e == nil {
		return up, nil
	}
	ctx := context.WithoutCancel(l.Ctx)
	e.Mu.Lock()
	defer e.Mu.Unlock()
	if e.ended {
		return up, nil
	}
	rec := e.Record
	rec.Suspended = l.Clock.Now()
	if err := l.DB.Put(ctx, map[string]any{"limits/" + e.id.String(): rec}); err != nil {
		return up, err
	}
	e.Record, e.SuspendedUntil = rec, l.Clock.Steady()+bound
	steps.At("limit.lifted")
	if err := l.clear(rec); err != nil {
		e.SuspendedUntil = 0
		return up, errors.Join(err, l.apply(e, l.Fences.FencingCheck()))
	}
	l.log(d).Debug("throttling is suspended for a flush")
	return Suspension{l, e, d}, nil
}

// Resume sets the rules again.
func (up Suspension) Resume() {
	if up.e == nil {
		return
	}
	if err := up.l.endSuspension(context.WithoutCancel(up.l.Ctx), up.e, true); err != nil {
		up.l.log(up.d).WithError(err).Error("cannot restore throttling")
	}
}

// endSuspension ends a suspension. If now is false, it ends only a suspension whose time is over. It sets the rules
// before it records the end, because recording may fail or take long, and a start sets all rules anyway.
func (l *Throttler) endSuspension(ctx context.Context, e *Limited, now bool) error {
	e.Mu.Lock()
	defer e.Mu.Unlock()
	if e.ended || e.SuspendedUntil == 0 || !now && l.Clock.Steady() < e.SuspendedUntil {
		return nil
	}
	e.SuspendedUntil = 0                                        // if apply fails, Run sets the rules
	if err := l.apply(e, l.Fences.FencingCheck()); err != nil { // first, because the next steps can fail or take long
		return err
	}
	rec := e.Record
	rec.Suspended = time.Time{}
	return l.SetRules(ctx, e, rec)
}
