package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/test/require"
)

// settle returns an index after which nothing under prefix has changed.
func settle(t *testing.T, s store.Store, prefix string) uint64 {
	t.Helper()
	// Write a key under the prefix, so that there is an index to wait after.
	index := txn(t, s, nil, set(prefix+"settled", fmt.Sprint(len(all(t, s)))))
	return index
}

// testWatchSees waits for one change of each kind, of keys directly under the prefix and of keys further below it.
func testWatchSees(t *testing.T, s store.Store) {
	txn(t, s, nil, set("n/a/old", "1"))
	for _, change := range []struct {
		name   string
		writes []store.Write
	}{
		{"new", []store.Write{set("n/a/new", "1")}},
		{"overwritten", []store.Write{set("n/a/old", "2")}},
		{"deleted", []store.Write{del("n/a/old")}},
		{"deeper", []store.Write{set("n/a/b/c/d", "1")}},
		{"one of many", []store.Write{set("x/y", "1"), set("n/a/new", "2"), set("z", "1")}},
	} {
		for _, prefix := range []string{"n/", "n/a/"} {
			after := settle(t, s, prefix)
			seen := make(chan error, 1)
			go func() { seen <- waitPast(ctxOf(t), s, prefix, after) }()
			txn(t, s, nil, change.writes...)
			require.NoErrorf(t, <-seen, "%s under %s", change.name, prefix)
			// Watch returns at once for a change from before the call.
			if err := waitPast(ctxOf(t), s, prefix, after); err != nil {
				t.Fatalf("%s under %s, after the fact: %v", change.name, prefix, err)
			}
		}
		txn(t, s, nil, set("n/a/old", "1"))
	}
}

// waitPast watches until the index has passed after.
func waitPast(ctx context.Context, s store.Store, prefix string, after uint64) error {
	for {
		index, err := s.Watch(ctx, prefix, after)
		if err != nil || index > after {
			return err
		}
	}
}

// A reader that lists, and then watches after the index that Watch returned, sees every change of a writer up to the
// last one, in whatever order calls and changes are executed.
func testWatchMissesNothing(t *testing.T, s store.Store) {
	const changes = 200
	ctx := ctxOf(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var after uint64
			for {
				e, err := s.Get(ctx, "w/last")
				if err == nil && string(e.Value) == fmt.Sprint(changes) {
					return
				}
				index, err := s.Watch(ctx, "w/", after)
				if err != nil {
					t.Error("a reader never saw the last change:", err)
					return
				}
				if index < after {
					t.Errorf("index %d after %d", index, after)
					return
				}
				after = index
			}
		})
	}
	for n := range changes {
		txn(t, s, nil, set("w/last", fmt.Sprint(n+1)), set("other/key", "x"))
	}
	wg.Wait()
}

// When Watch has returned an index, every change up to that index can be read, and no such change appears later.
func testWatchManyPrefixes(t *testing.T, s store.Store) {
	const prefixes, rounds = 20, 20
	ctx := ctxOf(t)
	var wg sync.WaitGroup
	for p := range prefixes {
		prefix := fmt.Sprintf("p/%02d/", p)
		wg.Go(func() {
			var after uint64
			for seen := 0; seen < rounds; {
				index, err := s.Watch(ctx, prefix, after)
				if err != nil {
					t.Errorf("%s after %d changes: %v", prefix, seen, err)
					return
				}
				list, err := s.List(ctx, prefix, "", 0)
				if err != nil {
					t.Error(err)
					return
				}
				if len(list) < seen {
					t.Errorf("%s had %d entries, has %d", prefix, seen, len(list))
					return
				}
				for _, e := range list[seen:] {
					if e.Index <= after {
						t.Errorf("%s has index %d, which Watch had covered with %d", e.Key, e.Index, after)
						return
					}
				}
				seen, after = len(list), index
			}
		})
	}
	for n := range rounds {
		for p := range prefixes {
			txn(t, s, nil, set(fmt.Sprintf("p/%02d/%04d", p, n), "x"))
		}
	}
	wg.Wait()
}

// A watcher of one prefix may return because of a change under another prefix. It must never get an index that covers
// an unreported change under its own prefix.
func testWatchOfOtherPrefixes(t *testing.T, s store.Store) {
	after := settle(t, s, "mine/")
	for n := range 30 {
		txn(t, s, nil, set(fmt.Sprintf("mine%d", n), "x"), set("min/e", "x"), set(fmt.Sprintf("a/mine/%d", n), "x"))
	}
	last := txn(t, s, nil, set("mine/late", "x"))
	for {
		index, err := s.Watch(ctxOf(t), "mine/", after)
		require.NoError(t, err)
		if index >= last {
			return
		}
		after = index
	}
}
