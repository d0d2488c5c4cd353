package guard_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/socket"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// fakeClock is a clock that only a test moves. It can jump, as after the sleep of a host.
type fakeClock struct {
	mu     sync.Mutex
	now    time.Duration
	alarms map[*fakeAlarm]bool
}

type fakeAlarm struct {
	clock *fakeClock
	at    time.Duration
	c     chan struct{}
}

func newFakeClock() *fakeClock {
	return &fakeClock{now: time.Hour, alarms: map[*fakeAlarm]bool{}}
}

func (f *fakeClock) Boottime() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fakeClock) NewAlarm() (guard.Alarm, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := &fakeAlarm{clock: f, c: make(chan struct{}, 1)}
	f.alarms[a] = true
	return a, nil
}

// advance moves the clock. If quiet is set no alarm rings, as when the guard gets no processor time.
func (f *fakeClock) advance(d time.Duration, quiet bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now += d
	for a := range f.alarms {
		if !quiet {
			a.ring()
		}
	}
}

// waiting returns the number of alarms.
func (f *fakeClock) waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.alarms)
}

// next returns when the first alarm rings, or 0 if none does.
func (f *fakeClock) next() (at time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for a := range f.alarms {
		if a.at != 0 && (at == 0 || a.at < at) {
			at = a.at
		}
	}
	return at
}

func (a *fakeAlarm) ring() {
	if a.at != 0 && a.at <= a.clock.now {
		a.at = 0
		select {
		case a.c <- struct{}{}:
		default:
		}
	}
}

func (a *fakeAlarm) C() <-chan struct{} { return a.c }

func (a *fakeAlarm) Set(at time.Duration) error {
	a.clock.mu.Lock()
	defer a.clock.mu.Unlock()
	a.at = at
	a.ring()
	return nil
}

func (a *fakeAlarm) Close() error {
	a.clock.mu.Lock()
	defer a.clock.mu.Unlock()
	delete(a.clock.alarms, a)
	return nil
}

// fakeHand does nothing and reports success, unless a test sets another result.
type fakeHand struct {
	clock *fakeClock

	mu      sync.Mutex
	fails   map[guard.Act]bool
	did     []guard.Act
	records map[uuid.UUID]json.RawMessage
	broken  error         // the error of the disk
	hangs   chan struct{} // a disk that does not answer until this is closed
	bare    bool          // nothing is mounted
	blind   error         // why the mounts cannot be examined
	binding func()        // runs during each Bind
	// condemning runs during each Condemn.
	condemning func()
	anew       bool // each act finds that somebody had undone it
	// contained: the processes that are left after a failed stop are not holders.
	contained bool
}

func (h *fakeHand) act(a guard.Act) hand.Outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := true
	for _, d := range h.did {
		first = first && d != a
	}
	h.did = append(h.did, a)
	if h.fails[a] {
		return hand.Outcome{Note: "it does not", Contained: h.contained && a == guard.ActStop}
	}
	return hand.Outcome{Done: true, At: h.clock.Boottime(), Changed: first || h.anew}
}

func (h *fakeHand) acts() []guard.Act {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]guard.Act{}, h.did...)
}

func (h *fakeHand) Freeze(context.Context, hand.Target, time.Duration) hand.Outcome {
	return h.act(guard.ActFreeze)
}

func (h *fakeHand) Stop(context.Context, hand.Target, time.Duration) hand.Outcome {
	return h.act(guard.ActStop)
}

func (h *fakeHand) Kill(context.Context, hand.Target, time.Duration) hand.Outcome {
	return h.act(guard.ActKill)
}

func (h *fakeHand) KillHolders(context.Context, hand.Target, time.Duration) hand.Outcome {
	return h.act(guard.ActKill)
}

func (h *fakeHand) Condemn(context.Context, hand.Target, time.Duration) hand.Outcome {
	if h.condemning != nil {
		h.condemning()
	}
	return h.act("condemn")
}

func (h *fakeHand) Undo(context.Context, hand.Target) error {
	if o := h.act(guard.ActThaw); !o.Done {
		return errors.New(o.Note)
	}
	return nil
}

