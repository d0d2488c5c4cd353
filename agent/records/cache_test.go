package records

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// cacheModel is the expected content of a cache: the newest record of each dataset that was seen, and the names and
// lists that follow only from these records.
type cacheModel struct {
	records map[uuid.UUID]api.IndexedDataset
	used    map[string]Spellings
	dirty   map[uuid.UUID]bool
}

func (m *cacheModel) apply(d dataset.Dataset, index uint64) (changed bool) {
	old, known := m.records[d.ID]
	switch {
	case known && (d.Epoch < old.Epoch || index != 0 && index <= old.Index):
		return false
	case known && cmp.Equal(old.Dataset, d):
		old.Index = max(old.Index, index)
		m.records[d.ID] = old
		return false
	}
	m.records[d.ID] = api.IndexedDataset{Dataset: d, Index: index}
	m.dirty[d.ID] = true
	return true
}

// live returns the datasets that have a name. There is one, unless the known records of two datasets are from
// different moments.
func (m *cacheModel) live(name string) (ids []uuid.UUID) {
	for id, d := range m.records {
		if d.Volume == name && d.State == dataset.StateReady {
			ids = append(ids, id)
		}
	}
	return ids
}

// spelt returns how the engine of the node that created a dataset spells it.
func (m *cacheModel) spelt(d dataset.Dataset) []string {
	if r := m.used[d.Volume]; r.Dataset == d.ID {
		return r.Used
	}
	return []string{d.RequestedAs}
}

// nameOf gives each two datasets the same name, as when a name is reused.
func nameOf(i int) string { return fmt.Sprintf("vol-%d", i/2) }

// TestCache compares the cache with the model after any sequence of records of control, in order or not, and of
// spellings that the engine uses.
func TestCache(t *testing.T) {
	node := uuid.New()
	var ids [4]uuid.UUID
	for i := range ids {
		ids[i] = uuid.New()
	}
	rapid.Check(t, func(rt *rapid.T) {
		c := NewCache()
		m := &cacheModel{records: map[uuid.UUID]api.IndexedDataset{}, used: map[string]Spellings{}, dirty: map[uuid.UUID]bool{}}
		check := func() {
			for i, id := range ids {
				want, known := m.records[id]
				if got, ok := c.Dataset(id); ok != known || !cmp.Equal(got, want.Dataset) || c.Index(id) != want.Index {
					rt.Fatalf("dataset %d: %+v at %d, want %+v", i, got, c.Index(id), want)
				}
			}
			var want, listed []string
			for _, name := range []string{nameOf(0), nameOf(2)} {
				live := m.live(name)
				got, ok := c.Volume(name)
				if ok != (len(live) > 0) || ok && !slices.Contains(live, got.ID) {
					rt.Fatalf("volume %s: %+v, %t; want one of %v", name, got, ok, live)
				}
				if ok {
					want = append(want, m.spelt(got)...)
				} else if _, here := m.records[m.used[name].Dataset]; !here { // its home is elsewhere
					want = append(want, m.used[name].Used...)
				}
			}
			for _, l := range c.List(node) {
				listed = append(listed, l.Spelling)
			}
			if slices.Sort(want); !slices.Equal(slices.Sorted(slices.Values(listed)), want) {
				rt.Fatalf("listed %v, want %v", listed, want)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { check() },
			"apply": func(rt *rapid.T) {
				i := rapid.IntRange(0, len(ids)-1).Draw(rt, "dataset")
				d := dataset.Dataset{
					ID: ids[i], Volume: nameOf(i), RequestedAs: nameOf(i) + "@gold", RequestedBy: node,
					State:     rapid.SampledFrom([]dataset.State{dataset.StateReady, dataset.StateReady, dataset.StateTrashed, dataset.StatePurging}).Draw(rt, "state"),
					Protected: rapid.Bool().Draw(rt, "protected"),
					Epoch:     rapid.Uint64Range(1, 3).Draw(rt, "epoch"),
				}
				index := rapid.Uint64Range(0, 8).Draw(rt, "index")
				if got, want := c.Apply(d, index), m.apply(d, index); got != want {
					rt.Fatalf("changed: %t, want %t", got, want)
				}
			},
			"remove": func(rt *rapid.T) {
				id := rapid.SampledFrom(ids[:]).Draw(rt, "dataset")
				c.Remove(id)
				if _, known := m.records[id]; known {
					delete(m.records, id)
					m.dirty[id] = true
				}
			},
			"use": func(rt *rapid.T) {
				i := rapid.IntRange(0, len(ids)-1).Draw(rt, "dataset")
				r := Spellings{Dataset: ids[i], Used: []string{nameOf(i), nameOf(i) + "@silver"}[:rapid.IntRange(1, 2).Draw(rt, "spellings")]}
				c.SetSpellings(nameOf(i), r)
				m.used[nameOf(i)] = r
			},
			"drop": func(rt *rapid.T) {
				i := rapid.IntRange(0, len(ids)-1).Draw(rt, "dataset")
				had := m.used[nameOf(i)].Dataset == ids[i]
				if got := c.ForgetSpellings(ids[i]); len(got) == 1 != had {
					rt.Fatalf("dropped: %v, want %t", got, had)
				}
				if had {
					delete(m.used, nameOf(i))
				}
			},
			"flush": func(rt *rapid.T) {
				got := c.TakeChanged(len(ids))
				if want := slices.Collect(maps.Keys(m.dirty)); len(got) != len(want) {
					rt.Fatalf("%d records to be copied, want %d", len(got), len(want))
				}
				for id, d := range got {
					want, known := m.records[id]
					if (d != nil) != known || d != nil && !cmp.Equal(*d, want) {
						rt.Fatalf("copy of %s: %+v, want %+v", id, d, want)
					}
				}
				if rapid.Bool().Draw(rt, "fails") {
					c.ReturnChanged(got)
					return
				}
				clear(m.dirty)
			},
		})
	})
}

