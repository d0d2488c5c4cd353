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
	// AgainPatience is how long Retry waits for the pools that were offline.
	AgainPatience = 2 * time.Second
)

// opening is a pool that is being opened. It exists as long as the disk takes to answer.
type opening struct {
	since time.Time
	Done  chan struct{}

	result    Pool  // the result; read it once Done is closed
	err       error // the error; read it once Done is closed
	discarded bool  // the result must be discarded; protected by Pools.mu
}

// startOpening opens a pool in a new goroutine. When startOpening is called, no other goroutine may use p.
func (t *Pools) startOpening(p *Pool) {
	o := &opening{since: t.Clock.Now(), Done: make(chan struct{}), result: *p}
	p.Opening, p.OfflineReason = o, "it is being opened"
	go func() {
		o.err = failingDisk(o.result.Name, t.attach(t.Ctx, &o.result))
		t.mu.Lock()
		over := o.discarded
		close(o.Done)
		t.mu.Unlock()
		if over {
			_ = o.close()
		}
	}()
}

// discard discards the result of an opening. If the opening has not ended, its goroutine closes the pool later. The
// caller holds Pools.mu.
func (o *opening) discard() error {
	if o == nil {
		return nil
	}
	o.discarded = true
	select {
	case <-o.Done:
		return o.close()
	default:
		return nil // the goroutine closes it
	}
}

// close closes the pool of an opening whose result is discarded.
func (o *opening) close() error {
	if o.err != nil {
		return nil
	}
	return o.result.Storage.Close()
}

// applyOpened waits for openings, for patience at most, applies their results, and returns the pools that are open now.
// late is false at a start, when no pool is served yet. If late is true, other pools are served already, and each
// opened pool is served only after pooladmin.Keeper has asked control for its generation.
func (t *Pools) applyOpened(ctx context.Context, patience time.Duration, late bool, list []*Pool) (back []*Pool) {
	done := make([]<-chan struct{}, 0, len(list))
	for _, p := range list {
		done = append(done, p.Opening.Done)
	}
	WaitFor(ctx, t.Clock, patience, done)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range list {
		now, o := t.byID[p.ID], p.Opening
		if now == nil || now.Opening != o {
			continue // the pool was replaced meanwhile
		}
		next := *now
		select {
		case <-o.Done:
			next.Opening, next.OfflineReason = nil, ""
			if o.err != nil {
				next.OfflineReason = WithoutPoolName(p.Name, o.err)
				break
			}
			next = o.result
			next.Record, next.AwaitsGeneration = now.Record, late // the record may have changed
			back = append(back, &next)
		default:
			next.OfflineReason = NoAnswerReason(o.since)
		}
		t.byID[p.ID] = &next
	}
	return back
}

// Retry opens the offline pools, and reports whether at least one pool is online again. It waits only for pools that
// this call began to open, so that later calls do not wait again for a pool that did not answer.
func (t *Pools) Retry(ctx context.Context) (again bool) {
	var asked []*Pool
	patience := time.Duration(0)
	t.mu.Lock()
	for _, id := range t.Order {
		p := t.byID[id]
		if p.Storage != nil {
			if p.recovered {
				next := *p
				next.recovered, again = false, true
				t.byID[id] = &next
			}
			continue
		}
		if p.Opening == nil {
			if p.Record.Leaving != NotLeaving { // its path may be partly cleared
				continue
			}
			next := *p
			t.startOpening(&next)
			next.OfflineReason = p.OfflineReason // until there is a newer reason
			t.byID[id], p, patience = &next, &next, AgainPatience
		}
		asked = append(asked, p)
	}
	t.mu.Unlock()
	back := t.applyOpened(ctx, patience, true, asked)
	for _, p := range back {
		t.Log.WithField("pool", p.Name).Info("pool is online again")
		t.SyncPolicy(ctx, p.ID)
	}
	return again || len(back) > 0
}

// PathAnswers fails with dataset.ErrOffline if the path of a new pool hangs. Making a pool there would never end.
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
		"it did not respond within %s: its disk hangs (check it: dmesg)", StartPatience))
}

// WaitFor waits until all channels are closed or patience has passed, and reports whether all are closed. A channel may
// never be closed, because work on a pool never ends if its disk hangs.
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
