package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
)

// slowStore is a disk that takes its time to forget who has copies, until it is let go.
type slowStore struct {
	store.Store
	asked, on chan struct{}
}

func (s slowStore) Txn(ctx context.Context, checks []store.Check, writes []store.Write) (uint64, error) {
	if len(writes) > 0 && strings.HasPrefix(writes[0].Key, "enrolled/") && writes[0].Delete {
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
	r.bounds.forgetHolds()
	<-s.asked
	close(s.on)
	await(t, func() bool {
		r.bounds.forgetHolds()
		r.bounds.mu.Lock()
		defer r.bounds.mu.Unlock()
		return len(r.bounds.holds) == 0
	})
}

// Who has a copy that was superseded is not asked for a promise while control is silent, and
// what it was given is forgotten: nobody goes on from that.
func TestSpentCopiesAreNotAsked(t *testing.T) {
	for _, spent := range []bool{false, true} {
		self := &host.Host{Clock: clock.NewFake(time.Now()), Log: quiet("host-a"), Trust: host.NewTrust(nil)}
		b := newBounds(t.Context(), self, boundsDeps{nodes: newNodes(self, nil)})
		d := dataset.Dataset{ID: uuid.New(), Epoch: 3, Copies: []uuid.UUID{nodeP, nodeQ}, Spent: []uuid.UUID{nodeQ}}
		if spent {
			d.Spent = d.Copies
		}
		now := b.Clock.Steady()
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
		if b.askAll(t.Context(), []dataset.Dataset{d}, time.Second) != spent {
			t.Errorf("spent %t: who has it is asked", spent)
		}
		if got := b.until(d) - now; got > boundTTL != spent {
			t.Errorf("spent %t: held for %v", spent, got)
		}
	}
}

// failStore is a disk that does not take who has copies, as often as it is told.
type failStore struct {
	store.Store
	fails *atomic.Int32
}

func (s failStore) Txn(ctx context.Context, checks []store.Check, writes []store.Write) (uint64, error) {
	if len(writes) > 0 && strings.HasPrefix(writes[0].Key, "enrolled/") && s.fails.Add(-1) >= 0 {
		return 0, errAway
	}
	return s.Store.Txn(ctx, checks, writes)
}

// silentGuard does not answer.
type silentGuard struct{ Guard }

func (silentGuard) Status(context.Context) (guard.Status, error) { return guard.Status{}, errAway }

// kept has a rig keep a volume whose lease is bounded in time, of which control says nothing.
func (r *rig) kept() dataset.Dataset {
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Home: r.Node(), Epoch: 3, State: dataset.StateReady}
	d.Profile.Failover.Auto = true
	r.Cache.Apply(d, 1)
	return d
}

func (r *rig) enrolled(d dataset.Dataset) []uuid.UUID {
	r.bounds.mu.Lock()
	defer r.bounds.mu.Unlock()
	return slices.Collect(maps.Keys(r.bounds.hold(d).enrolled))
}

// A node of which the disk did not take that it is given something is given nothing, and is
// asked for no promise.
func TestEnrolledInVain(t *testing.T) {
	s := failStore{fails: &atomic.Int32{}}
	r := newRig(t, func(c *Config) { s.Store = c.State; c.State, c.Guard = s, silentGuard{} })
	d := r.kept()
	s.fails.Store(1)
	if err := r.bounds.enrol(t.Context(), d.ID, nodeP); err == nil || len(r.enrolled(d)) > 0 {
		t.Errorf("%v; enrolled are %v", err, r.enrolled(d))
	}
	if err := r.bounds.enrol(t.Context(), d.ID, nodeP); err != nil || len(r.enrolled(d)) != 1 {
		t.Errorf("%v; enrolled are %v", err, r.enrolled(d))
	}
}

