// Package storetest tests that an implementation of store.Store fulfills the contract in package store. The tests of
// packages bolt and consul call Run. The suite does not depend on an implementation: to let time pass, it uses an
// Advancer, or sleeps. The suite has no state: each test has its own store. Add a new rule of the contract as a test in
// Run.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Advancer is a store whose sessions use a clock that tests can advance. Without it, tests of sessions take as long as
// their TTL.
type Advancer interface {
	store.Store
	Advance(time.Duration)
}

// ShortTTL is a store whose sessions may be shorter than TTL. The suite opens them with the result of its method TTL.
type ShortTTL interface {
	store.Store
	TTL() time.Duration
}

// TTL is the TTL of the sessions that the suite opens: the shortest that Consul accepts by default.
const TTL = 10 * time.Second

// patience bounds every wait. A store that does not answer fails the test instead of blocking it.
const patience = 60 * time.Second

// Run tests the stores that open returns. Each must be empty. The suite closes them.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"GetAndTxn", testGetAndTxn},
		{"Checks", testChecks},
		{"AllOrNothing", testAllOrNothing},
		{"Indexes", testIndexes},
		{"ReadOnlyTxn", testReadOnlyTxn},
		{"Limits", testLimits},
		{"BadKeys", testBadKeys},
		{"EqualBytes", testEqualBytes},
		{"UnwrittenKey", testUnwrittenKey},
		{"DeleteAndCreate", testDeleteAndCreate},
		{"ValuesAreCopies", testValuesAreCopies},
		{"GetMany", testGetMany},
		{"List", testList},
		{"ListIsOneMoment", testListIsOneMoment},
		{"PagesLeaveNothingOut", testPagesLeaveNothingOut},
		{"PagesAfterGreatChanges", testPagesAfterGreatChanges},
		{"ContextEnded", testContextEnded},
		{"WriteSkewDeleteAndMount", testDeleteAndMount},
		{"WriteSkewNameAndRestore", testNameAndRestore},
		{"OneNameOneClaim", testOneNameOneClaim},
		{"RetryAfterUnknownOutcome", testRetryAfterUnknownOutcome},
		{"IncrementsAreLinearizable", testIncrements},
		{"TransfersKeepTheSum", testTransfers},
		{"Model", testModel},
		{"WatchSeesSetAndDelete", testWatchSees},
		{"WatchMissesNothing", testWatchMissesNothing},
		{"WatchManyPrefixes", testWatchManyPrefixes},
		{"WatchOfOtherPrefixes", testWatchOfOtherPrefixes},
		{"SessionEnds", testSessionEnds},
		{"SessionExpires", testSessionExpires},
		{"SessionRenewed", testSessionRenewed},
		{"SessionRebound", testSessionRebound},
		{"SessionUnknown", testSessionUnknown},
		{"SessionWhere", testSessionWhere},
		{"Raised", testRaised},
		{"Close", testClose},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // some tests wait for a session's end
			s := open(t)
			t.Cleanup(func() {
				assert.NoErrorf(t, s.Close(), "close")
			})
			c.test(t, s)
		})
	}
}

func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func set(key, value string) store.Write { return store.Write{Key: key, Value: []byte(value)} }

func del(key string) store.Write { return store.Write{Key: key, Delete: true} }

func absent(key string) store.Precondition { return store.Precondition{Key: key} }

// txn commits a transaction and fails the test if that fails.
func txn(t testing.TB, s store.Store, checks []store.Precondition, writes ...store.Write) uint64 {
	t.Helper()
	index, err := s.Txn(t.Context(), checks, writes)
	require.NoError(t, err)
	return index
}

func get(t testing.TB, s store.Store, key string) store.Entry {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	require.NoErrorf(t, err, "get %s", key)
	return e
}

func gone(t testing.TB, s store.Store, key string) {
	t.Helper()
	if e, err := s.Get(t.Context(), key); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("get %s: %+v, %v; want ErrNotFound", key, e, err)
	}
}

func refused(t testing.TB, s store.Store, want error, checks []store.Precondition, writes ...store.Write) {
	t.Helper()
	before := all(t, s)
	if _, err := s.Txn(t.Context(), checks, writes); !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	if diff := cmp.Diff(before, all(t, s)); diff != "" {
		t.Fatalf("a refused transaction changed something: %s", diff)
	}
}

func all(t testing.TB, s store.Store) []store.Entry {
	t.Helper()
	list, err := s.List(t.Context(), "", "", 0)
	require.NoError(t, err)
	return list
}

func testGetAndTxn(t *testing.T, s store.Store) {
	gone(t, s, "a")
	if list := all(t, s); len(list) != 0 {
		t.Fatalf("a new store holds %v", list)
	}
	i := txn(t, s, nil, set("a", "1"), set("b/c", ""))
	if diff := cmp.Diff(store.Entry{Key: "a", Value: []byte("1"), Index: i}, get(t, s, "a")); diff != "" {
		t.Error(diff)
	}
	if e := get(t, s, "b/c"); len(e.Value) != 0 || e.Index != i {
		t.Errorf("an empty value came back as %+v", e)
	}
	j := txn(t, s, nil, set("a", "2"), del("b/c"), del("never/was"))
	if e := get(t, s, "a"); string(e.Value) != "2" || e.Index != j {
		t.Errorf("%+v, want 2 at %d", e, j)
	}
	gone(t, s, "b/c")
	gone(t, s, "b")
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	txn(t, s, nil, store.Write{Key: "binary", Value: binary})
	if diff := cmp.Diff(binary, get(t, s, "binary").Value); diff != "" {
		t.Error(diff)
	}
}

