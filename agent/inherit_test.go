package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
)

// outlasts waits until what a guard has of a dataset was put off twice over, and reports
// whether nothing was fenced meanwhile.
func (g *guarded) outlasts(id uuid.UUID) bool {
	g.Helper()
	until := clock.Boottime() + 2*boundSession
	await(g.T, func() bool {
		e, _ := g.wa.entry(id)
		return e.State != guard.StateArmed || e.Fence != nil || clock.Boottime() > until
	})
	e, _ := g.wa.entry(id)
	return e.State == guard.StateArmed && e.Fence == nil
}

// An agent that is started anew while control is silent, or takes its time to answer, goes on
// with what is held by the promises of the others; what has lapsed by then it does not.
func TestStartCarriesOn(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	g.a.mounts("db@auto", "user")
	g.la.away()
	g.lb.away()
	g.a.again()
	if !g.outlasts(d.ID) {
		t.Error("fenced by a start without control")
	}
	g.la.back()
	g.lb.back()
	await(t, func() bool { return !g.a.alone() })

	late, up := make(chan struct{}), make(chan struct{})
	g.la.set(func() { g.la.late = late })
	g.a.down()
	go func() { g.a.up(); close(up) }()
	if !g.outlasts(d.ID) {
		t.Error("fenced by a start that takes its time")
	}
	g.la.set(func() { g.la.late = nil })
	close(late)
	<-up

	g.la.away()
	g.lb.away()
	g.a.down()
	g.wa.fences(d.ID)
	g.a.up()
	g.a.asks(g.b)
	if g.a.deadlines.Until(d) > clock.Boottime() {
		t.Error("a start has confirmed what had lapsed")
	}
	g.la.back()
	g.lb.back()
	await(t, func() bool { e, _ := g.wa.entry(d.ID); return e.State == guard.StateArmed })
	g.a.unmounts("db@auto", "user")
}

func (h *flockHost) alone() bool {
	return h.deadlines.NeedsPromises()
}

func (l *link) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// A node that joins later, and is given a copy by a home that has none itself, is asked for
// its promise where it is, once control is silent.
func TestPromisesOfWhoJoinsLater(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	g.a.mounts("db@auto", "user")
	c := g.host("host-c", "loop")
	lc := newLink(c.cfg.Control)
	c.cfg.Control, c.cfg.Guard = lc, newWarden(t, boundSession/10)
	c.up()
	if _, err := g.svc.Cordon(t.Context(), g.b.Node(), api.Cordoned{Cordoned: true, Draining: true}); err != nil {
		t.Fatal(err)
	}
	// Which replicas are to go elsewhere control looks at when their volume changes: its first look at
	// everything may be over.
	if err := g.a.requests.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { now, _ := g.a.Cache.Dataset(d.ID); return slices.Contains(now.Followers(), c.Node()) })
	await(t, func() bool { _, kept := c.replicas.Copy(d.ID); return kept }) // it has heard of that as well
	if !g.a.finds(c) {
		t.Fatal("nobody looks where it is")
	}
	for _, l := range []*link{g.la, g.lb, lc} {
		l.away()
	}
	if !g.outlasts(d.ID) {
		t.Error("fenced, though all who have a copy can be asked")
	}
	for _, l := range []*link{g.la, g.lb, lc} {
		l.back()
	}
	await(t, func() bool { return !g.a.alone() })
	g.a.unmounts("db@auto", "user")
}

// finds waits until a host knows where another one is.
func (h *flockHost) finds(other *flockHost) bool {
	until := clock.Boottime() + 4*boundSession
	for h.nodes.Address(other.Node()) == "" && clock.Boottime() < until {
		time.Sleep(10 * time.Millisecond)
	}
	return h.nodes.Address(other.Node()) != ""
}
