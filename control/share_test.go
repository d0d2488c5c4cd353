package control

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/dataset"
)

// onShare registers a node with a loop pool, and one on a share where that is not nil.
func (e *env) onShare(name string, share uuid.UUID) *agent {
	e.Helper()
	a := &agent{env: e, id: uuid.New(), incarnation: uuid.New()}
	a.pools = []dataset.Pool{{ID: uuid.New(), Name: "fast", Backend: "loop", Path: "/" + name, Reach: dataset.ReachNode, Capabilities: loopCan}}
	if share != uuid.Nil {
		a.pools = append(a.pools, dataset.Pool{ID: uuid.New(), Name: "shared", Backend: "nfs", Path: "/mnt/" + name, Reach: dataset.ReachCluster, Share: share, Capabilities: shareCan})
	}
	a.register(name)
	e.agents = append(e.agents, a)
	return a
}

func (a *agent) createOnShare(name string) dataset.Dataset {
	a.Helper()
	op := a.plan(api.Request{Kind: dataset.OpCreate, Volume: name, Options: map[string]string{"pool": "shared"}})
	return *a.commit(op).Dataset
}

// Between pools of one share a volume goes with its snapshots, once its home has given it up,
// and the old home keeps nothing.
func TestMoveOnAShare(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a, b := e.onShare("alpha", share), e.onShare("beta", share)
	d := a.createOnShare("db")
	a.snapshot("db", "before")

	op := *e.submit(moveTo("db", "beta")).Operation
	if !op.Share || op.Files || op.Loss != nil || op.Dataset.Pool != b.pools[1].ID {
		t.Fatalf("%+v", op)
	}
	if err := b.commits(op); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("before its home has given it up: %v", err)
	}
	b.recalls(op)
	m := &dataset.Manifest{Taken: someday}
	if err := a.yields(op, m); err != nil {
		t.Fatal(err)
	}
	op.Manifest = m
	got := *b.commit(op).Dataset
	if got.Home != b.id || got.Pool != b.pools[1].ID || got.Epoch != 2 || len(got.Copies) != 0 || got.Move != uuid.Nil {
		t.Errorf("%+v", got)
	}
	e.check()
	if s := a.sync(0); len(s.Copies) != 0 || len(s.Datasets) != 0 {
		t.Errorf("the home that was left has %+v", s)
	}
	if _, err := e.Snapshot(e.ctx, "db", "before"); err != nil {
		t.Errorf("its snapshot: %v", err)
	}
	if d.ID != got.ID {
		t.Errorf("it is another one")
	}
}

// The home that is to give it up hears of that, and one that was left hears that it is.
func TestLeavingAShareIsHeard(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a, b := e.onShare("alpha", share), e.onShare("beta", share)
	d := a.createOnShare("db")
	rev := a.sync(0).Rev
	op := *e.submit(moveTo("db", "beta")).Operation
	b.recalls(op)
	s := a.sync(rev)
	if len(s.Datasets) != 1 || s.Datasets[0].Lease == nil || s.Datasets[0].Lease.State != dataset.LeaseRecalled {
		t.Fatalf("it hears %+v", s)
	}
	op.Manifest = &dataset.Manifest{Taken: someday}
	if err := a.yields(op, op.Manifest); err != nil {
		t.Fatal(err)
	}
	b.commit(op)
	if s := a.sync(s.Rev); !slices.Equal(s.Removed, []uuid.UUID{d.ID}) {
		t.Errorf("it hears %+v", s)
	}
}

