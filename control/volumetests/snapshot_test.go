package volume_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

func TestSnapshots(t *testing.T) {
	e, a := controltest.OneNode(t)
	db := a.MustCreate("db@gold")
	req := api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db", Name: "nightly", Message: "before the upgrade"}
	op := a.MustPlan(req)
	e.Clock.Advance(time.Minute)
	op.Snapshot.Size = 21 * dataset.GiB // as reported by the agent
	for range 2 {
		out := a.MustCommit(op)
		if out.Dataset.HeadParent != op.Snapshot.ID || out.Dataset.Request != req.ID {
			t.Errorf("dataset: %+v", out.Dataset)
		}
	}
	s, err := e.Snapshot(e.Ctx, "db", "nightly")
	if err != nil || s.Kind != dataset.SnapshotManual || s.Message != req.Message || s.Volume != "db" || s.Parent != uuid.Nil ||
		s.Size != 21*dataset.GiB || s.Profile.Name != "gold" || s.Request != req.ID || s.Epoch != db.Epoch {
		t.Errorf("%+v, %v", s, err)
	}
	if v := e.MustVolume("db"); v.Snapshots != 1 {
		t.Errorf("%d snapshots", v.Snapshots)
	}
	a.MustRefusePlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "nightly"}, dataset.ErrExists, "nightly", s.ID.String())
	a.MustRefusePlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "a/b"}, dataset.ErrInvalid, `bad snapshot name "a/b"`)
	a.MustRefusePlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Message: strings.Repeat("x", 1025)}, dataset.ErrInvalid, "1025")
	a.MustRefusePlan(api.Request{Kind: dataset.OpSnapshot, Volume: "nothing"}, dataset.ErrNotFound)
	second := a.MustSnapshot("db", "")
	if second.Parent != s.ID {
		t.Errorf("parent %s", second.Parent)
	}
	scheduled := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Scheduled: true})
	if scheduled.Snapshot.Kind != dataset.SnapshotScheduled {
		t.Errorf("%s", scheduled.Snapshot.Kind)
	}
	e.CheckInvariants()
}

// Two snapshots that were planned at the same time are recorded in the order in which they were taken.
func TestSnapshotLineage(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	one := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
	two := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
	a.MustCommit(two)
	a.MustCommit(one)
	got, err := e.Snapshot(e.Ctx, "", one.Snapshot.ID.String())
	if err != nil || got.Parent != two.Snapshot.ID {
		t.Errorf("parent %s, %v", got.Parent, err)
	}
	del := a.MustPlan(api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: one.Snapshot.ID.String()})
	for range 2 {
		if d := a.MustCommit(del).Dataset; d.HeadParent != two.Snapshot.ID {
			t.Errorf("after the newest was removed: continues from %s", d.HeadParent)
		}
	}
	if v := e.MustVolume("db"); v.Snapshots != 1 {
		t.Errorf("%d snapshots", v.Snapshots)
	}
	e.CheckInvariants()
}

func TestSnapshotDelete(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	a.MustCreate("db2")
	s := a.MustSnapshot("db", "nightly")
	other := a.MustSnapshot("db2", "nightly")
	for _, req := range []api.Request{{Volume: "db2", Snapshot: s.ID.String()}, {Volume: "db", Snapshot: "weekly"}, {Snapshot: "nightly"}, {Snapshot: "00000000"}, {}} {
		req.Kind = dataset.OpSnapshotDelete
		a.MustRefusePlan(req, dataset.ErrNotFound)
	}
	a.MustDo(api.Request{Kind: dataset.OpSnapshotDelete, Volume: "db", Snapshot: "nightly"})
	if _, err := e.Snapshot(e.Ctx, "", other.ID.String()); err != nil {
		t.Errorf("the snapshot of the other volume: %v", err)
	}
	a.MustSnapshot("db", "nightly") // the name is free again
	d := a.MustDelete("db")
	if list, err := e.Snapshots(e.Ctx, d.ID.String(), api.Page{}); err != nil || len(list.Items) != 1 {
		t.Errorf("in the trash: %+v, %v", list, err)
	}
	a.MustDo(api.Request{Kind: dataset.OpSnapshotDelete, Volume: d.ID.String(), Snapshot: "nightly"})
	e.CheckInvariants()
}

