package lease

import (
	"context"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
)

// slowStore is a disk that takes long to forget which nodes have copies, until it is released.
type slowStore struct {
	store.Store
	asked, on chan struct{}
}

func (s slowStore) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	if len(writes) > 0 && strings.HasPrefix(writes[0].Key, "enrolled/") && writes[0].Delete {
		s.asked <- struct{}{}
		<-s.on
	}
	return s.Store.Txn(ctx, checks, writes)
}

// A disk that takes long to forget which nodes had copies of a dataset that has left does not delay the feeds of the
// guard. Once the disk has answered, the copies are forgotten.
func TestForgettingHoldsKeepsNobodyWaiting(t *testing.T) {
	s := slowStore{asked: make(chan struct{}, 9), on: make(chan struct{})}
	r := newKeeper(t, func(st store.Store) store.Store { s.Store = st; return s })
	left := uuid.New()
	r.mu.Lock()
	r.leases[left] = &boundedLease{enrolled: map[uuid.UUID]enrolment{nodeP: {onDisk: true}}}
	r.mu.Unlock()
	r.forgetLeases()
	<-s.asked
	close(s.on)
	eventually(t, func() bool {
		r.forgetLeases()
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.leases) == 0
	})
}

// failStore is a disk on which recording that a node has a copy fails a given number of times.
type failStore struct {
	store.Store
	fails *atomic.Int32
}

func (s failStore) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	if len(writes) > 0 && strings.HasPrefix(writes[0].Key, "enrolled/") && s.fails.Add(-1) >= 0 {
		return 0, errAway
	}
	return s.Store.Txn(ctx, checks, writes)
}

// silentGuard does not answer.
type silentGuard struct{ Guard }

func (silentGuard) Status(context.Context) (guard.Status, error) { return guard.Status{}, errAway }

// If the disk does not record that a node is given data, the node is given nothing, and is not asked for a promise.
func TestEnrolledInVain(t *testing.T) {
	s := failStore{fails: &atomic.Int32{}}
	r := newKeeper(t, func(st store.Store) store.Store { s.Store = st; return s })
	d := r.kept()
	s.fails.Store(1)
	if err := r.Enrol(t.Context(), d.ID, nodeP); err == nil || len(r.enrolled(d)) > 0 {
		t.Errorf("%v; enrolled are %v", err, r.enrolled(d))
	}
	if err := r.Enrol(t.Context(), d.ID, nodeP); err != nil || len(r.enrolled(d)) != 1 {
		t.Errorf("%v; enrolled are %v", err, r.enrolled(d))
	}
}

// A node is given data again while its earlier enrolment is being removed. If it is enrolled in memory afterwards, it
// is enrolled on disk too.
func TestEnrolledWhileForgotten(t *testing.T) {
	s := slowStore{asked: make(chan struct{}, 9), on: make(chan struct{})}
	r := newKeeper(t, func(st store.Store) store.Store { s.Store = st; return s })
	d := r.kept()
	r.mu.Lock()
	r.lease(d).enrolled = map[uuid.UUID]enrolment{nodeP: {onDisk: true}}
	r.mu.Unlock()
	dropped, done := make(chan error, 1), make(chan error, 1)
	go func() { dropped <- r.dropUnneeded(t.Context(), d, r.Clock.Steady()+1) }()
	<-s.asked
	go func() { done <- r.Enrol(t.Context(), d.ID, nodeP) }()
	select { // it waits for the removal, or is on disk before the removal
	case err := <-done:
		done <- err
	case <-time.After(100 * time.Millisecond):
	}
	close(s.on)
	if err := errors.Join(<-dropped, <-done); err != nil {
		t.Fatal(err)
	}
	list, err := r.state.List(t.Context(), enrolledKey(d.ID, nodeP), "", 0)
	if err != nil || len(list) != 1 || len(r.enrolled(d)) != 1 {
		t.Errorf("on disk: %v, %v; in memory: %v", list, err, r.enrolled(d))
	}
}

