package lease_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
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
	if _, err := g.Service.Cordon(t.Context(), g.B.Node(), api.Cordoned{Cordoned: true, Draining: true}); err != nil {
		t.Fatal(err)
	}
	// Control checks which replicas must be moved when their volume changes: its first check of everything may be
	// over.
	if err := g.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}); err != nil {
		t.Fatal(err)
	}
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
