package recovery_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// The amount that a rebuild restores is bounded as well.
func TestRebuildsAreBounded(t *testing.T) {
	e, a := controltest.OneNode(t)
	found := func(d dataset.Dataset, n int) api.FoundDataset {
		d.ID, d.State = uuid.New(), dataset.StateReady
		return api.FoundDataset{Pool: a.LocalPools[0].ID, Dataset: d, Snapshots: make([]dataset.Snapshot, n)}
	}
	before := e.Dump()
	for want, list := range map[string][]api.FoundDataset{
		"100001 datasets (100000 at most)": make([]api.FoundDataset, reports.MaxFound+1),
		"100001 snapshots":                 {found(dataset.Dataset{Volume: "db"}, reports.MaxFound+1)},
		"bytes (131072 at most)":           {found(dataset.Dataset{Volume: "db"}, 0), found(dataset.Dataset{Volume: "xy", RequestedAs: strings.Repeat("x", reports.MaxRecord)}, 0)},
	} {
		_, err := e.Rebuild(e.Ctx, a.ID, list, false)
		controltest.Refused(t, err, dataset.ErrInvalid, "rebuild", want)
	}
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Error(diff)
	}
}

// The store is lost. Every name, everything in the trash and every snapshot is restored from the records that are
// stored next to the data.
func TestRebuild(t *testing.T) {
	_, a := controltest.OneNode(t)
	db := a.MustCreate("db@gold")
	for i := range 150 { // more than fit in a transaction
		a.MustSnapshot("db", fmt.Sprintf("s%d", i))
	}
	a.MustCreate("trashed@silver")
	trashed := a.MustDelete("trashed")
	a.MustCreate("kept@kept")
	kept := a.MustDelete("kept")
	a.MustCreate("going@fleeting")
	a.MustDelete("going")
	found := a.FoundDatasets()

	e := controltest.New(t)
	e.Clock.Advance(1000 * time.Hour) // long after the time in the trash is over
	b := &controltest.Agent{Control: e, ID: a.ID, Incarnation: uuid.New(), LocalPools: a.LocalPools}
	b.MustRegister("alpha")
	twin := db // an older dataset of the same name
	twin.ID, twin.Created = uuid.New(), db.Created.Add(-time.Hour)
	found = append(found, api.FoundDataset{Pool: db.Pool, Dataset: twin})
	empty := e.Dump()
	preview, err := b.Rebuild(b.Ctx, b.ID, found, true)
	require.NoError(t, err)
	if diff := cmp.Diff(empty, e.Dump()); diff != "" {
		t.Errorf("a dry run changes the store:\n%s", diff)
	}
	actions := map[string]string{}
	rebuilt := b.MustRebuild(found...)
	if len(preview) != len(rebuilt) {
		t.Errorf("the dry run has %d outcomes, want %d", len(preview), len(rebuilt))
	}
	for _, r := range preview {
		if r != rebuilt[r.Dataset] {
			t.Errorf("dry run: %+v, but the rebuild says %+v", r, rebuilt[r.Dataset])
		}
	}
	if twin := rebuilt[twin.ID]; twin.Action != "renamed" {
		t.Errorf("the older dataset of the same name: %+v", twin)
	}
	for _, r := range rebuilt {
		actions[r.Volume] = r.Action
	}
	want := map[string]string{"db": "restored", "trashed": "trashed", "kept": "trashed", "going": "purging"}
	for v, action := range want {
		if actions[v] != action {
			t.Errorf("%s: %s, not %s", v, actions[v], action)
		}
	}
	st := e.CheckInvariants()
	if len(st.Datasets) != 5 || len(st.Snapshots) != 150 {
		t.Errorf("%d datasets, %d snapshots", len(st.Datasets), len(st.Snapshots))
	}
	v := e.MustVolume("db")
	if v.ID != db.ID || v.Epoch != db.Epoch+1 || v.Snapshots != 150 || v.Profile.Name != "gold" || v.RequestedAs != "db@gold" {
		t.Errorf("%+v", v)
	}
	if got := st.Datasets[trashed.ID].Trash; !got.Expires.Equal(e.Clock.Now().Add(72 * time.Hour)) {
		t.Errorf("the time to restore it is too short: %+v", got)
	}
	if got := st.Datasets[kept.ID].Trash; !got.Expires.IsZero() {
		t.Errorf("%+v", got)
	}
	e.Round()
	if st := e.CheckInvariants(); st.Datasets[trashed.ID].State != dataset.StateTrashed {
		t.Error("a rebuilt dataset is destroyed at once")
	}

	before := e.Dump()
	for _, r := range b.MustRebuild(found...) {
		if r.Action != "known" || r.Note != "" {
			t.Errorf("again: %+v", r)
		}
	}
	if after := e.Dump(); len(after) != len(before) {
		t.Errorf("again: %d keys, not %d", len(after), len(before))
	}
	// The result is as good as a new store.
	b.MustSnapshot("db", "after")
	b.MustDelete("db")
	e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: "trashed"})
	e.CheckInvariants()
}

