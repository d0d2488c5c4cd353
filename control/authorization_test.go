package control_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A node may request only work that it carries out itself.
func TestWhatANodeMay(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	b.MustCreate("web@gold")
	e.NewAgent("gamma")
	a.MustCreate("had@gold")
	e.MustMove("had", a, b, "beta")
	alpha := controltest.As(controltest.NodeIdentity("alpha", a.ID))
	submit := func(ctx context.Context, req api.Request) error {
		out, err := e.Submit(ctx, req)
		if err == nil && out.Operation != nil && !out.Operation.State.Final() {
			if _, err := e.CancelOperation(e.Ctx, out.Operation.ID.String()); err != nil && dataset.KindOf(err) != dataset.ErrUnsupported {
				t.Error(err)
			}
		}
		return err
	}
	for name, c := range map[string]struct {
		req  api.Request
		want string // empty: allowed
	}{
		"a snapshot of its own":   {api.Request{Kind: dataset.OpSnapshot, Volume: "db"}, ""},
		"a snapshot of another's": {api.Request{Kind: dataset.OpSnapshot, Volume: "web"}, "node alpha (" + a.ID.String() + ") may not request this snapshot of volume web, because node beta carries it out: ask there, or ask with an operator's certificate, or as root of a control host with DROVER_API=unix:///run/drover/control.sock"},
		"another's end":           {api.Request{Kind: dataset.OpDelete, Volume: "web"}, "may not request this delete of volume web"},
		"another's profile":       {api.Request{Kind: dataset.OpUpdate, Volume: "web", Protect: controltest.Yes()}, "may not request this update"},
		"its own profile":         {api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.No()}, ""},
		"a new one":               {controltest.Create("new@gold"), ""},
		"to itself":               {controltest.Move("web", "alpha"), ""},
		"away from itself":        {controltest.Move("db", "beta"), ""},
		"from one to another":     {controltest.Move("web", "gamma"), "may not request this move of volume web, because node gamma carries it out"},
		"the end of what it had":  {api.Request{Kind: dataset.OpDelete, Volume: "had"}, ""},
	} {
		err := submit(alpha, c.req)
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c.want != "" {
			controltest.Refused(t, err, dataset.ErrForbidden, c.want)
		}
	}
	if v, err := e.Submit(alpha, controltest.Create("mine@gold")); err != nil || v.Operation.Node != a.ID {
		t.Errorf("not made on the requesting node: %+v, %v", v.Operation, err)
	}
	imported := api.Request{Kind: dataset.OpImport, Volume: "etc@gold", Path: "/etc"}
	worker := controltest.As(pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"})
	controltest.Refused(t, submit(worker, imported), dataset.ErrForbidden, "requires the role admin")
	e.OK(submit(controltest.As(pki.Identity{Kind: pki.Operator, Role: pki.Admin, Name: "alice"}), imported))
	// A node cannot cancel an operation of another node either.
	op := *e.MustSubmit(controltest.Move("web", "alpha")).Operation
	_, err := e.CancelOperation(controltest.As(controltest.NodeIdentity("delta", e.NewAgent("delta").ID)), op.ID.String())
	controltest.Refused(t, err, dataset.ErrForbidden, "because its node has no part")
	e.OK(e.CancelOperation(controltest.As(controltest.NodeIdentity("beta", b.ID)), op.ID.String()))
	// A node can cancel the creation of a volume that it requested, also if another node carries it out. Other nodes
	// cannot.
	e.OK(e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: true}))
	asked := controltest.Create("elsewhere@gold")
	asked.Engine = true
	made, err := e.Submit(alpha, asked)
	if err != nil || made.Operation.Node == a.ID {
		t.Fatal(made.Operation, err)
	}
	epsilon := controltest.As(controltest.NodeIdentity("epsilon", uuid.New())) // without a pool, so nothing is placed there
	_, err = e.CancelOperation(epsilon, made.Operation.ID.String())
	controltest.Refused(t, err, dataset.ErrForbidden, "because its node has no part")
	e.OK(e.CancelOperation(alpha, made.Operation.ID.String()))
	made, err = e.Submit(alpha, controltest.Create("typed@gold"))
	if err != nil || made.Operation.Node == a.ID {
		t.Fatal(made.Operation, err)
	}
	_, err = e.CancelOperation(epsilon, made.Operation.ID.String())
	controltest.Refused(t, err, dataset.ErrForbidden, "because its node has no part")
	e.OK(e.CancelOperation(alpha, made.Operation.ID.String()))
	made, err = e.Submit(controltest.As(pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"}), controltest.Create("person@gold"))
	require.NoError(t, err)
	_, err = e.CancelOperation(alpha, made.Operation.ID.String())
	controltest.Refused(t, err, dataset.ErrForbidden, "because its node has no part")
	e.CheckInvariants()
}

// Only an admin may confirm that a home does not write any more. No node and no operator with another role may. The
// error says which role is needed.
func TestI1AnAdminVouches(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta")
	req := controltest.ForcedMove("db", "alpha", "beta")
	_, err := e.Submit(controltest.As(controltest.NodeIdentity("alpha", a.ID)), req)
	controltest.Refused(t, err, dataset.ErrForbidden, "an admin's confirmation: ask with an admin's certificate")
	operator := func(role pki.Role) context.Context {
		return controltest.As(pki.Identity{Kind: pki.Operator, Role: role, Name: "bob"})
	}
	_, err = e.Submit(operator(pki.Worker), req)
	controltest.Refused(t, err, dataset.ErrForbidden, "operator bob (operator) may not move volume db without its home: confirming that node beta writes no more (--fenced) requires the role admin")
	e.OK(e.Submit(operator(pki.Admin), req))
}

// A node has the name that it joined with.
func TestNameOfTheCertificate(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	id := uuid.New()
	err := e.Register(controltest.As(controltest.NodeIdentity("alpha", id)), api.Registration{Node: dataset.Node{ID: id, Name: "beta", Incarnation: uuid.New()}})
	require.NoError(t, err)
	if nodes, err := e.NodeList(e.Ctx, ""); err != nil || len(nodes) != 1 || nodes[0].Name != "alpha" {
		t.Errorf("%+v, %v", nodes, err)
	}
}

// The answer to a node depends on the node of the certificate. It depends neither on a node named in the request, nor
// on a certificate of another kind.
func TestI1WhatNoOtherNodeMay(t *testing.T) {
	e := controltest.New(t)
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	d := a.MustCreate("db")
	e.EditDataset(d.ID, func(d *dataset.Dataset, _ *dataset.Lease) { d.RequestedBy = b.ID })
	remove := dataset.Operation{Kind: dataset.OpDelete, Node: a.ID, Volume: "db", DatasetID: d.ID}
	create := dataset.Operation{Kind: dataset.OpCreate, Node: a.ID, Volume: "new"}
	folder := dataset.Operation{Kind: dataset.OpImport, Node: a.ID, Volume: "new", Path: "/etc"}
	for name, x := range map[string]struct {
		who  pki.Identity
		op   dataset.Operation
		want error
	}{
		"delete what its engine made":            {controltest.NodeIdentity("beta", b.ID), remove, nil},
		"delete what another's engine made":      {controltest.NodeIdentity("gamma", c.ID), remove, dataset.ErrForbidden},
		"have a volume made elsewhere":           {controltest.NodeIdentity("gamma", c.ID), create, nil},
		"import a folder of another host":        {controltest.NodeIdentity("gamma", c.ID), folder, dataset.ErrForbidden},
		"create with a certificate of control's": {pki.Identity{Kind: pki.Control, Name: "c2"}, create, dataset.ErrForbidden},
	} {
		if err := control.MayRequest(record.NewTx(controltest.As(x.who), e.Ledger.Store), &x.op); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", name, err, x.want)
		}
	}
}

