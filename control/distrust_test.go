package control

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/dataset"
)

func (a *agent) distrust(why string) {
	a.Helper()
	if err := a.Heartbeat(a.ctx, a.id, api.Heartbeat{Incarnation: a.incarnation, Distrust: why}); err != nil {
		a.Fatalf("heartbeat: %v", err)
	}
}

// While a node has seen later changes than the store has, nothing is destroyed: what
// the store says of other nodes' datasets is as old.
func TestDistrustedTrashStays(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("mine")
	b.create("theirs")
	mine, theirs := a.delete("mine"), b.delete("theirs")
	e.rounds()
	a.distrust("it is older")
	e.tick(100 * time.Hour)
	st := e.check()
	if got := st.datasets[mine.ID].State; got != dataset.StateTrashed {
		t.Errorf("a dataset of a node that does not believe the store is %s", got)
	}
	if got := st.datasets[theirs.ID].State; got != dataset.StateTrashed {
		t.Errorf("a dataset of another node is %s", got)
	}
	a.distrust("")
	e.tick(membership.HouseEvery)
	if got := e.check().datasets[mine.ID].State; got != dataset.StatePurging {
		t.Errorf("after the store was rebuilt it is %s", got)
	}
}

// An older store is told what a node has seen since: what was in the trash has
// its name again, what was live is in the trash, and what is as the store has it
// stays so.
func TestRebuildOfOlderStore(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	back, gone, same := a.create("back"), a.create("gone"), a.create("same")
	a.delete("back")
	later := e.volume("same").Dataset
	later.Protected = true
	found := func(d dataset.Dataset, state dataset.State, index uint64) api.Found {
		d.State = state
		return api.Found{Pool: d.Pool, Dataset: d, Index: index}
	}
	const seen = 1 << 40       // after all that this store has
	older := a.create("older") // than the epoch that the node has seen
	older.Epoch = 7
	list := a.rebuild(
		found(back, dataset.StateReady, seen), found(gone, dataset.StateTrashed, seen),
		found(later, dataset.StateReady, 1), found(older, dataset.StateReady, 0), found(same, dataset.StateTrashed, 0),
	)
	for id, want := range map[uuid.UUID]string{back.ID: "restored", gone.ID: "trashed", same.ID: "known", older.ID: "restored"} {
		if got := list[id]; got.Action != want {
			t.Errorf("%+v, want %s", got, want)
		}
	}
	st := e.check()
	for id, want := range map[uuid.UUID]dataset.State{back.ID: dataset.StateReady, gone.ID: dataset.StateTrashed, same.ID: dataset.StateReady} {
		if got := st.datasets[id]; got.State != want || got.Protected {
			t.Errorf("%+v, want %s", got, want)
		}
	}
	if v := e.volume("back"); v.ID != back.ID || v.Epoch != back.Epoch+1 {
		t.Errorf("%+v", v)
	}
	if v := e.volume("older"); v.Epoch != 8 {
		t.Errorf("epoch %d, want one after 7", v.Epoch)
	}
	e.tick(1000 * time.Hour)
	if got := e.check().datasets[back.ID].State; got != dataset.StateReady {
		t.Errorf("what came back from the trash is %s", got)
	}
	// The name that it had is another one's by now.
	f := found(back, dataset.StateReady, seen)
	a.delete("back")
	other := a.create("back")
	if r := a.rebuild(f)[back.ID]; r.Action != "renamed" {
		t.Errorf("%+v", r)
	}
	if v := e.volume("back"); v.ID != other.ID {
		t.Errorf("%+v", v)
	}
	e.check()
}

// A name that was used again since the backup is the newer volume's, in whatever
// order the two are found.
func TestRebuildOfReusedName(t *testing.T) {
	for _, newFirst := range []bool{false, true} {
		e := newEnv(t)
		a := e.agent("alpha")
		old := a.create("db")
		found := []api.Found{{Pool: old.Pool, Dataset: old, Index: 1 << 40}, {Pool: old.Pool, Dataset: old, Index: 1 << 40}}
		found[0].Dataset.State, found[0].Dataset.Trash = dataset.StateTrashed, &dataset.Trash{At: e.clock.Now()}
		found[1].Dataset.ID = uuid.New()
		if newFirst {
			slices.Reverse(found)
		}
		a.rebuild(found...)
		if v := e.volume("db"); v.ID == old.ID || e.check().datasets[old.ID].State != dataset.StateTrashed {
			t.Errorf("new one first %t: db is %s, the old one was %s", newFirst, v.ID, old.ID)
		}
	}
}

// While its node does not believe the store nothing is decided on it: the name
// that is free in it may be a volume's.
func TestDistrustedStoreIsNotChanged(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	a.create("gone")
	a.delete("gone")
	s := a.snapshot("db", "one")
	a.distrust("it is older")
	for _, req := range []api.Request{
		create("late"), create("copy", "from=db"), {Kind: dataset.OpDelete, Volume: "db"}, {Kind: dataset.OpUndelete, Volume: "gone"},
		{Kind: dataset.OpPurge, Volume: "gone"}, {Kind: dataset.OpUpdate, Volume: "db", Protect: yes()}, {Kind: dataset.OpUpdate, Volume: "db", Profile: "kept"},
		{Kind: dataset.OpSnapshot, Volume: "db"}, {Kind: dataset.OpSnapshotDelete, Snapshot: s.ID.String()},
		{Kind: dataset.OpRestore, Volume: "db", Snapshot: "one"},
	} {
		_, err := e.Submit(e.ctx, req)
		refused(t, err, dataset.ErrConflict, "it is older", "drover store rebuild")
		if !alone(req.Kind) {
			a.planned(req, dataset.ErrConflict, "drover store rebuild")
		}
	}
	if out := e.submit(create("db")); out.Volume == nil {
		t.Errorf("what is there as asked: %+v", out)
	}
	a.distrust("")
	a.create("late")
	e.check()
}

// What registering writes is above all that was written before.
func TestSyncTellsOfRegistration(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	for range 2 {
		a.create(uuid.NewString())
		a.register("alpha")
		s, err := a.Sync(e.ctx, a.id, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range s.Datasets {
			if d.Index >= s.Index {
				t.Errorf("dataset at %d, registered at %d", d.Index, s.Index)
			}
		}
	}
}

// Of two volumes of one name that nobody knows any more the newer one has it.
func TestRebuildOfOneNameTwice(t *testing.T) {
	old := newEnv(t)
	a := old.agent("alpha")
	first := a.create("db")
	old.clock.Advance(time.Hour)
	second := first
	second.ID, second.Created = uuid.New(), old.clock.Now()
	e := newEnv(t)
	b := &agent{env: e, id: a.id, incarnation: uuid.New(), pools: a.pools}
	b.register("alpha")
	b.rebuild(api.Found{Pool: first.Pool, Dataset: first}, api.Found{Pool: first.Pool, Dataset: second})
	if v := e.volume("db"); v.ID != second.ID {
		t.Errorf("db is the older one")
	}
}
