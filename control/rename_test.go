package control_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// checkNames checks the name and the aliases of a dataset, and that each of them finds it.
func checkNames(e *controltest.Control, id uuid.UUID, names ...string) {
	e.Helper()
	for _, ref := range append([]string{id.String()}, names...) {
		if v := e.MustVolume(ref); v.ID != id || !slices.Equal(v.Names(), names) {
			e.Errorf("%s finds dataset %s with the names %v, want %s with %v", ref, v.ID, v.Names(), id, names)
		}
	}
}

// TestRenameDuringOperations: an operation that was planned under the former name ends under the new one.
func TestRenameDuringOperations(t *testing.T) {
	for name, req := range map[string]api.Request{
		"snapshot": {Kind: dataset.OpSnapshot, Volume: "db", Name: "two"},
		"restore":  {Kind: dataset.OpRestore, Volume: "db", Snapshot: "one"},
		"resize":   {Kind: dataset.OpResize, Volume: "db", Size: "50GiB"},
	} {
		for _, recorded := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				e := controltest.New(t)
				a := e.NewAgent("alpha")
				d := a.MustCreate("db@gold")
				a.MustSnapshot("db", "one")
				op := a.MustPlan(req)
				if recorded {
					op = *e.MustSubmit(req).Operation
				}
				e.MustSubmit(controltest.Rename("db", "new"))
				if out := a.MustCommit(op); !slices.Equal(out.Dataset.Names(), []string{"new", "db"}) {
					t.Errorf("the answer has the names %v", out.Dataset.Names())
				}
				checkNames(e, d.ID, "new", "db")
				e.CheckInvariants()
			})
		}
	}
}

// TestSnapshotsHavePresentName: after a rename, snapshots are shown with the new name of their volume. If another volume
// gets the former name, the snapshots are not taken for those of that volume.
func TestSnapshotsHavePresentName(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	snap := a.MustSnapshot("db", "one")
	e.MustSubmit(controltest.Rename("db", "new"))
	e.MustSubmit(controltest.DropAlias("new", "db"))
	a.MustCreate("db@gold")
	for _, ref := range []string{"", "new"} {
		list, err := e.Snapshots(e.Ctx, ref, api.Page{})
		if err != nil || len(list.Items) != 1 || list.Items[0].ID != snap.ID || list.Items[0].Volume != "new" {
			t.Errorf("snapshots of %q: got %+v, %v; want one of volume new", ref, list.Items, err)
		}
	}
	if s, err := e.Snapshot(e.Ctx, "new", "one"); err != nil || s.Volume != "new" {
		t.Errorf("snapshot one of new: got %+v, %v; want volume new", s, err)
	}
}

