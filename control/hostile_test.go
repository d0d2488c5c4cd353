package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/ledger"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/recovery"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// How an operation ended says its agent, and not who asked for what.
func TestReportsChangeNoRequest(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	for _, problem := range []*dataset.Problem{nil, dataset.ProblemOf(dataset.ErrNoSpace)} {
		asked := *e.submit(create("db" + fmt.Sprint(problem != nil))).Operation
		op := asked
		op.Problem, op.Volume, op.Asked, op.Path, op.From = problem, "others", "", "/etc", uuid.New()
		op.Created, op.Options = op.Created.Add(time.Hour), map[string]string{"pool": "x"}
		a.commit(op)
		got, err := e.Operation(e.ctx, op.ID.String(), 0)
		if err != nil || got.Volume != asked.Volume || got.Asked != asked.Asked || got.Path != "" || got.From != uuid.Nil || !got.Created.Equal(asked.Created) || len(got.Options) > 0 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	err := e.Events(e.ctx, 0, false, func(ev api.Event) error {
		if ev.Volume == "others" {
			t.Errorf("%+v", ev)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A node makes up the UUIDs of what it makes: none that is another thing's.
func TestUUIDsOfOthers(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	theirs := b.create("theirs")
	snap := b.snapshot("theirs", "")
	mine := a.create("mine")
	before := e.dump()
	for name, id := range map[string]uuid.UUID{"dataset": theirs.ID, "snapshot": snap.ID, "its own": mine.ID} {
		op := a.plan(api.Request{Kind: dataset.OpSnapshot, Volume: "mine"})
		op.Snapshot.ID = id
		_, err := a.Commit(e.ctx, a.id, a.report(op))
		refused(t, err, dataset.ErrExists, id.String(), "something else")
		found := api.Found{Pool: a.pools[0].ID, Dataset: mine, Snapshots: []dataset.Snapshot{{ID: id, Dataset: mine.ID}}}
		if _, err := e.Rebuild(e.ctx, a.id, []api.Found{found}); err == nil {
			t.Error("a rebuild took the UUID of", name)
		}
	}
	op := a.plan(create("new"))
	op.DatasetID, op.Dataset.ID = snap.ID, snap.ID
	_, err := a.Commit(e.ctx, a.id, a.report(op))
	refused(t, err, dataset.ErrExists, snap.ID.String())
	found := api.Found{Pool: a.pools[0].ID, Dataset: dataset.Dataset{ID: snap.ID, Volume: "found", State: dataset.StateReady}}
	_, err = e.Rebuild(e.ctx, a.id, []api.Found{found})
	refused(t, err, dataset.ErrExists, snap.ID.String())
	if diff := cmp.Diff(before, e.dump()); diff != "" {
		t.Error(diff)
	}
	e.check()
}

// What a node says of itself is bounded, and what is too much is refused by the bound.
func TestHeartbeatsAreBounded(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	long := strings.Repeat("x", dataset.MaxLine+1)
	for want, h := range map[string]api.Heartbeat{
		"257 pools (256 at most)":                        {Pools: make([]dataset.PoolStatus, 200), Unmade: make([]api.Pool, 57)},
		"20001 datasets (20000 at most)":                 {Datasets: make([]dataset.DatasetStatus, 20_001)},
		"20001 copies (20000 at most)":                   {Copies: make([]dataset.Copy, 20_001)},
		"20001 operations (20000 at most)":               {Operations: make([]dataset.Operation, 20_001)},
		"why it does not believe the store takes 4097":   {Distrust: long},
		"what it says of pool " + a.pools[0].ID.String(): {Pools: []dataset.PoolStatus{{ID: a.pools[0].ID, Reason: long}}},
		"what it says of pool  takes 4097":               {Unmade: []api.Pool{{Status: &dataset.PoolStatus{Reason: long}}}},
		"what it says of dataset ":                       {Datasets: []dataset.DatasetStatus{{Problem: long}}},
		"10001 mount IDs of dataset ":                    {Datasets: []dataset.DatasetStatus{{Mounts: make([]dataset.Mount, 10_001)}}},
		"a mount ID of 257 bytes (256 at most)":          {Datasets: []dataset.DatasetStatus{{Mounts: []dataset.Mount{{ID: strings.Repeat("a", 257)}}}}},
	} {
		h.Incarnation = a.incarnation
		before := e.dump()
		refused(t, e.Heartbeat(e.ctx, a.id, h), dataset.ErrInvalid, "alpha", want)
		if diff := cmp.Diff(before, e.dump()); diff != "" {
			t.Error(diff)
		}
	}
}

// What is remembered of a node is bounded, however many heartbeats it takes, and is what
// that node said: nobody drowns out what another says of its own.
func TestSeenIsBounded(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	d := a.create("db")
	say := func(of *agent, whole bool, list ...dataset.DatasetStatus) error {
		return e.Heartbeat(e.ctx, of.id, api.Heartbeat{Incarnation: of.incarnation, Datasets: list, Whole: whole})
	}
	is := dataset.DatasetStatus{ID: d.ID, Mounted: true}
	if err := say(a, true, is); err != nil {
		t.Fatal(err)
	}
	if err := say(b, true, dataset.DatasetStatus{ID: d.ID, Problem: "lies"}); err != nil {
		t.Fatal(err)
	}
	if v := e.volume("db"); v.Status == nil || !v.Status.Mounted {
		t.Errorf("%+v", v.Status)
	}
	fill := func(whole bool) (err error) {
		for n := 0; n <= reports.MaxSeen && err == nil; n += reports.MaxTold {
			list := make([]dataset.DatasetStatus, reports.MaxTold)
			for i := range list {
				list[i].ID = uuid.New()
			}
			err = say(b, whole, list...)
		}
		return err
	}
	refused(t, fill(true), dataset.ErrConflict, "beta", "datasets to remember (200000 at most): all is to be told")
	refused(t, fill(false), dataset.ErrInvalid, "beta", "datasets to remember (200000 at most)")
	if err := say(a, true, is); err != nil {
		t.Error("others are refused as well:", err)
	}
	// What is on no record is forgotten when somebody looks.
	if err := say(b, true, dataset.DatasetStatus{ID: uuid.New()}); err != nil {
		t.Error(err)
	}
	if seen := e.Seen(e.ctx); len(seen) != 1 || len(e.Reports.Datasets()) != 1 {
		t.Errorf("%d seen, %d remembered", len(seen), len(e.Reports.Datasets()))
	}
}

// Nor does what is on record of a node grow without an end.
func TestRegistrationsAreBounded(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	for range reports.MaxPools/2 - 1 {
		for i := range a.pools {
			a.pools[i].ID = uuid.New()
		}
		a.register("alpha")
	}
	for range 3 {
		a.pools = append(a.pools, dataset.Pool{ID: uuid.New(), Name: "more"})
	}
	r := api.Registration{Node: dataset.Node{ID: a.id, Name: "alpha", Incarnation: a.incarnation}, Pools: a.pools}
	before := e.dump()
	refused(t, e.Register(e.ctx, r), dataset.ErrInvalid, "alpha", "259 pools", "256 at most")
	r.Pools = []dataset.Pool{{ID: uuid.New(), Name: strings.Repeat("x", reports.MaxRecord)}}
	refused(t, e.Register(e.ctx, r), dataset.ErrInvalid, "bytes (131072 at most)")
	if diff := cmp.Diff(before, e.dump()); diff != "" {
		t.Error(diff)
	}
}

// What a rebuild brings back is bounded too.
func TestRebuildsAreBounded(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	found := func(d dataset.Dataset, n int) api.Found {
		d.ID, d.State = uuid.New(), dataset.StateReady
		return api.Found{Pool: a.pools[0].ID, Dataset: d, Snapshots: make([]dataset.Snapshot, n)}
	}
	before := e.dump()
	for want, list := range map[string][]api.Found{
		"100001 datasets (100000 at most)": make([]api.Found, reports.MaxFound+1),
		"100001 snapshots":                 {found(dataset.Dataset{Volume: "db"}, reports.MaxFound+1)},
		"bytes (131072 at most)":           {found(dataset.Dataset{Volume: "db"}, 0), found(dataset.Dataset{Volume: "xy", Spelling: strings.Repeat("x", reports.MaxRecord)}, 0)},
	} {
		_, err := e.Rebuild(e.ctx, a.id, list)
		refused(t, err, dataset.ErrInvalid, "rebuild", want)
	}
	if diff := cmp.Diff(before, e.dump()); diff != "" {
		t.Error(diff)
	}
}

// Nor is what is kept in memory of what a node holds, for a recovery, without an end; it is
// forgotten when that is done.
func TestHoldingsAreBounded(t *testing.T) {
	m := newMuster(t, "alpha")
	a := m.nodes["alpha"]
	m.saved = m.save()
	a.create("db")
	m.back()
	for want, change := range map[string]func(h *api.Holdings){
		"100001 datasets (100000 at most)": func(h *api.Holdings) { h.Found = make([]api.Found, reports.MaxFound+1) },
		"257 pools (256 at most)":          func(h *api.Holdings) { h.Pools = make([]uuid.UUID, 257) },
		"200001 copies (200000 at most)":   func(h *api.Holdings) { h.Copies = make([]api.Kept, reports.MaxSeen+1) },
		"200001 epochs given up":           func(h *api.Holdings) { h.Given = make([]api.Given, reports.MaxSeen+1) },
		"copy of dataset " + a.id.String(): func(h *api.Holdings) {
			h.Copies = []api.Kept{{Copy: dataset.Copy{Dataset: a.id, Kind: dataset.CopyKind(strings.Repeat("x", reports.MaxRecord))}}}
		},
		"dataset " + a.pools[0].ID.String() + " ": func(h *api.Holdings) {
			h.Found = []api.Found{{Dataset: dataset.Dataset{ID: a.pools[0].ID, Spelling: strings.Repeat("x", reports.MaxRecord)}}}
		},
	} {
		h := m.holds["alpha"]
		change(&h)
		refused(t, m.Hold(t.Context(), a.id, h), dataset.ErrInvalid, "holdings of node", want)
	}
	m.mend("alpha")
	if _, reports := m.Service.Recovery.Gathered(); reports != 0 || m.Service.Recovery.Gathers() == nil {
		t.Errorf("%d nodes' holdings are kept after the recovery", reports)
	}
	if v := m.volume("db"); v.Home != a.id {
		t.Errorf("%+v", v)
	}
}

// What nodes hold is taken in once a recovery was asked for, and kept until that is done, or was
// not confirmed for long.
func TestHoldingsAreForgotten(t *testing.T) {
	m := newMuster(t, "alpha")
	m.saved = m.save()
	m.nodes["alpha"].create("db")
	m.back()
	refused(t, m.Service.Recovery.Gathers(), dataset.ErrConflict, "not asked for a recovery")
	r, err := m.recover(api.Recover{}, "alpha")
	if err != nil {
		t.Fatal(err)
	}
	m.dies(m.nodes["alpha"]) // as its session would by itself, at some time of the next hour
	m.env.clock.Advance(recovery.GatheredFor - 1)
	m.stand(m.Service)
	if err := m.Service.Recovery.Gathers(); err != nil || reportsOf(m.Service) != 1 {
		t.Errorf("forgotten early: %v", err)
	}
	m.env.clock.Advance(1)
	m.stand(m.Service)
	refused(t, m.Service.Recovery.Gathers(), dataset.ErrConflict, "it is over")
	_, err = m.recover(api.Recover{Confirm: r.Digest})
	refused(t, err, dataset.ErrConflict, "look again")
	m.nodes["alpha"].incarnation = uuid.New() // its session was over
	m.nodes["alpha"].register("alpha")
	h := m.holds["alpha"]
	h.Incarnation = m.nodes["alpha"].incarnation
	m.holds["alpha"] = h
	m.mend("alpha")
	refused(t, m.Service.Recovery.Gathers(), dataset.ErrConflict, "it is over")
}

// A node that believes the store again says so to whom it can: also when the service that
// took note of the contrary is no more, and the one that hears it never heard of that.
func TestTrustIsReadFromTheRecord(t *testing.T) {
	x := newShared(t, 2)
	a, b := x.list[0], x.list[1]
	e := &env{tb: t, Service: a, ctx: t.Context()}
	n := e.agent("n1") // which believes it, says a
	e.Service = b
	n.distrust("it is older")
	e.Service = a
	x.clock.Advance(ledger.RecalledFor)
	before := x.count()
	n.distrust("")
	if x.count() == before {
		t.Error("the store stays halted, as nobody looked")
	}
	if there, err := record.NewTx(t.Context(), x.st).Peek(record.HaltedKey, &record.Halt{}); err != nil || there {
		t.Error("it is halted yet:", err)
	}
	x.clock.Advance(ledger.RecalledFor)
	before = x.count()
	n.distrust("")
	if got := x.count(); got != before {
		t.Errorf("%d transactions for a heartbeat that says what is on record", got-before)
	}
}

// reportsOf returns how many nodes have reported for the recovery in progress.
func reportsOf(s *Service) int {
	_, n := s.Recovery.Gathered()
	return n
}
