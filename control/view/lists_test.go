package view_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// all reads every page of a list.
func all[T any](e *controltest.Control, limit int, list func(api.Page) (api.List[T], error)) (items []T, pages int) {
	e.Helper()
	for p := (api.Page{Limit: limit}); ; {
		l, err := list(p)
		e.OK(err)
		if limit > 0 && len(l.Items) > limit {
			e.Fatalf("a page of %d", len(l.Items))
		}
		items, pages = append(items, l.Items...), pages+1
		if l.Next == "" {
			return items, pages
		}
		p.After = l.Next
	}
}

func TestVolumesAreListed(t *testing.T) {
	e, a := controltest.OneNode(t)
	var want []string
	for i := range 25 {
		name := fmt.Sprintf("db-%02d", 24-i)
		a.MustCreate(name + "@silver")
		want = append(want, name)
	}
	slices.Sort(want)
	a.MustCreate("gone")
	a.MustDelete("gone")
	a.MustSnapshot("db-07", "one")
	for _, limit := range []int{0, 1, 5, 7, 25, 26, 5000, -1} {
		got, pages := all(e, limit, func(p api.Page) (api.List[api.Volume], error) { return e.Volumes(e.Ctx, p) })
		var names []string
		for _, v := range got {
			names = append(names, v.Volume)
			if v.Node != "alpha" || v.PoolName != "fast" || v.Lease == nil || (v.Snapshots == 1) != (v.Volume == "db-07") {
				t.Errorf("%+v", v)
			}
		}
		if !slices.Equal(names, want) || limit == 5 && pages != 6 {
			t.Errorf("limit %d: %v in %d pages", limit, names, pages)
		}
	}
	if l, err := e.Volumes(e.Ctx, api.Page{After: "db-23"}); err != nil || len(l.Items) != 1 || l.Next != "" {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err := e.Volumes(e.Ctx, api.Page{After: "\xff/../"}); err != nil || len(l.Items) != 0 {
		t.Errorf("%+v, %v", l, err)
	}
	trash, _ := all(e, 1, func(p api.Page) (api.List[api.Volume], error) { return e.Trash(e.Ctx, p) })
	if len(trash) != 1 || trash[0].Volume != "gone" {
		t.Errorf("%+v", trash)
	}
}

// Aliases take no place in a page: a page with fewer items than its size is the last one.
func TestPagesAreFull(t *testing.T) {
	e, a := controltest.OneNode(t)
	for _, name := range []string{"bb", "dd"} {
		a.MustCreate(name)
		for _, alias := range []string{"aa", "cc", "ee"} { // before, between and after the names
			if name == "dd" {
				alias += "d"
			}
			e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpRename, Volume: name, Name: alias})
			e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpRename, Volume: alias, Name: name})
		}
	}
	for after, want := range map[string]string{"": "bb", "bb": "dd"} {
		p := api.Page{Limit: 1, After: after}
		if l, err := e.Volumes(e.Ctx, p); err != nil || len(l.Items) != 1 || l.Items[0].Volume != want {
			t.Errorf("after %q: volumes %+v, %v", after, l.Items, err)
		}
		if l, err := e.VolumeSummaries(e.Ctx, p); err != nil || len(l.Items) != 1 || l.Items[0].Volume != want {
			t.Errorf("after %q: summaries %+v, %v", after, l.Items, err)
		}
	}
	if l, err := e.VolumeSummaries(e.Ctx, api.Page{Limit: 1, After: "dd"}); err != nil || len(l.Items) != 0 || l.Next != "" {
		t.Errorf("at the end: %+v, %v", l, err)
	}
}

// A summary has the values of the whole volume, and nothing else.
func TestSummariesOfVolumes(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	a := e.NewAgent("alpha")
	e.NewAgent("beta")
	a.MustCreate("db@gold")
	a.MustSnapshot("db", "one")
	a.MustCreate("files@silver")
	a.MustCreate("kept@safe")
	whole, err := e.Volumes(e.Ctx, api.Page{})
	if err != nil || len(whole.Items[2].CopyDetails) != 1 {
		t.Fatalf("got %+v, %v, want a replica of the third volume", whole, err)
	}
	want := api.Summarize(whole)
	for _, health := range []bool{true, false} { // the second list uses what the first one remembered
		summaries, err := e.VolumeSummaries(e.Ctx, api.Page{Health: health})
		require.NoError(t, err)
		for i := range want.Items {
			if v := &want.Items[i]; !health {
				v.Home, v.Pool, v.CopyDetails = uuid.Nil, uuid.Nil, nil
			}
		}
		if !reflect.DeepEqual(summaries, want) {
			t.Errorf("health %t: got summaries %+v, want %+v", health, summaries, want)
		}
	}
}