// TestRenameDuringDelete: a delete that was planned under the former name is refused, whether a user or an engine asked
// for it, and whether or not control has recorded it. The volume keeps its data and both names. If the rename was
// undone, the delete succeeds.
func TestRenameDuringDelete(t *testing.T) {
	for name, c := range map[string]struct {
		plan   func(*controltest.Control, *controltest.Agent, dataset.Dataset) dataset.Operation
		rename [][2]string
		want   []string // the names of the volume afterwards; nil: it is deleted
	}{
		"user": {
			func(e *controltest.Control, _ *controltest.Agent, _ dataset.Dataset) dataset.Operation {
				return *e.MustSubmit(api.Request{Kind: dataset.OpDelete, Volume: "db"}).Operation
			}, [][2]string{{"db", "new"}}, []string{"new", "db"},
		},
		"user with force": {
			func(e *controltest.Control, _ *controltest.Agent, _ dataset.Dataset) dataset.Operation {
				return *e.MustSubmit(api.Request{Kind: dataset.OpDelete, Volume: "db", Force: true}).Operation
			}, [][2]string{{"db", "new"}}, []string{"new", "db"},
		},
		"engine": {planEngineDelete, [][2]string{{"db", "new"}}, []string{"new", "db"}},
		"twice":  {planEngineDelete, [][2]string{{"db", "new"}, {"new", "newer"}}, []string{"newer", "new", "db"}},
		"undone": {planEngineDelete, [][2]string{{"db", "new"}, {"new", "db"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			a := e.NewAgent("alpha")
			d := a.MustCreate("db@gold")
			op := c.plan(e, a, d)
			for _, r := range c.rename {
				e.MustSubmit(controltest.Rename(r[0], r[1]))
			}
			err := a.TryCommit(op)
			if c.want == nil {
				if _, lookup := e.Volume(e.Ctx, "db"); err != nil || dataset.KindOf(lookup) != dataset.ErrNotFound {
					t.Errorf("after the delete: %v, %v", err, lookup)
				}
				return
			}
			controltest.Refused(t, err, dataset.ErrConflict, "delete of volume db: it was renamed to "+c.want[0],
				"drover volume rm "+c.want[0]+" --dry-run")
			checkNames(e, d.ID, c.want...)
			e.CheckInvariants()
		})
	}
}

// planEngineDelete plans the removal of volume db by an engine.
func planEngineDelete(_ *controltest.Control, a *controltest.Agent, d dataset.Dataset) dataset.Operation {
	return a.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: d.ID.String(), Name: "db"})
}

// TestDropAliasDuringDelete: a delete that was planned under a name that is not even an alias any more is refused. The
// name may belong to another volume by then.
func TestDropAliasDuringDelete(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	d := a.MustCreate("db@gold")
	op := planEngineDelete(e, a, d)
	e.MustSubmit(controltest.Rename("db", "new"))
	e.MustSubmit(controltest.DropAlias("new", "db"))
	other := a.MustCreate("db")
	controltest.Refused(t, a.TryCommit(op), dataset.ErrConflict, "it was renamed to new")
	checkNames(e, d.ID, "new")
	checkNames(e, other.ID, "db")
	e.CheckInvariants()
}

// TestUndeleteAfterRename: a restore from the trash brings back only the name, and not the aliases.
func TestUndeleteAfterRename(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	d := a.MustCreate("db@gold")
	e.MustSubmit(controltest.Rename("db", "new"))
	a.MustDelete("new")
	other := a.MustCreate("db")
	e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: "new"})
	checkNames(e, d.ID, "new")
	checkNames(e, other.ID, "db")
	e.CheckInvariants()
}

// TestRenameDuringMove: a volume can be renamed at each step of a move, and the move succeeds.
func TestRenameDuringMove(t *testing.T) {
	for _, step := range []string{"submitted", "recalled", "yielded", "committed"} {
		t.Run(step, func(t *testing.T) {
			e := controltest.New(t)
			a, b := e.NewAgent("alpha"), e.NewAgent("beta")
			d := a.MustCreate("db@gold")
			renameAt := func(at string) {
				if at == step {
					e.MustSubmit(controltest.Rename("db", "new"))
				}
			}
			op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
			renameAt("submitted")
			b.MustRecall(op)
			renameAt("recalled")
			if err := a.TryYield(op, controltest.Relinquished(op)); err != nil {
				t.Fatal(err)
			}
			renameAt("yielded")
			op.Manifest = controltest.Relinquished(op)
			b.MustCommit(op)
			renameAt("committed")
			checkNames(e, d.ID, "new", "db")
			if v := e.MustVolume("new"); v.Home != b.ID || v.Epoch != 2 {
				t.Errorf("home %s, epoch %d", v.Home, v.Epoch)
			}
			e.CheckInvariants()
		})
	}
}