// TestOperationsNameTheirCaller: an operation and its events name who requested it, also if another caller reports its
// end. The name in the body of a report is not believed.
func TestOperationsNameTheirCaller(t *testing.T) {
	e, a := controltest.OneNode(t)
	by := func(name string) context.Context { return requestid.WithBy(e.Ctx, name) }
	lastEvent := func(typ api.EventType) (by string) {
		t.Helper()
		list, _ := e.EventLog.After(0)
		for _, ev := range list {
			if ev.Type == typ {
				by = ev.By
			}
		}
		return by
	}
	wants := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: requested by %q, want %q", what, got, want)
		}
	}

	// Planned, and reported at once.
	p, err := a.Plan(by("root (uid 0) on alpha"), a.ID, controltest.Create("db@gold"))
	require.NoError(t, err)
	wants("a plan", p.Operation.By, "root (uid 0) on alpha")
	r := a.ReportOf(*p.Operation)
	r.Operation.By = "forged"
	a.OK(a.Commit(by("root (uid 0) on alpha"), a.ID, r))
	wants("the event of a create", lastEvent(api.EventVolumeCreate), "root (uid 0) on alpha")

	// Planned, and recorded because it takes long.
	p, err = a.Plan(by("engine docker on alpha"), a.ID, controltest.Create("slow@gold"))
	require.NoError(t, err)
	r = a.ReportOf(*p.Operation)
	r.Operation.By = "forged"
	a.OK(a.Record(by("engine docker on alpha"), a.ID, r))
	wants("a recorded create", e.MustOperation(p.Operation.ID).By, "engine docker on alpha")

	// Recorded by control, and reported by an agent.
	req := api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db", Name: "one"}
	e.OK(e.Submit(by("operator ann"), req))
	for _, op := range a.OpenOperations() {
		if op.ID == req.ID {
			a.OK(a.Commit(by("operator ann on alpha"), a.ID, a.ReportOf(op)))
		}
	}
	wants("a snapshot", e.MustOperation(req.ID).By, "operator ann")
	wants("the event of a snapshot", lastEvent(api.EventSnapshotCreate), "operator ann")

	// Records only.
	req = api.Request{ID: uuid.New(), Kind: dataset.OpRename, Volume: "db", Name: "data"}
	e.OK(e.Submit(by("operator ann"), req))
	wants("a rename", e.MustOperation(req.ID).By, "operator ann")
	wants("the event of a rename", lastEvent(api.EventVolumeRename), "operator ann")
}

