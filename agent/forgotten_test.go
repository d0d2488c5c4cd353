package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
)

// An agent that has lost its state and starts while control is away thaws nothing that the
// guard has fenced, at the next start neither, nor while the guard does not answer. Once
// control is back it goes on, used by who had it.
func TestI1FencedAndForgotten(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	path := g.a.mounts("db@auto", "user")
	g.la.away()
	g.wires.setCut(true)
	g.wa.fences(d.ID)
	g.a.down()
	list, err := g.a.own.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	var drop []store.Write
	for _, e := range list {
		drop = append(drop, store.Write{Key: e.Key, Delete: true})
	}
	if _, err := g.a.own.Txn(t.Context(), nil, drop); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"first", "second", "third, without a guard,"} {
		if what[0] == 't' {
			g.wa.down()
		}
		g.a.up()
		if writable(t, path, 100*time.Millisecond) {
			t.Fatalf("the %s start has thawed what is fenced", what)
		}
		if what[0] == 't' {
			g.wa.up()
		}
		g.a.down()
	}
	g.a.up()
	if e, _ := g.wa.entry(d.ID); e.State != guard.StateFenced || e.Breaches > 0 {
		t.Errorf("%+v", e)
	}
	g.la.back()
	g.wires.setCut(false)
	await(t, func() bool { e, _ := g.wa.entry(d.ID); return e.State == guard.StateArmed })
	await(t, func() bool { return g.a.uses.Get(d.ID).IDs[mounting.UnknownUse].Count == 1 })
	if !writable(t, path, time.Minute) {
		t.Error("it does not go on")
	}
	if _, err := g.a.own.Get(t.Context(), host.RecoveredKey); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what was lost is found, and not noted: %v", err)
	}
	r := g.a.uses.Get(d.ID)
	clear(r.IDs)
	if err := errors.Join(g.a.uses.Save(t.Context(), d, r, nil), g.a.unmounter.IfUnused(t.Context(), d, g.a.unmounter.UnmountUnheld)); err != nil {
		t.Error(err)
	}
}

// slowGuard is one whose fence with some policies takes long.
type slowGuard struct {
	fusedGuard
	mu   sync.Mutex
	slow []guard.Policy
	by   time.Duration
	said map[uuid.UUID]time.Duration // of what was registered last, where that was slow
}

func (s *slowGuard) Register(ctx context.Context, r guard.Registration) (guard.Entry, error) {
	policy := r.Policy
	if policy == guard.PolicyWatchdog { // for which there is no device here
		r.Policy = guard.PolicyKill
	}
	e, err := s.fusedGuard.Register(ctx, r)
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
	st, err := s.fusedGuard.Status(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range st.Datasets {
		if bound, slow := s.said[e.Dataset]; slow {
			st.Datasets[i].Bound = bound
		}
	}
	return st, err
}

// What is mounted stays with the guard, though its fence takes too long by now: it is fenced
// by another policy, or held for less long.
func TestI1SlowFenceOfWhatIsOpen(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	slow := &slowGuard{fusedGuard: fusedGuard{g.wa, g.a}, by: time.Hour}
	g.a.cfg.Guard = slow
	g.a.again()
	g.a.mounts("db@auto", "user")
	changed := d
	changed.Profile.Failover.Fence.Kind = dataset.FenceWatchdog
	for _, policies := range [][]guard.Policy{{guard.PolicyWatchdog}, {guard.PolicyWatchdog, guard.PolicyKill}} {
		slow.mu.Lock()
		slow.slow = policies
		slow.mu.Unlock()
		answer := g.a.deadlines.Answers()
		before, err := slow.Status(t.Context()) // which comes in late
		if err != nil {
			t.Fatal(err)
		}
		unlock, err := g.a.Locks.Lock(t.Context(), d.ID, "test")
		if err == nil {
			err = g.a.registrar.Arm(t.Context(), changed)
			unlock()
		}
		if err != nil {
			t.Errorf("slow are %v: %v", policies, err)
		}
		if e, there := g.wa.entry(d.ID); !there || e.State != guard.StateArmed {
			t.Errorf("slow are %v: nobody watches what is open: %+v", policies, e)
		}
		g.a.repairer.ApplyGuard(before, answer)
		fence := g.a.deadlines.FenceTime(d.ID)
		if long := fence == time.Hour; long != (len(policies) > 1) {
			t.Errorf("slow are %v: it counts on a fence within %v", policies, fence)
		}
	}
	slow.mu.Lock()
	slow.slow, slow.said = nil, nil
	slow.mu.Unlock()
	await(t, func() bool { return g.a.Unmount(t.Context(), "db@auto", "user") == nil }) // it may be fenced by now
}

// What is open, and the guard did not know, is held for as much less long as its fence is too
// slow, from its first deadline on.
func TestI1SlowFenceFromTheFirst(t *testing.T) {
	t.Parallel()
	const over = boundSession / 5
	g := newGuarded(t)
	slow := &slowGuard{fusedGuard: fusedGuard{g.wa, g.a}, slow: []guard.Policy{guard.PolicyKill}, by: lease.FenceMost(boundSession) + over}
	g.a.cfg.Guard = slow
	g.a.again()
	g.replicated("other") // so that it is read what the node is the home of
	d := g.a.volume("db", map[string]string{"size": "320MiB"})
	g.a.mounts("db", "user")
	d.Profile.Failover.Auto = true
	await(t, func() bool { return g.a.deadlines.Until(d) > clock.Boottime()+boundSession/2 })
	renewed, _ := g.a.Standing()
	if err := g.a.registrar.Arm(t.Context(), d); err != nil {
		t.Error(err)
	}
	e, there := g.wa.entry(d.ID)
	held := promise.HeldFor(boundSession) - over
	if least, most := renewed+held, g.la.lastRenewed()+held; !there || e.Deadline < least || e.Deadline > most {
		t.Errorf("%t, until %v, and not %v to %v: %+v", there, e.Deadline, least, most, e)
	}
	g.a.registrar.Release(d.ID)
	g.a.unmounts("db", "user")
}
