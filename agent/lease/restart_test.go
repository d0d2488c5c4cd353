package lease_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// outlasts waits until the guard's deadline of a dataset was extended twice, and reports whether the dataset was
// never fenced meanwhile.
func outlasts(g *agenttest.Bounded, id uuid.UUID) bool {
	g.Helper()
	until := clock.Boottime() + 2*agenttest.BoundSession
	agenttest.Await(g.T, func() bool {
		e, _ := g.GuardA.Entry(id)
		return e.State != guard.StateArmed || e.Fence != nil || clock.Boottime() > until
	})
	e, _ := g.GuardA.Entry(id)
	return e.State == guard.StateArmed && e.Fence == nil
}

// An agent that restarts while control is silent or slow continues the leases that the promises of other nodes
// extend. It does not continue a lease that has lapsed by then.
func TestStartWithoutControlKeepsPromisedLeases(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	g.A.MustMount("db@auto", "user")
	g.LinkA.Cut()
	g.LinkB.Cut()
	g.A.Restart()
	if !outlasts(g, d.ID) {
		t.Error("fenced by a start without control")
	}
	g.LinkA.Mend()
	g.LinkB.Mend()
	agenttest.Await(t, func() bool { return !alone(g.A) })

	late, up := make(chan struct{}), make(chan struct{})
	set(g.LinkA, func() { g.LinkA.DelayRegister = late })
	g.A.Stop()
	go func() { g.A.Start(); close(up) }()
	if !outlasts(g, d.ID) {
		t.Error("fenced by a start that takes its time")
	}
	set(g.LinkA, func() { g.LinkA.DelayRegister = nil })
	close(late)
	<-up

	g.LinkA.Cut()
	g.LinkB.Cut()
	g.A.Stop()
	g.GuardA.AwaitFenced(d.ID)
	g.A.Start()
	asks(g.A, g.B)
	if g.A.Leases.Deadlines.Until(d) > clock.Boottime() {
		t.Error("a start has confirmed what had lapsed")
	}
	g.LinkA.Mend()
	g.LinkB.Mend()
	agenttest.Await(t, func() bool { e, _ := g.GuardA.Entry(d.ID); return e.State == guard.StateArmed })
	g.A.MustUnmount("db@auto", "user")
}

func alone(h *agenttest.Host) bool {
	return h.Leases.Deadlines.NeedsPromises()
}

func set(l *agenttest.Link, f func()) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	f()
}

// A node that joins later, and is given a copy by a home that had none before, is asked for its promise at its
// address once control is silent.
func TestPromiseOfNodeThatJoinsLater(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	g.A.MustMount("db@auto", "user")
	c := g.AddHost("host-c", "loop")
	lc := agenttest.NewLink(c.Config.Control)
	c.Config.Control, c.Config.Guard = lc, agenttest.NewGuard(t, agenttest.BoundSession/10)
	c.Start()
	_, err := g.Service.Cordon(t.Context(), g.B.Node(), api.Cordoned{Cordoned: true, Draining: true})
	require.NoError(t, err)
	// Control checks which replicas must be moved when their volume changes: its first check of everything may be
	// over.
	require.NoError(t, g.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}))
	agenttest.Await(t, func() bool { now, _ := g.A.Cache.Dataset(d.ID); return slices.Contains(now.Followers(), c.Node()) })
	// The node knows its copy as well.
	agenttest.Await(t, func() bool { _, kept := c.Replicas.Copy(d.ID); return kept })
	if !finds(g.A, c) {
		t.Fatal("nobody looks where it is")
	}
	for _, l := range []*agenttest.Link{g.LinkA, g.LinkB, lc} {
		l.Cut()
	}
	if !outlasts(g, d.ID) {
		t.Error("fenced, although all nodes with a copy can be asked")
	}
	for _, l := range []*agenttest.Link{g.LinkA, g.LinkB, lc} {
		l.Mend()
	}
	agenttest.Await(t, func() bool { return !alone(g.A) })
	g.A.MustUnmount("db@auto", "user")
}

// finds waits until a host knows the address of another host.
func finds(h *agenttest.Host, other *agenttest.Host) bool {
	until := clock.Boottime() + 4*agenttest.BoundSession
	for h.Leases.Nodes.Address(other.Node()) == "" && clock.Boottime() < until {
		time.Sleep(10 * time.Millisecond)
	}
	return h.Leases.Nodes.Address(other.Node()) != ""
}

