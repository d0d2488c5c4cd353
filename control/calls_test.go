package control_test

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

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
	if _, err := sc.AddRepository(e.Ctx, newRepository("offsite")); err != nil {
		e.Fatalf("%v", err)
	}
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
