package record

import (
	"context"
	"errors"
	"flag"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func storeInFile(t *testing.T) store.Store {
	t.Helper()
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, st.Close()) })
	return st
}

// onStore returns the ledger of one of several services that share a store.
func onStore(st store.Store) *Ledger {
	return NewLedger(st, clock.System{}, true, func(string, error) {})
}

// Whatever the order in which a service's transactions end, and whatever is known of their outcome, another service
// reports each committed one, or reports that everything must be read.
func TestNothingIsMissed(t *testing.T) {
	st := storeInFile(t)
	checks := flag.Lookup("rapid.checks").Value
	before := checks.String()
	require.NoError(t, checks.Set(strconv.Itoa(long.Rounds(30, 100))))
	defer func() { require.NoError(t, checks.Set(before)) }()
	rapid.Check(t, func(r *rapid.T) {
		talks := onStore(st)
		hears := onStore(st)
		x := &talk{T: r, st: st, talks: talks, hears: hears, node: uuid.New(), of: map[uuid.UUID]bool{}}
		x.hear()
		x.rev = hears.Feed.Since(x.node, 0).Rev
		r.Repeat(map[string]func(*rapid.T){
			"begin":  func(*rapid.T) { x.begin() },
			"end":    func(r *rapid.T) { x.end(r) },
			"late":   func(*rapid.T) { x.late() },
			"burst":  func(*rapid.T) { x.burst() },
			"listen": func(*rapid.T) { x.hear() },
		})
		x.hear()
	})
}

type talk struct {
	*rapid.T
	st           store.Store
	talks, hears *Ledger
	h            LanePositions
	node         uuid.UUID
	rev          uint64
	open         []talking
	delayed      []talking          // their outcome is unknown, and they were committed
	of           map[uuid.UUID]bool // committed since the last read
}

type talking struct {
	lane  *lane
	w     store.Write
	ds    uuid.UUID
	index uint64
}

func (x *talk) begin() {
	if len(x.open) == maxLanes {
		return
	}
	ds := uuid.New()
	l, w, err := x.talks.lanes.acquire(context.Background(), Notice{Nodes: []uuid.UUID{x.node}, Datasets: []uuid.UUID{ds}})
	if err != nil {
		x.Fatal(err)
	}
	x.open = append(x.open, talking{l, w, ds, 0})
}

func (x *talk) end(r *rapid.T) {
	if len(x.open) == 0 {
		return
	}
	i := rapid.IntRange(0, len(x.open)-1).Draw(r, "which")
	t := x.open[i]
	x.open = slices.Delete(x.open, i, i+1)
	switch rapid.SampledFrom([]string{"committed", "committed", "refused", "unknown", "never"}).Draw(r, "outcome") {
	case "committed":
		t.index = x.commit(t)
		x.talks.lanes.release(t.lane, t.index, true)
	case "refused":
		x.talks.lanes.release(t.lane, 0, true)
	case "unknown":
		x.talks.lanes.release(t.lane, 0, false)
		x.delayed = append(x.delayed, t)
	case "never":
		x.talks.lanes.release(t.lane, 0, false)
	}
}

func (x *talk) commit(t talking) uint64 {
	index, err := x.st.Txn(context.Background(), nil, []store.Write{t.w})
	if err != nil {
		x.Fatal(err)
	}
	x.of[t.ds] = true
	return index
}

func (x *talk) late() {
	if len(x.delayed) > 0 {
		x.commit(x.delayed[0])
		x.delayed = x.delayed[1:]
	}
}

// burst is more changes than one value holds.
func (x *talk) burst() {
	for range maxRecent + 1 {
		n := len(x.open)
		if x.begin(); len(x.open) == n {
			return
		}
		t := x.open[n]
		x.open = x.open[:n]
		t.index = x.commit(t)
		x.talks.lanes.release(t.lane, t.index, true)
	}
}

func (x *talk) hear() {
	if err := x.hears.ReadNotices(context.Background(), &x.h); err != nil {
		x.Fatal(err)
	}
	n := x.hears.Feed.Since(x.node, x.rev)
	x.rev = n.Rev
	if !n.Full {
		for ds := range x.of {
			if !slices.Contains(n.Datasets, ds) {
				x.Fatalf("dataset %s changed, and no service reported it", ds)
			}
		}
	}
	clear(x.of)
}

