package storetest

import (
	"testing"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/test/require"
)

// A store that replaces another one continues above its indexes, in every call that takes or returns an index. A
// check with an index of the other store always fails in this one.
func testRaised(t *testing.T, s store.Store) {
	r, ok := s.(store.Raiser)
	if !ok {
		t.Fatal("it cannot take the place of another store")
	}
	before := txn(t, s, nil, set("a/b", "1"))
	far := before + 1_000_000
	for _, to := range []uint64{far, 5, far} {
		require.NoError(t, r.Raise(t.Context(), to))
	}
	index := txn(t, s, []store.Precondition{absent("a/c")}, set("a/b", "2"), set("a/c", "1"))
	if index <= far {
		t.Fatalf("index %d after it was raised to %d", index, far)
	}
	for _, e := range append(all(t, s), get(t, s, "a/b")) {
		if e.Index != index {
			t.Errorf("%s has index %d, was written at %d", e.Key, e.Index, index)
		}
	}
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "a/b", Index: before}}, set("a/b", "x"))
	refused(t, s, store.ErrConflict, []store.Precondition{{Key: "a/b", Index: far}}, set("x", "x"))
	for _, after := range []uint64{0, before, far} {
		if i, err := s.Watch(ctxOf(t), "a/", after); err != nil || i < index {
			t.Errorf("after %d: %d, %v; the last change was %d", after, i, err, index)
		}
	}
	seen := make(chan error, 1)
	go func() { seen <- waitPast(ctxOf(t), s, "a/", index) }()
	last := txn(t, s, []store.Precondition{{Key: "a/b", Index: index}, {Key: "a/c", Index: index}}, set("a/b", "3"),
		del("a/c"))
	if err := <-seen; err != nil || last <= index {
		t.Errorf("index %d after %d, %v", last, index, err)
	}
	if list, err := s.List(t.Context(), "a/", "", 10); err != nil || len(list) != 1 || list[0].Index != last {
		t.Errorf("%v, %v", list, err)
	}
}
