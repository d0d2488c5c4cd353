package lease

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// renewPause is the interval of renewals while the TTL of the session is not known.
const renewPause = 2 * time.Second

// Renew renews the session five times in its TTL, until ctx ends or control answers that it requires no session. After
// ErrStale, Renew has control register this node again. After any error, Renew asks the next replica sooner.
func (b *Deadlines) Renew(ctx context.Context) {
	every, logged := renewPause, false
	for first := 0; ; {
		wait := every
		r := b.renewOnce(ctx, first, every)
		switch {
		case ctx.Err() != nil:
			return
		case r.err == nil && r.TTL == 0:
			return
		case r.err == nil:
			every, logged, first = time.Duration(r.TTL)/5, false, r.replica
			now := b.Clock.Steady()
			b.change(func() { b.silent = false; b.controlSession.renew(r.Session, r.sent, time.Duration(r.TTL), now) })
			wait = every
		case errors.Is(r.err, dataset.ErrStale):
			if r.err = b.Registration.Register(ctx); r.err == nil {
				wait = min(every, b.Timing.Retry)
			}
			fallthrough
		default:
			first++
			wait = min(wait, every/4) // a mount may be waiting for a renewal that is answered
			b.change(func() { b.silent = true })
			if !logged && r.err != nil && ctx.Err() == nil {
				logged = true
				b.Log.WithError(r.err).Warn("cannot renew the session with control")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-b.Clock.After(wait):
		}
	}
}

// renewal is the result of one request.
type renewal struct {
	api.SessionState
	err     error
	sent    time.Duration
	replica int // the replica that was asked
}

// renewOnce asks one control replica after the other, beginning with first, until one renews the session or refuses it
// with ErrStale. If none does, it returns the last error. It asks the next replica when one fails, or does not answer
// within half of limit. It still accepts the answer of a slow replica. No request takes longer than limit.
func (b *Deadlines) renewOnce(ctx context.Context, first int, limit time.Duration) (last renewal) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	count := len(b.Replicas)
	answers := make(chan renewal, count)
	ask := func(i int) {
		r := renewal{sent: b.Clock.Steady(), replica: i % count}
		r.SessionState, r.err = b.Replicas[r.replica].Renew(ctx, b.NodeID, b.Incarnation)
		answers <- r
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for asked, answered := 0, 0; answered < count; {
		var late <-chan time.Time
		if asked < count {
			i := first + asked
			wg.Go(func() { ask(i) })
			if asked++; asked < count {
				late = b.Clock.After(limit / 2)
			}
		}
		select {
		case last = <-answers:
			if answered++; last.err == nil || errors.Is(last.err, dataset.ErrStale) {
				return last
			}
		case <-late:
		}
	}
	return last
}