// To a node without a pool on the share files are copied, as between any two unlike pools, if
// its profile lets them; and never while there is one that is away.
func TestMoveOffAShare(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a, b := e.onShare("alpha", share), e.onShare("beta", share)
	e.onShare("gamma", uuid.Nil)
	e.onShare("delta", uuid.New())
	a.createOnShare("db")
	if _, err := e.Submit(e.ctx, moveTo("db", "gamma")); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("to a node without such a pool: %v", err)
	}
	op := *e.submit(moveTo("db", "delta")).Operation
	if op.Share || !op.Files {
		t.Errorf("to another share: %+v", op)
	}
	if _, err := e.CancelOperation(e.ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	h := api.Heartbeat{Incarnation: b.incarnation, Whole: false, Pools: []dataset.PoolStatus{{ID: b.pools[0].ID, Online: true, Size: 1 << 40, Free: 1 << 40}, {ID: b.pools[1].ID, Reason: "it hangs"}}}
	if err := e.Heartbeat(e.ctx, b.id, h); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Submit(e.ctx, moveTo("db", "beta")); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "it hangs") {
		t.Errorf("to a node whose share hangs: %v", err)
	}
}

// What a home that is lost had not taken yet lies where it was to take it from: that stays on
// record, if who goes on says that it is so, and nothing else that is said.
func TestNotTakenYetStaysOnRecord(t *testing.T) {
	for _, says := range []string{"taken", "not taken", "nonsense"} {
		e := newEnv(t)
		share := uuid.New()
		a, b, c := e.onShare("alpha", share), e.onShare("beta", share), e.onShare("gamma", share)
		a.createOnShare("db")
		first := dataset.Taken{From: a.pools[1].ID, Epoch: 1}
		got := *b.commit(*e.submit(forced("db", "beta", "alpha")).Operation).Dataset
		if got.Taken == nil || *got.Taken != first {
			t.Fatalf("beta: %+v", got.Taken)
		}
		op := *e.submit(forced("db", "gamma", "beta")).Operation
		want := dataset.Taken{From: b.pools[1].ID, Epoch: 2}
		switch op.Dataset.Taken = nil; says {
		case "not taken":
			op.Dataset.Taken, want = &first, first
		case "nonsense":
			op.Dataset.Taken = &dataset.Taken{From: uuid.New(), Epoch: 1}
		}
		if got := *c.commit(op).Dataset; got.Taken == nil || *got.Taken != want {
			t.Errorf("%s: %+v", says, got.Taken)
		}
	}
}

// A node that has the very pool by now in which a volume lies, as one that stands in for a host
// that is gone, is not to have it moved in there; into another pool of its own it is.
func TestI1MoveIntoThePoolThatItLiesIn(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a := e.onShare("alpha", share)
	a.createOnShare("db")
	own := a.pools[1]
	c := &agent{env: e, id: uuid.New(), incarnation: uuid.New(), pools: []dataset.Pool{{ID: uuid.New(), Name: "fast", Backend: "loop", Path: "/gamma", Reach: dataset.ReachNode, Capabilities: loopCan}, own}}
	c.register("gamma")
	e.agents = append(e.agents, c)
	for _, req := range []api.Request{forced("db", "gamma", "alpha"), moveTo("db", "gamma")} {
		if op, err := e.Submit(e.ctx, req); err == nil || !strings.Contains(err.Error(), "drover store rebuild") {
			t.Errorf("force %t: %+v, %v", req.Force, op.Operation, err)
		}
	}
	second := own
	second.ID, second.Path = uuid.New(), own.Path+"2"
	c.pools = append(c.pools, second)
	c.register("gamma")
	if op := *e.submit(forced("db", "gamma", "alpha")).Operation; !op.Share || op.Dataset.Pool != second.ID {
		t.Errorf("%+v", op.Dataset)
	}
}

// Of several pools of a node on the share one that serves is taken.
func TestForceIntoAPoolThatServes(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a, b := e.onShare("alpha", share), e.onShare("beta", share)
	a.createOnShare("db")
	second := b.pools[1]
	second.ID, second.Path = uuid.New(), second.Path+"2"
	b.pools = append(b.pools, second)
	b.register("beta")
	h := api.Heartbeat{Incarnation: b.incarnation, Pools: []dataset.PoolStatus{{ID: b.pools[1].ID, Held: true, Reason: "it is older"}, {ID: second.ID, Online: true}}}
	if err := e.Heartbeat(e.ctx, b.id, h); err != nil {
		t.Fatal(err)
	}
	if op := *e.submit(forced("db", "beta", "alpha")).Operation; !op.Share || op.Dataset.Pool != second.ID {
		t.Errorf("%+v", op.Dataset)
	}
}

