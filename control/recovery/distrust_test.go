package recovery_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// While a node has seen later changes than the store has, nothing is destroyed, because what the store says about the
// datasets of other nodes is just as old.
func TestDistrustedTrashStays(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("mine")
	b.MustCreate("theirs")
	mine, theirs := a.MustDelete("mine"), b.MustDelete("theirs")
	e.Round()
	a.ReportDistrust("it is older")
	e.AdvanceAndRun(100 * time.Hour)
	st := e.CheckInvariants()
	if got := st.Datasets[mine.ID].State; got != dataset.StateTrashed {
		t.Errorf("a dataset of a node that does not trust the store is %s", got)
	}
	if got := st.Datasets[theirs.ID].State; got != dataset.StateTrashed {
		t.Errorf("a dataset of another node is %s", got)
	}
	a.ReportDistrust("")
	e.AdvanceAndRun(membership.HousekeepingInterval)
	if got := e.CheckInvariants().Datasets[mine.ID].State; got != dataset.StatePurging {
		t.Errorf("after the store was rebuilt it is %s", got)
	}
}

// A store that was restored from an older backup learns what a node has seen since: a dataset that was in the trash
// has its name again, a live one is in the trash, and datasets whose record is up to date stay unchanged.
func TestRebuildOfOlderStore(t *testing.T) {
	e, a := controltest.OneNode(t)
	back, gone, same := a.MustCreate("back"), a.MustCreate("gone"), a.MustCreate("same")
	a.MustDelete("back")
	later := e.MustVolume("same").Dataset
	later.Protected = true
	found := func(d dataset.Dataset, state dataset.State, index uint64) api.FoundDataset {
		d.State = state
		return api.FoundDataset{Pool: d.Pool, Dataset: d, Index: index}
	}
	const seen = 1 << 40           // later than everything in this store
	older := a.MustCreate("older") // later than the epoch that the node has seen
	older.Epoch = 7
	list := a.MustRebuild(
		found(back, dataset.StateReady, seen), found(gone, dataset.StateTrashed, seen),
		found(later, dataset.StateReady, 1), found(older, dataset.StateReady, 0), found(same, dataset.StateTrashed, 0),
	)
	for id, want := range map[uuid.UUID]string{back.ID: "restored", gone.ID: "trashed", same.ID: "known", older.ID: "restored"} {
		if got := list[id]; got.Action != want {
			t.Errorf("%+v, want %s", got, want)
		}
	}
	st := e.CheckInvariants()
	for id, want := range map[uuid.UUID]dataset.State{back.ID: dataset.StateReady, gone.ID: dataset.StateTrashed, same.ID: dataset.StateReady} {
		if got := st.Datasets[id]; got.State != want || got.Protected {
			t.Errorf("%+v, want %s", got, want)
		}
	}
	if v := e.MustVolume("back"); v.ID != back.ID || v.Epoch != back.Epoch+1 {
		t.Errorf("%+v", v)
	}
	if v := e.MustVolume("older"); v.Epoch != 8 {
		t.Errorf("epoch %d, want one after 7", v.Epoch)
	}
	e.AdvanceAndRun(1000 * time.Hour)
	if got := e.CheckInvariants().Datasets[back.ID].State; got != dataset.StateReady {
		t.Errorf("the dataset that was restored from the trash is %s", got)
	}
	// The name of the dataset belongs to another one by now.
	f := found(back, dataset.StateReady, seen)
	a.MustDelete("back")
	other := a.MustCreate("back")
	if r := a.MustRebuild(f)[back.ID]; r.Action != "renamed" {
		t.Errorf("%+v", r)
	}
	if v := e.MustVolume("back"); v.ID != other.ID {
		t.Errorf("%+v", v)
	}
	e.CheckInvariants()
}

// A name that was used again since the backup belongs to the newer volume, in whatever order the two are found.
func TestRebuildOfReusedName(t *testing.T) {
	for _, newFirst := range []bool{false, true} {
		e, a := controltest.OneNode(t)
		old := a.MustCreate("db")
		found := []api.FoundDataset{{Pool: old.Pool, Dataset: old, Index: 1 << 40}, {Pool: old.Pool, Dataset: old, Index: 1 << 40}}
		found[0].Dataset.State, found[0].Dataset.Trash = dataset.StateTrashed, &dataset.Trash{At: e.Clock.Now()}
		found[1].Dataset.ID = uuid.New()
		if newFirst {
			slices.Reverse(found)
		}
		a.MustRebuild(found...)
		if v := e.MustVolume("db"); v.ID == old.ID || e.CheckInvariants().Datasets[old.ID].State != dataset.StateTrashed {
			t.Errorf("new one first %t: db is %s, the old one was %s", newFirst, v.ID, old.ID)
		}
	}
}

// A registration is written with a higher index than everything before it.
func TestSyncTellsOfRegistration(t *testing.T) {
	e, a := controltest.OneNode(t)
	for range 2 {
		a.MustCreate(uuid.NewString())
		a.MustRegister("alpha")
		s, err := a.Sync(e.Ctx, a.ID, 0, 0)
		require.NoError(t, err)
		for _, d := range s.Datasets {
			if d.Index >= s.RegistrationIndex {
				t.Errorf("dataset at %d, registered at %d", d.Index, s.RegistrationIndex)
			}
		}
	}
}

// Of two volumes with one name that are missing in the store, the newer one gets the name.
func TestRebuildOfOneNameTwice(t *testing.T) {
	old, a := controltest.OneNode(t)
	first := a.MustCreate("db")
	old.Clock.Advance(time.Hour)
	second := first
	second.ID, second.Created = uuid.New(), old.Clock.Now()
	e := controltest.New(t)
	b := &controltest.Agent{Control: e, ID: a.ID, Incarnation: uuid.New(), LocalPools: a.LocalPools}
	b.MustRegister("alpha")
	b.MustRebuild(api.FoundDataset{Pool: first.Pool, Dataset: first}, api.FoundDataset{Pool: first.Pool, Dataset: second})
	if v := e.MustVolume("db"); v.ID != second.ID {
		t.Errorf("db is the older one")
	}
}
