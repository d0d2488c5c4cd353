package agent

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// A disk may begin to hang while its pool is open, and heartbeats tell of all pools. So what
// is asked of a pool in passing is asked beside other work, one question a pool at a time: one
// that does not answer in time is offline, whatever else is asked of it, and has one goroutine
// wait for it. That belongs to nobody: nothing ends it but the disk, so a stop waits only closePatience.

const (
	// askPatience is what an open pool has to answer; as askTurns, so that a clock that
	// jumps, as on a host that was paused, counts for one of them.
	askPatience = 5 * time.Second
	askTurns    = 10
	// closePatience is how long a stop waits for the pools that are being asked or opened.
	closePatience = 2 * time.Second
)

// question is what an open pool is asked, for as long as its disk takes.
type question struct {
	since time.Time
	done  chan struct{}
	over  bool // whoever ends it closes the pool; under pools.mu
}

// ask has an open pool answer f, which begins after all that was asked before has ended. Once
// f has begun it may go on after ask has failed, with ErrOffline: what it writes to is read
// only when ask succeeds.
func (p *pools) ask(ctx context.Context, id uuid.UUID, f func(b backends.Pool)) error {
	for {
		q, mine, err := p.question(id, f)
		if err != nil {
			return err
		}
		for turn := 0; !waitFor(ctx, p.clock, askPatience/askTurns, []<-chan struct{}{q.done}); {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if turn++; turn == askTurns {
				return p.hangs(id, q)
			}
		}
		if mine {
			return nil
		}
	}
}

// question begins f, or returns what the pool is asked already.
func (p *pools) question(id uuid.UUID, f func(b backends.Pool)) (q *question, mine bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	op := p.byID[id]
	switch {
	case op == nil:
		return nil, false, notOurs(id)
	case op.backend == nil:
		return nil, false, offline(op.Name, op.why)
	case op.hung != "":
		return nil, false, offline(op.Name, op.hung)
	case op.asked != nil:
		return op.asked, false, nil
	}
	next := *op
	next.asked = &question{since: p.clock.Now(), done: make(chan struct{})}
	p.byID[id] = &next
	go func() {
		f(next.backend)
		p.answered(id, next.asked, next.backend)
	}()
	return next.asked, true, nil
}

// hangs has a pool be offline that did not answer in time, unless it has by now.
func (p *pools) hangs(id uuid.UUID, q *question) error {
	first := false
	p.change(id, func(op *openPool) {
		if first = op.asked == q && op.hung == ""; first {
			op.hung = noAnswer(q.since)
		}
	})
	if first {
		p.log.WithField("pool", p.name(id)).Error("pool is offline: it " + noAnswer(q.since))
	}
	return offline(p.name(id), noAnswer(q.since))
}

// answered takes in that a question has ended.
func (p *pools) answered(id uuid.UUID, q *question, b backends.Pool) {
	p.mu.Lock()
	back := false
	if op := p.byID[id]; op != nil && op.asked == q { // otherwise it was moved meanwhile
		next := *op
		back = op.hung != ""
		next.asked, next.hung, next.back = nil, "", op.back || back
		p.byID[id] = &next
	}
	over := q.over
	close(q.done)
	p.mu.Unlock()
	switch {
	case over:
		_ = b.Close()
	case back:
		p.log.WithField("pool", p.name(id)).Info("pool answers again")
		p.news.Soon()
	}
}

// finish waits until no pool is being asked or opened, but no longer than patience in all. It does not
// wait for a pool that is known to hang, or that has been opening for long. It measures real time: a stop ends whatever the injected clock says.
func (p *pools) finish(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var done []<-chan struct{}
	for _, op := range p.all() {
		if op.asked != nil && op.hung == "" {
			done = append(done, op.asked.done)
		}
		if op.opening != nil && p.clock.Now().Sub(op.opening.since) < againPatience {
			done = append(done, op.opening.done)
		}
	}
	waitFor(ctx, p.clock, patience, done)
}

// letGo closes an open pool, or has that done once it answers.
func (p *pools) letGo(id uuid.UUID) error {
	p.mu.Lock()
	op := p.byID[id]
	if q := op.asked; q != nil {
		q.over = true
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	return op.backend.Close()
}

// takeOut has nobody ask an open pool any more, as it is to be offline, and returns it. ErrOffline
// for one that is not open, or does not answer.
func (p *pools) takeOut(ctx context.Context, id uuid.UUID, why string) (b backends.Pool, err error) {
	for b == nil {
		if err := p.ask(ctx, id, func(backends.Pool) {}); err != nil {
			return nil, err
		}
		p.change(id, func(op *openPool) {
			if op.asked == nil { // otherwise somebody was faster
				b, op.backend, op.why = op.backend, nil, why
			}
		})
	}
	return b, nil
}

// noAnswer says that a pool hangs.
func noAnswer(since time.Time) string {
	return fmt.Sprintf("does not answer, since %s: what it lies on hangs (look at its disk: dmesg; it is taken in when it answers)", since.UTC().Format(time.RFC3339))
}

// see asks an open pool how it is, and reads its generation again: its disk may have been put
// back since. What is known of the pool then is to be looked up after. ErrOffline when it
// hangs, as the status says.
func (p *pools) see(ctx context.Context, id uuid.UUID) (dataset.PoolStatus, error) {
	var is dataset.PoolStatus
	var g uint64
	var gerr error
	var warned []string
	was := p.one(id)
	err := p.ask(ctx, id, func(b backends.Pool) {
		is, warned = b.Status(ctx), warnings(b)
		g, gerr = b.Generation()
	})
	if err != nil {
		return dataset.PoolStatus{ID: id, Reason: cmp.Or(p.one(id).hung, err.Error())}, err
	}
	is.ID = id
	if why := p.one(id).disk.failing; why != "" {
		is.Online, is.Reason = false, why
	}
	p.warn(id, warned)
	if gerr != nil {
		p.suspect(id, gerr)
		return is, ofPool(was.Name, gerr)
	}
	if g != was.generation {
		p.change(id, func(now *openPool) {
			if now.generation == was.generation { // otherwise it was raised meanwhile
				now.generation = g
			}
		})
	}
	return is, nil
}

// status is how each pool is now; all are asked at once.
func (p *pools) status(ctx context.Context) []dataset.PoolStatus {
	all := p.all()
	out := make([]dataset.PoolStatus, len(all))
	var wg sync.WaitGroup
	for i, op := range all {
		out[i] = dataset.PoolStatus{ID: op.ID, Reason: op.why}
		if op.backend != nil {
			wg.Go(func() { out[i], _ = p.see(ctx, op.ID) }) // what is wrong stands in it
		}
	}
	wg.Wait()
	for i := range out {
		op, st := p.one(all[i].ID), &out[i]
		if st.Online && op.held() != "" {
			st.Online, st.Held, st.Reason = false, true, op.held()
		}
		st.Reason = dataset.Cut(st.Reason) // control takes no longer ones
	}
	return out
}
