package control_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// An agent can say how an operation ended, but not who requested what.
func TestReportsChangeNoRequest(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	for _, problem := range []*dataset.Problem{nil, dataset.ProblemOf(dataset.ErrNoSpace)} {
		asked := *e.MustSubmit(controltest.Create("db" + fmt.Sprint(problem != nil))).Operation
		op := asked
		op.Problem, op.Volume, op.RequestDigest, op.Path, op.OtherNode = problem, "others", "", "/etc", uuid.New()
		op.Created, op.Options = op.Created.Add(time.Hour), map[string]string{"pool": "x"}
		a.MustCommit(op)
		got, err := e.Operation(e.Ctx, op.ID.String(), 0)
		if err != nil || got.Volume != asked.Volume || got.RequestDigest != asked.RequestDigest || got.Path != "" || got.OtherNode != uuid.Nil || !got.Created.Equal(asked.Created) || len(got.Options) > 0 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	err := e.Events(e.Ctx, 0, false, func(ev api.Event) error {
		if ev.Volume == "others" {
			t.Errorf("%+v", ev)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Control computes the IDs of scheduled operations, so that all replicas request each of them once. No caller can use
// such an ID first, which would block the operation.
func TestIDsOfScheduledOperationsAreReserved(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	reserved := uuid.NewSHA1(uuid.New(), []byte("snapshot 2026-11-18T12:00:00Z"))
	before := e.Dump()
	protect := true
	_, err := e.Submit(e.Ctx, api.Request{ID: reserved, Kind: dataset.OpUpdate, Volume: "db", Protect: &protect})
	controltest.Refused(t, err, dataset.ErrInvalid, "version 5")
	a.MustRefusePlan(api.Request{ID: reserved, Kind: dataset.OpSnapshot, Volume: "db"}, dataset.ErrInvalid, "version 5")
	op := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
	op.ID = reserved
	_, err = e.Commit(e.Ctx, a.ID, a.ReportOf(op))
	controltest.Refused(t, err, dataset.ErrInvalid, "version 5")
	controltest.Refused(t, e.Record(e.Ctx, a.ID, a.ReportOf(op)), dataset.ErrInvalid, "version 5")
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Error(diff)
	}
}

// A node chooses the UUIDs of what it creates, but cannot choose one that something else has.
func TestUUIDsOfOthers(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	theirs := b.MustCreate("theirs")
	snap := b.MustSnapshot("theirs", "")
	mine := a.MustCreate("mine")
	before := e.Dump()
	for name, id := range map[string]uuid.UUID{"dataset": theirs.ID, "snapshot": snap.ID, "its own": mine.ID} {
		op := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: "mine"})
		op.Snapshot.ID = id
		_, err := a.Commit(e.Ctx, a.ID, a.ReportOf(op))
		controltest.Refused(t, err, dataset.ErrExists, id.String(), "something else")
		found := api.FoundDataset{Pool: a.LocalPools[0].ID, Dataset: mine, Snapshots: []dataset.Snapshot{{ID: id, Dataset: mine.ID}}}
		if _, err := e.Rebuild(e.Ctx, a.ID, []api.FoundDataset{found}, false); err == nil {
			t.Error("a rebuild took the UUID of", name)
		}
	}
	op := a.MustPlan(controltest.Create("new"))
	op.DatasetID, op.DatasetRecord.ID = snap.ID, snap.ID
	_, err := a.Commit(e.Ctx, a.ID, a.ReportOf(op))
	controltest.Refused(t, err, dataset.ErrExists, snap.ID.String())
	found := api.FoundDataset{Pool: a.LocalPools[0].ID, Dataset: dataset.Dataset{ID: snap.ID, Volume: "found", State: dataset.StateReady}}
	_, err = e.Rebuild(e.Ctx, a.ID, []api.FoundDataset{found}, false)
	controltest.Refused(t, err, dataset.ErrExists, snap.ID.String())
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Error(diff)
	}
	e.CheckInvariants()
}
