package control

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/replica"
	"github.com/droverhq/drover/dataset"
)

// replicated adds a profile that keeps so many replicas.
func (e *env) replicated(n int) {
	p := e.profiles.byName["silver"]
	p.Name, p.Revision, p.Replicas = "safe", "r1-safe", dataset.Replicas{Count: n, Every: dataset.Duration(30 * time.Second)}
	e.profiles.byName["safe"] = p
}

// hasCopy says that the node has its copy of a dataset up to a snapshot.
func (a *agent) hasCopy(d dataset.Dataset, taken time.Time) {
	a.Helper()
	c := dataset.Copy{Dataset: d.ID, Node: a.id, Epoch: d.Epoch, Snapshot: uuid.New(), Taken: taken}
	if err := a.Copied(a.ctx, a.id, api.Copied{Incarnation: a.incarnation, Copy: c}); err != nil {
		a.Fatalf("copied: %v", err)
	}
}

// copies returns the kinds of the copies of a dataset by the names of their nodes.
func (e *env) copies(id uuid.UUID, agents map[string]*agent) map[string]dataset.CopyKind {
	e.Helper()
	out := map[string]dataset.CopyKind{}
	for name, a := range agents {
		for _, k := range a.sync(0).Copies {
			if k.Dataset == id {
				out[name] = k.Kind
			}
		}
	}
	e.check()
	return out
}

func (e *env) edit(a *agent, change func(*dataset.Node)) {
	e.Helper()
	if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error {
		var n dataset.Node
		if _, err := t.Get(record.NodeKey(a.id), &n); err != nil {
			return err
		}
		change(&n)
		return t.Put(record.NodeKey(a.id), n)
	}); err != nil {
		e.Fatalf("%v", err)
	}
}

// A replica too many stays while the home says that it cannot open the volume.
func TestReplicasTooManyStay(t *testing.T) {
	e := newEnv(t)
	a, b, c := e.agent("alpha"), e.agent("beta"), e.agent("gamma")
	e.replicated(1)
	d := a.create("db@safe")
	if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error {
		d, err := t.Dataset(d.ID)
		for _, n := range []*agent{b, c} {
			k := dataset.Copy{Dataset: d.ID, Node: n.id, Pool: n.pools[0].ID, Kind: dataset.CopyReplica, Epoch: 1, Snapshot: uuid.New(), Taken: someday}
			err = errors.Join(err, record.KeepCopy(t, &d, k))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, l := range []struct {
		problem string
		going   int
	}{{"it is not in the pool", 0}, {"", 1}} {
		a.opens(d, l.problem)
		if err := e.CopyKeeper.Maintain(e.ctx, e.volume("db").Dataset); err != nil {
			t.Fatal(err)
		}
		going := 0
		for _, kind := range e.copies(d.ID, map[string]*agent{"beta": b, "gamma": c}) {
			if kind == dataset.CopyGoing {
				going++
			}
		}
		if going != l.going {
			t.Errorf("%q: %d are going", l.problem, going)
		}
	}
}

func TestReplicas(t *testing.T) {
	e := newEnv(t)
	a, b, c, x := e.agent("alpha"), e.agent("beta"), e.agent("gamma"), e.agent("delta")
	agents := map[string]*agent{"alpha": a, "beta": b, "gamma": c, "delta": x}
	e.replicated(1)
	e.edit(b, func(n *dataset.Node) { n.Cordoned = true })
	// The most room wins.
	for node, free := range map[*agent]dataset.Size{c: 30 * dataset.GiB, x: 50 * dataset.GiB} {
		h := api.Heartbeat{Incarnation: node.incarnation, Pools: []dataset.PoolStatus{{ID: node.pools[0].ID, Online: true, Size: 100 * dataset.GiB, Free: free}}}
		if err := e.Heartbeat(e.ctx, node.id, h); err != nil {
			t.Fatal(err)
		}
	}
	d := a.create("db@safe")
	e.rounds()
	got := e.copies(d.ID, agents)
	if len(got) != 1 || got["delta"] != dataset.CopyReplica {
		t.Fatalf("%v", got)
	}
	x.hasCopy(d, someday)

	// What is kept fresh is told all the time, and written seldom.
	writes := e.spy.txns
	for i := range 20 {
		x.hasCopy(d, someday.Add(time.Duration(i)*30*time.Second))
	}
	if n := e.spy.txns - writes; n > 1 {
		t.Errorf("%d transactions for 20 refreshes in 10 minutes", n)
	}
	op := *e.submit(forced("db", "delta", "alpha")).Operation
	if want := someday.Add(19 * 30 * time.Second); !op.Loss.Taken.Equal(want) {
		t.Errorf("said to be lost since %s, not %s", op.Loss.Taken, want)
	}
	if _, err := e.CancelOperation(e.ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}

	// A node that is drained keeps its copy until another has one that is whole, and no longer.
	e.rounds()
	if _, err := e.Cordon(e.ctx, x.id, api.Cordoned{Cordoned: true, Draining: true}); err != nil {
		t.Fatal(err)
	}
	d = e.volume("db").Dataset
	e.rounds() // the next one, not the next look at everything
	if got = e.copies(d.ID, agents); len(got) != 2 || got["gamma"] != dataset.CopyReplica || got["delta"] != dataset.CopyReplica {
		t.Fatalf("%v", got)
	}
	e.rounds()
	if got = e.copies(d.ID, agents); got["delta"] != dataset.CopyReplica {
		t.Fatalf("the last whole copy is to go: %v", got)
	}
	c.hasCopy(d, someday)
	e.rounds()
	if got = e.copies(d.ID, agents); got["gamma"] != dataset.CopyReplica || got["delta"] != dataset.CopyGoing {
		t.Fatalf("%v", got)
	}
	if len(e.failures) != 0 {
		t.Error(e.failures)
	}

	// Fewer are wanted: none.
	e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "silver"})
	e.rounds()
	if got = e.copies(d.ID, agents); got["gamma"] != dataset.CopyGoing {
		t.Fatalf("%v", got)
	}
}

