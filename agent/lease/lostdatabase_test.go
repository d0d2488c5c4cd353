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
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
)

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
	if err != nil {
		t.Fatal(err)
	}
	var drop []store.Write
	for _, e := range list {
		drop = append(drop, store.Write{Key: e.Key, Delete: true})
	}
	if _, err := g.A.Database.Txn(t.Context(), nil, drop); err != nil {
		t.Fatal(err)
	}
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
		if err != nil {
			t.Fatal(err)
		}
		unlock, err := g.A.Locks.Lock(t.Context(), d.ID, "test")
		if err == nil {
			err = g.A.Leases.Registrar.Register(t.Context(), changed)
			unlock()
		}
		if err != nil {
			t.Errorf("slow are %v: %v", policies, err)
		}
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
	if err := g.A.Leases.Registrar.Register(t.Context(), d); err != nil {
		t.Error(err)
	}
	e, there := g.GuardA.Entry(d.ID)
	held := lease.HolderSpan(agenttest.BoundSession) - over
	if least, most := renewed+held, g.LinkA.LastRenewed()+held; !there || e.Deadline < least || e.Deadline > most {
		t.Errorf("%t, until %v, and not %v to %v: %+v", there, e.Deadline, least, most, e)
	}
	g.A.Leases.Registrar.Release(d.ID)
	g.A.MustUnmount("db", "user")
}
