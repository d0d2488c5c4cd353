package pool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

const (
	// StartPatience is how long a start waits for all pools together, and then again for the clean-up after a
	// crash.
	StartPatience = 20 * time.Second
	// AgainPatience is how long a round waits for the pools that were offline.
	AgainPatience = 2 * time.Second
)

// opening is a pool that is being opened, for as long as its disk takes.
type opening struct {
	since time.Time
	Done  chan struct{}

	is   Pool  // the result; read it once done is closed
	err  error // likewise
	over bool  // the result is not applied any more; protected by Pools.mu
}

// begin opens a pool beside other work. No other goroutine knows op yet.
func (x *Opener) begin(op *Pool) {
	o := &opening{since: x.Clock.Now(), Done: make(chan struct{}), is: *op}
	op.Opening, op.OfflineReason = o, "it is being opened"
	go func() {
		o.err = failingDisk(o.is.Name, x.attach(x.Ctx, &o.is))
		x.pools.mu.Lock()
		over := o.over
		close(o.Done)
		x.pools.mu.Unlock()
		if over {
			_ = o.close()
		}
	}()
}

// drop discards the result of an opening that is not finished. The caller holds Pools.mu.
func (o *opening) drop() error {
	if o == nil {
		return nil
	}
	o.over = true
	select {
	case <-o.Done:
		return o.close()
	default:
		return nil // the goroutine closes it
	}
}

// close closes a pool that was opened and whose result is discarded.
func (o *opening) close() error {
	if o.err != nil {
		return nil
	}
	return o.is.Storage.Close()
}

// settle waits for openings, for the given time at most, applies their results and returns the pools that are
// open now. Late pools are served once control was asked for their generation (see takeLate). At a start, nothing
// is served before that.
func (x *Opener) settle(ctx context.Context, patience time.Duration, late bool, list []*Pool) (back []*Pool) {
	done := make([]<-chan struct{}, 0, len(list))
	for _, op := range list {
		done = append(done, op.Opening.Done)
	}
	WaitFor(ctx, x.Clock, patience, done)
	x.pools.mu.Lock()
	defer x.pools.mu.Unlock()
	for _, op := range list {
		now, o := x.pools.byID[op.ID], op.Opening
		if now == nil || now.Opening != o {
			continue // the pool was replaced meanwhile
		}
		next := *now
		select {
		case <-o.Done:
			next.Opening, next.OfflineReason = nil, ""
			if o.err != nil {
				next.OfflineReason = Reason(op.Name, o.err)
				break
			}
			next = o.is
			next.Record, next.Late = now.Record, late // the record may have changed
			back = append(back, &next)
		default:
			next.OfflineReason = NoAnswer(o.since)
		}
		x.pools.byID[op.ID] = &next
	}
	return back
}

// Retry opens the pools that are offline again, and reports whether one is back. It waits once for a pool that
// does not answer.
func (x *Opener) Retry(ctx context.Context) (again bool) {
	var asked []*Pool
	patience := time.Duration(0)
	x.pools.mu.Lock()
	for _, id := range x.pools.Order {
		op := x.pools.byID[id]
		if op.Storage != nil {
			if op.back {
				next := *op
				next.back, again = false, true
				x.pools.byID[id] = &next
			}
			continue
		}
		if op.Opening == nil {
			if op.Record.Leaving != Staying { // its path may be in the course of being cleared
				continue
			}
			next := *op
			x.begin(&next)
			next.OfflineReason = op.OfflineReason // until there is a newer reason
			x.pools.byID[id], op, patience = &next, &next, AgainPatience
		}
		asked = append(asked, op)
	}
	x.pools.mu.Unlock()
	back := x.settle(ctx, patience, true, asked)
	for _, op := range back {
		x.Log.WithField("pool", op.Name).Info("pool is online again")
	}
	return again || len(back) > 0
}

// PathAnswers fails with dataset.ErrOffline if the path of a new pool does not answer: making the pool there would
// never end.
func PathAnswers(ctx context.Context, c clock.Clock, path string) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for there := false; !there && path != "/"; path = filepath.Dir(path) {
			_, err := os.Stat(path)
			there = err == nil
		}
	}()
	if WaitFor(ctx, c, StartPatience, []<-chan struct{}{done}) {
		return nil
	}
	return errors.Join(ctx.Err(), dataset.Errorf(dataset.ErrOffline,
		"it does not answer within %s: what it lies on hangs (look at its disk: dmesg)", StartPatience))
}

// WaitFor waits for work on pools, for the given time in all, and reports whether all of it ended. The disk below
// it may hang.
func WaitFor(ctx context.Context, c clock.Clock, patience time.Duration, all []<-chan struct{}) bool {
	late := c.After(patience)
	for _, done := range all {
		select {
		case <-done:
			continue
		default:
		}
		select {
		case <-done:
		case <-late:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}
