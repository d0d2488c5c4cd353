package control_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// A node may request only work that it carries out itself.
func TestWhatANodeMay(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	b.MustCreate("web@gold")
	e.NewAgent("gamma")
	a.MustCreate("had@gold")
	e.MustMove("had", a, b, "beta")
	alpha := controltest.As(controltest.NodeIdentity("alpha", a.ID))
	submit := func(ctx context.Context, req api.Request) error {
		out, err := e.Submit(ctx, req)
		if err == nil && out.Operation != nil && !out.Operation.State.Final() {
			if _, err := e.CancelOperation(e.Ctx, out.Operation.ID.String()); err != nil && dataset.KindOf(err) != dataset.ErrUnsupported {
				t.Error(err)
			}
		}
		return err
	}
	for name, c := range map[string]struct {
		req  api.Request
		want string // empty: allowed
	}{
		"a snapshot of its own":   {api.Request{Kind: dataset.OpSnapshot, Volume: "db"}, ""},
		"a snapshot of another's": {api.Request{Kind: dataset.OpSnapshot, Volume: "web"}, "node alpha (" + a.ID.String() + ") may not request this snapshot of volume web, because node beta carries it out: ask there, or ask with an operator's certificate, or as root of a control host with DROVER_API=unix:///run/drover/control.sock"},
		"another's end":           {api.Request{Kind: dataset.OpDelete, Volume: "web"}, "may not request this delete of volume web"},
		"another's profile":       {api.Request{Kind: dataset.OpUpdate, Volume: "web", Protect: controltest.Yes()}, "may not request this update"},
		"its own profile":         {api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.No()}, ""},
		"a new one":               {controltest.Create("new@gold"), ""},
		"to itself":               {controltest.Move("web", "alpha"), ""},
		"away from itself":        {controltest.Move("db", "beta"), ""},
		"from one to another":     {controltest.Move("web", "gamma"), "may not request this move of volume web, because node gamma carries it out"},
		"the end of what it had":  {api.Request{Kind: dataset.OpDelete, Volume: "had"}, ""},
	} {
		err := submit(alpha, c.req)
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c.want != "" {
			controltest.Refused(t, err, dataset.ErrForbidden, c.want)
		}
	}
	if v, err := e.Submit(alpha, controltest.Create("mine@gold")); err != nil || v.Operation.Node != a.ID {
		t.Errorf("not made on the requesting node: %+v, %v", v.Operation, err)
	}
	imported := api.Request{Kind: dataset.OpImport, Volume: "etc@gold", Path: "/etc"}
	worker := controltest.As(pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"})
	controltest.Refused(t, submit(worker, imported), dataset.ErrForbidden, "requires the role admin")
	if err := submit(controltest.As(pki.Identity{Kind: pki.Operator, Role: pki.Admin, Name: "alice"}), imported); err != nil {
		t.Error(err)
	}
	// A node cannot cancel an operation of another node either.
	op := *e.MustSubmit(controltest.Move("web", "alpha")).Operation
	_, err := e.CancelOperation(controltest.As(controltest.NodeIdentity("delta", e.NewAgent("delta").ID)), op.ID.String())
	controltest.Refused(t, err, dataset.ErrForbidden, "because its node has no part")
	if _, err := e.CancelOperation(controltest.As(controltest.NodeIdentity("beta", b.ID)), op.ID.String()); err != nil {
		t.Error(err)
	}
	// A node can cancel the creation of a volume that it requested, also if another node carries it out. Other nodes
	// cannot.
	if _, err := e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: true}); err != nil {
		t.Fatal(err)
	}
	asked := controltest.Create("elsewhere@gold")
	asked.Engine = true
	made, err := e.Submit(alpha, asked)
	if err != nil || made.Operation.Node == a.ID {
		t.Fatal(made.Operation, err)
	}
	epsilon := controltest.As(controltest.NodeIdentity("epsilon", uuid.New())) // without a pool, so nothing is placed there
	_, err = e.CancelOperation(epsilon, made.Operation.ID.String())
	controltest.Refused(t, err, dataset.ErrForbidden, "because its node has no part")
	if _, err := e.CancelOperation(alpha, made.Operation.ID.String()); err != nil {
		t.Error(err)
	}
	made, err = e.Submit(alpha, controltest.Create("typed@gold"))
	if err != nil || made.Operation.Node == a.ID {
		t.Fatal(made.Operation, err)
	}
	_, err = e.CancelOperation(epsilon, made.Operation.ID.String())
	controltest.Refused(t, err, dataset.ErrForbidden, "because its node has no part")
	if _, err := e.CancelOperation(alpha, made.Operation.ID.String()); err != nil {
		t.Error(err)
	}
	made, err = e.Submit(controltest.As(pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"}), controltest.Create("person@gold"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.CancelOperation(alpha, made.Operation.ID.String())
	controltest.Refused(t, err, dataset.ErrForbidden, "because its node has no part")
	e.CheckInvariants()
}

// Only an admin may confirm that a home does not write any more. No node and no operator with another role may. The
// error says which role is needed.
func TestI1AnAdminVouches(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta")
	req := controltest.ForcedMove("db", "alpha", "beta")
	_, err := e.Submit(controltest.As(controltest.NodeIdentity("alpha", a.ID)), req)
	controltest.Refused(t, err, dataset.ErrForbidden, "an admin's confirmation: ask with an admin's certificate")
	operator := func(role pki.Role) context.Context {
		return controltest.As(pki.Identity{Kind: pki.Operator, Role: role, Name: "bob"})
	}
	_, err = e.Submit(operator(pki.Worker), req)
	controltest.Refused(t, err, dataset.ErrForbidden, "operator bob (operator) may not move volume db without its home: confirming that node beta writes no more (--fenced) requires the role admin")
	if _, err := e.Submit(operator(pki.Admin), req); err != nil {
		t.Error(err)
	}
}

// A node has the name that it joined with.
func TestNameOfTheCertificate(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	id := uuid.New()
	err := e.Register(controltest.As(controltest.NodeIdentity("alpha", id)), api.Registration{Node: dataset.Node{ID: id, Name: "beta", Incarnation: uuid.New()}})
	if err != nil {
		t.Fatal(err)
	}
	if nodes, err := e.NodeList(e.Ctx, ""); err != nil || len(nodes) != 1 || nodes[0].Name != "alpha" {
		t.Errorf("%+v, %v", nodes, err)
	}
}

// The answer to a node depends on the node of the certificate. It depends neither on a node named in the request, nor
// on a certificate of another kind.
func TestI1WhatNoOtherNodeMay(t *testing.T) {
	e := controltest.New(t)
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	d := a.MustCreate("db")
	e.EditDataset(d.ID, func(d *dataset.Dataset, _ *dataset.Lease) { d.RequestedBy = b.ID })
	remove := dataset.Operation{Kind: dataset.OpDelete, Node: a.ID, Volume: "db", DatasetID: d.ID}
	create := dataset.Operation{Kind: dataset.OpCreate, Node: a.ID, Volume: "new"}
	folder := dataset.Operation{Kind: dataset.OpImport, Node: a.ID, Volume: "new", Path: "/etc"}
	for name, x := range map[string]struct {
		who  pki.Identity
		op   dataset.Operation
		want error
	}{
		"delete what its engine made":            {controltest.NodeIdentity("beta", b.ID), remove, nil},
		"delete what another's engine made":      {controltest.NodeIdentity("gamma", c.ID), remove, dataset.ErrForbidden},
		"have a volume made elsewhere":           {controltest.NodeIdentity("gamma", c.ID), create, nil},
		"import a folder of another host":        {controltest.NodeIdentity("gamma", c.ID), folder, dataset.ErrForbidden},
		"create with a certificate of control's": {pki.Identity{Kind: pki.Control, Name: "c2"}, create, dataset.ErrForbidden},
	} {
		if err := control.MayRequest(record.NewTx(controltest.As(x.who), e.Ledger.Store), &x.op); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", name, err, x.want)
		}
	}
}