func testIndexes(t *testing.T, s store.Store) {
	last := uint64(0)
	for n := range 20 {
		var i uint64
		switch n % 3 {
		case 0:
			i = txn(t, s, nil, set("a", fmt.Sprint(n)))
		case 1:
			i = txn(t, s, nil, set(fmt.Sprint("k", n), "x"), set("b", fmt.Sprint(n)))
		case 2:
			i = txn(t, s, nil, del("a"))
		}
		if i <= last {
			t.Fatalf("index %d after %d", i, last)
		}
		last = i
	}
	// A refused transaction leaves every index unchanged.
	e := get(t, s, "b")
	refused(t, s, store.ErrConflict, []store.Precondition{absent("b")}, set("b", "x"))
	if again := get(t, s, "b"); again.Index != e.Index {
		t.Errorf("index %d became %d", e.Index, again.Index)
	}
}

func testReadOnlyTxn(t *testing.T, s store.Store) {
	i := txn(t, s, nil, set("a", "1"))
	if _, err := s.Txn(t.Context(), []store.Precondition{{Key: "a", Index: i}, absent("b")}, nil); err != nil {
		t.Errorf("checks that hold, and no writes: %v", err)
	}
	if _, err := s.Txn(t.Context(), nil, nil); err != nil {
		t.Errorf("nothing at all: %v", err)
	}
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "a", Index: i}, {Key: "b", Index: i}})
}

func testBadKeys(t *testing.T, s store.Store) {
	for _, key := range []string{"", "/", "/a", "a/", "a//b", "a b", "a\n", "\x00", "ä", ".", "a/../b"} {
		refused(t, s, dataset.ErrInvalid, nil, set("good", "x"), set(key, "x"))
		refused(t, s, dataset.ErrInvalid, []store.Precondition{absent(key)}, set("good", "x"))
		if _, err := s.Get(t.Context(), key); !errors.Is(err, dataset.ErrInvalid) {
			t.Errorf("get of %q: %v", key, err)
		}
	}
	refused(t, s, dataset.ErrInvalid, nil, set("a", "1"), set("a", "2"))
	for _, prefix := range []string{"", "/", "names", "a//"} {
		if _, err := s.Watch(t.Context(), prefix, 0); !errors.Is(err, dataset.ErrInvalid) {
			t.Errorf("watch of %q: %v", prefix, err)
		}
	}
}

func testValuesAreCopies(t *testing.T, s store.Store) {
	value := []byte("before")
	txn(t, s, nil, store.Write{Key: "a", Value: value})
	copy(value, "after!")
	kept := get(t, s, "a")
	list := all(t, s)
	for n := range 50 {
		txn(t, s, nil, set("a", fmt.Sprint("later ", n)), set(fmt.Sprint("k", n), "x"))
	}
	if string(kept.Value) != "before" || string(list[0].Value) != "before" {
		t.Errorf("kept values became %q and %q", kept.Value, list[0].Value)
	}
}

func testContextEnded(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Error("get:", err)
	}
	if _, err := s.GetMany(ctx, []string{"a"}); !errors.Is(err, context.Canceled) {
		t.Error("get many:", err)
	}
	if _, err := s.List(ctx, "", "", 0); !errors.Is(err, context.Canceled) {
		t.Error("list:", err)
	}
	if _, err := s.Txn(ctx, nil, []store.Write{set("a", "1")}); !errors.Is(err, context.Canceled) {
		t.Error("txn:", err)
	}
	if _, err := s.Watch(ctx, "a/", 1<<40); !errors.Is(err, context.Canceled) {
		t.Error("watch:", err)
	}
	txn(t, s, nil, set("a", "2"))
}

func testClose(t *testing.T, s store.Store) {
	index := txn(t, s, nil, set("a/b", "1"), set("quiet/key", "1"))
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			after := index
			for {
				i, err := s.Watch(context.Background(), "quiet/", after)
				if errors.Is(err, store.ErrClosed) {
					return
				}
				if err != nil {
					t.Error("watch:", err)
					return
				}
				after = i
			}
		})
		wg.Go(func() {
			for m := 0; ; m++ {
				_, err := s.Txn(context.Background(), nil, []store.Write{set(fmt.Sprintf("w/%d", n), fmt.Sprint(m))})
				if errors.Is(err, store.ErrClosed) {
					return
				}
				if err != nil {
					t.Error("txn:", err)
					return
				}
			}
		})
	}
	require.NoError(t, s.Close())
	wg.Wait()
	ctx := context.Background()
	_, getErr := s.Get(ctx, "a/b")
	_, manyErr := s.GetMany(ctx, []string{"a/b"})
	_, listErr := s.List(ctx, "", "", 0)
	_, txnErr := s.Txn(ctx, nil, []store.Write{set("a/b", "2")})
	_, watchErr := s.Watch(ctx, "a/", 0)
	_, sessionErr := s.Session(ctx, ttlOf(s))
	for what, err := range map[string]error{
		"get": getErr, "get many": manyErr, "list": listErr, "txn": txnErr, "watch": watchErr, "session": sessionErr,
		"renew": s.Renew(ctx, "x"), "end": s.End(ctx, "x"),
	} {
		assert.ErrorIsf(t, err, store.ErrClosed, "%s of a closed store", what)
	}
}