func (h *fakeHand) Bind(context.Context, hand.Target) (mount.Filesystem, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.binding != nil {
		h.binding()
	}
	if h.blind != nil {
		return mount.Filesystem{}, h.blind
	}
	if h.bare {
		return mount.Filesystem{}, dataset.Errorf(dataset.ErrNotFound, "nothing is mounted")
	}
	return mount.Filesystem{Major: 7, Minor: 1, Root: "/"}, nil
}

func (h *fakeHand) Save(_ context.Context, id uuid.UUID, record json.RawMessage) error {
	h.mu.Lock()
	hangs := h.hangs
	h.mu.Unlock()
	if hangs != nil {
		<-hangs
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken != nil {
		return h.broken
	}
	if record == nil {
		delete(h.records, id)
	} else {
		h.records[id] = record
	}
	return nil
}

func (h *fakeHand) Load(context.Context) (map[uuid.UUID]json.RawMessage, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := map[uuid.UUID]json.RawMessage{}
	for id, b := range h.records {
		all[id] = b
	}
	return all, nil
}

// fakeDog is a watchdog device.
type fakeDog struct {
	mu       sync.Mutex
	fed      int
	disarmed bool
	closed   bool
}

func (d *fakeDog) Timeout() time.Duration { return 8 * time.Second }

func (d *fakeDog) Feed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fed++
	return nil
}

func (d *fakeDog) Close(disarm bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed, d.disarmed = true, disarm
	return nil
}

func (d *fakeDog) feeds() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fed
}

// fakeHost is a guard in this process, with a clock, a hand and a watchdog that are fakes.
type fakeHost struct {
	clock *fakeClock
	hand  *fakeHand
	dog   *fakeDog
	run   string
	// processes is the number of processes of the host.
	processes atomic.Int64
	*guard.Guard
	stop func()
}

func newBench(t *testing.T) *fakeHost {
	t.Helper()
	c := newFakeClock()
	b := &fakeHost{clock: c, hand: &fakeHand{clock: c, fails: map[guard.Act]bool{}, records: map[uuid.UUID]json.RawMessage{}}, dog: &fakeDog{}, run: t.TempDir()}
	b.start(t)
	t.Cleanup(func() { b.stop() })
	return b
}

// start starts a guard on the records of the previous one, and waits until it answers requests.
func (b *fakeHost) start(t *testing.T) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	ready := make(chan struct{})
	g, err := guard.New(t.Context(), guard.Options{
		Run: b.run, Hand: b.hand, Clock: b.clock, Log: log, Version: "test", Ready: func() { close(ready) },
		OpenWatchdog: func() (guard.Watchdog, error) { return b.dog, nil },
		Processes:    func() int { return int(b.processes.Load()) },
	})
	require.NoError(t, err)
	l, err := socket.Listen(t.Context(), filepath.Join(b.run, "sock"), "root")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx, l) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatal(err)
	}
	b.Guard = g
	var once sync.Once
	b.stop = func() {
		once.Do(func() {
			cancel()
			assert.NoError(t, errors.Join(<-done, l.Close()))
		})
	}
}

// registered registers a dataset whose deadline is this far ahead.
func (b *fakeHost) registered(t *testing.T, p guard.Policy, ahead time.Duration) guard.Registration {
	t.Helper()
	r := guard.Registration{
		Dataset: uuid.New(), Volume: "db", Epoch: 3, Paths: []string{"/mnt/db"}, Own: true, Policy: p, Deadline: b.clock.Boottime() + ahead,
	}
	_, err := b.Register(t.Context(), r)
	require.NoError(t, err)
	return r
}

func (b *fakeHost) entry(id uuid.UUID) guard.Entry {
	for _, e := range b.Status().Datasets {
		if e.Dataset == id {
			return e
		}
	}
	return guard.Entry{}
}

func (b *fakeHost) until(t *testing.T, id uuid.UUID, s guard.State) guard.Entry {
	t.Helper()
	await(t, "it is "+string(s), func() bool { return b.entry(id).State == s }, func() string { return string(b.entry(id).State) })
	return b.entry(id)
}
