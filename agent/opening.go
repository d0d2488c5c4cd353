package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// A disk that hangs lets whoever asks it wait for ever, where nothing ends it. So pools are
// opened beside other work: one that does not answer in time is offline, as one whose disk is
// absent, and is taken in when it answers.

const (
	// startPatience is what a start waits for its pools, and then for what a crash left in
	// them: all of them together.
	startPatience = 20 * time.Second
	// againPatience is what a round waits for those that were offline.
	againPatience = 2 * time.Second
)

// opening is a pool that is being opened, for as long as its disk takes.
type opening struct {
	since time.Time
	done  chan struct{}

	is   openPool // what comes of it; read once done is closed
	err  error    // likewise
	over bool     // nobody takes it in any more; under pools.mu
}

// begin opens a pool beside other work. Nobody else knows op yet.
func (p *pools) begin(op *openPool) {
	o := &opening{since: p.clock.Now(), done: make(chan struct{}), is: *op}
	op.opening, op.why = o, "it is being opened"
	go func() {
		o.err = failingDisk(o.is.Name, p.attach(p.ctx, &o.is))
		p.mu.Lock()
		over := o.over
		close(o.done)
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
	case <-o.done:
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
	return o.is.backend.Close()
}

// settle takes in what came of opening pools, for which it waits for so long, and returns
// those that are open now. Late ones serve once control was asked about them (see takeLate);
// at a start nothing is served before that.
func (p *pools) settle(ctx context.Context, patience time.Duration, late bool, list []*openPool) (back []*openPool) {
	done := make([]<-chan struct{}, 0, len(list))
	for _, op := range list {
		done = append(done, op.opening.done)
	}
	waitFor(ctx, p.clock, patience, done)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, op := range list {
		now, o := p.byID[op.ID], op.opening
		if now == nil || now.opening != o {
			continue // it was moved meanwhile
		}
		next := *now
		select {
		case <-o.done:
			next.opening, next.why = nil, ""
			if o.err != nil {
				next.why = reason(op.Name, o.err)
				break
			}
			next = o.is
			next.rec, next.late = now.rec, late // what is on record may have changed
			back = append(back, &next)
		default:
			next.why = noAnswer(o.since)
		}
		p.byID[op.ID] = &next
	}
	return back
}

// retry opens again what is offline; it reports whether one came back, or answers again. One
// that does not answer is waited for once.
func (p *pools) retry(ctx context.Context) (again bool) {
	var asked []*openPool
	patience := time.Duration(0)
	p.mu.Lock()
	for _, id := range p.order {
		op := p.byID[id]
		if op.backend != nil {
			if op.back {
				next := *op
				next.back, again = false, true
				p.byID[id] = &next
			}
			continue
		}
		if op.opening == nil {
			if op.rec.Leaving != staying { // its place may be being cleared
				continue
			}
			next := *op
			p.begin(&next)
			next.why = op.why // until it is known better
			p.byID[id], op, patience = &next, &next, againPatience
		}
		asked = append(asked, op)
	}
	p.mu.Unlock()
	back := p.settle(ctx, patience, true, asked)
	for _, op := range back {
		p.log.WithField("pool", op.Name).Info("pool is online again")
	}
	return again || len(back) > 0
}

// takeLate has control know the pools that were opened late, and asks of which generation they
// were. They serve then, whatever came of that: control that is away stops no container.
func (a *Agent) takeLate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*tellTime)
	defer cancel()
	a.mu.Lock()
	clear(a.asked) // of these nobody was
	a.mu.Unlock()
	err := a.register(ctx)
	if err == nil {
		_, _, err = a.askGenerations(ctx)
	}
	for _, op := range a.pools.all() {
		a.pools.change(op.ID, func(op *openPool) { op.late = false })
	}
	return err
}

// answers fails with ErrOffline when the place of a pool that is to be made does not answer:
// that would not end.
func (p *pools) answers(ctx context.Context, path string) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for there := false; !there && path != "/"; path = filepath.Dir(path) {
			_, err := os.Stat(path)
			there = err == nil
		}
	}()
	if waitFor(ctx, p.clock, startPatience, []<-chan struct{}{done}) {
		return nil
	}
	return errors.Join(ctx.Err(), dataset.Errorf(dataset.ErrOffline, "it does not answer within %s: what it lies on hangs (look at its disk: dmesg)", startPatience))
}

// waitFor waits for work on pools to be done, for so long altogether, and reports whether all
// is. What it lies on may hang.
func waitFor(ctx context.Context, c clock.Clock, patience time.Duration, all []<-chan struct{}) bool {
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

// ends is what waitFor takes of jobs.
func ends(all []*jobs.Job) (list []<-chan struct{}) {
	for _, jb := range all {
		list = append(list, jb.Ended())
	}
	return list
}
