package bolt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

func openInside(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), still)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

// stall blocks commits, after one request was already accepted, until the returned function is called.
func stall(t *testing.T, s *Store) (resume func()) {
	t.Helper()
	tx, err := s.db.Begin(true)
	require.NoError(t, err)
	first := &request{
		writes: []store.Write{{Key: "first"}}, records: [][]byte{newRecord("", nil)}, answer: make(chan struct{}),
	}
	require.NoError(t, s.queue.put(first))
	waitFor(s, 0)
	return func() {
		t.Helper()
		require.NoError(t, tx.Rollback())
		<-first.answer
		if first.err != nil {
			t.Fatal(first.err)
		}
	}
}

// waitFor waits until the given number of requests waits for a commit.
func waitFor(s *Store, want int) {
	for {
		s.queue.mu.Lock()
		n := len(s.queue.waiting)
		s.queue.mu.Unlock()
		if n == want {
			return
		}
		runtime.Gosched()
	}
}

// One commit accepts no more than fits in the reserve, but always at least one request.
func TestBatchesAreBounded(t *testing.T) {
	q := queue{wake: make(chan struct{}, 1)}
	for _, bytes := range []int{batchBytes + 1, batchBytes / 2, batchBytes / 2, 1} {
		require.NoError(t, q.put(&request{bytes: bytes}))
	}
	for _, want := range []int{1, 2, 1} {
		if got := q.take(); len(got) != want {
			t.Fatalf("a batch of %d requests, want %d", len(got), want)
		}
	}
}

// All waiting requests share one flush. Of those that want one name, one gets it. The others are refused, and make no
// other request fail.
func TestOneFlushForAllThatWait(t *testing.T) {
	s := openInside(t)
	const callers = 64
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	before := s.Stats().Commits
	resume := stall(t, s)
	for n := range callers {
		wg.Go(func() {
			_, err := s.Txn(t.Context(), []store.Precondition{{Key: "names/db"}}, []store.Write{{Key: "names/db", Value: fmt.Append(nil, n)}})
			if err != nil && !errors.Is(err, store.ErrConflict) {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			}
		})
		wg.Go(func() {
			_, err := s.Txn(t.Context(), nil, []store.Write{{Key: fmt.Sprint("own/", n)}})
			assert.NoError(t, err)
		})
	}
	waitFor(s, 2*callers)
	resume()
	wg.Wait()
	if won != 1 {
		t.Errorf("%d callers got the name", won)
	}
	if flushes := s.Stats().Commits - before; flushes != 2 {
		t.Errorf("%d flushes", flushes)
	}
	if stats := s.Stats(); stats.Entries != callers+2 || stats.Conflicts != callers-1 {
		t.Errorf("%+v", stats)
	}
}

// A reader can begin after a failed commit was reported, and before the file is closed. Then bbolt may show it the state
// of the failed commit, which never becomes durable. The reader must not wait, because the file is closed only when no
// reader is left.
func TestReaderAfterAFailedCommitDoesNotWait(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // a reader that waits gets the error of its context
	h := durability{changed: make(chan struct{})}
	h.setDurable(5)
	h.reportFailure()
	assert.ErrorIsf(t, h.awaitDurable(ctx, 6, h.failures()), errNotDurable, "the state of the failed commit")
	assert.NoErrorf(t, h.awaitDurable(ctx, 5, h.failures()), "the last durable state")
	h.setDurable(6) // the file was opened again
	assert.ErrorIsf(t, h.awaitDurable(ctx, 7, h.failures()), context.Canceled, "a commit in progress")
	assert.NoErrorf(t, h.awaitDurable(ctx, 6, h.failures()), "the state after the file was opened again")
}

// A caller that gives up before its request was accepted has changed nothing.
func TestGivenUpBeforeItWasTaken(t *testing.T) {
	s := openInside(t)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	resume := stall(t, s)
	go func() {
		_, err := s.Txn(ctx, nil, []store.Write{{Key: "given-up"}})
		gone <- err
	}()
	waitFor(s, 1)
	cancel()
	assert.ErrorIs(t, <-gone, context.Canceled)
	waitFor(s, 0)
	resume()
	if _, err := s.Get(t.Context(), "given-up"); !errors.Is(err, store.ErrNotFound) {
		t.Error("it was committed:", err)
	}
}