// The copy that a move leaves becomes the replica, which is the least to send.
func TestReplicaOfWhatWasLeft(t *testing.T) {
	e := newEnv(t)
	a, b, c := e.agent("alpha"), e.agent("beta"), e.agent("gamma")
	agents := map[string]*agent{"alpha": a, "beta": b, "gamma": c}
	a.create("db@silver")
	d := e.moved("db", a, b, "beta")
	e.replicated(1)
	e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "safe"})
	e.rounds()
	if got := e.copies(d.ID, agents); len(got) != 1 || got["alpha"] != dataset.CopyReplica {
		t.Fatalf("%v", got)
	}
	e.pass(2 * replica.LeftFor)
	e.rounds()
	if got := e.copies(d.ID, agents); got["alpha"] != dataset.CopyReplica {
		t.Fatalf("a replica expires: %v", got)
	}
	// A move to the replica leaves one, which is kept fresh from then on.
	e.moved("db", b, a, "alpha")
	e.rounds()
	if got := e.copies(d.ID, agents); len(got) != 1 || got["beta"] != dataset.CopyReplica {
		t.Fatalf("%v", got)
	}
}

func TestReplicasThatNobodyCanKeep(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	e.replicated(2)
	a.planned(create("db@safe"), dataset.ErrUnsupported, "safe", "no other node")
	b, c := e.agent("beta"), &agent{env: e, id: uuid.New(), incarnation: uuid.New()}
	c.pools = []dataset.Pool{{ID: uuid.New(), Name: "plain", Backend: "dir", Capabilities: dirCan, Path: "/c"}}
	c.register("gamma")
	a.planned(create("db@safe"), dataset.ErrUnsupported, "pool plain of node gamma", "enforce a size")
	a.create("db@silver")
	_, err := e.Submit(e.ctx, api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "safe"})
	refused(t, err, dataset.ErrUnsupported, "gamma")

	// What can be kept is kept, and the rest is told.
	e.agent("delta")
	d := a.create("db2@safe")
	if got := e.volume("db2").Copies; len(got) != 2 || slices.Contains(got, d.Home) {
		t.Errorf("%v", got)
	}
	e.edit(b, func(n *dataset.Node) { n.Cordoned, n.Draining = true, true })
	e.rounds()
	if got := e.volume("db2").Copies; len(got) != 2 {
		t.Errorf("%d copies", len(got))
	}
	if len(e.failures) != 1 {
		t.Fatalf("%v", e.failures)
	}
	refused(t, e.failures[0], dataset.ErrUnsupported, "db2", "gamma", "enforce a size")
	e.edit(b, func(n *dataset.Node) { n.Cordoned, n.Draining = false, false })
	e.house.Full = e.clock.Now()
	e.rounds()
	if len(e.failures) != 1 {
		t.Errorf("%v", e.failures)
	}
}

