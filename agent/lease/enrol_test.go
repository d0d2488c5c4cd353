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
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
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
	require.NoError(t, errors.Join(<-dropped, <-done))
	list, err := r.state.List(t.Context(), enrolledKey(d.ID, nodeP), "", 0)
	if err != nil || len(list) != 1 || len(r.enrolled(d)) != 1 {
		t.Errorf("on disk: %v, %v; in memory: %v", list, err, r.enrolled(d))
	}
}

// A start forgets which nodes were given data of a dataset that has left this node.
func TestEnrolmentsOfLeftDatasetEndAtStart(t *testing.T) {
	r := newKeeper(t, func(st store.Store) store.Store { return st })
	stays, left := r.kept(), r.kept()
	require.NoError(t, errors.Join(r.Enrol(t.Context(), stays.ID, nodeP), r.Enrol(t.Context(), left.ID, nodeP)))
	r.Cache.Remove(left.ID)
	next := &keeper{New(r.Host, nil, silentGuard{}, nil, nil).Deadlines, r.state}
	require.NoError(t, next.loadEnrolled(t.Context()))
	list, err := r.state.List(t.Context(), "enrolled/", "", 0)
	if err != nil || len(list) != 1 || len(next.enrolled(stays)) != 1 || len(next.enrolled(left)) != 0 {
		t.Errorf("on disk: %v, %v", list, err)
	}
}

// One volume about which control says nothing, such as a volume in the trash, does not keep the enrolments of the
// others from being checked.
func TestUnenrolGoesOn(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want bool
	}{"in the trash": {dataset.ErrNotFound, true}, "not answered": {errAway, false}} {
		h := &host.Host{Cache: host.NewCache(), Clock: fakes.NewClock(time.Now())}
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
	require.NoError(t, err)
	state := wrap(st)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		stop()
		wg.Wait()
		assert.NoError(t, st.Close())
	})
	h := &host.Host{
		NodeID: uuid.New(), DB: host.OpenDB(state), Cache: host.NewCache(), Jobs: host.New(ctx, &wg),
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
