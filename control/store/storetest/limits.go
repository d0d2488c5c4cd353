package storetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/droverhq/drover/control/store"
)

func testLimits(t *testing.T, s store.Store) {
	long := func(n int) string { return string(make([]byte, n)) }
	key := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = 'k'
		}
		return string(b)
	}
	txn(t, s, nil, set(key(store.MaxKey), "x"), set("large", long(store.MaxValue)))
	if e := get(t, s, "large"); len(e.Value) != store.MaxValue {
		t.Errorf("%d bytes came back", len(e.Value))
	}
	refused(t, s, store.ErrTooLarge, nil, set(key(store.MaxKey+1), "x"))
	refused(t, s, store.ErrTooLarge, nil, set("a", long(store.MaxValue+1)))
	refused(t, s, store.ErrTooLarge, nil, set("a", long(store.MaxValue)), set("b", long(store.MaxValue)))
	if _, err := s.Get(t.Context(), key(store.MaxKey+1)); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("get of a key too long: %v", err)
	}
	var checks []store.Precondition
	var writes []store.Write
	for n := range store.MaxOps / 2 {
		checks = append(checks, absent(fmt.Sprintf("many/%d", n)))
		writes = append(writes, set(fmt.Sprintf("many/%d", n), "x"))
	}
	refused(t, s, store.ErrTooLarge, append(checks, absent("z")), writes...)
	txn(t, s, checks, writes...)
	checks, writes = nil, nil
	for n := range store.MaxOps {
		writes = append(writes, set(fmt.Sprintf("most/%d", n), "x"))
		checks = append(checks, absent(fmt.Sprintf("least/%d", n)))
	}
	i := txn(t, s, nil, writes...)
	if e := get(t, s, "most/0"); e.Index != i {
		t.Errorf("%+v, want index %d", e, i)
	}
	refused(t, s, store.ErrTooLarge, nil, append(writes, set("z", "x"))...)
	if _, err := s.Txn(t.Context(), checks, nil); err != nil {
		t.Error("as many checks as can be, and no writes:", err)
	}
	testLargest(t, s)
}

// testLargest commits as many bytes as the limits allow, in few and in many values. Each key is one that JSON encodes
// as long as possible.
func testLargest(t *testing.T, s store.Store) {
	t.Helper()
	for _, n := range []int{2, store.MaxOps} {
		var writes []store.Write
		size := 0
		for i := range n {
			key := fmt.Sprintf("<largest>&/%d/%d", n, i)
			value := make([]byte, (store.MaxBytes/n-store.Size(key, nil))/4*3)
			size += store.Size(key, value)
			writes = append(writes, store.Write{Key: key, Value: value})
		}
		if size > store.MaxBytes || size < store.MaxBytes-8*n {
			t.Fatalf("the test makes %d bytes of %d", size, store.MaxBytes)
		}
		txn(t, s, nil, writes...)
	}
}
