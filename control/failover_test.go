package control

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// takesOver adds a profile whose volumes go on from a copy by themselves.
func takesOver(p *profileSet, replicas int) {
	auto := p.byName["silver"]
	auto.Name, auto.Revision = "auto", "r1-auto"
	auto.Replicas = dataset.Replicas{Count: replicas, Every: dataset.Duration(30 * time.Second)}
	auto.Failover = dataset.Failover{Auto: true, MaxLoss: dataset.Duration(time.Minute), Fence: dataset.Fence{Kind: dataset.FenceGuard}}
	p.byName["auto"] = auto
}

// guarded says that the node's guard answers.
func (a *agent) guarded() {
	a.Helper()
	if err := a.Heartbeat(a.ctx, a.id, api.Heartbeat{Incarnation: a.incarnation, Guard: true, Clock: a.clock.Now()}); err != nil {
		a.Fatalf("heartbeat: %v", err)
	}
}

// A volume that fails over by itself lies on nodes with a guard alone, and its replicas
// too; a host that works alone has none, and no volume becomes one.
func TestFailoverWantsGuards(t *testing.T) {
	e := newEnv(t)
	takesOver(e.profiles, 1)
	e.agent("alpha").planned(create("db@auto"), dataset.ErrUnsupported, "profile auto has failover auto", "works alone")

	x := newShared(t, 1)
	e = x.env(x.list[0])
	takesOver(x.names, 1)
	a, b, c := e.agent("alpha"), e.agent("beta"), e.agent("gamma")
	a.planned(create("db@auto"), dataset.ErrUnsupported, "nodes alpha, beta, gamma: pool fast: its node has no guard", "systemctl enable --now drover-guard")
	a.guarded()
	a.planned(create("db@auto"), dataset.ErrUnsupported, "of node beta: its node has no guard", "of node gamma")
	c.guarded()
	d := a.create("db@auto")
	if d.Home != a.id || d.Profile.Failover.Fence.Kind != dataset.FenceGuard {
		t.Errorf("%+v", d)
	}
	if got := e.volume("db").Copies; len(got) != 1 || got[0] != c.id {
		t.Errorf("replicas on %v", got)
	}
	_, err := e.Submit(e.ctx, moveTo("db", "beta"))
	refused(t, err, dataset.ErrUnsupported, "its node has no guard")
	b.guarded()
	e.submit(moveTo("db", "beta"))

	a.create("plain@silver")
	for volume, profile := range map[string]string{"plain": "auto", "db": "silver"} {
		_, err := e.Submit(e.ctx, api.Request{Kind: dataset.OpUpdate, Volume: volume, Profile: profile})
		refused(t, err, dataset.ErrUnsupported, "a volume keeps what it was made with", "drover clone "+volume+" NEW@"+profile)
	}
}

// has says, with a heartbeat, that a node's copy of a dataset is that of a time, and had
// all until another, by its home's clock.
func (a *agent) has(d dataset.Dataset, taken, current time.Time) {
	a.Helper()
	a.hasCopy(d, taken)
	c, _ := a.Reports.Copy(a.id, d.ID)
	c.Current = current
	h := api.Heartbeat{Incarnation: a.incarnation, Guard: true, Clock: a.clock.Now(), Copies: []dataset.Copy{c}}
	if err := a.Heartbeat(a.ctx, a.id, h); err != nil {
		a.Fatalf("heartbeat: %v", err)
	}
}

// lost is a flock whose volume db has its home on alpha and copies on beta and gamma.
type lost struct {
	*env
	x       *shared
	a, b, c *agent
	others  []*agent
	d       dataset.Dataset
}

func newLost(t *testing.T, services int) *lost {
	t.Helper()
	x := newShared(t, services)
	e := x.env(x.list[0])
	takesOver(x.names, 2)
	l := &lost{env: e, x: x, a: e.agent("alpha"), b: e.agent("beta"), c: e.agent("gamma")}
	for _, a := range []*agent{l.a, l.b, l.c} {
		a.guarded()
	}
	l.d = l.a.create("db@auto")
	l.b.has(l.d, someday.Add(-10*time.Second), someday.Add(-5*time.Second))
	l.c.has(l.d, someday.Add(-20*time.Second), someday.Add(-5*time.Second))
	return l
}

