package control_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// TestOperationsSayWhoRequestedThem: operations that an agent carries out for its engine, without a submitted request,
// are listed with the others. Each operation says who requested it. A failure, and the loser of two creates, are not
// listed.
func TestOperationsSayWhoRequestedThem(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	engine := func(spec string) api.Request {
		req := controltest.Create(spec)
		req.Engine = true
		return req
	}
	loser := a.MustPlan(engine("db@gold"))
	created := a.MustPlan(engine("db@gold"))
	a.MustCommit(created)
	if out := a.MustCommit(loser); !out.Duplicate {
		t.Error("the second create is not a duplicate")
	}
	again := a.MustCommit(created) // the answer was lost
	if again.Dataset.ID != created.DatasetID || again.Duplicate {
		t.Errorf("reported again: %+v", again)
	}
	failed := a.MustPlan(engine("broken"))
	failed.Problem = &dataset.Problem{Code: dataset.ErrNoSpace.Code, Message: "full"}
	a.MustCommit(failed)
	archive := a.MustPlan(api.Request{Kind: dataset.OpImport, Volume: "files"})
	a.MustCommit(archive)
	removed := a.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: "files"})
	a.MustCommit(removed)
	type row struct{ action, volume, change, by string }
	want := map[uuid.UUID]row{
		created.ID: {"create", "db", "profile gold", "engine of node alpha"},
		archive.ID: {"import", "files", "profile bronze", "node alpha"},
		removed.ID: {"delete", "files", "in the trash", "engine of node alpha"},
	}
	submit := func(p api.Principal, req api.Request, r row) {
		t.Helper()
		out, err := e.Submit(api.WithPrincipal(e.Ctx, p), req)
		if err != nil {
			t.Fatal(err)
		}
		want[out.Operation.ID] = r
	}
	submit(api.Principal{Local: true, From: "root"}, controltest.Rename("db", "orders"),
		row{"rename", "db", "now orders", "local root"})
	jane := pki.Identity{Kind: pki.Operator, Name: "jane", Role: pki.Admin}
	submit(api.Principal{Identity: jane}, api.Request{Kind: dataset.OpUpdate, Volume: "orders", Protect: controltest.Yes()},
		row{"protect", "orders", "protected", jane.String()})
	submit(api.Principal{Local: true}, controltest.Create("web"), row{"create", "web", "profile bronze", "drover"})
	submit(api.Principal{Identity: controltest.NodeIdentity("alpha", a.ID)}, engine("far"),
		row{"create", "far", "profile bronze", "engine of node alpha"})
	a.DoWork()
	ops, err := e.Operations(e.Ctx, api.Page{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[uuid.UUID]row{}
	for _, op := range ops.Items {
		got[op.ID] = row{op.Action(), op.Volume, op.Change, op.By}
		if op.State != dataset.OpDone || op.Ended.IsZero() {
			t.Errorf("%+v has not ended", op)
		}
	}
	for id, r := range want {
		if got[id] != r {
			t.Errorf("got %+v, want %+v", got[id], r)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d operations are listed, want %d: %+v", len(got), len(want), got)
	}
	e.CheckInvariants()
}
