package deletion_test

import (
	"errors"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A superseded head is kept until a person discards it. Nothing else can be discarded in this way.
func TestDiscard(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	d := a.MustCreate("db@gold")
	discard := func(node string) api.Request {
		return api.Request{Kind: dataset.OpDiscard, Volume: "db", Node: node}
	}
	e.MustMove("db", a, b, "beta")
	if _, err := e.Submit(e.Ctx, discard("")); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("discard of a copy that a move left: %v", err)
	}
	op := *e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation
	if out := a.MustCommit(op); out.Dataset.Home != a.ID || out.Dataset.Epoch != 3 {
		t.Fatalf("%+v", out)
	}
	e.CheckInvariants()
	v := e.MustVolume("db")
	if len(v.CopyDetails) != 1 || v.CopyDetails[0].Kind != dataset.CopySuperseded || v.CopyDetails[0].NodeName != "beta" {
		t.Fatalf("kept: %+v", v.CopyDetails)
	}
	for _, node := range []string{"alpha", "gamma"} {
		if _, err := e.Submit(e.Ctx, discard(node)); err == nil {
			t.Errorf("node %s keeps none", node)
		}
	}
	e.MustSubmit(discard("beta"))
	sync := b.MustSync(0)
	if len(sync.Copies) != 1 || sync.Copies[0].Kind != dataset.CopyCondemned {
		t.Fatalf("the node gets %+v", sync.Copies)
	}
	if err := b.ReportCopy(b.Ctx, b.ID, api.CopyReport{Incarnation: b.Incarnation, Copy: sync.Copies[0].Copy, Removed: true}); err != nil {
		t.Fatal(err)
	}
	if v := e.MustVolume("db"); len(v.CopyDetails) != 0 || len(v.Copies) != 0 || v.ID != d.ID {
		t.Errorf("%+v", v)
	}
	e.CheckInvariants()
}

// A node reports that its copy has data which the volume does not have. The copy is kept even if it was to be
// destroyed because nobody needed it, but not if a person discarded it.
func TestOvertakenAsItsNodeSays(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	d := e.MustMove("db", a, b, "beta")
	kept := func() dataset.Copy {
		t.Helper()
		e.CheckInvariants()
		return a.MustSync(0).Copies[0].Copy
	}
	says := func() error {
		c := kept()
		c.Kind = dataset.CopySuperseded // by the same snapshot
		return a.ReportCopy(a.Ctx, a.ID, api.CopyReport{Incarnation: a.Incarnation, Copy: c})
	}
	condemn := func() {
		t.Helper()
		if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return record.CondemnCopy(t, a.ID, d.ID) }); err != nil {
			t.Fatal(err)
		}
	}
	condemn()
	condemn()
	if c := kept(); c.Kind != dataset.CopyCondemned || c.PreviousKind != dataset.CopyLeft {
		t.Errorf("%+v", c)
	}
	rev := a.MustSync(0).Revision
	if err := says(); err != nil {
		t.Fatal(err)
	}
	if s := a.MustSync(rev); len(s.Copies) != 1 || s.Copies[0].Kind != dataset.CopySuperseded || s.Copies[0].PreviousKind != "" || !s.Copies[0].Expires.IsZero() {
		t.Errorf("the node gets %+v", s.Copies)
	}
	e.MustSubmit(api.Request{Kind: dataset.OpDiscard, Volume: "db"})
	if err := says(); !errors.Is(err, dataset.ErrStale) || kept().Kind != dataset.CopyCondemned {
		t.Errorf("a report about a copy that a person discarded: %v", err)
	}
}

// A dataset whose time in the trash is over stays there while a node keeps a superseded head of it. The end of the
// time in the trash discards no superseded head.
func TestI3TrashKeepsWhatWasOvertaken(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta")
	a.MustCommit(*e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation)
	d := a.MustDelete("db")
	e.Round()
	e.AdvanceClock(2 * e.TrashTime())
	e.Memory.FullDue = e.Clock.Now()
	e.Round()
	if got := e.CheckInvariants().Datasets[d.ID]; got.State != dataset.StateTrashed || b.MustSync(0).Copies[0].Kind != dataset.CopySuperseded {
		t.Fatalf("%s, %+v", got.State, b.MustSync(0).Copies)
	}
	if len(e.Failures) != 1 {
		t.Fatalf("%v", e.Failures)
	}
	controltest.Refused(t, e.Failures[0], dataset.ErrConflict, "node beta has a superseded copy", "copy mount "+d.ID.String()+" beta")
	e.MustSubmit(api.Request{Kind: dataset.OpDiscard, Volume: d.ID.String()})
	c := b.MustSync(0).Copies[0].Copy
	if err := b.ReportCopy(b.Ctx, b.ID, api.CopyReport{Incarnation: b.Incarnation, Copy: c, Removed: true}); err != nil {
		t.Fatal(err)
	}
	e.Round()
	if got := e.CheckInvariants().Datasets[d.ID]; got.State != dataset.StatePurging {
		t.Errorf("%+v", got)
	}
}
