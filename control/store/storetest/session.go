package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func session(t *testing.T, s store.Store) string {
	t.Helper()
	id, err := s.Session(t.Context(), ttlOf(s))
	if err != nil || id == "" {
		t.Fatalf("session %q: %v", id, err)
	}
	return id
}

func bind(key, value, session string) store.Write {
	return store.Write{Key: key, Value: []byte(value), Session: session}
}

func ended(t *testing.T, s store.Store, id string) {
	t.Helper()
	assert.ErrorIsf(t, s.Renew(t.Context(), id), store.ErrNotFound, "renew of a session that has ended")
	refused(t, s, store.ErrNotFound, nil, set("free", "x"), bind("live/late", "x", id))
}

// ttlOf returns the TTL of the sessions that the suite opens in a store.
func ttlOf(s store.Store) time.Duration {
	if h, ok := s.(ShortTTL); ok {
		return h.TTL()
	}
	return TTL
}

// pass advances the time of the store, or sleeps if the store is not an Advancer.
func pass(s store.Store, d time.Duration) {
	if a, ok := s.(Advancer); ok {
		a.Advance(d)
		return
	}
	time.Sleep(d)
}

func testSessionEnds(t *testing.T, s store.Store) {
	mine, other := session(t, s), session(t, s)
	if mine == other {
		t.Fatal("two sessions have one ID")
	}
	txn(t, s, nil, bind("live/1", "x", mine), bind("live/2", "x", mine), bind("live/3", "x", other), set("free/4", "x"))
	after := get(t, s, "live/1").Index
	require.NoError(t, s.End(t.Context(), mine))
	gone(t, s, "live/1")
	gone(t, s, "live/2")
	get(t, s, "live/3")
	get(t, s, "free/4")
	assert.NoErrorf(t, waitPast(ctxOf(t), s, "live/", after), "the end of a session woke nobody")
	ended(t, s, mine)
	for range 2 {
		assert.NoErrorf(t, s.End(t.Context(), mine), "end again")
	}
	assert.NoErrorf(t, s.Renew(t.Context(), other), "the other session is gone too")
	// Checks treat a bound key like any other key.
	refused(t, s, store.ErrConflict, []store.Precondition{absent("live/3")}, set("c", "x"))
	txn(t, s, []store.Precondition{absent("live/1")}, bind("live/1", "free again", other))
}

func testSessionExpires(t *testing.T, s store.Store) {
	id := session(t, s)
	index := txn(t, s, nil, bind("live/1", "x", id), bind("live/a/2", "x", id), set("free/3", "x"))
	pass(s, ttlOf(s)/2)
	get(t, s, "live/1")
	pass(s, 3*ttlOf(s)/2)
	awaitGone(t, s, "live/1", index)
	gone(t, s, "live/a/2")
	get(t, s, "free/3")
	ended(t, s, id)
}

// awaitGone waits until a key of an expired session is deleted.
func awaitGone(t *testing.T, s store.Store, key string, after uint64) {
	t.Helper()
	for {
		_, err := s.Get(t.Context(), key)
		if errors.Is(err, store.ErrNotFound) {
			return
		}
		if after, err = s.Watch(ctxOf(t), store.LivePrefix, after); err != nil {
			t.Fatal("a session did not end after twice its time:", err)
		}
	}
}

func testSessionRenewed(t *testing.T, s store.Store) {
	kept, left := session(t, s), session(t, s)
	index := txn(t, s, nil, bind("live/kept", "x", kept), bind("live/left", "x", left))
	for range 6 {
		pass(s, ttlOf(s)/2)
		require.NoErrorf(t, s.Renew(t.Context(), kept), "a renewed session ended")
		get(t, s, "live/kept")
	}
	awaitGone(t, s, "live/left", index)
	ended(t, s, left)
	txn(t, s, nil, bind("live/more", "x", kept))
}

// A key belongs to the session that wrote it last.
func testSessionRebound(t *testing.T, s store.Store) {
	first, second := session(t, s), session(t, s)
	i := txn(t, s, nil, bind("live/moved", "1", first), bind("live/again", "1", first), bind("live/gone", "1", first))
	j := txn(t, s, []store.Precondition{{Key: "live/moved", Index: i}},
		bind("live/moved", "2", second), bind("live/again", "2", first), del("live/gone"))
	if e := get(t, s, "live/moved"); e.Index != j || string(e.Value) != "2" {
		t.Errorf("%+v, want 2 at %d", e, j)
	}
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "live/moved", Index: i}},
		bind("live/moved", "3", first))
	txn(t, s, []store.Precondition{absent("live/gone")}, bind("live/gone", "came again", second))
	require.NoError(t, s.End(t.Context(), first))
	for key, value := range map[string]string{"live/moved": "2", "live/gone": "came again"} {
		if e := get(t, s, key); string(e.Value) != value {
			t.Errorf("%+v", e)
		}
	}
	gone(t, s, "live/again")
	require.NoError(t, s.End(t.Context(), second))
	gone(t, s, "live/moved")
}

// A key outside live/ cannot be bound, and a key under live/ must be bound.
func testSessionWhere(t *testing.T, s store.Store) {
	id := session(t, s)
	refused(t, s, dataset.ErrInvalid, nil, bind("b/1", "x", id))
	refused(t, s, dataset.ErrInvalid, nil, bind("live", "x", id))
	refused(t, s, dataset.ErrInvalid, nil, set("live/1", "x"))
	txn(t, s, nil, set("live", "x"), set("alive/1", "x"), bind("live/1", "x", id), del("live/2"))
}

func testSessionUnknown(t *testing.T, s store.Store) {
	const unknown = "6ad6dd0e-2f05-4f54-9b57-6e5d7ea0a9c1"
	ended(t, s, unknown)
	assert.NoErrorf(t, s.End(t.Context(), unknown), "end of a session that never was")
	if _, err := s.Session(t.Context(), 0); err == nil {
		t.Error("a session of no time was opened")
	}
	// In whatever order a session's end and its last binding are executed, the key is deleted afterwards.
	for n := range 20 {
		id, key := session(t, s), fmt.Sprintf("live/race/%d", n)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := s.Txn(t.Context(), nil, []store.Write{bind(key, "x", id)})
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				t.Error(err)
			}
		})
		assert.NoError(t, s.End(t.Context(), id))
		wg.Wait()
		gone(t, s, key)
	}
}