// asks asks for a failover through a service, as a node's agent does.
func (l *lost) asks(s *Service, node string) (*dataset.Operation, error) {
	out, err := s.Submit(l.ctx, api.Request{Kind: dataset.OpMove, Volume: "db", Node: node, Failover: true})
	return out.Operation, err
}

// passes lets time pass in which the agents that are named renew.
func (l *lost) passes(d time.Duration, alive ...*agent) {
	l.Helper()
	for d > 0 {
		step := min(d, l.Limits.Session/4)
		l.clock.Advance(step)
		d -= step
		for _, a := range alive {
			if _, err := l.Renew(l.ctx, a.id, a.incarnation); err != nil {
				l.Fatalf("%v", err)
			}
		}
	}
}

// returns has an agent that died come back.
func (l *lost) returns(a *agent, name string) {
	l.Helper()
	a.incarnation = uuid.New()
	a.register(name)
	l.ForgetSession(a.id)
}

// begins has alpha die, and a failover begin once that is certain.
func (l *lost) begins() dataset.Operation {
	l.Helper()
	l.x.dies(l.a)
	_, err := l.asks(l.Service, "beta")
	refused(l.T(), err, dataset.ErrPending, "nothing is heard", "alpha")
	l.passes(l.Limits.Session, append(l.others, l.b, l.c)...)
	op, err := l.asks(l.Service, "beta")
	if err != nil || op == nil {
		l.Fatalf("%+v, %v", op, err)
	}
	return *op
}

func (l *lost) T() *testing.T { return l.x.T }