func TestRebuildOfTakenNames(t *testing.T) {
	e, a := controltest.OneNode(t)
	long := strings.Repeat("long-", 25) + "abc" // 128 characters
	mine, mineLong := a.MustCreate("db"), a.MustCreate(long)
	id := uuid.MustParse("abcd0000-0000-4000-8000-000000000001")
	a.MustCreate("db-" + id.String()[:8])
	a.MustCreate("db-" + id.String()[:13])
	f := api.FoundDataset{Pool: a.LocalPools[0].ID, Dataset: mine}
	f.Dataset.ID = id
	g := api.FoundDataset{Pool: a.LocalPools[0].ID, Dataset: mineLong}
	g.Dataset.ID = uuid.MustParse("abcd0000-0000-4000-8000-000000000002")
	got := a.MustRebuild(f, g)
	if r := got[id]; r.Action != "renamed" || r.Volume != "db-"+id.String()[:18] || !strings.Contains(r.Note, mine.ID.String()) {
		t.Errorf("%+v", r)
	}
	if r := got[g.Dataset.ID]; r.Action != "renamed" || r.Volume != long[:119]+"-abcd0000" || dataset.CheckName(r.Volume) != nil {
		t.Errorf("%+v", r)
	}
	if v := e.MustVolume("db"); v.ID != mine.ID {
		t.Error("the name was taken away")
	}
	if v := e.MustVolume(got[id].Volume); v.ID != id || v.RequestedAs != v.Volume || v.RequestedBy != uuid.Nil {
		t.Errorf("%+v", v.Dataset)
	}
	for _, r := range a.MustRebuild(f, g) {
		if r.Action != "known" || r.Volume != got[r.Dataset].Volume {
			t.Errorf("again: %+v", r)
		}
	}
	e.CheckInvariants()
}

func TestRebuildOfOddities(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	d := a.MustCreate("db")
	s := a.MustSnapshot("db", "one")
	// A copy of the pool on another node is not taken for the dataset.
	copied := api.FoundDataset{Pool: b.LocalPools[0].ID, Dataset: d, Snapshots: []dataset.Snapshot{s, s}}
	copied.Snapshots[1].ID = uuid.New()
	if r := b.MustRebuild(copied)[d.ID]; r.Action != "known" || !strings.Contains(r.Note, a.ID.String()) {
		t.Errorf("%+v", r)
	}
	if v := e.MustVolume("db"); v.Home != a.ID || v.Snapshots != 1 {
		t.Errorf("%+v", v)
	}
	// Pools that do not belong to the node.
	for _, f := range []api.FoundDataset{{Pool: a.LocalPools[0].ID, Dataset: d}, {Pool: uuid.New(), Dataset: d}, {Pool: b.LocalPools[0].ID}} {
		_, err := b.Rebuild(e.Ctx, b.ID, []api.FoundDataset{f}, false)
		controltest.Refused(t, err, dataset.ErrInvalid, "rebuild")
	}
	// Invalid names, and names of snapshots that are in use or invalid.
	odd := api.FoundDataset{Pool: b.LocalPools[0].ID, Dataset: d}
	odd.Dataset.ID, odd.Dataset.Volume = uuid.New(), "../../etc"
	for _, name := range []string{"one", "one", "../x", ""} {
		x := s
		x.ID, x.Name, x.Dataset = uuid.New(), name, d.ID // of another one, as it says
		odd.Snapshots = append(odd.Snapshots, x)
	}
	if r := b.MustRebuild(odd)[odd.Dataset.ID]; r.Action != "trashed" {
		t.Errorf("%+v", r)
	}
	list, err := e.Snapshots(e.Ctx, odd.Dataset.ID.String(), api.Page{})
	if err != nil || len(list.Items) != 4 {
		t.Errorf("%d snapshots, %v", len(list.Items), err)
	}
	e.MustRefuse(api.Request{Kind: dataset.OpUndelete, Volume: odd.Dataset.ID.String()}, dataset.ErrInvalid, "bad volume name")
	e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: odd.Dataset.ID.String(), Name: "odd"})
	// Restored snapshots are counted, and the background work processes them.
	odd.Snapshots[0].ID = uuid.New()
	b.MustRebuild(odd)
	if v := e.MustVolume("odd"); v.Snapshots != 5 {
		t.Errorf("%d snapshots", v.Snapshots)
	}
	odd.Snapshots[0].ID = uuid.Nil
	_, err = b.Rebuild(e.Ctx, b.ID, []api.FoundDataset{odd}, false)
	controltest.Refused(t, err, dataset.ErrInvalid, "snapshot")
	e.CheckInvariants()
}