// TestRenameWithoutHome: a rename needs no answer of the home. A failover continues the volume under its new name, and
// the former home learns it when it returns.
func TestRenameWithoutHome(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	l.Replicas.EndSession(l.Alpha)
	l.MustSubmit(controltest.Rename("db", "new"))
	_, err := l.Submit(l.Ctx, controltest.DropAlias("new", "db"))
	controltest.Refused(l, err, dataset.ErrOffline, "drop alias db of volume new: node alpha", "can still use the volume")
	if _, err := l.AskFailover(l.Service, "beta"); dataset.KindOf(err) != dataset.ErrPending {
		t.Fatal(err)
	}
	l.Wait(l.Timing.Session, l.Beta, l.Gamma)
	op, err := l.AskFailover(l.Service, "beta") // by the alias
	if err != nil || op == nil {
		t.Fatalf("got %+v, %v", op, err)
	}
	l.MustSubmit(controltest.Rename("new", "newer"))
	l.Beta.MustCommit(*op)
	checkNames(l.Control, l.Dataset.ID, "newer", "new", "db")
	if v := l.MustVolume("newer"); v.Home != l.Beta.ID {
		t.Errorf("the home is %s, want beta", v.Home)
	}
	l.Beta.ReportIdle("newer")
	l.MustSubmit(controltest.DropAlias("newer", "db"))
	l.RestartAgent(l.Alpha, "alpha")
	got := l.Alpha.MustSync(0).Copies
	if len(got) != 1 || got[0].Record == nil || got[0].Record.Volume != "newer" {
		t.Errorf("the former home learns %+v", got)
	}
	l.Control.Spy = controltest.NewSpyStore(l.Replicas.Store)
	l.CheckInvariants()
}

// TestRenameReachesNodes: the home, and a node with a copy and a shared mount, learn the names with their next sync.
func TestRenameReachesNodes(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	share := uuid.New()
	a, b := e.NewAgentOnShare("alpha", share), e.NewAgentOnShare("beta", share)
	a.MustCreate("db@safe")
	stays(b, createMany(a, "shared"))
	revs := []uint64{a.MustSync(0).Revision, b.MustSync(0).Revision}
	e.MustSubmit(controltest.Rename("db", "new"))
	e.MustSubmit(controltest.Rename("shared", "all"))
	for i, x := range []*controltest.Agent{a, b} {
		s, got := x.MustSync(revs[i]), map[string][]string{}
		for _, d := range append(s.Datasets, s.SharedMounts...) {
			got[d.Volume] = d.Aliases
		}
		for _, c := range s.Copies {
			got[c.Record.Volume] = c.Record.Aliases
		}
		if diff := cmp.Diff(map[string][]string{"new": {"db"}, "all": {"shared"}}, got); diff != "" {
			t.Errorf("agent %d (-want +got):\n%s", i, diff)
		}
	}
	e.CheckInvariants()
}

// TestConcurrentRenames: of several renames to one name, one is recorded. The same request many times is one operation.
func TestConcurrentRenames(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	names := []string{"aa", "bb", "cc", "dd", "ee", "ff"}
	for _, name := range names {
		a.MustCreate(name)
	}
	var all sync.WaitGroup
	errs := make([]error, len(names))
	for i, name := range names {
		all.Go(func() { _, errs[i] = e.Submit(e.Ctx, controltest.Rename(name, "new")) })
	}
	all.Wait()
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
			checkNames(e, e.MustVolume(names[i]).ID, "new", names[i])
			continue
		}
		controltest.Refused(t, err, dataset.ErrExists, "volume new exists")
	}
	if won != 1 {
		t.Errorf("%d renames to one name were recorded", won)
	}
	req := controltest.Rename("new", "newer")
	req.ID = uuid.New()
	outs := make([]api.Outcome, 16)
	for i := range outs {
		all.Go(func() { outs[i] = e.MustSubmit(req) })
	}
	all.Wait()
	for _, out := range outs[1:] {
		if diff := cmp.Diff(outs[0].Operation, out.Operation); diff != "" {
			t.Error(diff)
		}
	}
	e.CheckInvariants()
}