// A node that is given something anew while it is forgotten that it was before is on disk in
// the end, if it is in memory.
func TestEnrolledWhileForgotten(t *testing.T) {
	s := slowStore{asked: make(chan struct{}, 9), on: make(chan struct{})}
	r := newRig(t, func(c *Config) { s.Store = c.State; c.State, c.Guard = s, silentGuard{} })
	d := r.kept()
	r.bounds.mu.Lock()
	r.bounds.hold(d).enrolled = map[uuid.UUID]enrolment{nodeP: {noted: true}}
	r.bounds.mu.Unlock()
	dropped, done := make(chan error, 1), make(chan error, 1)
	go func() { dropped <- r.bounds.dropGone(t.Context(), d, r.Clock.Steady()+1) }()
	<-s.asked
	go func() { done <- r.bounds.enrol(t.Context(), d.ID, nodeP) }()
	select { // it waits, or is on disk before what it comes after
	case err := <-done:
		done <- err
	case <-time.After(100 * time.Millisecond):
	}
	close(s.on)
	if err := errors.Join(<-dropped, <-done); err != nil {
		t.Fatal(err)
	}
	list, err := r.config.State.List(t.Context(), enrolledKey(d.ID, nodeP), "", 0)
	if err != nil || len(list) != 1 || len(r.enrolled(d)) != 1 {
		t.Errorf("on disk: %v, %v; in memory: %v", list, err, r.enrolled(d))
	}
}

// A node that is given something of a volume that is back, while it is forgotten that it was
// before, is on disk before that, and stays there if the forgetting is cut short.
func TestEnrolledOnceItIsBack(t *testing.T) {
	s := slowStore{asked: make(chan struct{}, 9), on: make(chan struct{})}
	r := newRig(t, func(c *Config) { s.Store = c.State; c.State, c.Guard = s, silentGuard{} })
	d := r.kept()
	if err := errors.Join(r.bounds.enrol(t.Context(), d.ID, nodeP), r.bounds.enrol(t.Context(), d.ID, nodeQ)); err != nil {
		t.Fatal(err)
	}
	dropped, done := make(chan error, 1), make(chan error, 1)
	drops := func() { dropped <- r.bounds.dropEnrolled(t.Context(), []uuid.UUID{d.ID}) }
	go drops()
	select {
	case err := <-dropped:
		if err != nil {
			t.Error(err)
		}
	case <-s.asked:
		close(s.on)
		t.Fatal("it is back already, and is dropped on disk")
	}
	r.Cache.Remove(d.ID)
	go drops()
	<-s.asked
	d.Epoch++
	r.Cache.Apply(d, 2)
	go func() { done <- r.bounds.enrol(t.Context(), d.ID, nodeP) }()
	select {
	case err := <-done:
		t.Errorf("it is given something, and on disk perhaps no more: %v", err)
		done <- err
	case <-time.After(100 * time.Millisecond):
	}
	close(s.on)
	if err := errors.Join(<-dropped, <-done); err != nil {
		t.Fatal(err)
	}
	list, err := r.config.State.List(t.Context(), "enrolled/"+d.ID.String(), "", 0)
	r.bounds.mu.Lock()
	defer r.bounds.mu.Unlock()
	if is := r.bounds.hold(d).enrolled; err != nil || len(list) != 2 || !is[nodeP].noted || !is[nodeQ].noted {
		t.Errorf("on disk: %v, %v; in memory: %v", list, err, is)
	}
}

// One volume of which control says nothing, as of those in the trash, does not keep what is
// known of the others from being looked at.
func TestUnenrolGoesOn(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want bool
	}{"in the trash": {dataset.ErrNotFound, true}, "not answered": {errAway, false}} {
		h := &host.Host{Cache: records.NewCache(), Clock: clock.NewFake(time.Now())}
		b := newBounds(t.Context(), h, boundsDeps{guard: silentGuard{}})
		asked := 0
		b.Control = telling{volume: func() error { asked++; return c.err }}
		for range 3 {
			d := dataset.Dataset{ID: uuid.New()}
			d.Profile.Failover.Auto = true
			b.Cache.Apply(d, 1)
			b.hold(d).enrolled = map[uuid.UUID]enrolment{nodeP: {noted: true, asked: -1}}
		}
		if err := b.unenrol(t.Context()); (err == nil) != c.want || asked != 3 {
			t.Errorf("%s: %v; asked about %d", name, err, asked)
		}
	}
}

type telling struct {
	api.Service
	volume func() error
}

func (t telling) Volume(context.Context, string) (api.Volume, error) { return api.Volume{}, t.volume() }