// A rebuild that crashed at any step is completed by the next one.
func TestRebuildCutShort(t *testing.T) {
	_, a := controltest.OneNode(t)
	a.MustCreate("db")
	for i := range 40 {
		a.MustSnapshot("db", fmt.Sprint("s-", i))
	}
	a.MustCreate("db2")
	found := a.FoundDatasets()
	for n := 1; ; n++ {
		e := controltest.New(t)
		b := &controltest.Agent{Control: e, ID: a.ID, Incarnation: uuid.New(), LocalPools: a.LocalPools}
		b.MustRegister("alpha")
		e.Spy.FailFrom(n, n%2 == 0)
		_, err := b.Rebuild(e.Ctx, b.ID, found, false)
		e.Spy.FailFrom(0, false)
		if err == nil {
			break
		}
		controltest.Refused(t, err, dataset.ErrUnavailable)
		e.CheckInvariants()
		b.MustRebuild(found...)
		if st := e.CheckInvariants(); len(st.Datasets) != 2 || len(st.Snapshots) != 40 {
			t.Fatalf("cut short at %d: %d datasets, %d snapshots", n, len(st.Datasets), len(st.Snapshots))
		}
		n += 6
	}
}

// A disk of a removed host is put into another host, together with its store. The volumes then belong to the new
// host, unless the old one is still reporting.
func TestRebuildOnAnotherHost(t *testing.T) {
	for _, alive := range []bool{false, true} {
		e, a := controltest.OneNode(t)
		db := a.MustCreate("db@gold")
		a.MustSnapshot("db", "one")
		a.MustCreate("old")
		old := a.MustDelete("old")
		found := a.FoundDatasets()
		if !alive {
			e.Registered = nil
			e.Restart()
		}
		b := &controltest.Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New(), LocalPools: a.LocalPools}
		b.MustRegister("beta")
		for _, r := range b.MustRebuild(found...) {
			if strings.Contains(r.Note, "is not changed") != alive {
				t.Errorf("alpha alive %t: %+v", alive, r)
			}
		}
		v := e.MustVolume("db")
		if alive {
			if v.Home != a.ID || v.Epoch != db.Epoch {
				t.Errorf("%+v", v)
			}
			continue
		}
		e.CheckInvariants()
		if v.Home != b.ID || v.Epoch != db.Epoch+1 || v.Snapshots != 1 || v.Lease == nil || v.Lease.Node != b.ID {
			t.Errorf("%+v", v)
		}
		e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: old.ID.String()})
		b.MustSnapshot("old", "two")
		b.MustDelete("db")
	}
}

// I1: while the store of a cluster is inconsistent, nothing is restored from the pools of one node, because another node
// may have a later epoch. A recovery takes the latest, whichever node reports first.
func TestI1NothingIsRestoredFromOneNodeOfAHaltedCluster(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	a := e.NewAgent("alpha")
	d := a.MustCreate("tmp@gold")
	d.ID, d.Volume, d.Epoch = uuid.New(), "db", 1
	found := []api.FoundDataset{{Pool: d.Pool, Dataset: d}}
	a.ReportDistrust("it is not the store that this node used before")
	for _, dry := range []bool{true, false} {
		_, err := a.Rebuild(e.Ctx, a.ID, found, dry)
		controltest.Refused(t, err, dataset.ErrConflict, "drover store recover")
	}
	if v, err := e.Volume(e.Ctx, "db"); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Errorf("it is recorded: %+v, %v", v, err)
	}
	a.ReportDistrust("")
	if r := a.MustRebuild(found...)[d.ID]; r.Action != "restored" {
		t.Errorf("an adoption: %+v", r)
	}
}

// The root folder of a single host was restored from a backup, and the pool was not. A volume that was in the trash then,
// and was restored from the trash since, is live again: the record beside its data is newer. What is in the trash gets
// its whole time again, because nobody could restore it.
func TestI3RebuildTakesTheNewerRecordBesideTheData(t *testing.T) {
	e, a := controltest.OneNode(t)
	live := a.MustCreate("live@silver")
	a.MustCreate("trashed@silver")
	a.MustDelete("live")
	trashed := a.MustDelete("trashed")
	e.Clock.Advance(71 * time.Hour)
	live.Written = controltest.SeenIndex
	got := a.MustRebuild(api.FoundDataset{Pool: live.Pool, Dataset: live}, api.FoundDataset{Pool: trashed.Pool, Dataset: trashed})
	if got[live.ID].Action != "restored" || got[trashed.ID].Action != "known" {
		t.Errorf("got %+v", got)
	}
	e.AdvanceAndRun(71 * time.Hour)
	st := e.CheckInvariants()
	if is := st.Datasets[live.ID]; is.State != dataset.StateReady || is.Volume != "live" {
		t.Errorf("the live volume is %+v", is)
	}
	if is := st.Datasets[trashed.ID]; is.State != dataset.StateTrashed {
		t.Errorf("the deleted volume is %s 71 hours after the rebuild", is.State)
	}
}

