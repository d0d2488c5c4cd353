package agent

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/records"
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
	if g.a.bounds.until(d) > clock.Boottime() {
		t.Error("a start has confirmed what had lapsed")
	}
	g.la.back()
	g.lb.back()
	await(t, func() bool { e, _ := g.wa.entry(d.ID); return e.State == guard.StateArmed })
	g.a.unmounts("db@auto", "user")
}

// Of what a guard has only that is taken for held which it fences by its deadline, on this
// boot, at the epoch on record here.
func TestI1InheritsWhatIsHeld(t *testing.T) {
	for _, c := range []struct {
		change func(*guard.Entry)
		want   bool
	}{
		{func(*guard.Entry) {}, true},
		{func(e *guard.Entry) { e.Epoch-- }, false},
		{func(e *guard.Entry) { e.Epoch++ }, false},
		{func(e *guard.Entry) { e.Boot = "another" }, false},
		{func(e *guard.Entry) { e.State = guard.StateFenced }, false},
	} {
		b := newBounds(t.Context(), &host.Host{Cache: records.NewCache(), Boot: "this"}, boundsDeps{})
		d := dataset.Dataset{ID: uuid.New(), Epoch: 3, Profile: dataset.Profile{Failover: dataset.Failover{Auto: true}}}
		b.Cache.Apply(d, 1)
		e := guard.Entry{Epoch: 3, Boot: "this", State: guard.StateArmed, Deadline: boundTTL}
		e.Dataset = d.ID
		c.change(&e)
		if b.inherit(guard.Status{Datasets: []guard.Entry{e}}); (b.hold(d).deadline == boundTTL) != c.want {
			t.Errorf("held until %v by %+v", b.hold(d).deadline, e)
		}
	}
}

func (h *flockHost) alone() bool {
	h.bounds.mu.Lock()
	defer h.bounds.mu.Unlock()
	return h.bounds.alone()
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
	if err := g.a.perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}); err != nil {
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
	for h.nodes.address(other.Node()) == "" && clock.Boottime() < until {
		time.Sleep(10 * time.Millisecond)
	}
	return h.nodes.address(other.Node()) != ""
}

// What is known of where the others are is looked at again while control answers: soon where
// one is missing, and now and then, the more seldom the more there are.
func TestAddressesAreKept(t *testing.T) {
	for name, c := range map[string]struct {
		copies []uuid.UUID
		others int
		lost   bool
		after  time.Duration
		want   bool
	}{
		"all are known":            {[]uuid.UUID{nodeP}, 0, false, time.Minute - 1, false},
		"for a minute":             {[]uuid.UUID{nodeP}, 0, false, time.Minute, true},
		"nobody has a copy":        {nil, 0, false, time.Hour, false},
		"one is missing":           {[]uuid.UUID{nodeP}, 0, true, boundTTL / 5, true},
		"it was just asked of":     {[]uuid.UUID{nodeP}, 0, true, boundTTL/5 - 1, false},
		"for a minute of so many":  {[]uuid.UUID{nodeP}, 999, false, time.Minute, false},
		"for longer, of that many": {[]uuid.UUID{nodeP}, 999, false, 1000 * time.Second, true},
	} {
		b, d := aloneWith(t, c.copies...)
		asked := make(chan struct{}, 1)
		b.Control = counting{asked: asked}
		var wg sync.WaitGroup
		b.Jobs = jobs.New(t.Context(), &wg)
		for range c.others {
			b.nodes.seen[uuid.New()] = dataset.Node{}
		}
		if c.lost {
			delete(b.nodes.seen, nodeP)
		}
		b.holds[d.ID].deadline = b.Clock.Steady() + time.Hour
		b.nodes.looked = b.Clock.Steady() - c.after
		b.keepAddresses([]dataset.Dataset{d}, boundTTL/5)
		wg.Wait()
		if got := len(asked) > 0; got != c.want {
			t.Errorf("%s: control is asked: %t", name, got)
		}
	}
}

type counting struct {
	api.Service
	asked chan struct{}
}

func (c counting) NodeList(context.Context, string) ([]api.Node, error) {
	c.asked <- struct{}{}
	return nil, errAway
}
