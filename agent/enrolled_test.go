package agent

import (
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
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
