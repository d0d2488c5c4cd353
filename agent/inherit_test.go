package agent

import (
	"testing"

	"github.com/google/uuid"

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
	if g.a.until(d) > clock.Boottime() {
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
		a := &Agent{bounds: newBounds(t.Context()), cache: newCache(), boot: "this"}
		d := dataset.Dataset{ID: uuid.New(), Epoch: 3, Profile: dataset.Profile{Failover: dataset.Failover{Auto: true}}}
		a.cache.apply(d, 1)
		e := guard.Entry{Epoch: 3, Boot: "this", State: guard.StateArmed, Deadline: boundTTL}
		e.Dataset = d.ID
		c.change(&e)
		if a.inherit(guard.Status{Datasets: []guard.Entry{e}}); (a.bounds.hold(d).deadline == boundTTL) != c.want {
			t.Errorf("held until %v by %+v", a.bounds.hold(d).deadline, e)
		}
	}
}

func (h *host) alone() bool {
	h.bounds.mu.Lock()
	defer h.bounds.mu.Unlock()
	return h.bounds.alone()
}

func (l *link) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}
