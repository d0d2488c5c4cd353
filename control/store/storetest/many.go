package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

func testGetMany(t *testing.T, s store.Store) {
	many := func(keys ...string) []store.Entry {
		t.Helper()
		list, err := s.GetMany(t.Context(), keys)
		require.NoError(t, err)
		return list
	}
	if list := many(); len(list) != 0 {
		t.Errorf("nothing was asked for: %v", list)
	}
	var keys []string
	for n := range 3 * store.MaxOps {
		keys = append(keys, fmt.Sprintf("many/%04d", len(keys)*7%1000))
		if n%3 == 0 {
			txn(t, s, nil, set(keys[n], fmt.Sprint(n)))
		}
	}
	for n, e := range many(keys...) {
		switch {
		case e.Key != keys[n]:
			t.Fatalf("%s in place of %s", e.Key, keys[n])
		case n%3 != 0 && (e.Index != 0 || len(e.Value) != 0):
			t.Fatalf("it is not there: %+v", e)
		case n%3 == 0 && cmp.Diff(get(t, s, e.Key), e) != "":
			t.Fatal(cmp.Diff(get(t, s, e.Key), e))
		}
	}
	if list := many("many/0000", "none", "many/0000"); list[0].Index == 0 || list[0].Index != list[2].Index ||
		list[1].Index != 0 {
		t.Errorf("a key that is asked for twice: %+v", list)
	}
	for _, bad := range []string{"", "a//b", "a b"} {
		if _, err := s.GetMany(t.Context(), []string{"a", bad}); !errors.Is(err, dataset.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	testManyIsOneMoment(t, s)
}

// Writers move a token from key to key, each time in one transaction. GetMany must see it exactly once.
func testManyIsOneMoment(t *testing.T, s store.Store) {
	t.Helper()
	var keys []string
	for n := range store.MaxOps {
		keys = append(keys, fmt.Sprintf("moment/%03d", n))
	}
	txn(t, s, nil, set(keys[0], "token"))
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		for n := range 60 {
			_, err := s.Txn(t.Context(), nil,
				[]store.Write{del(keys[n*7%len(keys)]), set(keys[(n*7+7)%len(keys)], "token")})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for over := false; !over; {
		list, err := s.GetMany(t.Context(), keys)
		seen := 0
		for _, e := range list {
			if e.Index != 0 {
				seen++
			}
		}
		if err != nil || seen != 1 {
			t.Errorf("%d tokens, %v", seen, err)
			break
		}
		select {
		case <-done:
			over = true
		default:
		}
	}
	wg.Wait()
}
