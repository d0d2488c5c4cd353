package control

import (
	"errors"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A head that was overtaken is kept until a person lets go of it, and nothing else is
// let go of so.
func TestDiscard(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	d := a.create("db@gold")
	discard := func(node string) api.Request {
		return api.Request{Kind: dataset.OpDiscard, Volume: "db", Node: node}
	}
	e.moved("db", a, b, "beta")
	if _, err := e.Submit(e.ctx, discard("")); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("of a copy that a move left: %v", err)
	}
	op := *e.submit(forced("db", "alpha", "beta")).Operation
	if out := a.commit(op); out.Dataset.Home != a.id || out.Dataset.Epoch != 3 {
		t.Fatalf("%+v", out)
	}
	e.check()
	v := e.volume("db")
	if len(v.Kept) != 1 || v.Kept[0].Kind != dataset.CopySuperseded || v.Kept[0].NodeName != "beta" {
		t.Fatalf("kept: %+v", v.Kept)
	}
	for _, node := range []string{"alpha", "gamma"} {
		if _, err := e.Submit(e.ctx, discard(node)); err == nil {
			t.Errorf("node %s keeps none", node)
		}
	}
	e.submit(discard("beta"))
	sync := b.sync(0)
	if len(sync.Copies) != 1 || sync.Copies[0].Kind != dataset.CopyGoing {
		t.Fatalf("its node hears %+v", sync.Copies)
	}
	if err := b.Copied(b.ctx, b.id, api.Copied{Incarnation: b.incarnation, Copy: sync.Copies[0].Copy, Gone: true}); err != nil {
		t.Fatal(err)
	}
	if v := e.volume("db"); len(v.Kept) != 0 || len(v.Copies) != 0 || v.ID != d.ID {
		t.Errorf("%+v", v)
	}
	e.check()
}

// A node says of its copy that it has what the volume has not, also when it was to be
// destroyed for want of use, but not when a person let go of it.
func TestOvertakenAsItsNodeSays(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	d := e.moved("db", a, b, "beta")
	kept := func() dataset.Copy {
		t.Helper()
		e.check()
		return a.sync(0).Copies[0].Copy
	}
	says := func() error {
		c := kept()
		c.Kind = dataset.CopySuperseded // by the same snapshot
		return a.Copied(a.ctx, a.id, api.Copied{Incarnation: a.incarnation, Copy: c})
	}
	condemn := func() {
		t.Helper()
		if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error { return record.CondemnCopy(t, a.id, d.ID) }); err != nil {
			t.Fatal(err)
		}
	}
	condemn()
	condemn()
	if c := kept(); c.Kind != dataset.CopyGoing || c.Was != dataset.CopyLeft {
		t.Errorf("%+v", c)
	}
	rev := a.sync(0).Rev
	if err := says(); err != nil {
		t.Fatal(err)
	}
	if s := a.sync(rev); len(s.Copies) != 1 || s.Copies[0].Kind != dataset.CopySuperseded || s.Copies[0].Was != "" || !s.Copies[0].Until.IsZero() {
		t.Errorf("its node hears %+v", s.Copies)
	}
	e.submit(api.Request{Kind: dataset.OpDiscard, Volume: "db"})
	if err := says(); !errors.Is(err, dataset.ErrStale) || kept().Kind != dataset.CopyGoing {
		t.Errorf("what a person has let go of: %v", err)
	}
}

// What has been in the trash for its time stays there while a node keeps a head of it that
// was overtaken: time lets go of no such thing.
func TestI3TrashKeepsWhatWasOvertaken(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	e.moved("db", a, b, "beta")
	a.commit(*e.submit(forced("db", "alpha", "beta")).Operation)
	d := a.delete("db")
	e.rounds()
	e.pass(2 * e.trashTime())
	e.house.Full = e.clock.Now()
	e.rounds()
	if got := e.check().datasets[d.ID]; got.State != dataset.StateTrashed || b.sync(0).Copies[0].Kind != dataset.CopySuperseded {
		t.Fatalf("%s, %+v", got.State, b.sync(0).Copies)
	}
	if len(e.failures) != 1 {
		t.Fatalf("%v", e.failures)
	}
	refused(t, e.failures[0], dataset.ErrConflict, "node beta keeps", "superseded discard "+d.ID.String()+" beta")
	e.submit(api.Request{Kind: dataset.OpDiscard, Volume: d.ID.String()})
	c := b.sync(0).Copies[0].Copy
	if err := b.Copied(b.ctx, b.id, api.Copied{Incarnation: b.incarnation, Copy: c, Gone: true}); err != nil {
		t.Fatal(err)
	}
	e.rounds()
	if got := e.check().datasets[d.ID]; got.State != dataset.StatePurging {
		t.Errorf("%+v", got)
	}
}
