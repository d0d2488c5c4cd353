package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// found is what lies beside the data of everything in a store.
func (a *agent) found() (all []api.Found) {
	a.Helper()
	st := a.check()
	for _, d := range st.datasets {
		f := api.Found{Pool: d.Pool, Dataset: d}
		for _, s := range st.snapshots {
			if s.Dataset == d.ID {
				f.Snapshots = append(f.Snapshots, s)
			}
		}
		all = append(all, f)
	}
	return all
}

func (a *agent) rebuild(found ...api.Found) map[uuid.UUID]api.Rebuilt {
	a.Helper()
	list, err := a.Rebuild(a.ctx, a.id, found)
	if err != nil || len(list) != len(found) {
		a.Fatalf("%d of %d: %v", len(list), len(found), err)
	}
	out := map[uuid.UUID]api.Rebuilt{}
	for _, r := range list {
		out[r.Dataset] = r
	}
	return out
}

// The store is lost: every name, everything in the trash and every snapshot
// comes back from what lies beside the data.
func TestRebuild(t *testing.T) {
	old := newEnv(t)
	a := old.agent("alpha")
	db := a.create("db@gold")
	for i := range 150 { // more than fit in a transaction
		a.snapshot("db", fmt.Sprintf("s%d", i))
	}
	a.create("trashed@silver")
	trashed := a.delete("trashed")
	a.create("kept@kept")
	kept := a.delete("kept")
	a.create("going@fleeting")
	a.delete("going")
	found := a.found()

	e := newEnv(t)
	e.clock.Advance(1000 * time.Hour) // long after the trash's end
	b := &agent{env: e, id: a.id, incarnation: uuid.New(), pools: a.pools}
	b.register("alpha")
	actions := map[string]string{}
	for _, r := range b.rebuild(found...) {
		actions[r.Volume] = r.Action
	}
	want := map[string]string{"db": "restored", "trashed": "trashed", "kept": "trashed", "going": "trashed"}
	for v, action := range want {
		if actions[v] != action {
			t.Errorf("%s: %s, not %s", v, actions[v], action)
		}
	}
	st := e.check()
	if len(st.datasets) != 4 || len(st.snapshots) != 150 {
		t.Errorf("%d datasets, %d snapshots", len(st.datasets), len(st.snapshots))
	}
	v := e.volume("db")
	if v.ID != db.ID || v.Epoch != db.Epoch+1 || v.Snapshots != 150 || v.Profile.Name != "gold" || v.Spelling != "db@gold" {
		t.Errorf("%+v", v)
	}
	if got := st.datasets[trashed.ID].Trash; !got.Until.Equal(e.clock.Now().Add(72 * time.Hour)) {
		t.Errorf("nobody could have it back meanwhile: %+v", got)
	}
	if got := st.datasets[kept.ID].Trash; !got.Until.IsZero() {
		t.Errorf("%+v", got)
	}
	e.rounds()
	if st := e.check(); st.datasets[trashed.ID].State != dataset.StateTrashed {
		t.Error("what came back is destroyed at once")
	}

	before := e.dump()
	for _, r := range b.rebuild(found...) {
		if r.Action != "known" || r.Note != "" {
			t.Errorf("again: %+v", r)
		}
	}
	if after := e.dump(); len(after) != len(before) {
		t.Errorf("again: %d keys, not %d", len(after), len(before))
	}
	// It is as good as new.
	b.snapshot("db", "after")
	b.delete("db")
	e.submit(api.Request{Kind: dataset.OpUndelete, Volume: "trashed"})
	e.check()
}

func TestRebuildOfTakenNames(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	long := strings.Repeat("long-", 25) + "abc" // 128 characters
	mine, mineLong := a.create("db"), a.create(long)
	id := uuid.MustParse("abcd0000-0000-4000-8000-000000000001")
	a.create("db-" + id.String()[:8])
	a.create("db-" + id.String()[:13])
	f := api.Found{Pool: a.pools[0].ID, Dataset: mine}
	f.Dataset.ID = id
	g := api.Found{Pool: a.pools[0].ID, Dataset: mineLong}
	g.Dataset.ID = uuid.MustParse("abcd0000-0000-4000-8000-000000000002")
	got := a.rebuild(f, g)
	if r := got[id]; r.Action != "renamed" || r.Volume != "db-"+id.String()[:18] || !strings.Contains(r.Note, mine.ID.String()) {
		t.Errorf("%+v", r)
	}
	if r := got[g.Dataset.ID]; r.Action != "renamed" || r.Volume != long[:119]+"-abcd0000" || dataset.CheckName(r.Volume) != nil {
		t.Errorf("%+v", r)
	}
	if v := e.volume("db"); v.ID != mine.ID {
		t.Error("the name was taken away")
	}
	if v := e.volume(got[id].Volume); v.ID != id || v.Spelling != v.Volume || v.SpelledBy != uuid.Nil {
		t.Errorf("%+v", v.Dataset)
	}
	for _, r := range a.rebuild(f, g) {
		if r.Action != "known" || r.Volume != got[r.Dataset].Volume {
			t.Errorf("again: %+v", r)
		}
	}
	e.check()
}

