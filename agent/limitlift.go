package agent

import (
	"context"
	"errors"
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
	l *limits
	e *limited
	d dataset.Dataset
}

// raise lifts the limits of a dataset for a flush of this agent's own, for so long at most,
// and puts that on record before. The dataset's lock is held. What it returns is to go back,
// unless endLimit is called.
func (l *limits) raise(d dataset.Dataset, bound time.Duration) (up lifting, err error) {
	e := l.get(d.ID)
	if e == nil {
		return up, nil
	}
	ctx := context.WithoutCancel(l.ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over {
		return up, nil
	}
	rec := e.rec
	rec.Lifted = l.clock.Now()
	if err := l.db.Put(ctx, map[string]any{"limits/" + e.id.String(): rec}); err != nil {
		return up, err
	}
	e.rec, e.lift = rec, l.clock.Steady()+bound
	steps.At("limit.lifted")
	if err := l.clear(rec); err != nil {
		e.lift = 0
		return up, errors.Join(err, l.impose(e, l.fence.Look()))
	}
	l.log(d).Debug("limit of its speed is lifted for a flush")
	return lifting{l, e, d}, nil
}

// back sets the limits again.
func (up lifting) back() {
	if up.e == nil {
		return
	}
	if err := up.l.lower(context.WithoutCancel(up.l.ctx), up.e, true); err != nil {
		up.l.log(up.d).WithError(err).Error("speed is not limited again")
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
		up.e.lift = up.l.clock.Steady() + bound
	}
}

// lower sets limits again that were lifted, if that was for long enough, or at once. On disk
// that they were is only told with what is told next: a start sets all of them.
func (l *limits) lower(ctx context.Context, e *limited, now bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over || e.lift == 0 || !now && l.clock.Steady() < e.lift {
		return nil
	}
	e.lift = 0                                          // and should this fail, the keeper sees to it
	if err := l.impose(e, l.fence.Look()); err != nil { // before anything that can fail, or take its time
		return err
	}
	rec := e.rec
	rec.Lifted = time.Time{}
	return l.rule(ctx, e, rec)
}