// TestSchedulesAreNamed: a scheduled snapshot names the schedule, and what nobody requested names nobody.
func TestSchedulesAreNamed(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	e.AdvanceAndRun(25 * time.Hour)
	found := false
	for _, op := range a.OpenOperations() {
		found = true
		if op.By != "schedule" {
			t.Errorf("%s of %s: requested by %q", op.Kind, op.Volume, op.By)
		}
	}
	if !found {
		t.Error("no scheduled operation")
	}

	l.Replicas.EndSession(l.Alpha)
	l.Ctx = requestid.WithBy(l.Ctx, "engine docker on beta")
	if _, err := l.AskFailover(l.Service, "beta"); err == nil {
		t.Error("a failover began at once")
	}
	list, _ := l.EventLog.After(0)
	for _, ev := range list {
		if ev.Type == api.EventNodeAway {
			if ev.By != "" {
				t.Errorf("a node became unreachable by request of %q", ev.By)
			}
			return
		}
	}
	t.Error("no event that the node is unreachable")
}

// scene is a store with at least one record of every kind.
type scene struct {
	*controltest.Agent
	ops         map[dataset.OpKind]dataset.Operation // ready to be reported
	db, trashed dataset.Dataset
	snap        dataset.Snapshot
	pending     dataset.Operation
}

func newScene(e *controltest.Control) scene {
	e.Helper()
	sc := scene{Agent: e.NewAgent("alpha")}
	sc.ops = sc.PlanEachKind()
	sc.db = sc.MustVolume("db").Dataset
	sc.snap = *sc.ops[dataset.OpSnapshotDelete].Snapshot
	sc.pending = *sc.MustSubmit(controltest.Create("pending")).Operation
	sc.MustCreate("old")
	sc.MustCreate("kin", "from=old")
	sc.trashed = sc.MustDelete("old")
	sc.OK(sc.AddRepository(e.Ctx, newRepository("offsite")))
	return sc
}

func newRepository(name string) api.NewRepository {
	return api.NewRepository{Name: name, URL: "/srv/" + name, Password: dataset.PasswordSource{File: "/etc/drover/pass"}}
}

// calls lists every call of the API that reads or writes the store.
func calls(sc scene) map[string]func() error {
	all := map[string]func() error{}
	views(sc, all)
	reportCalls(sc, all)
	for kind, op := range sc.ops {
		all["commit "+string(kind)] = func() error { return sc.TryCommit(op) }
	}
	for name, req := range requests(sc) {
		req.ID = uuid.New()
		all["submit "+name] = func() error { return controltest.ErrorOf(sc.Submit(sc.Ctx, req)) }
		if !control.Alone(req.Kind) {
			all["plan "+name] = func() error { return controltest.ErrorOf(sc.Plan(sc.Ctx, sc.ID, req)) }
		}
	}
	return all
}

