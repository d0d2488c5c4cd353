package control_test

import (
	"slices"
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

// TestSnapshotsHavePresentName: after a rename, snapshots are shown with the new name of their volume. If another volume
// gets the former name, the snapshots are not taken for those of that volume.
func TestSnapshotsHavePresentName(t *testing.T) {
	e, a := controltest.OneNode(t)
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
			e, a := controltest.OneNode(t)
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

// TestRenameDuringMove: a volume can be renamed at each step of a move, and the move succeeds.
func TestRenameDuringMove(t *testing.T) {
	for _, step := range []string{"submitted", "recalled", "yielded", "committed"} {
		t.Run(step, func(t *testing.T) {
			e, a, b := controltest.TwoNodes(t)
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
			a.OK(a.TryYield(op, controltest.Relinquished(op)))
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
			e, a := controltest.OneNode(t)
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
		e, a := controltest.OneNode(t)
		id := a.MustCreate("first").ID
		req := controltest.Create("db")
		req.Engine = engine
		op := a.MustPlan(req)
		e.OK(e.Record(e.Ctx, a.ID, a.ReportOf(op)))
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

// setAliases gives a volume aliases.
func setAliases(e *controltest.Control, volume string, aliases ...string) dataset.Dataset {
	e.Helper()
	var d dataset.Dataset
	_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) (err error) {
		if d, err = t.Volume(volume); err != nil {
			return err
		}
		d.Aliases = aliases
		for _, name := range aliases {
			if err := t.Put(record.NameKey(name), record.Claim{ID: d.ID}); err != nil {
				return err
			}
		}
		return t.PutDataset(d)
	})
	e.OK(err)
	return d
}

// An alias finds its volume, no other volume can get its name, and lists have the volume once.
func TestAliasFindsItsVolume(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	d := setAliases(e, "db", "old")
	if v := e.MustVolume("old"); v.ID != d.ID || v.Volume != "db" {
		t.Errorf("the alias finds %s (%s), want db (%s)", v.Volume, v.ID, d.ID)
	}
	create := controltest.Create("old")
	_, err := a.Plan(a.Ctx, a.ID, create)
	controltest.Refused(t, err, dataset.ErrExists, "alias of volume db", "drover volume rename --drop-alias old db")
	create.Engine = true
	if p, err := a.Plan(a.Ctx, a.ID, create); err != nil || p.Unchanged == nil || p.Unchanged.ID != d.ID {
		t.Errorf("an engine creates the alias: got %+v, %v; want the volume unchanged", p, err)
	}
	list, err := e.Volumes(e.Ctx, api.Page{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Volume != "db" {
		t.Errorf("volumes %+v, %v; want only db", list.Items, err)
	}
	e.CheckInvariants()
}

// A lost store is rebuilt with the aliases that no other volume has taken.
func TestRebuildRestoresAliases(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	d := setAliases(e, "db", "old", "taken")
	found := api.FoundDataset{Dataset: d, Pool: d.Pool}

	e = controltest.New(t)
	b := e.NewAgent("alpha")
	found.Pool = b.LocalPools[0].ID
	b.MustCreate("taken")
	for range 2 { // it is idempotent
		b.OK(b.Rebuild(e.Ctx, b.ID, []api.FoundDataset{found}, false))
	}
	v := e.MustVolume("old")
	if v.ID != d.ID || !slices.Equal(v.Aliases, []string{"old"}) {
		t.Errorf("rebuilt with ID %s, aliases %v", v.ID, v.Aliases)
	}
	e.CheckInvariants()
}