// Without its home a volume goes on from what is on the share: nothing is lost, and nothing
// is kept by the one that was passed over.
func TestForceOnAShare(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a, b := e.onShare("alpha", share), e.onShare("beta", share)
	e.onShare("gamma", uuid.Nil)
	a.createOnShare("db")
	a.snapshot("db", "before")
	if _, err := e.Submit(e.ctx, forced("db", "gamma", "alpha")); !errors.Is(err, dataset.ErrNotFound) || !strings.Contains(err.Error(), "has no pool on the share") {
		t.Errorf("to a node that does not see it: %v", err)
	}
	op := *e.submit(forced("db", "beta", "alpha")).Operation
	if !op.Share || op.Loss == nil || op.Loss.Fenced != a.id {
		t.Fatalf("%+v", op)
	}
	got := *b.commit(op).Dataset
	if got.Home != b.id || got.Epoch != 2 || got.Pool != b.pools[1].ID || len(got.Copies) != 0 || len(got.Losses) != 0 {
		t.Errorf("%+v", got)
	}
	e.check()
	if _, err := e.Snapshot(e.ctx, "db", "before"); err != nil {
		t.Errorf("its snapshot: %v", err)
	}
	if s := a.sync(0); len(s.Copies) != 0 || len(s.Datasets) != 0 {
		t.Errorf("the one that was passed over has %+v", s)
	}
}

// A volume on a share goes on by itself on the node that asks for it, without any copy, once
// its home is lost; on a node that does not see the share, or has no guard, it does not.
func TestFailoverOnAShare(t *testing.T) {
	x := newShared(t, 1)
	e := x.env(x.list[0])
	takesOver(x.names, 0)
	auto := x.names.byName["auto"]
	auto.Size, auto.Snapshots = 0, dataset.Snapshots{}
	auto.Failover.Fence = dataset.Fence{Kind: dataset.FenceExec, Exec: []string{"/sbin/shut-out"}}
	x.names.byName["auto"] = auto
	share := uuid.New()
	l := &lost{env: e, x: x, a: e.onShare("alpha", share), b: e.onShare("beta", share), c: e.onShare("gamma", uuid.Nil)}
	d := e.onShare("delta", share)
	for _, a := range []*agent{l.a, l.b, l.c} {
		a.guarded()
	}
	l.others = []*agent{d}
	op := l.a.plan(create("db@auto", "pool=shared"))
	l.a.commit(op)
	if op, err := l.asks(l.Service, "beta"); op != nil || err != nil {
		t.Errorf("with its home alive: %+v, %v", op, err)
	}
	l.passes(membership.LossEvery, l.a, l.b, l.c, d) // as it was looked just now
	op = l.begins()
	if !op.Share || op.Node != l.b.id || op.Dataset.Pool != l.b.pools[1].ID || op.Dataset.Epoch != 2 || op.Loss.Away == 0 || op.Loss.Fenced != l.a.id || !strings.Contains(op.Loss.Why, "a command cuts it off first") {
		t.Fatalf("%+v, %+v", op, op.Loss)
	}
	got := *l.b.commit(op).Dataset
	if got.Home != l.b.id || got.Epoch != 2 || len(got.Copies) != 0 || len(got.Losses) != 0 {
		t.Errorf("%+v", got)
	}
	l.returns(l.a, "alpha")
	if s := l.a.sync(0); len(s.Copies) != 0 || len(s.Datasets) != 0 {
		t.Errorf("the one that was passed over has %+v", s)
	}
	l.x.dies(l.b)
	l.passes(membership.LossEvery, l.a, l.c, d)
	_, err := l.asks(l.Service, "gamma")
	refused(t, err, dataset.ErrPending)
	l.passes(l.Limits.Session, l.a, l.c, d)
	for node, why := range map[string]string{"gamma": "has no pool on the share", "delta": "has no guard that answers"} {
		_, err := l.asks(l.Service, node)
		refused(t, err, dataset.ErrOffline, "nothing takes over by itself", why)
	}
}
