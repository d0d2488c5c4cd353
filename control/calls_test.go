package control

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// scene is a store with something of everything.
type scene struct {
	*agent
	ops         map[dataset.OpKind]dataset.Operation // ready to be reported
	db, trashed dataset.Dataset
	snap        dataset.Snapshot
	pending     dataset.Operation
}

func newScene(e *env) scene {
	e.Helper()
	sc := scene{agent: e.agent("alpha")}
	sc.ops = sc.operations()
	sc.db = sc.volume("db").Dataset
	sc.snap = *sc.ops[dataset.OpSnapshotDelete].Snapshot
	sc.pending = *sc.submit(create("pending")).Operation
	sc.create("old")
	sc.create("kin", "from=old")
	sc.trashed = sc.delete("old")
	return sc
}

// calls is every call of the API that asks the store.
func calls(sc scene) map[string]func() error {
	all := map[string]func() error{}
	views(sc, all)
	reportCalls(sc, all)
	for kind, op := range sc.ops {
		all["commit "+string(kind)] = func() error { return sc.commits(op) }
	}
	for name, req := range requests(sc) {
		req.ID = uuid.New()
		all["submit "+name] = func() error { return second(sc.Submit(sc.ctx, req)) }
		if !alone(req.Kind) {
			all["plan "+name] = func() error { return second(sc.Plan(sc.ctx, sc.id, req)) }
		}
	}
	return all
}

func second(_ any, err error) error { return err }

func views(sc scene, all map[string]func() error) {
	ctx := sc.ctx
	for name, call := range map[string]func() error{
		"volume":           func() error { return second(sc.Volume(ctx, "db")) },
		"volume by prefix": func() error { return second(sc.Volume(ctx, sc.db.ID.String()[:8])) },
		"volumes":          func() error { return second(sc.Volumes(ctx, api.Page{})) },
		"trash":            func() error { return second(sc.Trash(ctx, api.Page{})) },
		"snapshots":        func() error { return second(sc.Snapshots(ctx, "db", api.Page{})) },
		"all snapshots":    func() error { return second(sc.Snapshots(ctx, "", api.Page{})) },
		"snapshot":         func() error { return second(sc.Snapshot(ctx, "", sc.snap.ID.String()[:8])) },
		"snapshot by name": func() error { return second(sc.Snapshot(ctx, "db", "one")) },
		"pools":            func() error { return second(sc.Pools(ctx)) },
		"failover":         func() error { return second(sc.Failover(ctx)) },
		"nodes":            func() error { return second(sc.NodeList(ctx, "")) },
		"operations":       func() error { return second(sc.Operations(ctx, api.Page{})) },
		"operation":        func() error { return second(sc.Operation(ctx, sc.pending.ID.String(), 0)) },
	} {
		all[name] = call
	}
}

func reportCalls(sc scene, all map[string]func() error) {
	ctx := sc.ctx
	for name, call := range map[string]func() error{
		"cancel":    func() error { return second(sc.CancelOperation(ctx, sc.pending.ID.String())) },
		"sync":      func() error { return second(sc.Sync(ctx, sc.id, 0, 0)) },
		"heartbeat": func() error { return sc.Heartbeat(ctx, sc.id, api.Heartbeat{Incarnation: sc.incarnation}) },
		"facts":     func() error { return second(sc.Facts(ctx, sc.id, api.FactsReport{Incarnation: sc.incarnation})) },
		"cordon":    func() error { return second(sc.Cordon(ctx, sc.id, api.Cordoned{Cordoned: true})) },
		"record":    func() error { return sc.Record(ctx, sc.id, sc.report(sc.ops[dataset.OpImport])) },
		"register": func() error {
			return sc.Register(ctx, api.Registration{Node: dataset.Node{ID: sc.id, Incarnation: sc.incarnation}, Pools: sc.pools})
		},
		"rebuild": func() error {
			d, s := sc.db, sc.snap
			d.ID, d.Volume, s.ID = uuid.New(), "found", uuid.New()
			return second(sc.Rebuild(ctx, sc.id, []api.Found{{Pool: d.Pool, Dataset: d, Snapshots: []dataset.Snapshot{s}}}))
		},
	} {
		all[name] = call
	}
}

func requests(sc scene) map[string]api.Request {
	return map[string]api.Request{
		"create": create("fresh@gold"), "clone": create("copy2@snapshot-" + sc.snap.ID.String()[:8]), "again": create("db@gold"),
		"same source": create("kin", "from=old"), "snapshot": {Kind: dataset.OpSnapshot, Volume: "db", Name: "three"},
		"delete": {Kind: dataset.OpDelete, Volume: "db"}, "restore": {Kind: dataset.OpRestore, Volume: "db", Snapshot: "one"},
		"snapshot delete": {Kind: dataset.OpSnapshotDelete, Volume: "db", Snapshot: "one"},
		"resize":          {Kind: dataset.OpResize, Volume: "db", Size: "50GiB"},
		"set profile":     {Kind: dataset.OpUpdate, Volume: "db", Profile: "silver"},
		"protect":         {Kind: dataset.OpUpdate, Volume: "db", Protect: yes()},
		"undelete":        {Kind: dataset.OpUndelete, Volume: sc.trashed.ID.String()[:8]},
		"undelete name":   {Kind: dataset.OpUndelete, Volume: "old"},
		"purge":           {Kind: dataset.OpPurge, Volume: sc.trashed.ID.String()},
	}
}