// A node that is cordoned, or removed, after it was chosen for a replica gets none.
func TestReplicaOnANodeThatIsToGo(t *testing.T) {
	for name, change := range map[string]func(e *env, b *agent) error{
		"cordoned": func(e *env, b *agent) error {
			_, err := e.Cordon(e.ctx, b.id, api.Cordoned{Cordoned: true})
			return err
		},
		"removed": func(e *env, _ *agent) error {
			_, err := e.RemoveNode(e.ctx, "beta", false)
			return err
		},
	} {
		for _, late := range []bool{false, true} {
			nodeThatIsToGo(t, name, late, change)
		}
	}
}

func nodeThatIsToGo(t *testing.T, name string, late bool, change func(e *env, b *agent) error) {
	t.Run(fmt.Sprintf("%s late %t", name, late), func(t *testing.T) {
		e := newEnv(t)
		e.replicated(1)
		a, b := e.agent("alpha"), e.agent("beta")
		d := a.create("db@silver")
		d.Profile.Replicas.Count = 1
		if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error { return errors.Join(second(t.Dataset(d.ID)), t.PutDataset(d)) }); err != nil {
			t.Fatal(err)
		}
		changes := sync.OnceFunc(func() {
			if err := change(e, b); err != nil {
				t.Error(err)
			}
		})
		if late {
			e.spy.first(changes)
		} else {
			e.spy.onGet = func(key string) {
				if key == record.NodeKey(b.id) {
					e.spy.onGet = nil
					changes()
				}
			}
		}
		err := e.CopyKeeper.Maintain(e.ctx, e.volume("db").Dataset)
		refused(t, err, dataset.ErrUnsupported, "replicas on more nodes")
		if got := e.check().datasets[d.ID]; len(got.Copies) != 0 {
			t.Errorf("%v", got.Copies)
		}
	})
}

// A node that a volume left while the node was removed is not forgotten before the copy that
// it left there is.
func TestRemovedNodeLeavesNoCopies(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	e.moved("db", a, b, "beta")
	op := *e.submit(forced("db", "alpha", "beta")).Operation
	looks := 0
	e.spy.onList = func(prefix string) {
		if prefix != record.HomePrefix(b.id) {
			return
		}
		if looks++; looks == 2 { // once it is cleared, and before it is forgotten
			a.commit(op)
		}
	}
	if _, err := e.RemoveNode(e.ctx, "beta", true); err != nil {
		t.Fatal(err)
	}
	e.spy.onList = nil
	if v := e.volume("db"); v.Home != a.id || len(v.Copies) != 0 {
		t.Errorf("%+v", v.Dataset)
	}
	e.check()
}

// Of a replica that never came the volume says why, as far as its node told.
func TestReplicaThatNeverCame(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	e.replicated(1)
	d := a.create("db@safe")
	e.rounds()
	says := func(want string) {
		t.Helper()
		v, err := e.Volume(e.ctx, "db")
		if err != nil || len(v.Kept) != 1 || v.Kept[0].Problem != want {
			t.Errorf("%+v, %v; want %q", v.Kept, err, want)
		}
	}
	says("")
	pool := b.pools[0].ID
	b.tells(func(f *dataset.Facts) { f.Pools = f.Pools[1:] })
	says("its node does not have pool " + pool.String() + " (drover doctor, on that node)")
	if err := e.Heartbeat(e.ctx, b.id, api.Heartbeat{Incarnation: b.incarnation, Pools: []dataset.PoolStatus{{ID: pool, Reason: "its disk is absent"}}}); err != nil {
		t.Fatal(err)
	}
	says("its pool is offline: its disk is absent")
	b.hasCopy(d, someday)
	says("")
}
