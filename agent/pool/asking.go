package pool

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

// The disk of an open pool may begin to hang, and heartbeats report all pools. So questions to pools run beside
// other work, one at a time for each pool. A pool that does not answer in time is offline, and one goroutine
// waits for its answer, however often it is asked. Nothing but the disk ends that goroutine, so a stop waits only
// ClosePatience for it.

// Times that a pool is given to answer, and to close.
const (
	// AskPatience is how long an open pool has to answer. It is counted in AskTurns, so that a clock that jumps,
	// as on a host that was paused, counts for one turn only.
	AskPatience = 5 * time.Second
	AskTurns    = 10
	// ClosePatience is how long a stop waits for the pools that are being asked or opened.
	ClosePatience = 2 * time.Second
)

// question is the present request to an open pool, for as long as its disk takes to answer.
type question struct {
	Since time.Time
	Done  chan struct{}
	over  bool // the goroutine that ends the question closes the pool; protected by Pools.mu
}

// Ask runs f on an open pool. f begins after all earlier questions have ended. Once it has begun it may continue
// after Ask has failed with dataset.ErrOffline, so read what f writes only if Ask succeeds.
func (p *Pools) Ask(ctx context.Context, id uuid.UUID, f func(b backends.Pool)) error {
	for {
		q, mine, err := p.question(id, f)
		if err != nil {
			return err
		}
		for turn := 0; !WaitFor(ctx, p.Clock, AskPatience/AskTurns, []<-chan struct{}{q.Done}); {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if turn++; turn == AskTurns {
				return p.hangs(id, q)
			}
		}
		if mine {
			return nil
		}
	}
}

// question starts f, or returns the question that the pool is already asked.
func (p *Pools) question(id uuid.UUID, f func(b backends.Pool)) (q *question, mine bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	op := p.byID[id]
	switch {
	case op == nil:
		return nil, false, notOurs(id)
	case op.Storage == nil:
		return nil, false, Offline(op.Name, op.OfflineReason)
	case op.Hung != "":
		return nil, false, Offline(op.Name, op.Hung)
	case op.Asked != nil:
		return op.Asked, false, nil
	}
	next := *op
	next.Asked = &question{Since: p.Clock.Now(), Done: make(chan struct{})}
	p.byID[id] = &next
	go func() {
		f(next.Storage)
		p.answered(id, next.Asked, next.Storage)
	}()
	return next.Asked, true, nil
}

// hangs marks a pool offline that did not answer in time, unless it has answered by now.
func (p *Pools) hangs(id uuid.UUID, q *question) error {
	first := false
	p.Change(id, func(op *Pool) {
		if first = op.Asked == q && op.Hung == ""; first {
			op.Hung = NoAnswer(q.Since)
		}
	})
	if first {
		p.Log.WithField("pool", p.Name(id)).Error("pool is offline: it " + NoAnswer(q.Since))
	}
	return Offline(p.Name(id), NoAnswer(q.Since))
}

// answered records that a question has ended.
func (p *Pools) answered(id uuid.UUID, q *question, b backends.Pool) {
	p.mu.Lock()
	back := false
	if op := p.byID[id]; op != nil && op.Asked == q { // otherwise the pool was replaced meanwhile
		next := *op
		back = op.Hung != ""
		next.Asked, next.Hung, next.back = nil, "", op.back || back
		p.byID[id] = &next
	}
	over := q.over
	close(q.Done)
	p.mu.Unlock()
	switch {
	case over:
		_ = b.Close()
	case back:
		p.Log.WithField("pool", p.Name(id)).Info("pool answers again")
		p.News.Soon()
	}
}

// finish waits until no pool is being asked or opened, but no longer than patience in all. It does not
// wait for a pool that is known to hang, or that has been opening for long. It measures real time: a stop
// ends at any time of the injected clock.
func (p *Pools) finish(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var done []<-chan struct{}
	for _, op := range p.All() {
		if op.Asked != nil && op.Hung == "" {
			done = append(done, op.Asked.Done)
		}
		if op.Opening != nil && p.Clock.Now().Sub(op.Opening.since) < AgainPatience {
			done = append(done, op.Opening.Done)
		}
	}
	WaitFor(ctx, p.Clock, patience, done)
}

// letGo closes an open pool, at once or when its question ends.
func (p *Pools) letGo(id uuid.UUID) error {
	p.mu.Lock()
	op := p.byID[id]
	if q := op.Asked; q != nil {
		q.over = true
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	return op.Storage.Close()
}

// Eject takes an open pool away from those who would ask it, because it is going offline, and returns it.
// dataset.ErrOffline if the pool is not open or does not answer.
func (p *Pools) Eject(ctx context.Context, id uuid.UUID, why string) (b backends.Pool, err error) {
	for b == nil {
		if err := p.Ask(ctx, id, func(backends.Pool) {}); err != nil {
			return nil, err
		}
		p.Change(id, func(op *Pool) {
			if op.Asked == nil { // otherwise another caller was faster
				b, op.Storage, op.OfflineReason = op.Storage, nil, why
			}
		})
	}
	return b, nil
}

// NoAnswer is the error for a pool that hangs.
func NoAnswer(since time.Time) string {
	return fmt.Sprintf("does not answer, since %s: what it lies on hangs (look at its disk: dmesg; it is "+
		"taken in when it answers)", since.UTC().Format(time.RFC3339))
}

// See asks an open pool for its status and reads its generation again, because its disk may have been restored
// from an older backup. Look up what is known of the pool after the call. dataset.ErrOffline if it hangs; the
// status says so too.
func (p *Pools) See(ctx context.Context, id uuid.UUID) (dataset.PoolStatus, error) {
	var is dataset.PoolStatus
	var g uint64
	var gerr error
	var warned []string
	was := p.One(id)
	err := p.Ask(ctx, id, func(b backends.Pool) {
		is, warned = b.Status(ctx), Warnings(b)
		g, gerr = b.Generation()
	})
	if err != nil {
		return dataset.PoolStatus{ID: id, Reason: cmp.Or(p.One(id).Hung, err.Error())}, err
	}
	is.ID = id
	if why := p.One(id).disk.failing; why != "" {
		is.Online, is.Reason = false, why
	}
	p.warn(id, warned)
	if gerr != nil {
		p.Suspect(id, gerr)
		return is, WithPoolName(was.Name, gerr)
	}
	if g != was.Generation {
		p.Change(id, func(now *Pool) {
			if now.Generation == was.Generation { // otherwise it was raised meanwhile
				now.Generation = g
			}
		})
	}
	return is, nil
}

// Status returns the status of each pool. All pools are asked at the same time.
func (p *Pools) Status(ctx context.Context) []dataset.PoolStatus {
	all := p.All()
	out := make([]dataset.PoolStatus, len(all))
	var wg sync.WaitGroup
	for i, op := range all {
		out[i] = dataset.PoolStatus{ID: op.ID, Reason: op.OfflineReason}
		if op.Storage != nil {
			wg.Go(func() { out[i], _ = p.See(ctx, op.ID) }) // the status has the error
		}
	}
	wg.Wait()
	for i := range out {
		op, st := p.One(all[i].ID), &out[i]
		if st.Online && op.Held() != "" {
			st.Online, st.Held, st.Reason = false, true, op.Held()
		}
		st.Reason = dataset.Cut(st.Reason) // control accepts no longer reasons
	}
	return out
}