// A session whose end was requested by a caller that then gave up ends nevertheless.
func TestEndGivenUp(t *testing.T) {
	s := openInside(t)
	id, err := s.Session(t.Context(), time.Hour)
	require.NoError(t, err)
	last, err := s.Txn(t.Context(), nil, []store.Write{{Key: "live/1", Session: id}})
	require.NoError(t, err)
	resume := stall(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- s.End(ctx, id) }()
	waitFor(s, 1)
	cancel()
	assert.ErrorIs(t, <-gone, context.Canceled)
	resume()
	for after := last; err == nil; {
		if _, err = s.Get(t.Context(), "live/1"); err == nil {
			after, err = s.Watch(t.Context(), "live/", after)
		}
	}
	assert.ErrorIs(t, err, store.ErrNotFound)
}

// bbolt shows a commit to readers before it is flushed. A reader that sees such a commit waits for the flush.
func TestReaderWaitsForTheFlush(t *testing.T) {
	s := openInside(t)
	_, err := s.Txn(t.Context(), nil, []store.Write{{Key: "a"}})
	require.NoError(t, err)
	var txid int
	require.NoError(t, s.db.View(func(tx *bbolt.Tx) error { txid = tx.ID(); return nil }))
	s.durability.setDurable(txid - 1) // as between writing a meta page and its flush
	ctx, cancel := context.WithCancel(t.Context())
	stays, goes := s.waits(t, t.Context()), s.waits(t, ctx)
	cancel()
	assert.ErrorIs(t, <-goes, context.Canceled)
	s.durability.setDurable(txid)
	assert.NoError(t, <-stays)
	// A failed commit makes readers read again.
	assert.ErrorIs(t, s.durability.awaitDurable(t.Context(), txid+1, s.durability.failures()-1), errNotDurable)
}

// waits starts a read, and returns the pending answer once the reader waits for the flush.
func (s *Store) waits(t *testing.T, ctx context.Context) <-chan error {
	t.Helper()
	waiting, answer := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := s.Get(asked{ctx, sync.OnceFunc(func() { close(waiting) })}, "a")
		answer <- err
	}()
	select {
	case <-waiting:
	case err := <-answer:
		t.Fatal("a reader did not wait for the flush:", err)
	}
	return answer
}

// asked is a context that signals when somebody waits for its end.
type asked struct {
	context.Context
	tell func()
}

func (a asked) Done() <-chan struct{} {
	a.tell()
	return a.Context.Done()
}

// The memory of prefixes is bounded. Forgetting one wakes watchers without a change, and never makes them miss one.
func TestWatchesForget(t *testing.T) {
	w := newWatches(0)
	index := uint64(0)
	change1 := func(key string) {
		index++
		w.publish(index, []change{{key, index}})
	}
	change1("quiet/key")
	quiet := index
	for n := range 2 * maxLast {
		change1(fmt.Sprintf("many/%d/key", n))
		if len(w.last) > maxLast {
			t.Fatalf("%d prefixes are remembered", len(w.last))
		}
	}
	newest, b := w.poll("quiet/", quiet)
	if b != nil || newest != index {
		t.Errorf("a forgotten prefix: %d, %v", newest, b)
	}
	_, b = w.poll("quiet/", newest)
	if b == nil {
		t.Fatal("nothing has changed, and the watcher did not wait")
	}
	change1("quiet/deeper/key")
	select {
	case <-b.signal:
	default:
		t.Error("a change woke no watcher")
	}
	w.leave("quiet/", b)
	_, b = w.poll("other/", index)
	w.leave("other/", b)
	if len(w.waiting) != 0 {
		t.Errorf("bells that nobody waits for: %v", w.waiting)
	}
}

// A panic of bbolt about damage that happened after the check becomes an error, and the store reports the damage
// until the file is good again.
func TestPanicIsAnError(t *testing.T) {
	s := openInside(t)
	err := s.recoverPanics(func() error { panic("assertion failed: page 3") })
	if err == nil || errors.Is(err, store.ErrConflict) {
		t.Error(err)
	}
}

// A session ends when its time has passed. Setting the clock does not end it.
func TestC4SessionsOutliveAClockThatIsSet(t *testing.T) {
	c := fakes.NewClock(time.Now())
	s := newSessions(c)
	id := s.add(10 * time.Second)
	for _, set := range []time.Duration{time.Hour, -2 * time.Hour} {
		c.Set(c.Now().Add(set))
		if dead, wait := s.due(); !s.alive(id, false) || len(dead) > 0 || wait != 10*time.Second {
			t.Errorf("set by %s: dead are %v, the next in %s", set, dead, wait)
		}
	}
	c.Advance(10 * time.Second)
	if s.alive(id, true) {
		t.Error("it outlives its time")
	}
}
