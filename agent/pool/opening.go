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
	// StartPatience is what a start waits for its pools, and then for what a crash left in
	// them: all of them together.
	StartPatience = 20 * time.Second
	// AgainPatience is what a round waits for those that were offline.
	AgainPatience = 2 * time.Second
)

// opening is a pool that is being opened, for as long as its disk takes.
type opening struct {
	since time.Time
	Done  chan struct{}

	is   Pool  // what comes of it; read once done is closed
	err  error // likewise
	over bool  // nobody takes it in any more; under pools.mu
}

// begin opens a pool beside other work. Nobody else knows op yet.
func (p *Pools) begin(op *Pool) {
	o := &opening{since: p.Clock.Now(), Done: make(chan struct{}), is: *op}
	op.Opening, op.OfflineReason = o, "it is being opened"
	go func() {
		o.err = failingDisk(o.is.Name, p.attach(p.Ctx, &o.is))
		p.mu.Lock()
		over := o.over
		close(o.Done)
		p.mu.Unlock()
		if over {
			_ = o.close()
		}
	}()
}

// drop has nobody take in a pool that is being opened. Its pools.mu is held.
func (o *opening) drop() error {
	if o == nil {
		return nil
	}
	o.over = true
	select {
	case <-o.Done:
		return o.close()
	default:
		return nil // it closes itself
	}
}

// close closes what was opened, and is not taken in.
func (o *opening) close() error {
	if o.err != nil {
		return nil
	}
	return o.is.Storage.Close()
}

// settle takes in what came of opening pools, for which it waits for so long, and returns
// those that are open now. Late ones serve once control was asked about them (see takeLate);
// at a start nothing is served before that.
func (p *Pools) settle(ctx context.Context, patience time.Duration, late bool, list []*Pool) (back []*Pool) {
	done := make([]<-chan struct{}, 0, len(list))
	for _, op := range list {
		done = append(done, op.Opening.Done)
	}
	WaitFor(ctx, p.Clock, patience, done)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, op := range list {
		now, o := p.byID[op.ID], op.Opening
		if now == nil || now.Opening != o {
			continue // it was moved meanwhile
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
			next.Record, next.Late = now.Record, late // what is on record may have changed
			back = append(back, &next)
		default:
			next.OfflineReason = NoAnswer(o.since)
		}
		p.byID[op.ID] = &next
	}
	return back
}

// Retry opens again what is offline; it reports whether one came back, or answers again. One
// that does not answer is waited for once.
func (p *Pools) Retry(ctx context.Context) (again bool) {
	var asked []*Pool
	patience := time.Duration(0)
	p.mu.Lock()
	for _, id := range p.Order {
		op := p.byID[id]
		if op.Storage != nil {
			if op.back {
				next := *op
				next.back, again = false, true
				p.byID[id] = &next
			}
			continue
		}
		if op.Opening == nil {
			if op.Record.Leaving != Staying { // its place may be being cleared
				continue
			}
			next := *op
			p.begin(&next)
			next.OfflineReason = op.OfflineReason // until it is known better
			p.byID[id], op, patience = &next, &next, AgainPatience
		}
		asked = append(asked, op)
	}
	p.mu.Unlock()
	back := p.settle(ctx, patience, true, asked)
	for _, op := range back {
		p.Log.WithField("pool", op.Name).Info("pool is online again")
	}
	return again || len(back) > 0
}

// Answers fails with ErrOffline when the place of a pool that is to be made does not answer:
// that would not end.
func (p *Pools) Answers(ctx context.Context, path string) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for there := false; !there && path != "/"; path = filepath.Dir(path) {
			_, err := os.Stat(path)
			there = err == nil
		}
	}()
	if WaitFor(ctx, p.Clock, StartPatience, []<-chan struct{}{done}) {
		return nil
	}
	return errors.Join(ctx.Err(), dataset.Errorf(dataset.ErrOffline,
		"it does not answer within %s: what it lies on hangs (look at its disk: dmesg)", StartPatience))
}

// WaitFor waits for work on pools to be done, for so long altogether, and reports whether all
// is. What it lies on may hang.
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
