package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/test/require"
)

// fill writes keys, as many in each transaction as possible.
func fill(t *testing.T, s store.Store, keys []string) {
	t.Helper()
	for part := range slices.Chunk(keys, store.MaxOps) {
		var writes []store.Write
		for _, k := range part {
			writes = append(writes, set(k, k))
		}
		txn(t, s, nil, writes...)
	}
}

func empty(t *testing.T, s store.Store, keys []string) {
	t.Helper()
	for part := range slices.Chunk(keys, store.MaxOps) {
		var writes []store.Write
		for _, k := range part {
			writes = append(writes, del(k))
		}
		txn(t, s, nil, writes...)
	}
}

// many returns sorted names of many keys. Some differ only at their ends, others have nothing in common.
func many(prefix string, n int) []string {
	var keys []string
	for i := range n / 2 {
		keys = append(keys, fmt.Sprintf("%sproduction-database-%06d", prefix, 7*i), prefix+uuid.NewString())
	}
	for _, odd := range []string{"!", "~", "~~", "a", "a/b", "a/b/c", "p", "production-database-",
		"production-database-0"} {
		keys = append(keys, prefix+odd)
	}
	slices.Sort(keys)
	return keys
}

// Keys that exist all the time are in the pages once and in order, whatever other keys are created and deleted
// meanwhile. Those other keys are seen with a value that they had.
func testPagesLeaveNothingOut(t *testing.T, s store.Store) {
	stay, flicker := many("at/", 900), many("at/", 300)
	flicker = slices.DeleteFunc(flicker, func(k string) bool { _, both := slices.BinarySearch(stay, k); return both })
	fill(t, s, stay)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		for there := true; ctx.Err() == nil; there = !there {
			var writes []store.Write
			from := rand.IntN(len(flicker) - 100)
			for _, k := range flicker[from : from+100] {
				writes = append(writes, store.Write{Key: k, Value: []byte(k), Delete: !there})
				if !there {
					writes[len(writes)-1].Value = nil
				}
			}
			if _, err := s.Txn(t.Context(), nil, writes); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for _, limit := range []int{1000, 200, 100, 17} {
		var got []string
		for after := ""; ; {
			list, err := s.List(t.Context(), "at/", after, limit)
			require.NoError(t, err)
			for _, e := range list {
				if e.Key <= after || string(e.Value) != e.Key || e.Index == 0 {
					t.Fatalf("after %s: %+v", after, e)
				}
				after = e.Key
				if _, is := slices.BinarySearch(stay, e.Key); is {
					got = append(got, e.Key)
				}
			}
			if len(list) < limit {
				break
			}
		}
		if !slices.Equal(got, stay) {
			t.Fatalf("pages of %d hold %d of %d keys that were there", limit, len(got), len(stay))
		}
	}
}

// Pages are correct, and contain everything written before them, even if most keys of the previous listing were deleted
// and as many were created elsewhere.
func testPagesAfterGreatChanges(t *testing.T, s store.Store) {
	var keys []string
	for n, change := range []func(){
		func() {},
		func() { keys = many("k/", 700); fill(t, s, keys) },
		func() { empty(t, s, keys[3:]); keys = keys[:3] },
		func() { keys = slices.Concat(keys, many("k/zz/", 600)); fill(t, s, keys) },
		func() { empty(t, s, keys); keys = nil },
		func() { keys = []string{"k/one"}; fill(t, s, keys) },
	} {
		change()
		for _, limit := range []int{150, 1000} {
			if got := paged(t, s, "k/", limit); !slices.Equal(got, keys) {
				t.Fatalf("change %d: pages of %d hold %d of %d keys", n, limit, len(got), len(keys))
			}
		}
	}
}