// Each change of a volume is in the next list of summaries.
func TestSummariesAfterChanges(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	a.MustCreate("files@silver")
	for _, step := range []struct {
		name   string
		change func()
	}{
		{"resize", func() { a.MustDo(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "40GiB"}) }},
		{"protect", func() { e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: new(true)}) }},
		{"snapshot", func() { a.MustSnapshot("files", "one") }},
		{"create", func() { a.MustCreate("more@silver") }},
		{"delete", func() { a.MustDelete("files") }},
		{"rename", func() { e.MustSubmit(api.Request{Kind: dataset.OpRename, Volume: "db", Name: "orders"}) }},
	} {
		e.OK(e.VolumeSummaries(e.Ctx, api.Page{}))
		step.change()
		whole, err := e.Volumes(e.Ctx, api.Page{})
		require.NoError(t, err)
		got, err := e.VolumeSummaries(e.Ctx, api.Page{Health: true})
		if want := api.Summarize(whole); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("after %s: got summaries %+v, %v, want %+v", step.name, got, err, want)
		}
	}
}

// A volume that is removed or renamed between the reads of a list is not shown as it was before.
func TestListsWhileThingsGo(t *testing.T) {
	for name, list := range map[string]func(*controltest.Control) []string{
		"whole": func(e *controltest.Control) (names []string) {
			l, err := e.Volumes(e.Ctx, api.Page{})
			e.OK(err)
			for _, v := range l.Items {
				names = append(names, v.Volume)
			}
			return names
		},
		"summaries": func(e *controltest.Control) (names []string) {
			l, err := e.VolumeSummaries(e.Ctx, api.Page{})
			e.OK(err)
			for _, v := range l.Items {
				names = append(names, v.Volume)
			}
			return names
		},
	} {
		t.Run(name, func(t *testing.T) { listWhileThingsGo(t, list) })
	}
}

func listWhileThingsGo(t *testing.T, list func(*controltest.Control) []string) {
	e, a := controltest.OneNode(t)
	for _, name := range []string{"aa", "bb", "cc", "dd"} {
		a.MustCreate(name + "@fleeting")
	}
	a.MustCreate("ee")
	a.MustCreate("ff")
	f := a.MustDelete("ff")
	went := 0
	e.Spy.OnGet = func(string) { // the first read after the page of names
		e.Spy.OnGet = nil
		went++
		a.MustDelete("aa")
		a.MustPurge(a.MustDelete("cc"))
		d := a.MustDelete("ee")
		e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String(), Name: "zz"})
	}
	if l := list(e); !slices.Equal(l, []string{"bb", "dd"}) || went != 1 {
		t.Errorf("%d, %q", went, l)
	}
	e.Spy.OnGet = func(string) {
		e.Spy.OnGet = nil
		e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: f.ID.String()})
	}
	if l, err := e.Trash(e.Ctx, api.Page{}); err != nil || len(l.Items) != 1 || l.Items[0].Volume != "aa" { // pending deletion
		t.Errorf("%+v, %v", l.Items, err)
	}
	e.CheckInvariants()
}

// The cost of a page of a list does not depend on the length of the list or the number of snapshots.
func TestListsCostLittle(t *testing.T) {
	e, a := controltest.OneNode(t)
	for i := range 60 {
		name := fmt.Sprintf("db%d", i)
		a.MustCreate(name + "@silver")
		a.MustSnapshot(name, "")
	}
	page := func() int {
		t.Helper()
		e.Spy.Counted()
		if l, err := e.Volumes(e.Ctx, api.Page{Limit: 20, After: "db2"}); err != nil || len(l.Items) != 20 || l.Items[0].Snapshots != 1 {
			t.Fatalf("%d, %v", len(l.Items), err)
		}
		reads, _, _ := e.Spy.Counted()
		return reads
	}
	first, again := page(), page()
	if first > 1+1+2+20 || again > 1+1+2 { // the names; the records and leases together; node and pool; and, the first time, the snapshots of each volume
		t.Errorf("a page of 20 costs %d reads, then %d", first, again)
	}
	a.MustSnapshot("db25", "")
	a.MustDo(api.Request{Kind: dataset.OpSnapshotDelete, Volume: "db26", Snapshot: firstSnapshot(e, "db26")})
	l, err := e.Volumes(e.Ctx, api.Page{Limit: 2, After: "db24"})
	if err != nil || l.Items[0].Snapshots != 2 || l.Items[1].Snapshots != 0 {
		t.Errorf("%+v, %v", l.Items, err)
	}
	e.OK(e.VolumeSummaries(e.Ctx, api.Page{}))
	d := a.MustDelete("db25")
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	a.DoWork()
	if e.Views.Remembers(d.ID) {
		t.Error("the count or the summary of a removed volume is kept")
	}
}