// Two datasets had one name, one after the other: the name belongs to the live one, whichever record comes first.
func TestCacheNameReused(t *testing.T) {
	old := dataset.Dataset{ID: uuid.New(), Volume: "db", State: dataset.StateReady, Epoch: 1}
	trashed := old
	trashed.State = dataset.StateTrashed
	next := dataset.Dataset{ID: uuid.New(), Volume: "db", State: dataset.StateReady, Epoch: 1}
	for name, order := range map[string][]api.IndexedDataset{
		"deleted, then made":  {{Dataset: old, Index: 1}, {Dataset: trashed, Index: 2}, {Dataset: next, Index: 3}},
		"heard the other way": {{Dataset: old, Index: 1}, {Dataset: next, Index: 3}, {Dataset: trashed, Index: 2}},
	} {
		c := NewCache()
		for _, d := range order {
			c.Apply(d.Dataset, d.Index)
		}
		if got, ok := c.Volume("db"); !ok || got.ID != next.ID {
			t.Errorf("%s: %+v, %t", name, got, ok)
		}
		c.Remove(old.ID)
		if got, ok := c.Volume("db"); !ok || got.ID != next.ID {
			t.Errorf("%s, then purged: %+v, %t", name, got, ok)
		}
	}
}

// After a rename, the name and the alias find the volume, the list has it once for each spelling that the engine used,
// and the spellings of the former name are still known. The alias finds nothing after it has ended.
func TestCacheAliases(t *testing.T) {
	node := uuid.New()
	d := dataset.Dataset{ID: uuid.New(), Volume: "old", RequestedAs: "old", State: dataset.StateReady, Epoch: 1}
	used := Spellings{Dataset: d.ID, Used: []string{"old", "old@gold"}, Podman: true}
	c := NewCache()
	c.Apply(d, 1)
	c.SetSpellings("old", used)
	d.Volume = "new"
	d.Aliases = []string{"old"}
	c.Apply(d, 2)
	for _, name := range d.Names() {
		if got, ok := c.Volume(name); !ok || got.ID != d.ID || got.Volume != "new" {
			t.Errorf("%s finds %+v, %t", name, got, ok)
		}
	}
	if got := c.SpellingsOf(d, node); !slices.Equal(got, used.Used) || !c.UsedByPodman(d) {
		t.Errorf("spellings %v, want %v; used by Podman: %t", got, used.Used, c.UsedByPodman(d))
	}
	want := []ListEntry{{"new", "old", d.ID}, {"new", "old@gold", d.ID}}
	if got := c.List(node); !slices.Equal(got, want) {
		t.Errorf("the list is %v, want %v", got, want)
	}
	used.Used = append(used.Used, "new")
	c.SetSpellings("new", used) // this has the spellings under the alias too
	if got := c.SpellingsOf(d, node); !slices.Equal(got, used.Used) {
		t.Errorf("after a use of the new name: spellings %v, want %v", got, used.Used)
	}
	d.Aliases = nil
	c.Apply(d, 3)
	if got, ok := c.Volume("old"); ok {
		t.Errorf("the alias has ended and finds %+v", got)
	}
}