func TestRebuildOfOddities(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	d := a.create("db")
	s := a.snapshot("db", "one")
	// A copy of the pool on another node is not the dataset.
	copied := api.Found{Pool: b.pools[0].ID, Dataset: d, Snapshots: []dataset.Snapshot{s, s}}
	copied.Snapshots[1].ID = uuid.New()
	if r := b.rebuild(copied)[d.ID]; r.Action != "known" || !strings.Contains(r.Note, a.id.String()) {
		t.Errorf("%+v", r)
	}
	if v := e.volume("db"); v.Home != a.id || v.Snapshots != 1 {
		t.Errorf("%+v", v)
	}
	// Pools that are not the node's.
	for _, f := range []api.Found{{Pool: a.pools[0].ID, Dataset: d}, {Pool: uuid.New(), Dataset: d}, {Pool: b.pools[0].ID}} {
		_, err := b.Rebuild(e.ctx, b.id, []api.Found{f})
		refused(t, err, dataset.ErrInvalid, "rebuild")
	}
	// Names that are none, and snapshots' names that are taken or none.
	odd := api.Found{Pool: b.pools[0].ID, Dataset: d}
	odd.Dataset.ID, odd.Dataset.Volume = uuid.New(), "../../etc"
	for _, name := range []string{"one", "one", "../x", ""} {
		x := s
		x.ID, x.Name, x.Dataset = uuid.New(), name, d.ID // of another, as it says
		odd.Snapshots = append(odd.Snapshots, x)
	}
	if r := b.rebuild(odd)[odd.Dataset.ID]; r.Action != "trashed" {
		t.Errorf("%+v", r)
	}
	list, err := e.Snapshots(e.ctx, odd.Dataset.ID.String(), api.Page{})
	if err != nil || len(list.Items) != 4 {
		t.Errorf("%d snapshots, %v", len(list.Items), err)
	}
	_, err = e.Submit(e.ctx, api.Request{Kind: dataset.OpUndelete, Volume: odd.Dataset.ID.String()})
	refused(t, err, dataset.ErrInvalid, "bad volume name")
	e.submit(api.Request{Kind: dataset.OpUndelete, Volume: odd.Dataset.ID.String(), Name: "odd"})
	// New snapshots are counted, and seen by the background work.
	odd.Snapshots[0].ID = uuid.New()
	b.rebuild(odd)
	if v := e.volume("odd"); v.Snapshots != 5 {
		t.Errorf("%d snapshots", v.Snapshots)
	}
	odd.Snapshots[0].ID = uuid.Nil
	_, err = b.Rebuild(e.ctx, b.id, []api.Found{odd})
	refused(t, err, dataset.ErrInvalid, "snapshot")
	e.check()
}

// A crash at any step of a rebuild is finished by the next.
func TestRebuildCutShort(t *testing.T) {
	old := newEnv(t)
	a := old.agent("alpha")
	a.create("db")
	for i := range 40 {
		a.snapshot("db", fmt.Sprint("s-", i))
	}
	a.create("db2")
	found := a.found()
	for n := 1; ; n++ {
		e := newEnv(t)
		b := &agent{env: e, id: a.id, incarnation: uuid.New(), pools: a.pools}
		b.register("alpha")
		e.spy.fail(n, n%2 == 0)
		_, err := b.Rebuild(e.ctx, b.id, found)
		e.spy.fail(0, false)
		if err == nil {
			break
		}
		refused(t, err, dataset.ErrUnavailable)
		e.check()
		b.rebuild(found...)
		if st := e.check(); len(st.datasets) != 2 || len(st.snapshots) != 40 {
			t.Fatalf("cut short at %d: %d datasets, %d snapshots", n, len(st.datasets), len(st.snapshots))
		}
		n += 6
	}
}

// A disk of a host that is gone, and its store, come into another host: the volumes
// are that one's, unless the old one is still heard.
func TestRebuildOnAnotherHost(t *testing.T) {
	for _, alive := range []bool{false, true} {
		e := newEnv(t)
		a := e.agent("alpha")
		db := a.create("db@gold")
		a.snapshot("db", "one")
		a.create("old")
		old := a.delete("old")
		found := a.found()
		if !alive {
			e.agents = nil
			e.restart()
		}
		b := &agent{env: e, id: uuid.New(), incarnation: uuid.New(), pools: a.pools}
		b.register("beta")
		for _, r := range b.rebuild(found...) {
			if strings.Contains(r.Note, "left alone") != alive {
				t.Errorf("alpha alive %t: %+v", alive, r)
			}
		}
		v := e.volume("db")
		if alive {
			if v.Home != a.id || v.Epoch != db.Epoch {
				t.Errorf("%+v", v)
			}
			continue
		}
		e.check()
		if v.Home != b.id || v.Epoch != db.Epoch+1 || v.Snapshots != 1 || v.Lease == nil || v.Lease.Node != b.id {
			t.Errorf("%+v", v)
		}
		e.submit(api.Request{Kind: dataset.OpUndelete, Volume: old.ID.String()})
		b.snapshot("old", "two")
		b.delete("db")
	}
}

// A copy in another pool of the home, as a disk that was copied has, is left alone, however late its record is.
func TestRebuildOfACopyInAnotherPool(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	d := a.create("db@bronze")
	copied := api.Found{Pool: a.pools[1].ID, Dataset: d, Index: 1 << 40}
	copied.Dataset.Pool = copied.Pool
	if got := a.rebuild(copied)[d.ID]; got.Action != "known" || !strings.Contains(got.Note, "this copy is left alone") {
		t.Errorf("%+v", got)
	}
	if v := e.volume("db"); v.Pool != d.Pool || v.Epoch != d.Epoch {
		t.Errorf("it is on record in pool %s at epoch %d", v.Pool, v.Epoch)
	}
}
