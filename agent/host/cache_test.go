package host

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

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
	used    map[string]SpellingRecord
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
		m := &cacheModel{records: map[uuid.UUID]api.IndexedDataset{}, used: map[string]SpellingRecord{}, dirty: map[uuid.UUID]bool{}}
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
				r := SpellingRecord{Dataset: ids[i], Used: []string{nameOf(i), nameOf(i) + "@silver"}[:rapid.IntRange(1, 2).Draw(rt, "spellings")]}
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
	used := SpellingRecord{Dataset: d.ID, Used: []string{"old", "old@gold"}, Podman: true}
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
	c.SetSpellings("old", SpellingRecord{Dataset: kept.ID, Used: []string{"old", "older@gold"}})
	c.SetSpellings("new", SpellingRecord{Dataset: kept.ID, Used: []string{"old", "new"}})
	c.SetSpellings("far", SpellingRecord{Dataset: far, Used: []string{"far", "taken@gold"}})
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
	c.SetSpellings("new", SpellingRecord{Dataset: kept.ID, Used: []string{}})
	if got := c.List(node); !slices.Contains(got, ListEntry{"new", "new", kept.ID}) || len(got) != 4 {
		t.Errorf("after the alias was dropped: %v", got)
	}
}

// TestSpelledWithName: the records are found by each name in their spellings, and are not found any more after they were
// replaced or removed.
func TestSpelledWithName(t *testing.T) {
	c := NewCache()
	one, two := uuid.New(), uuid.New()
	c.SetSpellings("new", SpellingRecord{Dataset: one, Used: []string{"old", "old@gold", "new"}})
	c.SetSpellings("other", SpellingRecord{Dataset: two, Used: []string{"old@silver"}})
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
	c.SetSpellings("new", SpellingRecord{Dataset: one, Used: []string{"new@gold"}})
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

// TestEntryKeepsEveryField sets each field of a record alone, and then all of them: the cache returns the same record.
// A new field of dataset.Dataset must get a place in entry.
func TestEntryKeepsEveryField(t *testing.T) {
	fields := reflect.VisibleFields(reflect.TypeFor[api.IndexedDataset]())
	all := api.IndexedDataset{}
	for _, f := range fields {
		if f.Anonymous {
			continue
		}
		one := api.IndexedDataset{}
		setField(t, reflect.ValueOf(&one).Elem().FieldByIndex(f.Index))
		setField(t, reflect.ValueOf(&all).Elem().FieldByIndex(f.Index))
		if got := throughCache(one); !reflect.DeepEqual(got, one) {
			t.Errorf("field %s: got %+v, want %+v", f.Name, got, one)
		}
	}
	if got := throughCache(all); !reflect.DeepEqual(got, all) {
		t.Errorf("all fields: got %+v, want %+v", got, all)
	}
}

func throughCache(d api.IndexedDataset) api.IndexedDataset {
	c := NewCache()
	c.Load(d)
	return c.datasets[d.ID].indexed()
}

// setField gives a field a value that is not zero.
func setField(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(1, 0)))
		return
	case uuid.UUID:
		v.Set(reflect.ValueOf(uuid.New()))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
	case reflect.Struct: // the profile
		setField(t, v.Field(0))
	default:
		t.Fatalf("no value for a field of kind %s", v.Kind())
	}
}

func TestRecordsShareEqualProfiles(t *testing.T) {
	c := NewCache()
	gold := dataset.Profile{Name: "gold", Revision: "1", Owner: &dataset.Owner{}}
	ids := make([]uuid.UUID, 3)
	for i := range ids {
		ids[i] = uuid.New()
		p := gold
		p.Owner = &dataset.Owner{}
		if i == 2 {
			p.Size = dataset.GiB // the same revision with an option of the create
		}
		c.Load(api.IndexedDataset{Dataset: dataset.Dataset{ID: ids[i], Volume: fmt.Sprint("v", i), Profile: p}})
	}
	if a, b := c.datasets[ids[0]].profile, c.datasets[ids[1]].profile; a != b || a.users != 2 {
		t.Errorf("two records with the same profile have the profiles %p and %p, with %d users", a, b, a.users)
	}
	if d, _ := c.Dataset(ids[2]); d.Profile.Size != dataset.GiB {
		t.Errorf("a record with another size has the profile of others: %+v", d.Profile)
	}
	d, _ := c.Dataset(ids[0])
	d.Profile.Name = "silver"
	c.Apply(d, 0)
	if got := len(c.profiles[profileKey{"gold", "1"}]); got != 2 {
		t.Errorf("%d profiles gold are in the cache, want 2", got)
	}
	for _, id := range ids {
		c.Remove(id)
	}
	if len(c.profiles) != 0 {
		t.Errorf("profiles of no record stay in the cache: %v", c.profiles)
	}
}