func TestRestore(t *testing.T) {
	e, a := controltest.OneNode(t)
	db := a.MustCreate("db@gold")
	s1 := a.MustSnapshot("db", "one")
	s2 := a.MustSnapshot("db", "two")
	e.MustSubmit(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "50GiB"})
	a.DoWork()
	op := a.MustPlan(api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "one"})
	if *op.Source != (dataset.Source{Dataset: db.ID, Snapshot: s1.ID}) || op.Snapshot.Kind != dataset.SnapshotRestore {
		t.Errorf("planned %+v, %+v", op.Source, op.Snapshot)
	}
	for range 2 {
		d := a.MustCommit(op).Dataset
		if d.HeadParent != s1.ID || d.Size != 50*dataset.GiB || d.Profile.Size != d.Size {
			t.Errorf("restored: %+v", d)
		}
	}
	keep, err := e.Snapshot(e.Ctx, "db", op.Snapshot.ID.String())
	if err != nil || keep.Parent != s2.ID || keep.Size != 50*dataset.GiB || !strings.Contains(keep.Message, s1.ID.String()) {
		t.Errorf("the former state is kept as %+v, %v", keep, err)
	}
	if v := e.MustVolume("db"); v.Snapshots != 3 { // newer ones are kept
		t.Errorf("%d snapshots", v.Snapshots)
	}
	// The report arrives once more after other operations.
	next := a.MustSnapshot("db", "")
	if d := a.MustCommit(op).Dataset; d.HeadParent != next.ID {
		t.Errorf("a second report of a restore put the record back: %+v", d)
	}
	a.MustCreate("other")
	a.MustRefusePlan(api.Request{Kind: dataset.OpRestore, Volume: "other", Snapshot: s1.ID.String()}, dataset.ErrNotFound)
	a.MustRefusePlan(api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "three"}, dataset.ErrNotFound, `"three"`)
	e.CheckInvariants()
}

// When a restore is reported, the data has already changed. The record is updated, even if the volume went to the
// trash meanwhile.
func TestRestoreOfWhatWasDeleted(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	s := a.MustSnapshot("db", "")
	op := a.MustPlan(api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: s.ID.String()})
	d := a.MustDelete("db")
	if got := a.MustCommit(op).Dataset; got.State != dataset.StateTrashed || got.HeadParent != s.ID {
		t.Errorf("%+v", got)
	}
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	op.ID, op.Snapshot.ID = uuid.New(), uuid.New()
	_, err := a.Commit(e.Ctx, a.ID, a.ReportOf(op))
	controltest.Refused(t, err, dataset.ErrConflict, "destroyed")
	e.CheckInvariants()
}

func TestSnapshotLists(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	a.MustCreate("db2")
	var want []uuid.UUID
	for i := range 25 {
		want = append(want, a.MustSnapshot("db", fmt.Sprintf("s%d", i)).ID)
		if i%3 != 0 { // some were taken at the same moment
			e.Clock.Advance(time.Second)
		}
	}
	a.MustSnapshot("db2", "s0")
	var got []dataset.Snapshot
	for p := (api.Page{Limit: 7}); ; {
		list, err := e.Snapshots(e.Ctx, "db", p)
		require.NoError(t, err)
		got = append(got, list.Items...)
		if list.Next == "" {
			break
		}
		p.After = list.Next
		if len(got) == 14 { // the entry at the cursor is removed
			a.MustDo(api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: got[13].ID.String()})
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d snapshots of %d", len(got), len(want))
	}
	seen := map[uuid.UUID]bool{}
	for i, s := range got {
		if i > 0 && s.Created.Before(got[i-1].Created) || seen[s.ID] {
			t.Errorf("%d: %s of %s stands after %s", i, s.ID, s.Created, got[i-1].Created)
		}
		seen[s.ID] = true
	}
	n := 0
	for p := (api.Page{Limit: 10}); ; {
		list, err := e.Snapshots(e.Ctx, "", p)
		require.NoError(t, err)
		if n += len(list.Items); list.Next == "" {
			break
		}
		p.After = list.Next
	}
	if n != 25 {
		t.Errorf("%d snapshots of all volumes, want 25", n)
	}
	_, err := e.Snapshots(e.Ctx, "nothing", api.Page{})
	controltest.Refused(t, err, dataset.ErrNotFound)
}

// A snapshot is removed while control handles the report of its restore. Then the record of the volume does not
// name that snapshot as its latest state.
func TestRestoreBesideTheEndOfItsSnapshot(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@silver")
	s := a.MustSnapshot("db", "old")
	op := a.MustPlan(api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: s.ID.String()})
	e.Spy.Before(func() {
		e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error { record.DeleteSnapshot(t, s); return nil }))
	})
	a.MustCommit(op)
	if v := e.MustVolume("db"); v.HeadParent != uuid.Nil {
		t.Errorf("the latest state is snapshot %s, which is gone", v.HeadParent)
	}
}