// An agent has lost its database and starts while control is unreachable. It does not thaw a dataset that the guard has
// fenced. It does not do so at its next start, or while the guard does not answer, either. Once control is reachable again the
// volume continues, with the same users.
func TestI1LostDatabaseThawsNothing(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	path := g.A.MustMount("db@auto", "user")
	g.LinkA.Cut()
	g.Network.SetCut(true)
	g.GuardA.AwaitFenced(d.ID)
	g.A.Stop()
	list, err := g.A.Database.List(t.Context(), "", "", 0)
	require.NoError(t, err)
	var drop []store.Write
	for _, e := range list {
		drop = append(drop, store.Write{Key: e.Key, Delete: true})
	}
	_, err = g.A.Database.Txn(t.Context(), nil, drop)
	require.NoError(t, err)
	for _, what := range []string{"first", "second", "third, without a guard,"} {
		if what[0] == 't' {
			g.GuardA.Stop()
		}
		g.A.Start()
		if agenttest.CanWrite(t, path, 100*time.Millisecond) {
			t.Fatalf("the %s start has thawed the fenced dataset", what)
		}
		if what[0] == 't' {
			g.GuardA.Start()
		}
		g.A.Stop()
	}
	g.A.Start()
	if e, _ := g.GuardA.Entry(d.ID); e.State != guard.StateFenced || e.Breaches > 0 {
		t.Errorf("%+v", e)
	}
	g.LinkA.Mend()
	g.Network.SetCut(false)
	agenttest.Await(t, func() bool { e, _ := g.GuardA.Entry(d.ID); return e.State == guard.StateArmed })
	agenttest.Await(t, func() bool { return g.A.Uses.Get(d.ID).IDs[mounting.UnknownUse].Count == 1 })
	if !agenttest.CanWrite(t, path, time.Minute) {
		t.Error("it does not go on")
	}
	if _, err := g.A.Database.Get(t.Context(), host.RecoveredKey); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what was lost is found, and not noted: %v", err)
	}
	r := g.A.Uses.Get(d.ID)
	clear(r.IDs)
	if err := errors.Join(g.A.Uses.Save(t.Context(), d, 0, r, nil), g.A.Unmounter.IfUnused(t.Context(), d, g.A.Unmounter.UnmountUnused)); err != nil {
		t.Error(err)
	}
}

// slowGuard is a guard whose fence takes long with some policies.
type slowGuard struct {
	agenttest.FusedGuard
	mu   sync.Mutex
	slow []guard.Policy
	by   time.Duration
	said map[uuid.UUID]time.Duration // the fence time of each dataset that was last registered with a slow policy
}

func (s *slowGuard) Register(ctx context.Context, r guard.Registration) (guard.Entry, error) {
	policy := r.Policy
	if policy == guard.PolicyWatchdog { // this host has no watchdog device
		r.Policy = guard.PolicyKill
	}
	e, err := s.FusedGuard.Register(ctx, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.said, r.Dataset)
	if slices.Contains(s.slow, policy) {
		e.Bound = s.by
		if s.said == nil {
			s.said = map[uuid.UUID]time.Duration{}
		}
		s.said[r.Dataset] = e.Bound
	}
	return e, err
}