func views(sc scene, all map[string]func() error) {
	ctx := sc.Ctx
	for name, call := range map[string]func() error{
		"volume":           func() error { return controltest.ErrorOf(sc.Volume(ctx, "db")) },
		"volume by prefix": func() error { return controltest.ErrorOf(sc.Volume(ctx, sc.db.ID.String()[:8])) },
		"volumes":          func() error { return controltest.ErrorOf(sc.Volumes(ctx, api.Page{})) },
		"trash":            func() error { return controltest.ErrorOf(sc.Trash(ctx, api.Page{})) },
		"snapshots":        func() error { return controltest.ErrorOf(sc.Snapshots(ctx, "db", api.Page{})) },
		"all snapshots":    func() error { return controltest.ErrorOf(sc.Snapshots(ctx, "", api.Page{})) },
		"snapshot":         func() error { return controltest.ErrorOf(sc.Snapshot(ctx, "", sc.snap.ID.String()[:8])) },
		"snapshot by name": func() error { return controltest.ErrorOf(sc.Snapshot(ctx, "db", "one")) },
		"pools":            func() error { return controltest.ErrorOf(sc.Pools(ctx)) },
		"repositories":     func() error { return controltest.ErrorOf(sc.Repositories(ctx)) },
		"repository":       func() error { return controltest.ErrorOf(sc.Repository(ctx, "offsite")) },
		"failover":         func() error { return controltest.ErrorOf(sc.Failover(ctx)) },
		"nodes":            func() error { return controltest.ErrorOf(sc.NodeList(ctx, "")) },
		"operations":       func() error { return controltest.ErrorOf(sc.Operations(ctx, api.Page{})) },
		"operation":        func() error { return controltest.ErrorOf(sc.Operation(ctx, sc.pending.ID.String(), 0)) },
	} {
		all[name] = call
	}
}

func reportCalls(sc scene, all map[string]func() error) {
	ctx := sc.Ctx
	for name, call := range map[string]func() error{
		"cancel":    func() error { return controltest.ErrorOf(sc.CancelOperation(ctx, sc.pending.ID.String())) },
		"sync":      func() error { return controltest.ErrorOf(sc.Sync(ctx, sc.ID, 0, 0)) },
		"heartbeat": func() error { return sc.Heartbeat(ctx, sc.ID, api.Heartbeat{Incarnation: sc.Incarnation}) },
		"facts": func() error {
			return controltest.ErrorOf(sc.Facts(ctx, sc.ID, api.FactsReport{Incarnation: sc.Incarnation}))
		},
		"cordon": func() error { return controltest.ErrorOf(sc.Cordon(ctx, sc.ID, api.Cordoned{Cordoned: true})) },
		"label": func() error {
			return controltest.ErrorOf(sc.LabelNode(ctx, sc.ID, dataset.LabelChange{Set: map[string]string{"rack": "r2"}}))
		},
		"add repository":    func() error { return controltest.ErrorOf(sc.AddRepository(ctx, newRepository("second"))) },
		"remove repository": func() error { return sc.RemoveRepository(ctx, "offsite", false) },
		"record":            func() error { return sc.Record(ctx, sc.ID, sc.ReportOf(sc.ops[dataset.OpImport])) },
		"register": func() error {
			return sc.Register(ctx, api.Registration{Node: dataset.Node{ID: sc.ID, Incarnation: sc.Incarnation}, Pools: sc.LocalPools})
		},
		"rebuild": func() error {
			d, s := sc.db, sc.snap
			d.ID, d.Volume, s.ID = uuid.New(), "found", uuid.New()
			return controltest.ErrorOf(sc.Rebuild(ctx, sc.ID, []api.FoundDataset{{Pool: d.Pool, Dataset: d, Snapshots: []dataset.Snapshot{s}}}, false))
		},
	} {
		all[name] = call
	}
}

func requests(sc scene) map[string]api.Request {
	return map[string]api.Request{
		"create": controltest.Create("fresh@gold"), "clone": controltest.Create("copy2@snapshot-" + sc.snap.ID.String()[:8]), "again": controltest.Create("db@gold"),
		"same source": controltest.Create("kin", "from=old"), "snapshot": {Kind: dataset.OpSnapshot, Volume: "db", Name: "three"},
		"delete": {Kind: dataset.OpDelete, Volume: "db"}, "restore": {Kind: dataset.OpRestore, Volume: "db", Snapshot: "one"},
		"snapshot delete": {Kind: dataset.OpSnapshotDelete, Volume: "db", Snapshot: "one"},
		"resize":          {Kind: dataset.OpResize, Volume: "db", Size: "50GiB"},
		"set profile":     {Kind: dataset.OpUpdate, Volume: "db", Profile: "silver"},
		"protect":         {Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.Yes()},
		"undelete":        {Kind: dataset.OpUndelete, Volume: sc.trashed.ID.String()[:8]},
		"undelete name":   {Kind: dataset.OpUndelete, Volume: "old"},
		"purge":           {Kind: dataset.OpPurge, Volume: sc.trashed.ID.String()},
	}
}

