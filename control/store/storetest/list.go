package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/test/require"
)

func keysOf(list []store.Entry) []string {
	keys := []string{}
	for _, e := range list {
		keys = append(keys, e.Key)
	}
	return keys
}

func testList(t *testing.T, s store.Store) {
	keys := []string{"a", "a-b", "a.b", "a/1", "a/10", "a/2", "a/2/x", "a0", "b/1", "names/A", "names/a", "zz"}
	index := map[string]uint64{}
	shuffled := slices.Clone(keys)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	for _, k := range shuffled {
		index[k] = txn(t, s, nil, set(k, "value of "+k))
	}
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          []string
	}{
		{"", "", 0, keys},
		{"a/", "", 0, []string{"a/1", "a/10", "a/2", "a/2/x"}},
		{"a/1", "", 0, []string{"a/1", "a/10"}},
		{"a", "", 3, keys[:3]},
		{"a/", "a/10", 0, []string{"a/2", "a/2/x"}},
		{"a/", "a/10", 1, []string{"a/2"}},
		{"a/", "a/11", 0, []string{"a/2", "a/2/x"}}, // the key after need not exist
		{"a/", "a", 0, []string{"a/1", "a/10", "a/2", "a/2/x"}},
		{"a/", "a/2/x", 0, nil},
		{"a/", "z", 0, nil},
		{"a/", "a/1", 100, []string{"a/10", "a/2", "a/2/x"}},
		{"names/", "names/A", 0, []string{"names/a"}},
		{"none/", "", 0, nil},
		{"", "names/a", 0, []string{"zz"}},
		{"zz", "", 0, []string{"zz"}},
		{"zzz", "", 0, nil},
	} {
		list, err := s.List(t.Context(), c.prefix, c.after, c.limit)
		require.NoError(t, err)
		if diff := cmp.Diff(append([]string{}, c.want...), keysOf(list)); diff != "" {
			t.Errorf("List(%q, %q, %d): %s", c.prefix, c.after, c.limit, diff)
		}
		for _, e := range list {
			if e.Index != index[e.Key] || string(e.Value) != "value of "+e.Key {
				t.Errorf("%+v", e)
			}
		}
	}
	if _, err := s.List(t.Context(), "", "", -1); err == nil {
		t.Error("a list of -1 entries was given")
	}
	for _, limit := range []int{1, 2, 5, 12, 13} {
		if diff := cmp.Diff(keys, paged(t, s, "", limit)); diff != "" {
			t.Errorf("pages of %d: %s", limit, diff)
		}
	}
}

func paged(t *testing.T, s store.Store, prefix string, limit int) []string {
	t.Helper()
	var keys []string
	after := ""
	for {
		list, err := s.List(t.Context(), prefix, after, limit)
		require.NoError(t, err)
		if len(list) > limit {
			t.Fatalf("a page of %d has %d entries", limit, len(list))
		}
		if len(list) == 0 {
			return keys
		}
		keys = append(keys, keysOf(list)...)
		after = list[len(list)-1].Key
	}
}

// Writers move a token from key to key, each time in one transaction. A list shows one moment, so it always contains
// the token exactly once.
func testListIsOneMoment(t *testing.T, s store.Store) {
	const places, moves = 40, 150
	place := func(n int) string { return fmt.Sprintf("at/%02d", n%places) }
	txn(t, s, nil, set(place(0), "token"))
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		for n := range moves {
			if _, err := s.Txn(t.Context(), nil,
				[]store.Write{del(place(n * 7)), set(place(n*7+7), "token")}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 3 {
		wg.Go(func() {
			for {
				list, err := s.List(t.Context(), "at/", "", 0)
				if err != nil || len(list) != 1 {
					t.Errorf("%d tokens: %s, %v", len(list), strings.Join(keysOf(list), " "), err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	wg.Wait()
}