// A volume of another node is listed once for each spelling, also if the record of a copy has its new name. Spellings
// whose alias was dropped, and those whose name another volume has got, are not listed.
func TestListOfRenamedVolumes(t *testing.T) {
	node := uuid.New()
	kept := dataset.Dataset{
		ID: uuid.New(), Volume: "new", Aliases: []string{"old"}, RequestedAs: "old@gold", State: dataset.StateReady,
	}
	unused := dataset.Dataset{ID: uuid.New(), Volume: "web", RequestedAs: "page@gold", State: dataset.StateReady}
	here := dataset.Dataset{ID: uuid.New(), Volume: "taken", RequestedAs: "taken@gold", State: dataset.StateReady}
	far := uuid.New()
	c := NewCache()
	c.Apply(here, 1)
	c.SetCopy(kept.ID, &api.AssignedCopy{Record: &kept})
	c.SetCopy(unused.ID, &api.AssignedCopy{Record: &unused})
	c.SetSpellings("old", Spellings{Dataset: kept.ID, Used: []string{"old", "older@gold"}})
	c.SetSpellings("new", Spellings{Dataset: kept.ID, Used: []string{"old", "new"}})
	c.SetSpellings("far", Spellings{Dataset: far, Used: []string{"far", "taken@gold"}})
	want := []ListEntry{
		{"far", "far", far}, {"new", "new", kept.ID}, {"new", "old", kept.ID}, {"taken", "taken@gold", here.ID},
		{"web", "web", unused.ID},
	}
	got := c.List(node)
	slices.SortFunc(got, func(x, y ListEntry) int { return strings.Compare(x.Spelling, y.Spelling) })
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("list (-want +got):\n%s", d)
	}
	kept.Aliases = nil
	c.SetCopy(kept.ID, &api.AssignedCopy{Record: &kept})
	c.SetSpellings("new", Spellings{Dataset: kept.ID, Used: []string{}})
	if got := c.List(node); !slices.Contains(got, ListEntry{"new", "new", kept.ID}) || len(got) != 4 {
		t.Errorf("after the alias was dropped: %v", got)
	}
}

// TestSpelledWithName: the records are found by each name in their spellings, and are not found any more after they were
// replaced or removed.
func TestSpelledWithName(t *testing.T) {
	c := NewCache()
	one, two := uuid.New(), uuid.New()
	c.SetSpellings("new", Spellings{Dataset: one, Used: []string{"old", "old@gold", "new"}})
	c.SetSpellings("other", Spellings{Dataset: two, Used: []string{"old@silver"}})
	want := func(name string, datasets ...uuid.UUID) {
		t.Helper()
		found := map[uuid.UUID]bool{}
		list := c.SpelledWithName(name)
		for _, r := range list {
			found[r.Dataset] = true
		}
		for _, id := range datasets {
			if !found[id] || len(list) != len(datasets) {
				t.Errorf("%s: found %+v, want %v", name, list, datasets)
			}
		}
		if len(datasets) == 0 && len(list) != 0 {
			t.Errorf("%s: found %+v, want none", name, list)
		}
	}
	want("old", one, two)
	want("new", one)
	want("other") // no spelling has it
	c.SetSpellings("new", Spellings{Dataset: one, Used: []string{"new@gold"}})
	want("old", two)
	want("new", one)
	c.RemoveSpellings("other")
	c.RemoveSpellings("other")
	want("old")
	c.ForgetSpellings(one)
	want("new")
	if len(c.spelledWith)+len(c.spelled)+len(c.spellings) != 0 {
		t.Errorf("left: %v, %v, %v", c.spelledWith, c.spelled, c.spellings)
	}
}
