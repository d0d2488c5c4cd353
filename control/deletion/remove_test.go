package deletion_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A removal that overlaps a registration undoes nothing of the registration.
func TestRemovalBesideARegistration(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	e.Spy.Before(func() {
		a.Incarnation = uuid.New()
		a.MustRegister("alpha")
	})
	if _, err := e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{Force: true}); err != nil {
		t.Fatal(err)
	}
	var n dataset.Node
	if _, err := record.NewTx(e.Ctx, e.Spy).Get(record.NodeKey(a.ID), &n); err != nil || n.Incarnation != a.Incarnation || n.Removed.IsZero() {
		t.Errorf("record of the removed node: %+v, %v", n, err)
	}
}

func TestRemoveNode(t *testing.T) {
	e, ca := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	id := controltest.NodeIdentity("alpha", a.ID)
	cert := controltest.Certificate(t, ca, id, controltest.Start)
	d := a.MustCreate("db@gold")
	if err := e.Revoked(id, cert); err != nil {
		t.Fatal(err)
	}
	_, err := e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{})
	controltest.Refused(t, err, dataset.ErrInUse, "node alpha is the home of db: move them first", "--force")
	if err := e.Revoked(id, cert); err != nil {
		t.Error("a refusal had an effect:", err)
	}
	move := *e.MustSubmit(controltest.Move("db", "beta")).Operation // which b would do, because it is running
	n, err := e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{Force: true})
	if err != nil || n.Removed.IsZero() || !n.Cordoned {
		t.Fatalf("%+v, %v", n, err)
	}
	controltest.Refused(t, e.Revoked(id, cert), dataset.ErrRemoved, "node alpha ("+a.ID.String()+") was removed from the cluster")
	if err := e.Revoked(controltest.NodeIdentity("beta", b.ID), cert); err != nil {
		t.Error(err)
	}
	// Nothing of the node is accepted any more, whatever a replica admits that has not learned of the removal.
	controltest.Refused(t, e.Register(e.Ctx, api.Registration{Node: dataset.Node{ID: a.ID, Name: "alpha", Incarnation: uuid.New()}}), dataset.ErrRemoved, "was removed")
	controltest.Refused(t, e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation}), dataset.ErrRemoved, "was removed")
	_, err = e.MakeToken(e.Ctx, api.NewToken{Name: "alpha"})
	controltest.Refused(t, err, dataset.ErrForbidden, "was removed")
	if v := e.MustVolume("db"); v.ID != d.ID || v.Home != a.ID {
		t.Errorf("the volume: %+v", v)
	}
	if op := e.MustOperation(move.ID); op.State.Final() {
		t.Errorf("the move to a reachable node: %+v", op)
	}
	// A repeated request changes nothing until the volume has another home.
	if n, err := e.RemoveNode(e.Ctx, a.ID.String()[:8], api.NodeRemoval{Force: true}); err != nil || n.Removed.IsZero() {
		t.Errorf("%+v, %v", n, err)
	}
	e.CheckInvariants()
}

// A node on which nothing depends is removed together with its pools, its pending operations and its copies.
func TestRemoveEmptyNode(t *testing.T) {
	e, ca := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta") // alpha keeps a copy
	b.MustCreate("web")
	towards := *e.MustSubmit(controltest.Move("web", "alpha")).Operation
	if _, err := e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{}); err != nil {
		t.Fatal(err)
	}
	if op := e.MustOperation(towards.ID); op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "was removed") {
		t.Errorf("%+v", op)
	}
	if e.Reports.HasReported(a.ID) || !e.Reports.HasReported(b.ID) {
		t.Error("the reports of the removed node are kept, or those of the other node are not")
	}
	entries, err := e.Spy.List(e.Ctx, "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.Contains(entry.Key, a.ID.String()) && entry.Key != record.RevokedNodeKey(a.ID) || strings.HasPrefix(entry.Key, record.PoolsPrefix) && strings.Contains(string(entry.Value), a.ID.String()) {
			t.Errorf("left: %s %s", entry.Key, entry.Value)
		}
	}
	if d := e.MustVolume("db"); len(d.Copies) != 0 || d.Home != b.ID {
		t.Errorf("%+v", d)
	}
	controltest.Refused(t, e.Revoked(controltest.NodeIdentity("alpha", a.ID), controltest.Certificate(t, ca, controltest.NodeIdentity("alpha", a.ID), e.Clock.Now())), dataset.ErrRemoved, "was removed")
	_, err = e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{})
	controltest.Refused(t, err, dataset.ErrInvalid, "unknown node")
	e.CheckInvariants()
}

// A replica that did not remove a node forgets its reports when it lists the nodes. In particular, the node's distrust
// of the store no longer counts.
func TestListingForgetsRemovedNodes(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	if _, err := e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{}); err != nil {
		t.Fatal(err)
	}
	n, h := dataset.Node{ID: a.ID, Name: "alpha"}, api.Heartbeat{StoreDoubt: "an older epoch"}
	if _, err := e.Reports.RecordHeartbeat(n, h, e.Clock.Steady()); err != nil { // as on the other replica
		t.Fatal(err)
	}
	controltest.Refused(t, e.Reports.CheckTrust(), dataset.ErrConflict)
	e.Clock.Advance(time.Second)
	if _, err := e.NodeList(e.Ctx, ""); err != nil {
		t.Fatal(err)
	}
	if e.Reports.HasReported(a.ID) || !e.Reports.HasReported(b.ID) {
		t.Error("the reports of the removed node are kept, or those of the other node are not")
	}
	if err := e.Reports.CheckTrust(); err != nil {
		t.Error(err)
	}
}

// I1: everything known of a node ends with its removal, also if its record is already gone and only its certificate
// is on record as revoked.
func TestRevokedNodeStaysOut(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		t.Delete(record.NodeKey(a.ID))
		return t.Put(record.RevokedNodeKey(a.ID), record.Revocation{Node: a.ID, At: controltest.Start, Until: controltest.Start.Add(time.Hour)})
	})
	if err != nil {
		t.Fatal(err)
	}
	r := api.Registration{Node: dataset.Node{ID: a.ID, Name: "alpha", Incarnation: uuid.New()}}
	if err := a.Register(a.Ctx, r); !errors.Is(err, dataset.ErrRemoved) {
		t.Errorf("it is admitted: %v", err)
	}
}