// TestRenameBetweenReads: a create, another rename or a drop of the alias is committed between the reads of a rename
// and its commit. The rename decides again.
func TestRenameBetweenReads(t *testing.T) {
	for name, c := range map[string]struct {
		between func(*controltest.Control, *controltest.Agent)
		kind    *dataset.Kind
		want    []string
	}{
		"create":     {func(_ *controltest.Control, a *controltest.Agent) { a.MustCreate("new") }, dataset.ErrExists, []string{"db", "old"}},
		"rename":     {func(e *controltest.Control, _ *controltest.Agent) { e.MustSubmit(controltest.Rename("other", "new")) }, dataset.ErrExists, []string{"db", "old"}},
		"same":       {func(e *controltest.Control, _ *controltest.Agent) { e.MustSubmit(controltest.Rename("db", "new")) }, nil, []string{"new", "db", "old"}},
		"drop alias": {func(e *controltest.Control, _ *controltest.Agent) { e.MustSubmit(controltest.DropAlias("db", "old")) }, nil, []string{"new", "db"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			a := e.NewAgent("alpha")
			id := a.MustCreate("old").ID
			a.MustCreate("other")
			e.MustSubmit(controltest.Rename("old", "db"))
			e.Spy.OnGet = func(key string) {
				if key == record.NameKey("new") { // it was read, and was free
					e.Spy.OnGet = nil
					c.between(e, a)
				}
			}
			_, err := e.Submit(e.Ctx, controltest.Rename("db", "new"))
			if dataset.KindOf(err) != c.kind || e.Spy.OnGet != nil {
				t.Errorf("got %v, want %v", err, c.kind)
			}
			checkNames(e, id, c.want...)
			e.CheckInvariants()
		})
	}
}

// TestCreateMeetsAlias: a create that was planned before its name became an alias loses its name. For an engine, it
// gets the existing volume.
func TestCreateMeetsAlias(t *testing.T) {
	for _, engine := range []bool{false, true} {
		e := controltest.New(t)
		a := e.NewAgent("alpha")
		id := a.MustCreate("first").ID
		req := controltest.Create("db")
		req.Engine = engine
		op := a.MustPlan(req)
		if err := e.Record(e.Ctx, a.ID, a.ReportOf(op)); err != nil {
			t.Fatal(err)
		}
		e.MustSubmit(controltest.Rename("first", "db"))
		e.MustSubmit(controltest.Rename("db", "new"))
		out := a.MustCommit(op)
		if !out.Duplicate || out.Dataset.ID != id {
			t.Errorf("engine %t: got %+v", engine, out)
		}
		got := e.MustOperation(op.ID)
		if engine && (got.State != dataset.OpDone || got.DatasetID != id) {
			t.Errorf("the engine's create: %+v", got)
		}
		if !engine {
			controltest.Refused(t, got.Problem.Err(), dataset.ErrExists, "db is an alias of volume new")
		}
		checkNames(e, id, "new", "db", "first")
		e.CheckInvariants()
	}
}

// TestRenameTellsOfItself: the events have both names, and the operations stay on record.
func TestRenameTellsOfItself(t *testing.T) {
	e := controltest.New(t)
	e.NewAgent("alpha").MustCreate("db")
	op := e.MustSubmit(controltest.Rename("db", "new")).Operation
	if got := e.MustOperation(op.ID); got.State != dataset.OpDone || got.Kind != dataset.OpRename || got.Volume != "db" ||
		got.DatasetRecord.Volume != "new" {
		t.Errorf("the operation: %+v", got)
	}
	e.MustSubmit(controltest.DropAlias("new", "db"))
	var got []string
	if err := e.Events(t.Context(), 0, false, func(ev api.Event) error {
		if ev.Type == api.EventVolumeRename || ev.Type == api.EventVolumeUpdate {
			got = append(got, string(ev.Type)+" "+ev.Volume+": "+ev.Detail)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"volume.rename new: was db", "volume.update new: no alias db"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}