// A volume returns and a node is given data of it while the earlier enrolment of the node is being removed. The node
// is enrolled on disk before it is given the data, and stays enrolled if the removal is cut short.
func TestEnrolledOnceItIsBack(t *testing.T) {
	s := slowStore{asked: make(chan struct{}, 9), on: make(chan struct{})}
	r := newKeeper(t, func(st store.Store) store.Store { s.Store = st; return s })
	d := r.kept()
	if err := errors.Join(r.Enrol(t.Context(), d.ID, nodeP), r.Enrol(t.Context(), d.ID, nodeQ)); err != nil {
		t.Fatal(err)
	}
	dropped, done := make(chan error, 1), make(chan error, 1)
	drops := func() { dropped <- r.dropEnrolledOf(t.Context(), []uuid.UUID{d.ID}) }
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
	go func() { done <- r.Enrol(t.Context(), d.ID, nodeP) }()
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
	list, err := r.state.List(t.Context(), "enrolled/"+d.ID.String(), "", 0)
	r.mu.Lock()
	defer r.mu.Unlock()
	if is := r.lease(d).enrolled; err != nil || len(list) != 2 || !is[nodeP].onDisk || !is[nodeQ].onDisk {
		t.Errorf("on disk: %v, %v; in memory: %v", list, err, is)
	}
}

// One volume about which control says nothing, such as a volume in the trash, does not keep the enrolments of the
// others from being checked.
func TestUnenrolGoesOn(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want bool
	}{"in the trash": {dataset.ErrNotFound, true}, "not answered": {errAway, false}} {
		h := &host.Host{Cache: records.NewCache(), Clock: clock.NewFake(time.Now())}
		b := New(h, nil, silentGuard{}, nil, nil).Deadlines
		asked := 0
		b.Control = telling{volume: func() error { asked++; return c.err }}
		for range 3 {
			d := dataset.Dataset{ID: uuid.New()}
			d.Profile.Failover.Auto = true
			b.Cache.Apply(d, 1)
			b.lease(d).enrolled = map[uuid.UUID]enrolment{nodeP: {onDisk: true, lastRequest: -1}}
		}
		if err := b.DropUnneededNodes(t.Context()); (err == nil) != c.want || asked != 3 {
			t.Errorf("%s: %v; asked about %d", name, err, asked)
		}
	}
}

type telling struct {
	api.Service
	volume func() error
}

func (t telling) Volume(context.Context, string) (api.Volume, error) { return api.Volume{}, t.volume() }

// keeper is a Deadlines with a database on disk, and a guard that does not answer.
type keeper struct {
	*Deadlines
	state store.Store
}

func newKeeper(t *testing.T, wrap func(store.Store) store.Store) *keeper {
	t.Helper()
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "agent.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	state := wrap(st)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		stop()
		wg.Wait()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	h := &host.Host{
		NodeID: uuid.New(), DB: records.OpenDB(state), Cache: records.NewCache(), Jobs: host.New(ctx, &wg),
		Trust: host.NewTrust(""), Clock: clock.System{}, Log: quiet(),
	}
	return &keeper{New(h, nil, silentGuard{}, nil, nil).Deadlines, state}
}

// kept adds a volume whose lease is bounded in time, and which control does not mention.
func (k *keeper) kept() dataset.Dataset {
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Home: k.NodeID, Epoch: 3, State: dataset.StateReady}
	d.Profile.Failover.Auto = true
	k.Cache.Apply(d, 1)
	return d
}

func (k *keeper) enrolled(d dataset.Dataset) []uuid.UUID {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Keys(k.lease(d).enrolled))
}

var errAway = dataset.Errorf(dataset.ErrUnavailable, "control is away")

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// eventually waits until a condition is true, for at most ten seconds.
func eventually(t *testing.T, what func() bool) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); !what(); {
		if time.Now().After(until) {
			t.Fatal("it has not become true within ten seconds")
		}
		time.Sleep(time.Millisecond)
	}
}
