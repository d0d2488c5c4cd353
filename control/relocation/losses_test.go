package relocation_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// named returns the names of the snapshots of a volume.
func named(e *controltest.Control, volume string) map[string]bool {
	e.Helper()
	list, err := e.Snapshots(e.Ctx, volume, api.Page{})
	if err != nil {
		e.Fatalf("%v", err)
	}
	names := map[string]bool{}
	for _, s := range list.Items {
		names[s.Name] = true
	}
	return names
}

// Snapshots that a promotion loses stay on record until the promotion is on record, whatever fails in the store
// meanwhile, and are removed by the next round after that at the latest.
func TestLossIsForgottenAfterItsPromotion(t *testing.T) {
	const many = 2*record.SnapshotsAtOnce + 2
	for n := 1; ; n++ {
		e := controltest.New(t)
		a, b := e.NewAgent("alpha"), e.NewAgent("beta")
		a.MustCreate("db@silver")
		kept := a.MustSnapshot("db", "kept")
		d := e.MustMove("db", a, b, "beta")
		for i := range many {
			b.MustSnapshot("db", fmt.Sprint("lost-", i))
		}
		op := *e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation
		e.Spy.FailFrom(n, n%2 == 0)
		err := a.TryCommit(op)
		e.Spy.FailFrom(0, false)
		e.CheckInvariants()
		if e.MustVolume("db").Home == b.ID {
			if got := named(e, "db"); err == nil || len(got) != many+1 {
				t.Fatalf("failing at call %d: %v, and of %d snapshots %d are left with a home that is not overtaken", n, err, many+1, len(got))
			}
			continue
		}
		if v := e.MustVolume("db"); v.HeadParent != kept.ID || len(v.Losses) != 1 || v.Losses[0].EndedEpoch != d.Epoch {
			t.Fatalf("failing at call %d: latest %s, %+v", n, v.HeadParent, v.Losses)
		}
		failed := len(e.Failures) > 0
		e.Round()
		if got := named(e, "db"); len(got) != 1 || !got["kept"] {
			t.Fatalf("failing at call %d: left are %v", n, got)
		}
		if v := e.MustVolume("db"); !v.Losses[0].SnapshotsForgotten {
			t.Errorf("%+v", v.Losses)
		}
		if e.CheckInvariants(); !failed && err == nil {
			return // nothing fails any more
		}
	}
}

// A refused promotion has removed nothing.
func TestPromotionRefusedForgetsNothing(t *testing.T) {
	for what, befalls := range map[string]func(e *controltest.Control, a *controltest.Agent, d dataset.Dataset) error{
		"condemned": func(e *controltest.Control, a *controltest.Agent, d dataset.Dataset) error {
			_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return record.CondemnCopy(t, a.ID, d.ID) })
			return err
		},
		"overtaken": func(e *controltest.Control, a *controltest.Agent, d dataset.Dataset) error {
			c := dataset.Copy{Dataset: d.ID, Node: a.ID, Kind: dataset.CopySuperseded, Epoch: d.Epoch, Snapshot: uuid.New(), Taken: controltest.Start}
			return e.ReportCopy(e.Ctx, a.ID, api.CopyReport{Incarnation: a.Incarnation, Copy: c})
		},
	} {
		t.Run(what, func(t *testing.T) { promotionRefused(t, befalls) })
	}
}

func promotionRefused(t *testing.T, befalls func(*controltest.Control, *controltest.Agent, dataset.Dataset) error) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	d := e.MustMove("db", a, b, "beta")
	b.MustSnapshot("db", "mine")
	op := *e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation
	if err := befalls(e, a, d); err != nil {
		t.Fatal(err)
	}
	controltest.Refused(t, a.TryCommit(op), dataset.ErrConflict, "no longer be used")
	if got := named(e, "db"); !got["mine"] {
		t.Errorf("left are %v", got)
	}
	if _, err := e.CancelOperation(e.Ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	if v := e.MustVolume("db"); v.Home != b.ID || len(v.Losses) != 0 || v.HeadParent == uuid.Nil {
		t.Errorf("%+v", v.Dataset)
	}
	e.CheckInvariants()
}