// An agent can say how an operation ended, but not who requested what.
func TestReportsChangeNoRequest(t *testing.T) {
	e, a := controltest.OneNode(t)
	for _, problem := range []*dataset.Problem{nil, dataset.ProblemOf(dataset.ErrNoSpace)} {
		asked := *e.MustSubmit(controltest.Create("db" + fmt.Sprint(problem != nil))).Operation
		op := asked
		op.Problem, op.Volume, op.RequestDigest, op.Path, op.OtherNode = problem, "others", "", "/etc", uuid.New()
		op.Created, op.Options = op.Created.Add(time.Hour), map[string]string{"pool": "x"}
		a.MustCommit(op)
		got, err := e.Operation(e.Ctx, op.ID.String(), 0)
		if err != nil || got.Volume != asked.Volume || got.RequestDigest != asked.RequestDigest || got.Path != "" || got.OtherNode != uuid.Nil || !got.Created.Equal(asked.Created) || len(got.Options) > 0 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	err := e.Events(e.Ctx, 0, false, func(ev api.Event) error {
		if ev.Volume == "others" {
			t.Errorf("%+v", ev)
		}
		return nil
	})
	assert.NoError(t, err)
}

// Control computes the IDs of scheduled operations, so that all replicas request each of them once. No caller can use
// such an ID first, which would block the operation.
func TestIDsOfScheduledOperationsAreReserved(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	reserved := uuid.NewSHA1(uuid.New(), []byte("snapshot 2026-11-18T12:00:00Z"))
	before := e.Dump()
	protect := true
	e.MustRefuse(api.Request{ID: reserved, Kind: dataset.OpUpdate, Volume: "db", Protect: &protect}, dataset.ErrInvalid, "version 5")
	a.MustRefusePlan(api.Request{ID: reserved, Kind: dataset.OpSnapshot, Volume: "db"}, dataset.ErrInvalid, "version 5")
	op := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
	op.ID = reserved
	_, err := e.Commit(e.Ctx, a.ID, a.ReportOf(op))
	controltest.Refused(t, err, dataset.ErrInvalid, "version 5")
	controltest.Refused(t, e.Record(e.Ctx, a.ID, a.ReportOf(op)), dataset.ErrInvalid, "version 5")
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Error(diff)
	}
}

// A node chooses the UUIDs of what it creates, but cannot choose one that something else has.
func TestUUIDsOfOthers(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	theirs := b.MustCreate("theirs")
	snap := b.MustSnapshot("theirs", "")
	mine := a.MustCreate("mine")
	before := e.Dump()
	for name, id := range map[string]uuid.UUID{"dataset": theirs.ID, "snapshot": snap.ID, "its own": mine.ID} {
		op := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: "mine"})
		op.Snapshot.ID = id
		_, err := a.Commit(e.Ctx, a.ID, a.ReportOf(op))
		controltest.Refused(t, err, dataset.ErrExists, id.String(), "something else")
		found := api.FoundDataset{Pool: a.LocalPools[0].ID, Dataset: mine, Snapshots: []dataset.Snapshot{{ID: id, Dataset: mine.ID}}}
		if _, err := e.Rebuild(e.Ctx, a.ID, []api.FoundDataset{found}, false); err == nil {
			t.Error("a rebuild took the UUID of", name)
		}
	}
	op := a.MustPlan(controltest.Create("new"))
	op.DatasetID, op.DatasetRecord.ID = snap.ID, snap.ID
	_, err := a.Commit(e.Ctx, a.ID, a.ReportOf(op))
	controltest.Refused(t, err, dataset.ErrExists, snap.ID.String())
	found := api.FoundDataset{Pool: a.LocalPools[0].ID, Dataset: dataset.Dataset{ID: snap.ID, Volume: "found", State: dataset.StateReady}}
	_, err = e.Rebuild(e.Ctx, a.ID, []api.FoundDataset{found}, false)
	controltest.Refused(t, err, dataset.ErrExists, snap.ID.String())
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Error(diff)
	}
	e.CheckInvariants()
}
