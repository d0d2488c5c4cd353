package control

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// A node asks for what itself is to do.
func TestWhatANodeMay(t *testing.T) {
	e, _ := newCluster(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	b.create("web@gold")
	e.agent("gamma")
	a.create("had@gold")
	e.moved("had", a, b, "beta")
	alpha := as(nodeNamed("alpha", a.id))
	submit := func(ctx context.Context, req api.Request) error {
		out, err := e.Submit(ctx, req)
		if err == nil && out.Operation != nil && !out.Operation.State.Final() {
			if _, err := e.CancelOperation(e.ctx, out.Operation.ID.String()); err != nil && dataset.KindOf(err) != dataset.ErrUnsupported {
				t.Error(err)
			}
		}
		return err
	}
	for name, c := range map[string]struct {
		req  api.Request
		want string // empty: it may
	}{
		"a snapshot of its own":   {api.Request{Kind: dataset.OpSnapshot, Volume: "db"}, ""},
		"a snapshot of another's": {api.Request{Kind: dataset.OpSnapshot, Volume: "web"}, "node alpha (" + a.id.String() + ") may not ask for this snapshot of volume web, which is node beta's to do: ask there, or ask with an operator's certificate, or as root of a control host with DROVER_API=unix:///run/drover/control.sock"},
		"another's end":           {api.Request{Kind: dataset.OpDelete, Volume: "web"}, "may not ask for this delete of volume web"},
		"another's profile":       {api.Request{Kind: dataset.OpUpdate, Volume: "web", Protect: yes()}, "may not ask for this update"},
		"its own profile":         {api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: no()}, ""},
		"a new one":               {create("new@gold"), ""},
		"to itself":               {moveTo("web", "alpha"), ""},
		"away from itself":        {moveTo("db", "beta"), ""},
		"from one to another":     {moveTo("web", "gamma"), "may not ask for this move of volume web, which is node gamma's to do"},
		"the end of what it had":  {api.Request{Kind: dataset.OpDelete, Volume: "had"}, ""},
	} {
		err := submit(alpha, c.req)
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c.want != "" {
			refused(t, err, dataset.ErrForbidden, c.want)
		}
	}
	if v, err := e.Submit(alpha, create("mine@gold")); err != nil || v.Operation.Node != a.id {
		t.Errorf("made elsewhere than where it was asked for: %+v, %v", v.Operation, err)
	}
	imported := api.Request{Kind: dataset.OpImport, Volume: "etc@gold", Path: "/etc"}
	worker := as(pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"})
	refused(t, submit(worker, imported), dataset.ErrForbidden, "takes the role admin")
	if err := submit(as(pki.Identity{Kind: pki.Operator, Role: pki.Admin, Name: "alice"}), imported); err != nil {
		t.Error(err)
	}
	// An operation that is another's is not to be cancelled either.
	op := *e.submit(moveTo("web", "alpha")).Operation
	_, err := e.CancelOperation(as(nodeNamed("delta", e.agent("delta").id)), op.ID.String())
	refused(t, err, dataset.ErrForbidden, "in which it has no part")
	if _, err := e.CancelOperation(as(nodeNamed("beta", b.id)), op.ID.String()); err != nil {
		t.Error(err)
	}
	// But for a volume that it had made there: no other node's, and nobody else's.
	if _, err := e.Cordon(e.ctx, a.id, api.Cordoned{Cordoned: true}); err != nil {
		t.Fatal(err)
	}
	asked := create("elsewhere@gold")
	asked.Engine = true
	made, err := e.Submit(alpha, asked)
	if err != nil || made.Operation.Node == a.id {
		t.Fatal(made.Operation, err)
	}
	epsilon := as(nodeNamed("epsilon", uuid.New())) // without a pool: nothing is placed there
	_, err = e.CancelOperation(epsilon, made.Operation.ID.String())
	refused(t, err, dataset.ErrForbidden, "in which it has no part")
	if _, err := e.CancelOperation(alpha, made.Operation.ID.String()); err != nil {
		t.Error(err)
	}
	made, err = e.Submit(alpha, create("typed@gold"))
	if err != nil || made.Operation.Node == a.id {
		t.Fatal(made.Operation, err)
	}
	_, err = e.CancelOperation(epsilon, made.Operation.ID.String())
	refused(t, err, dataset.ErrForbidden, "in which it has no part")
	if _, err := e.CancelOperation(alpha, made.Operation.ID.String()); err != nil {
		t.Error(err)
	}
	made, err = e.Submit(as(pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"}), create("person@gold"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.CancelOperation(alpha, made.Operation.ID.String())
	refused(t, err, dataset.ErrForbidden, "in which it has no part")
	e.check()
}

// Only an admin vouches that a home writes no more: no node, and no operator of another role. The error
// says what it takes.
func TestI1AnAdminVouches(t *testing.T) {
	e, _ := newCluster(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	e.moved("db", a, b, "beta")
	req := forced("db", "alpha", "beta")
	_, err := e.Submit(as(nodeNamed("alpha", a.id)), req)
	refused(t, err, dataset.ErrForbidden, "an admin must vouch for: ask with an admin's certificate")
	operator := func(role pki.Role) context.Context {
		return as(pki.Identity{Kind: pki.Operator, Role: role, Name: "bob"})
	}
	_, err = e.Submit(operator(pki.Worker), req)
	refused(t, err, dataset.ErrForbidden, "operator bob (operator) may not move volume db without its home, as that vouches that node beta writes no more (--fenced): that takes the role admin")
	if _, err := e.Submit(operator(pki.Admin), req); err != nil {
		t.Error(err)
	}
}

// What a node is called is what it joined as.
func TestNameOfTheCertificate(t *testing.T) {
	e, _ := newCluster(t)
	id := uuid.New()
	err := e.Register(as(nodeNamed("alpha", id)), api.Registration{Node: dataset.Node{ID: id, Name: "beta", Incarnation: uuid.New()}})
	if err != nil {
		t.Fatal(err)
	}
	if nodes, err := e.NodeList(e.ctx, ""); err != nil || len(nodes) != 1 || nodes[0].Name != "alpha" {
		t.Errorf("%+v, %v", nodes, err)
	}
}

// What the answer to a node turns on is that very node: not any that is named, nor a certificate of another kind.
func TestI1WhatNoOtherNodeMay(t *testing.T) {
	e := newEnv(t)
	a, b, c := e.agent("alpha"), e.agent("beta"), e.agent("gamma")
	d := a.create("db")
	e.change(d.ID, func(d *dataset.Dataset, _ *dataset.Lease) { d.SpelledBy = b.id })
	remove := dataset.Operation{Kind: dataset.OpDelete, Node: a.id, Volume: "db", DatasetID: d.ID}
	create := dataset.Operation{Kind: dataset.OpCreate, Node: a.id, Volume: "new"}
	folder := dataset.Operation{Kind: dataset.OpImport, Node: a.id, Volume: "new", Path: "/etc"}
	for name, x := range map[string]struct {
		who  pki.Identity
		op   dataset.Operation
		want error
	}{
		"delete what its engine made":            {nodeNamed("beta", b.id), remove, nil},
		"delete what another's engine made":      {nodeNamed("gamma", c.id), remove, dataset.ErrForbidden},
		"have a volume made elsewhere":           {nodeNamed("gamma", c.id), create, nil},
		"import a folder of another host":        {nodeNamed("gamma", c.id), folder, dataset.ErrForbidden},
		"create with a certificate of control's": {pki.Identity{Kind: pki.Control, Name: "c2"}, create, dataset.ErrForbidden},
	} {
		if err := mayRequest(record.NewTx(as(x.who), e.Ledger.Store), &x.op); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", name, err, x.want)
		}
	}
}
