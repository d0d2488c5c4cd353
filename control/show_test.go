package control

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A person looks at a head that was overtaken: its node hears that it is to mount it, and
// says where; until nobody looks any more it is not discarded.
func TestShow(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	e.moved("db", a, b, "beta")
	look := func(kind dataset.OpKind, volume, node string) api.Request {
		return api.Request{Kind: kind, Volume: volume, Node: node}
	}
	_, err := e.Submit(e.ctx, look(dataset.OpShow, "db", ""))
	refused(t, err, dataset.ErrNotFound, "no head of it was overtaken") // a copy that a move left
	d := a.commit(*e.submit(forced("db", "alpha", "beta")).Operation).Dataset
	_, err = e.Submit(e.ctx, look(dataset.OpShow, "db", "alpha"))
	refused(t, err, dataset.ErrNotFound, "no head of it was overtaken")
	a.planned(look(dataset.OpShow, "db", ""), dataset.ErrInvalid, "submit it")

	hears := func() dataset.Copy {
		t.Helper()
		e.check()
		return b.sync(0).Copies[0].Copy
	}
	says := func(c dataset.Copy, path, problem string) dataset.Copy {
		t.Helper()
		c.Path, c.Problem = path, problem
		if err := b.Copied(b.ctx, b.id, api.Copied{Incarnation: b.incarnation, Copy: c, Looked: true}); err != nil {
			t.Fatal(err)
		}
		return hears()
	}
	gamma := as(nodeNamed("gamma", e.agent("gamma").id))
	_, err = e.Submit(gamma, look(dataset.OpShow, "db", "beta"))
	refused(t, err, dataset.ErrForbidden, "may not ask for this show of the overtaken head of volume db")
	rev := b.sync(0).Rev
	op := e.submit(look(dataset.OpShow, "db", "")).Operation
	if op.From != b.id || op.Kind != dataset.OpShow || op.State != dataset.OpDone {
		t.Errorf("%+v", op)
	}
	if s := b.sync(rev); len(s.Copies) != 1 || !s.Copies[0].Shown {
		t.Errorf("its node hears %+v", s.Copies)
	}
	before := hears()
	if c := says(before, "", strings.Repeat("x", 2*dataset.MaxLine)); c.Path != "" || c.Problem == "" || len(c.Problem) > dataset.MaxLine {
		t.Errorf("%+v", c)
	}
	e.submit(look(dataset.OpShow, "db", "beta"))
	if c := hears(); !c.Shown || c.Problem != "" {
		t.Errorf("asked again: %+v", c)
	}
	if c := says(hears(), "/there", ""); c.Path != "/there" || e.volume("db").Kept[0].Path != "/there" {
		t.Errorf("%+v", c)
	}
	index := b.sync(0).Copies[0].Index
	says(hears(), "/there", "")
	if b.sync(0).Copies[0].Index != index {
		t.Error("what is known was written")
	}

	_, err = e.Submit(e.ctx, look(dataset.OpDiscard, "db", ""))
	refused(t, err, dataset.ErrInUse, "node beta", "drover volume superseded mount db beta --off")
	a.delete("db")
	_, err = e.Submit(e.ctx, look(dataset.OpDiscard, d.ID.String(), ""))
	refused(t, err, dataset.ErrInUse, "drover volume superseded mount "+d.ID.String()+" beta --off")
	shown := hears()
	e.submit(look(dataset.OpHide, d.ID.String(), ""))
	if c := says(shown, "/elsewhere", ""); c.Shown || c.Path != "/there" {
		t.Errorf("what was said before it was wanted otherwise: %+v", c)
	}
	if c := says(hears(), "", ""); c.Path != "" {
		t.Errorf("%+v", c)
	}
	e.submit(look(dataset.OpDiscard, d.ID.String(), ""))
	if c := says(hears(), "/there", ""); c.Kind != dataset.CopyGoing || c.Path != "" {
		t.Errorf("of one that is destroyed: %+v", c)
	}
}

// What a node keeps that is away cannot be looked at until it is back; that nobody wants to
// any more can be said at once.
func TestShowOnALostNode(t *testing.T) {
	l := newLost(t, 1)
	l.x.dies(l.a)
	if _, err := l.Fence(l.ctx, l.a.id, api.Fenced{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	op, err := l.asks(l.Service, "beta")
	if err != nil {
		t.Fatal(err)
	}
	l.b.commit(*op)
	show := api.Request{Kind: dataset.OpShow, Volume: "db"}
	_, err = l.Submit(l.ctx, show)
	refused(t, err, dataset.ErrOffline, "node alpha, which keeps the head of it that was overtaken, is away since 2026-")
	if out, err := l.Submit(l.ctx, api.Request{Kind: dataset.OpHide, Volume: "db"}); err != nil || out.Operation.From != l.a.id {
		t.Errorf("%+v, %v", out.Operation, err)
	}
	l.returns(l.a, "alpha")
	if out, err := l.Submit(l.ctx, show); err != nil || out.Operation.From != l.a.id {
		t.Errorf("%+v, %v", out.Operation, err)
	}
}