// What a replica missed does not make it read everything as long as the missed changes are still stored.
func TestWhatLiesThereIsEnough(t *testing.T) {
	st := storeInFile(t)
	talks := onStore(st)
	hears := onStore(st)
	node := uuid.New()
	var h LanePositions
	hear := func() ChangeSet {
		t.Helper()
		rev := hears.Feed.Since(node, 0).Rev
		require.NoError(t, hears.ReadNotices(t.Context(), &h))
		return hears.Feed.Since(node, rev)
	}
	say := func(n int) {
		for range n {
			if _, err := talks.Update(t.Context(), func(x *Tx) error {
				x.NotifyDataset(uuid.New(), node)
				return x.Put("names/"+uuid.NewString(), Claim{ID: uuid.New()})
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := hear(); !n.Full {
		t.Error("what was before is not known to be the same")
	}
	for _, tc := range []struct {
		said int
		full bool
	}{{1, false}, {maxRecent, false}, {0, false}, {maxRecent + 1, true}, {3, false}} {
		say(tc.said)
		if n := hear(); n.Full != tc.full || !tc.full && len(n.Datasets) != tc.said {
			t.Errorf("%d changes: full %v, %d datasets", tc.said, n.Full, len(n.Datasets))
		}
	}
	// One lane is used if one transaction runs at a time.
	if list, err := st.List(t.Context(), RevPrefix, "", 0); err != nil || len(list) != 1 {
		t.Errorf("%d lanes, %v", len(list), err)
	}
}

// lanesOnly is a store whose lanes can be read only when the test allows it. Nothing else can be read.
type lanesOnly struct {
	store.Store
	reads   int
	let     chan struct{}
	entries []store.Entry
}

func (l *lanesOnly) List(context.Context, string, string, int) ([]store.Entry, error) {
	l.reads++
	entries := l.entries
	<-l.let
	return entries, nil
}

// Callers that ask for the clock while it is being read share the next reading. They never share one that began
// before their call, because the store may be restored from a backup at any moment.
func TestTheClockIsReadOnceForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &lanesOnly{let: make(chan struct{}), entries: []store.Entry{{Key: RevPrefix + "a/0", Value: []byte(`{"count":7}`)}}}
		s := NewLedger(st, clock.System{}, false, nil)
		var all sync.WaitGroup
		ask := func(want uint64) {
			all.Go(func() {
				if got, err := s.ReadClock(t.Context()); got != want || err != nil {
					t.Errorf("%d, %v, want %d", got, err, want)
				}
			})
		}
		ask(7)
		synctest.Wait()
		st.entries = []store.Entry{{Key: RevPrefix + "a/0", Value: []byte(`{"count":8}`)}}
		for range 100 {
			ask(8)
		}
		synctest.Wait()
		left, leave := context.WithCancel(t.Context())
		all.Go(func() {
			if _, err := s.ReadClock(left); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		st.let <- struct{}{}
		st.let <- struct{}{}
		all.Wait()
		if st.reads != 2 {
			t.Errorf("read %d times", st.reads)
		}
	})
}

// Seen returns the mark as last read.
func (u *Uptime) Seen() RunMark {
	_, m, _, _ := u.mark.last(u.Ledger.Clock.Steady())
	return m
}

// Restart forgets the mark, as a restart of the service does.
func (u *Uptime) Restart() {
	u.mark.mu.Lock()
	defer u.mark.mu.Unlock()
	u.mark.known, u.mark.entry, u.mark.mark, u.mark.before, u.mark.since = false, store.Entry{}, RunMark{}, 0, 0
	u.mark.begun, u.mark.unseen = false, 0
}

// Mistake makes the counter remember an older mark with a higher count.
func (u *Uptime) Mistake(more time.Duration) {
	u.mark.mu.Lock()
	defer u.mark.mu.Unlock()
	u.mark.mark.RunTime += dataset.Duration(more)
	u.mark.entry.Index--
}
