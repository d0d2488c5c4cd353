package control_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/fakes"
)

// memory is a store for one test. Copying it is cheap.
type memory struct {
	store.Store // of keys that are not read
	mu          sync.Mutex
	entries     map[string]store.Entry
	index       uint64
}

func newMemory(values map[string]string) *memory {
	m := &memory{entries: map[string]store.Entry{}, index: 1}
	for k, v := range values {
		m.entries[k] = store.Entry{Key: k, Value: []byte(v), Index: m.index}
	}
	return m
}

func (m *memory) Get(_ context.Context, key string) (store.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.entries[key]; ok {
		return e, nil
	}
	return store.Entry{}, store.ErrNotFound
}

func (m *memory) GetMany(_ context.Context, keys []string) (list []store.Entry, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		e := m.entries[key]
		e.Key = key
		list = append(list, e)
	}
	return list, nil
}

func (m *memory) List(_ context.Context, prefix, after string, limit int) (list []store.Entry, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(m.entries)) {
		if strings.HasPrefix(k, prefix) && k > after {
			list = append(list, m.entries[k])
		}
		if limit > 0 && len(list) == limit {
			break
		}
	}
	return list, nil
}

func (m *memory) Txn(_ context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	if err := store.CheckTxn(checks, writes); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range checks {
		if m.entries[c.Key].Index != c.Index {
			return 0, store.ErrConflict
		}
	}
	m.index++
	for _, w := range writes {
		if w.Delete {
			delete(m.entries, w.Key)
		} else {
			m.entries[w.Key] = store.Entry{Key: w.Key, Value: w.Value, Index: m.index}
		}
	}
	return m.index, nil
}

// C7: whatever is stored under any key, every call returns a result or a one-line error and never panics. The error
// names the key of the damaged record.
func FuzzStoreValues(f *testing.F) {
	sc := newScene(controltest.New(f))
	good := sc.Dump()
	keys := slices.Sorted(maps.Keys(good))
	for i, k := range keys {
		v := good[k]
		for _, bad := range []string{
			"", "null", "{}", "[]", `""`, "0", "true", `{"id":null}`, `{"id":7}`, "{", strings.Repeat("[", 20000), v[:len(v)-1], v[1:],
			strings.Replace(v, `"state":"`, `"state":"x`, 1), strings.Replace(v, `"trash":{`, `"trish":{`, 1), strings.Replace(v, `"ready"`, `"trashed"`, 1),
			strings.Replace(v, `"ready"`, `"purging"`, 1), strings.Replace(v, `"dataset":`, `"dotaset":`, 1), strings.Replace(v, `"snapshot":`, `"snopshot":`, 1),
			good[keys[(i+1)%len(keys)]], good[keys[(i+7)%len(keys)]],
			`{"id":"` + sc.db.ID.String() + `"}`, `{"dataset":"` + sc.db.ID.String() + `"}`, `{"dataset":"` + uuid.NewString() + `","snapshot":true}`,
		} {
			f.Add(uint16(i), "", []byte(bad))
		}
	}
	for _, k := range []string{"trash/x", "by-uuid/x", "by-uuid/" + strings.ToUpper(uuid.NewString()), "names/ghost", "home/x", "snapshots/x/y", "operations/x", "datasets/", "work/" + sc.ID.String() + "/x"} {
		f.Add(uint16(0), k, []byte(`{"id":"`+uuid.NewString()+`"}`))
	}
	f.Fuzz(func(t *testing.T, n uint16, key string, value []byte) {
		if key == "" {
			key = keys[int(n)%len(keys)]
		}
		values := maps.Clone(good)
		values[key] = string(value)
		for name, call := range calls(on2(t, sc, newMemory(values))) {
			judge(t, key, name, call())
		}
		e := on2(t, sc, newMemory(values))
		e.Round()
		e.AdvanceClock(e.TrashTime() + housekeeping.OperationRetention)
		e.Round()
		for _, err := range e.Failures {
			judge(t, key, "background", err)
		}
		_, err := e.Volume(e.Ctx, "db")
		if needed := []string{record.NameKey("db"), record.DatasetKey(sc.db.ID), record.LeaseKey(sc.db.ID), record.NodeKey(sc.ID), record.PoolKey(sc.db.Pool)}; slices.Contains(needed, key) && values[key] != good[key] && dataset.KindOf(err) == dataset.ErrNotFound {
			t.Errorf("damage of %s looks like absence: %v", key, err)
		}
	})
}

// on2 returns the same scene on another store.
func on2(t controltest.TB, sc scene, st store.Store) scene {
	e := &controltest.Control{TB: t, Ctx: sc.Ctx, Spy: controltest.NewSpyStore(st), Clock: &controltest.Clock{Clock: fakes.NewClock(controltest.Start)}, ProfileSet: sc.ProfileSet}
	e.Restart()
	a := *sc.Agent
	a.Control, sc.Agent = e, &a
	return sc
}

func judge(t *testing.T, key, name string, err error) {
	t.Helper()
	switch kind := dataset.KindOf(err); {
	case err == nil:
	case strings.Contains(err.Error(), "\n"):
		t.Errorf("%s: more than one line: %q", name, err)
	case kind == dataset.ErrInternal || kind == dataset.ErrUnavailable:
		t.Errorf("%s, with %s damaged: %v (%s)", name, key, err, kind.Code)
	case kind == dataset.ErrCorrupt && !strings.Contains(err.Error(), dataset.Clip(key)):
		t.Errorf("%s does not say that %s is damaged: %v", name, key, err)
	}
}