// A home of which nothing was heard for as long as a session is gone on without: by each
// service's own steady clock, from the freshest copy, and once for all who ask.
func TestFailover(t *testing.T) {
	l := newLost(t, 2)
	if op, err := l.asks(l.Service, "beta"); op != nil || err != nil {
		t.Errorf("with its home alive: %+v, %v", op, err)
	}
	l.x.dies(l.a)
	l.passes(membership.LossEvery, l.b, l.c) // as it was looked just now
	for range 3 {
		_, err := l.asks(l.Service, "gamma")
		refused(t, err, dataset.ErrPending, "node alpha, of which nothing is heard")
		l.passes(l.Limits.Session/3-time.Millisecond, l.b, l.c)
		l.clock.Set(l.clock.Now().Add(-time.Hour)) // which is no time that has passed
	}
	l.passes(4*time.Millisecond, l.b, l.c)
	_, err := l.asks(l.x.list[1], "gamma") // it has only begun to look
	refused(t, err, dataset.ErrPending)
	op, err := l.asks(l.Service, "gamma")
	if err != nil || op == nil || op.Node != l.b.id || op.From != l.a.id || op.Dataset.Epoch != 2 || op.Loss.Away == 0 || !op.Loss.Taken.Equal(someday.Add(-10*time.Second)) {
		t.Fatalf("%+v, %v", op, err)
	}
	for i, s := range l.x.list {
		if again, err := l.asks(s, []string{"beta", "gamma"}[i]); err != nil || again == nil || again.ID != op.ID {
			t.Errorf("asked again: %+v, %v", again, err)
		}
	}
	if lease := l.volume("db").Lease; lease.State != dataset.LeaseHeld {
		t.Errorf("the home that comes back is to go on: %+v", lease)
	}
	done := l.b.commit(*op)
	if done.Dataset.Home != l.b.id || done.Dataset.Epoch != 2 {
		t.Errorf("%+v", done.Dataset)
	}
	l.returns(l.a, "alpha")
	if got := l.a.sync(0).Copies; len(got) != 1 || got[0].Kind != dataset.CopySuperseded {
		t.Errorf("the home that was overtaken: %+v", got)
	}
	var told []string
	if err := l.Events(t.Context(), 0, false, func(ev api.Event) error {
		if ev.Volume == "db" {
			told = append(told, ev.Type+": "+ev.Detail)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(told, "\n")
	for _, want := range []string{
		"volume.failover: from node alpha to node beta, without what was written since 2026-11-18T11:59:50Z (by itself: nothing is heard of node alpha",
		"volume.move: from node alpha to node beta, without what was written since 2026-11-18T11:59:50Z (by itself",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%s\ndoes not say %q", all, want)
		}
	}
}

// A failover ends without any change when its home is back before it is on record, be it
// for a moment; the home goes on at its epoch, and with its snapshots.
func TestI1FailoverWhoseHomeIsBack(t *testing.T) {
	for name, again := range map[string]bool{"back": false, "back and gone again": true} {
		l := newLost(t, 1)
		snap := l.a.snapshot("db", "kept")
		op := l.begins()
		l.returns(l.a, "alpha")
		if again {
			l.x.dies(l.a)
			if err := l.LookForAway(l.ctx); err != nil {
				t.Fatal(err)
			}
			l.passes(l.Limits.Session, l.b, l.c)
		}
		_, err := l.Commit(l.ctx, l.b.id, l.b.report(op))
		refused(t, err, dataset.ErrConflict, "node alpha, which has it, is back")
		failed := op
		failed.Problem = dataset.ProblemOf(err)
		l.b.commit(failed)
		now := l.volume("db")
		if now.Home != l.a.id || now.Epoch != 1 || now.Move != uuid.Nil || now.Lease.Epoch != 1 || now.Lease.State != dataset.LeaseHeld {
			t.Errorf("%s: %+v, %+v", name, now.Dataset, now.Lease)
		}
		if s, err := l.Snapshot(l.ctx, "db", "kept"); err != nil || s.ID != snap.ID {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

// A person's word takes the place of the wait, and is over when the node is back.
func TestFence(t *testing.T) {
	l := newLost(t, 1)
	l.x.dies(l.a)
	if _, err := l.Fence(l.ctx, l.a.id, api.Fenced{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	l.returns(l.a, "alpha")
	l.x.dies(l.a)
	_, err := l.asks(l.Service, "beta")
	refused(t, err, dataset.ErrPending)
	if _, err := l.Fence(l.ctx, l.a.id, api.Fenced{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	op, err := l.asks(l.Service, "beta")
	if err != nil || !strings.Contains(op.Loss.Why, "drover node fence alpha --confirmed") {
		t.Fatalf("%+v, %v", op, err)
	}
	l.b.commit(*op)
}

// A volume that a person has sent on without its home keeps its epoch when that comes to
// nothing: its home may have it open where control does not hear it. It does so when the
// home is back, whoever vouched that it would not be.
func TestI1PromotionByWordThatIsRefused(t *testing.T) {
	for name, back := range map[string]bool{"the home is back": true, "its copy does not open": false} {
		l := newLost(t, 1)
		l.x.dies(l.a)
		req := moveTo("db", "beta")
		req.Force, req.Fenced = true, "alpha"
		op := *l.submit(req).Operation
		if lease := l.volume("db").Lease; lease.State != dataset.LeaseMoving {
			t.Errorf("%s: a home that comes back is not to open it anew: %+v", name, lease)
		}
		failed := op
		failed.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrInUse, "open on node alpha"))
		if back {
			l.returns(l.a, "alpha")
			_, err := l.Commit(l.ctx, l.b.id, l.b.report(op))
			refused(t, err, dataset.ErrConflict, "node alpha, which has it, is back")
			failed.Problem = dataset.ProblemOf(err)
		}
		l.b.commit(failed)
		now := l.volume("db")
		if now.Home != l.a.id || now.Epoch != 1 || now.Move != uuid.Nil || now.Lease.Epoch != 1 || now.Lease.State != dataset.LeaseHeld {
			t.Errorf("%s: %+v, %+v", name, now.Dataset, now.Lease)
		}
	}
}

// No node gets a first copy while nobody hears of the home: that may go on by promises, and
// would not know whom else to ask for one.
func TestI1NoNewReplicaOfALostHome(t *testing.T) {
	l := newLost(t, 1)
	l.env.agent("delta").guarded()
	enough := errors.New("seen")
	adds := func() (short, added bool) {
		t.Helper()
		_, err := l.Ledger.Update(l.ctx, func(x *record.Tx) error {
			d, err := x.Dataset(l.d.ID)
			if err != nil {
				return err
			}
			why, err := l.CopyKeeper.AddReplicas(x, d, nil, 1)
			short, added = why != nil, len(x.Writes()) > 0
			return errors.Join(err, enough)
		})
		if !errors.Is(err, enough) {
			t.Fatal(err)
		}
		return short, added
	}
	if short, added := adds(); short || !added {
		t.Errorf("with its home alive: too few %t, added %t", short, added)
	}
	l.x.dies(l.a)
	if short, added := adds(); !short || added {
		t.Errorf("with its home lost: too few %t, added %t", short, added)
	}
}
