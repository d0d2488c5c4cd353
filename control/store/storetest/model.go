package storetest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// model is the expected content of the store: a map, and the owning session of each key.
type model struct {
	s       store.Store
	entries map[string]store.Entry
	owner   map[string]string
	live    []string
	dead    []string
	newest  uint64
}

// testModel drives the store and the model with the same random calls.
func testModel(t *testing.T, s store.Store) {
	rapid.Check(t, func(r *rapid.T) {
		for _, e := range all(t, s) {
			txn(t, s, nil, del(e.Key))
		}
		m := &model{s: s, entries: map[string]store.Entry{}, owner: map[string]string{}}
		defer m.endAll(r)
		r.Repeat(map[string]func(*rapid.T){
			"":        m.compare,
			"txn":     m.txn,
			"get":     m.get,
			"list":    m.list,
			"session": m.session,
			"end":     m.end,
		})
	})
}

var modelKeys = rapid.SampledFrom([]string{"a", "a/b", "a/b/c", "a/d", "ab", "live/a", "live/b", "c"})

func (m *model) compare(r *rapid.T) {
	list, err := m.s.List(r.Context(), "", "", 0)
	require.NoError(r, err)
	if diff := cmp.Diff(m.sorted(""), list); diff != "" {
		r.Fatal(diff)
	}
}

func (m *model) sorted(prefix string) []store.Entry {
	var list []store.Entry
	for k, e := range m.entries {
		if strings.HasPrefix(k, prefix) {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	return list
}

func (m *model) txn(r *rapid.T) {
	var checks []store.Precondition
	hold := true
	for _, k := range rapid.SliceOfN(modelKeys, 0, 3).Draw(r, "checked") {
		index := rapid.SampledFrom([]uint64{m.entries[k].Index, m.entries[k].Index, 0, m.newest}).Draw(r, "index")
		checks = append(checks, store.Precondition{Key: k, Index: index})
		hold = hold && index == m.entries[k].Index
	}
	var writes []store.Write
	dead := false
	for _, k := range rapid.SliceOfNDistinct(modelKeys, 0, 4, rapid.ID).Draw(r, "written") {
		w := store.Write{Key: k, Delete: rapid.Bool().Draw(r, "delete")}
		bound, known := strings.HasPrefix(k, store.LivePrefix), slices.Concat(m.live, m.dead)
		if bound && len(known) == 0 {
			w.Delete = true
		}
		if !w.Delete {
			w.Value = rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(r, "value")
		}
		if bound && !w.Delete {
			w.Session = rapid.SampledFrom(known).Draw(r, "session")
			dead = dead || slices.Contains(m.dead, w.Session)
		}
		writes = append(writes, w)
	}
	index, err := m.s.Txn(r.Context(), checks, writes)
	switch {
	case !hold && dead:
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
			r.Fatalf("stale checks and a dead session: %v", err)
		}
	case !hold && !errors.Is(err, store.ErrConflict):
		r.Fatalf("stale checks: %v", err)
	case hold && dead && !errors.Is(err, store.ErrNotFound):
		r.Fatalf("a dead session: %v", err)
	case hold && !dead && err != nil:
		r.Fatal(err)
	case hold && !dead && len(writes) > 0:
		if index <= m.newest {
			r.Fatalf("index %d after %d", index, m.newest)
		}
		m.apply(writes, index)
	}
}

func (m *model) apply(writes []store.Write, index uint64) {
	m.newest = index
	for _, w := range writes {
		delete(m.owner, w.Key)
		if w.Delete {
			delete(m.entries, w.Key)
			continue
		}
		m.entries[w.Key] = store.Entry{Key: w.Key, Value: w.Value, Index: index}
		if w.Session != "" {
			m.owner[w.Key] = w.Session
		}
	}
}

func (m *model) get(r *rapid.T) {
	key := modelKeys.Draw(r, "key")
	e, err := m.s.Get(r.Context(), key)
	want, there := m.entries[key]
	if there != (err == nil) || err != nil && !errors.Is(err, store.ErrNotFound) {
		r.Fatalf("get %s: %v", key, err)
	}
	if diff := cmp.Diff(want, e); there && diff != "" {
		r.Fatal(diff)
	}
}

func (m *model) list(r *rapid.T) {
	prefix := rapid.SampledFrom([]string{"", "a", "a/", "a/b", "live/", "zz"}).Draw(r, "prefix")
	after := rapid.OneOf(rapid.Just(""), modelKeys).Draw(r, "after")
	limit := rapid.IntRange(0, 4).Draw(r, "limit")
	want := slices.DeleteFunc(m.sorted(prefix), func(e store.Entry) bool { return e.Key <= after })
	if limit > 0 && len(want) > limit {
		want = want[:limit]
	}
	list, err := m.s.List(r.Context(), prefix, after, limit)
	require.NoError(r, err)
	if diff := cmp.Diff(keysOf(want), keysOf(list)); diff != "" {
		r.Fatal(diff)
	}
}

func (m *model) session(r *rapid.T) {
	if len(m.live) == 3 {
		r.Skip("enough sessions")
	}
	id, err := m.s.Session(r.Context(), ttlOf(m.s))
	require.NoError(r, err)
	m.live = append(m.live, id)
}

func (m *model) end(r *rapid.T) {
	if len(m.live) == 0 {
		r.Skip("no session")
	}
	i := rapid.IntRange(0, len(m.live)-1).Draw(r, "which")
	id := m.live[i]
	require.NoError(r, m.s.End(r.Context(), id))
	m.live = slices.Delete(slices.Clone(m.live), i, i+1)
	m.dead = append(m.dead, id)
	for k, owner := range m.owner {
		if owner == id {
			delete(m.owner, k)
			delete(m.entries, k)
		}
	}
	// The end of a session has an index like every change, so the next index is above it.
}

func (m *model) endAll(r *rapid.T) {
	for _, id := range m.live {
		assert.NoError(r, m.s.End(r.Context(), id))
	}
}