func firstSnapshot(e *controltest.Control, volume string) string {
	e.Helper()
	l, err := e.Snapshots(e.Ctx, volume, api.Page{})
	if err != nil || len(l.Items) == 0 {
		e.Fatalf("%v", err)
	}
	return l.Items[0].ID.String()
}

// If the store fails in the middle, the volumes that were read come with an error: metrics must not lack the others
// silently.
func TestSeenVolumesWithoutAStore(t *testing.T) {
	e, a := controltest.OneNode(t)
	beat := api.Heartbeat{Incarnation: a.Incarnation}
	for i := range store.MaxOps + 1 {
		d := a.MustCreate(fmt.Sprintf("v%d", i))
		beat.Datasets = append(beat.Datasets, dataset.DatasetStatus{ID: d.ID, Mounted: true})
	}
	e.OK(e.Heartbeat(e.Ctx, a.ID, beat))
	for _, c := range []struct{ failFrom, want int }{
		{0, store.MaxOps + 1},
		{1, 0},            // the first datasets
		{2, 0},            // the name of their node
		{3, store.MaxOps}, // the other datasets
	} {
		e.Spy.FailFrom(c.failFrom, false)
		seen, err := e.SeenVolumes(e.Ctx)
		e.Spy.FailFrom(0, false)
		if len(seen) != c.want || (err == nil) != (c.failFrom == 0) {
			t.Errorf("request %d to the store fails: %d volumes, %v, want %d", c.failFrom, len(seen), err, c.want)
		}
	}
}

func TestSeen(t *testing.T) {
	e, a := controltest.OneNode(t)
	d, gone := a.MustCreate("db"), a.MustCreate("gone")
	e.Reports.ForgetDatasetOf(a.ID, a.MustCreate("silent").ID)
	beat := api.Heartbeat{Incarnation: a.Incarnation, Datasets: []dataset.DatasetStatus{
		{ID: d.ID, Mounted: true, Used: new(dataset.Size(7)), Mounts: []dataset.Mount{{ID: "m1", Count: 1}}}, {ID: gone.ID}, {ID: uuid.New()},
	}}
	e.OK(e.Heartbeat(e.Ctx, a.ID, beat))
	a.MustDelete("gone")
	seen, err := e.SeenVolumes(e.Ctx)
	if err != nil || len(seen) != 1 || seen[0].Volume != "db" || *seen[0].Status.Used != 7 || seen[0].Node != "alpha" {
		t.Errorf("%+v, %v", seen, err)
	}
	if v := e.MustVolume("silent"); v.Status != nil {
		t.Errorf("%+v", v.Status)
	}
}

// A pool that a node could not open is listed only until the node is removed. This service still has the last report
// of the node in memory.
func TestFailedPoolsOfARemovedNode(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	e.OK(e.Heartbeat(e.Ctx, b.ID, api.Heartbeat{
		Incarnation: b.Incarnation,
		FailedPools: []api.Pool{{
			Pool:   dataset.Pool{Name: "new", Node: b.ID, Backend: "loop"},
			Status: &dataset.PoolStatus{Reason: "/new is absent"},
		}},
	}))
	count := func() (n int) {
		list, err := e.Pools(e.Ctx)
		require.NoError(t, err)
		for _, p := range list {
			if p.Node == b.ID {
				n++
			}
		}
		return n
	}
	if got := count(); got != 3 {
		t.Errorf("got %d pools of beta, want 3", got)
	}
	a.MustRefusePlan(controltest.Create("db", "pool=new"), dataset.ErrOffline, "pool new of node beta is offline")
	e.OK(e.RemoveNode(e.Ctx, "beta", api.NodeRemoval{}))
	if got := count(); got != 0 {
		t.Errorf("got %d pools of beta after its removal, want none", got)
	}
	a.MustRefusePlan(controltest.Create("db", "pool=new"), dataset.ErrInvalid, `unknown pool "new"`)
}