func (s *slowGuard) Status(ctx context.Context) (guard.Status, error) {
	st, err := s.FusedGuard.Status(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range st.Datasets {
		if bound, slow := s.said[e.Dataset]; slow {
			st.Datasets[i].Bound = bound
		}
	}
	return st, err
}

// A mounted volume stays registered with the guard even if its fence takes too long by now. It is fenced by another
// policy, or its lease is shorter.
func TestI1SlowFenceShortensLeaseOfOpenDataset(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	slow := &slowGuard{FusedGuard: agenttest.FusedGuard{Guard: g.GuardA, Host: g.A}, by: time.Hour}
	g.A.Config.Guard = slow
	g.A.Restart()
	g.A.MustMount("db@auto", "user")
	changed := d
	changed.Profile.Failover.Fence.Kind = dataset.FenceWatchdog
	for _, policies := range [][]guard.Policy{{guard.PolicyWatchdog}, {guard.PolicyWatchdog, guard.PolicyKill}} {
		slow.mu.Lock()
		slow.slow = policies
		slow.mu.Unlock()
		answer := g.A.Leases.Deadlines.AnswerCount()
		before, err := slow.Status(t.Context()) // this status is applied late
		require.NoError(t, err)
		unlock, err := g.A.Locks.Lock(t.Context(), d.ID, "test")
		if err == nil {
			err = g.A.Leases.Registrar.Register(t.Context(), changed)
			unlock()
		}
		assert.NoErrorf(t, err, "slow are %v", policies)
		if e, there := g.GuardA.Entry(d.ID); !there || e.State != guard.StateArmed {
			t.Errorf("slow are %v: the guard does not watch the open dataset: %+v", policies, e)
		}
		g.A.ApplyGuard(before, answer)
		fence := g.A.Leases.Deadlines.FenceTime(d.ID)
		if long := fence == time.Hour; long != (len(policies) > 1) {
			t.Errorf("slow are %v: it counts on a fence within %v", policies, fence)
		}
	}
	slow.mu.Lock()
	slow.slow, slow.said = nil, nil
	slow.mu.Unlock()
	// It may be fenced by now.
	agenttest.Await(t, func() bool { return g.A.Unmount(t.Context(), "db@auto", "user") == nil })
}

// If an open dataset was unknown to the guard, its lease is shortened by the time by which its fence is too slow,
// from its first deadline on.
func TestI1SlowFenceShortensFirstDeadline(t *testing.T) {
	t.Parallel()
	const over = agenttest.BoundSession / 5
	g := agenttest.NewBounded(t)
	slow := &slowGuard{FusedGuard: agenttest.FusedGuard{Guard: g.GuardA, Host: g.A}, slow: []guard.Policy{guard.PolicyKill}, by: lease.MaxFenceTime(agenttest.BoundSession) + over}
	g.A.Config.Guard = slow
	g.A.Restart()
	g.NewReplicated("other") // so that the agent reads the homes of this node
	d := g.A.NewVolume("db", map[string]string{"size": "320MiB"})
	g.A.MustMount("db", "user")
	d.Profile.Failover.Auto = true
	agenttest.Await(t, func() bool { return g.A.Leases.Deadlines.Until(d) > clock.Boottime()+agenttest.BoundSession/2 })
	renewed, _ := g.A.Leases.Deadlines.Session()
	assert.NoError(t, g.A.Leases.Registrar.Register(t.Context(), d))
	e, there := g.GuardA.Entry(d.ID)
	held := lease.HolderSpan(agenttest.BoundSession) - over
	if least, most := renewed+held, g.LinkA.LastRenewed()+held; !there || e.Deadline < least || e.Deadline > most {
		t.Errorf("%t, until %v, and not %v to %v: %+v", there, e.Deadline, least, most, e)
	}
	g.A.Leases.Registrar.Release(d.ID)
	g.A.MustUnmount("db", "user")
}

// stuck is backend dir on a disk that does not answer while gate is set.
type stuck struct {
	dir.Backend
	gate    chan chan struct{} // holds the channel that a call waits for; nil: calls do not wait
	entered chan struct{}
}

func (s stuck) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := s.Backend.Open(ctx, cfg)
	return stuckPool{p, s}, err
}

type stuckPool struct {
	backends.Pool
	s stuck
}

func (p stuckPool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	gate := <-p.s.gate
	p.s.gate <- gate
	if gate != nil {
		select {
		case p.s.entered <- struct{}{}:
		default:
		}
		<-gate
	}
	return p.Pool.Reap(ctx, drop)
}

// The disk of one pool hangs. After a session that lapsed, the volumes in the other pools are confirmed and mounted
// all the same.
func TestHangingPoolDoesNotDelayOtherLeases(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	s := stuck{gate: make(chan chan struct{}, 1), entered: make(chan struct{}, 1)}
	s.gate <- nil
	g.A.Config.Pools = append(g.A.Config.Pools, pool.Config{Name: "hangs", Backend: "dir", Path: t.TempDir()})
	g.A.Config.Backends = backends.NewRegistry(agenttest.FusedBackend{Kind: loop.New(&run.System{}), Host: g.A}, s)
	g.A.Restart()
	agenttest.Await(t, func() bool { return g.A.Leases.Deadlines.Until(d) > g.A.Clock.Steady() })
	gate := make(chan struct{})
	<-s.gate
	s.gate <- gate
	t.Cleanup(func() {
		close(gate)
		<-s.gate
		s.gate <- nil
	})
	g.LinkA.Cut()
	agenttest.Await(t, func() bool { return g.A.Leases.Deadlines.Until(d) < g.A.Clock.Steady() })
	lapsed, _ := g.A.Leases.Deadlines.Session()
	g.LinkA.Mend()
	agenttest.Await(t, func() bool { renewed, _ := g.A.Leases.Deadlines.Session(); return renewed > lapsed })
	<-s.entered
	g.A.MustMount("db@auto", "user")
	g.A.MustUnmount("db@auto", "user")
}

func TestMain(m *testing.M) { agenttest.Main(m) }
