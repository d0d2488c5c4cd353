package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/guard"
)

// An agent that has lost its state and starts while control is away thaws nothing that the
// guard has fenced, at the next start neither, nor while the guard does not answer. Once
// control is back it goes on, used by who had it.
func TestI1FencedAndForgotten(t *testing.T) {
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
	await(t, func() bool { return g.a.record(d.ID).IDs[unknownUse].Count == 1 })
	if !writable(t, path, time.Minute) {
		t.Error("it does not go on")
	}
	if _, err := g.a.own.Get(t.Context(), recoveredKey); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what was lost is found, and not noted: %v", err)
	}
	r := g.a.record(d.ID)
	clear(r.IDs)
	if err := errors.Join(g.a.save(t.Context(), d, r, nil), g.a.unmountIdle(t.Context(), d)); err != nil {
		t.Error(err)
	}
}
