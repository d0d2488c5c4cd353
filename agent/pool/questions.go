package pool

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
)

// The disk of an open pool may begin to hang, and heartbeats report all pools. So each question to a pool runs in a
// goroutine, one at a time for each pool. A pool that does not answer in time is offline. However often a hanging
// pool is asked, only one goroutine waits for its answer. That goroutine ends only when the disk answers, so a stop
// waits for it no longer than ClosePatience.

// How long a pool may take to answer, and to close.
const (
	// AskPatience is how long an open pool may take to answer. The time is measured in AskTurns equal parts, one after
	// the other. So a jump of the clock, as on a host that was paused, shortens it by one part at most.
	AskPatience = 5 * time.Second
	AskTurns    = 10
	// ClosePatience is how long a stop waits for the pools that are being asked or opened.
	ClosePatience = 2 * time.Second
)

// question is the running request to an open pool. It exists as long as the disk takes to answer.
type question struct {
	Since     time.Time
	Done      chan struct{}
	Hung      chan struct{} // closed when the pool is marked as hanging
	discarded bool          // the goroutine of the question closes the pool when it ends; protected by Pools.mu
}

// closeHung closes Hung, unless it is closed. The caller holds Pools.mu.
func (q *question) closeHung() {
	select {
	case <-q.Hung: // closed before, and Pools.Drop has cleared HangReason since
	default:
		close(q.Hung)
	}
}

// Ask runs f on an open pool. Such a run is called a question. It begins after all earlier questions to the pool have
// ended. It fails with dataset.ErrOffline if the pool does not answer in time, or as soon as another caller has waited
// that long for the same question. f may then still be running, so use the values that f writes only if Ask succeeds.
func (t *Pools) Ask(ctx context.Context, id uuid.UUID, f func(b backends.Pool)) error {
	for {
		q, mine, err := t.startQuestion(id, f)
		if err != nil {
			return err
		}
		if err := t.awaitAnswer(ctx, id, q); err != nil || mine {
			return err
		}
	}
}

// awaitAnswer waits for the end of a question. If the pool does not answer in time, awaitAnswer marks it as hanging, so
// that all callers that wait for the question fail at once.
func (t *Pools) awaitAnswer(ctx context.Context, id uuid.UUID, q *question) error {
	for range AskTurns {
		turn := t.Clock.After(AskPatience / AskTurns)
		select {
		case <-q.Done: // also if the pool was marked as hanging before
			return nil
		default:
		}
		select {
		case <-q.Done:
			return nil
		case <-q.Hung:
			return OfflineError(t.Name(id), NoAnswerReason(q.Since))
		case <-ctx.Done():
			return ctx.Err()
		case <-turn:
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return t.markHung(id, q)
}

// startQuestion starts f, or returns the question that is already running. mine is true if it started f.
func (t *Pools) startQuestion(id uuid.UUID, f func(b backends.Pool)) (q *question, mine bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.byID[id]
	switch {
	case p == nil:
		return nil, false, unknownPool(id)
	case p.Storage == nil:
		return nil, false, OfflineError(p.Name, p.OfflineReason)
	case p.HangReason != "":
		return nil, false, OfflineError(p.Name, p.HangReason)
	case p.Question != nil:
		return p.Question, false, nil
	}
	next := *p
	next.Question = &question{Since: t.Clock.Now(), Done: make(chan struct{}), Hung: make(chan struct{})}
	t.byID[id] = &next
	go func() {
		f(next.Storage)
		t.endQuestion(id, next.Question, next.Storage)
	}()
	return next.Question, true, nil
}

// markHung marks a pool that did not answer in time as offline, unless it has answered in the meantime.
func (t *Pools) markHung(id uuid.UUID, q *question) error {
	first := false
	t.Change(id, func(p *Pool) {
		if first = p.Question == q && p.HangReason == ""; first {
			p.HangReason = NoAnswerReason(q.Since)
			q.closeHung()
		}
	})
	if first {
		t.Log.WithField("pool", t.Name(id)).Error("pool is offline: it " + NoAnswerReason(q.Since))
	}
	return OfflineError(t.Name(id), NoAnswerReason(q.Since))
}

func (t *Pools) endQuestion(id uuid.UUID, q *question, b backends.Pool) {
	t.mu.Lock()
	back := false
	if p := t.byID[id]; p != nil && p.Question == q { // otherwise the pool was replaced meanwhile
		next := *p
		back = p.HangReason != ""
		next.Question, next.HangReason, next.recovered = nil, "", p.recovered || back
		t.byID[id] = &next
	}
	over := q.discarded
	close(q.Done)
	t.mu.Unlock()
	switch {
	case over:
		_ = b.Close()
	case back:
		t.Log.WithField("pool", t.Name(id)).Info("pool responds again")
		t.News.Soon()
	}
}

// closePool closes an open pool: now, or when its running question ends.
func (t *Pools) closePool(id uuid.UUID) error {
	t.mu.Lock()
	p := t.byID[id]
	if q := p.Question; q != nil {
		q.discarded = true
		t.mu.Unlock()
		return nil
	}
	t.mu.Unlock()
	return p.Storage.Close()
}

// Detach marks an open pool as offline for the reason why, and returns its storage, which the caller closes. It waits
// until no question is running. It fails with dataset.ErrOffline if the pool is not open or does not answer.
func (t *Pools) Detach(ctx context.Context, id uuid.UUID, why string) (b backends.Pool, err error) {
	for b == nil {
		if err := t.Ask(ctx, id, func(backends.Pool) {}); err != nil {
			return nil, err
		}
		t.Change(id, func(p *Pool) {
			if p.Question == nil { // otherwise another caller was faster
				b, p.Storage, p.OfflineReason = p.Storage, nil, why
			}
		})
	}
	return b, nil
}
