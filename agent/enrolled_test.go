package agent

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// slowStore is a disk that keeps writes of who has copies until it is let go.
type slowStore struct {
	store.Store
	asked, on chan struct{}
}

func (s slowStore) Txn(ctx context.Context, checks []store.Check, writes []store.Write) (uint64, error) {
	if len(writes) > 0 && strings.HasPrefix(writes[0].Key, "enrolled/") {
		s.asked <- struct{}{}
		<-s.on
	}
	return s.Store.Txn(ctx, checks, writes)
}

// A disk that takes its time to forget who had copies of what has left does not keep
// anybody waiting who feeds the guard; and once it has, it is forgotten.
func TestForgettingHoldsKeepsNobodyWaiting(t *testing.T) {
	s := slowStore{asked: make(chan struct{}, 9), on: make(chan struct{})}
	r := newRig(t, func(c *Config) { s.Store = c.State; c.State = s })
	left := uuid.New()
	r.bounds.mu.Lock()
	r.bounds.holds[left] = &hold{enrolled: map[uuid.UUID]enrolment{nodeP: {noted: true}}}
	r.bounds.mu.Unlock()
	r.forgetHolds()
	<-s.asked
	close(s.on)
	await(t, func() bool {
		r.forgetHolds()
		r.bounds.mu.Lock()
		defer r.bounds.mu.Unlock()
		return len(r.bounds.holds) == 0
	})
}

// Who has a copy that was superseded is not asked for a promise while control is silent, and
// what it was given is forgotten: nobody goes on from that.
func TestSpentCopiesAreNotAsked(t *testing.T) {
	for _, spent := range []bool{false, true} {
		b := newBounds(t.Context())
		a := &Agent{bounds: b, Config: Config{Clock: clock.NewFake(time.Now()), Log: quiet("host-a")}}
		d := dataset.Dataset{ID: uuid.New(), Epoch: 3, Copies: []uuid.UUID{nodeP, nodeQ}, Spent: []uuid.UUID{nodeQ}}
		if spent {
			d.Spent = d.Copies
		}
		now := a.Clock.Steady()
		h := &hold{epoch: d.Epoch, deadline: now + boundTTL, enrolled: map[uuid.UUID]enrolment{nodeP: {noted: true}}}
		b.armed[d.ID], b.holds[d.ID] = d.Epoch, h
		b.silent, b.tenure.ttl = true, 10*boundTTL
		gone := h.gone(d, now+1)
		if (len(gone) == 1) != spent {
			t.Errorf("spent %t: forgotten are %v", spent, gone)
		}
		for _, node := range gone {
			delete(h.enrolled, node)
		}
		if a.askAll(t.Context(), []dataset.Dataset{d}, time.Second) != spent {
			t.Errorf("spent %t: who has it is asked", spent)
		}
		if got := a.until(d) - now; got > boundTTL != spent {
			t.Errorf("spent %t: held for %v", spent, got)
		}
	}
}