// A copy in another pool of the home, such as one on a cloned disk, is ignored, however late its record is.
func TestRebuildOfACopyInAnotherPool(t *testing.T) {
	e, a := controltest.OneNode(t)
	d := a.MustCreate("db@bronze")
	copied := api.FoundDataset{Pool: a.LocalPools[1].ID, Dataset: d, Index: 1 << 40}
	copied.Dataset.Pool = copied.Pool
	if got := a.MustRebuild(copied)[d.ID]; got.Action != "known" || !strings.Contains(got.Note, "this copy is "+
		"not changed") {
		t.Errorf("%+v", got)
	}
	if v := e.MustVolume("db"); v.Pool != d.Pool || v.Epoch != d.Epoch {
		t.Errorf("it is on record in pool %s at epoch %d", v.Pool, v.Epoch)
	}
}

// I1: a dataset that is rebuilt from the data on a node gets a later epoch than any known epoch of it.
func TestI1RebuiltEpochIsTheLatest(t *testing.T) {
	e, a := controltest.OneNode(t)
	d := a.MustCreate("db@gold")
	e.EditDataset(d.ID, func(d *dataset.Dataset, l *dataset.Lease) { d.Epoch, l.Epoch = 7, 7 })
	const seen = 1 << 40 // later than everything in this store
	a.MustRebuild(api.FoundDataset{Pool: d.Pool, Dataset: d, Index: seen})
	if got := e.MustVolume("db").Epoch; got != 8 {
		t.Errorf("it is at epoch %d", got)
	}
}

// Two records claim one name. The name belongs to the record that the store wrote last, even if that dataset is older:
// volumes are renamed, and an outdated record still has a name or an alias that was given to another volume.
func TestRebuildGivesANameToTheNewestRecord(t *testing.T) {
	for name, c := range map[string]struct {
		outdated func(*api.FoundDataset)                 // changes the record that is younger, and outdated
		index    func(f *api.FoundDataset, index uint64) // sets the index of a record
	}{
		"name, agent knows the index":  {func(f *api.FoundDataset) { f.Dataset.Volume = "db" }, setIndex},
		"alias, agent knows the index": {func(f *api.FoundDataset) { f.Dataset.Aliases = []string{"db"} }, setIndex},
		"name, index beside the data":  {func(f *api.FoundDataset) { f.Dataset.Volume = "db" }, setWritten},
		"alias, index beside the data": {func(f *api.FoundDataset) { f.Dataset.Aliases = []string{"db"} }, setWritten},
	} {
		t.Run(name, func(t *testing.T) {
			e, a := controltest.OneNode(t)
			found := func(volume string, age time.Duration) api.FoundDataset {
				d := a.MustCreate(volume)
				d.ID, d.Created = uuid.New(), d.Created.Add(-age)
				a.MustDelete(volume)
				return api.FoundDataset{Pool: d.Pool, Dataset: d}
			}
			owner, outdated := found("db", time.Hour), found("logs", 0)
			c.outdated(&outdated)
			c.index(&owner, 60)
			c.index(&outdated, 40)
			preview, err := a.Rebuild(e.Ctx, a.ID, []api.FoundDataset{outdated, owner}, true)
			require.NoError(t, err)
			rebuilt := a.MustRebuild(outdated, owner)
			for _, r := range preview {
				if r != rebuilt[r.Dataset] {
					t.Errorf("dry run: %+v, but the rebuild says %+v", r, rebuilt[r.Dataset])
				}
			}
			v := e.MustVolume("db")
			if v.ID != owner.Dataset.ID || v.Volume != "db" {
				t.Errorf("db is volume %s, dataset %s; want dataset %s: %+v", v.Volume, v.ID, owner.Dataset.ID, rebuilt)
			}
			if v.Written != 0 {
				t.Errorf("the store has the index %d that was beside the data", v.Written)
			}
			e.CheckInvariants()
		})
	}
}

func setIndex(f *api.FoundDataset, index uint64)   { f.Index = index }
func setWritten(f *api.FoundDataset, index uint64) { f.Dataset.Written = index }
