package deletion_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// A superseded head is kept until a person discards it. Nothing else can be discarded in this way.
func TestDiscard(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
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
	b.OK(b.ReportCopy(b.Ctx, b.ID, api.CopyReport{Incarnation: b.Incarnation, Copy: sync.Copies[0].Copy, Removed: true}))
	if v := e.MustVolume("db"); len(v.CopyDetails) != 0 || len(v.Copies) != 0 || v.ID != d.ID {
		t.Errorf("%+v", v)
	}
	e.CheckInvariants()
}

// A node reports that its copy has data which the volume does not have. The copy is kept even if it was to be
// destroyed because nobody needed it, but not if a person discarded it.
func TestOvertakenAsItsNodeSays(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
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
		e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return record.CondemnCopy(t, a.ID, d.ID) }))
	}
	condemn()
	condemn()
	if c := kept(); c.Kind != dataset.CopyCondemned || c.PreviousKind != dataset.CopyLeft {
		t.Errorf("%+v", c)
	}
	rev := a.MustSync(0).Revision
	e.OK(says())
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
	e, a, b := controltest.TwoNodes(t)
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
	b.OK(b.ReportCopy(b.Ctx, b.ID, api.CopyReport{Incarnation: b.Incarnation, Copy: c, Removed: true}))
	e.Round()
	if got := e.CheckInvariants().Datasets[d.ID]; got.State != dataset.StatePurging {
		t.Errorf("%+v", got)
	}
}

// A person looks at a superseded head. Its node is told to mount it and reports where. The head cannot be discarded
// while anybody looks at it.
func TestShow(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta")
	look := func(kind dataset.OpKind, volume, node string) api.Request {
		return api.Request{Kind: kind, Volume: volume, Node: node}
	}
	_, err := e.Submit(e.Ctx, look(dataset.OpShow, "db", ""))
	controltest.Refused(t, err, dataset.ErrNotFound, "no superseded copy") // a copy that was left by a move
	d := a.MustCommit(*e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation).Dataset
	e.MustRefuse(look(dataset.OpShow, "db", "alpha"), dataset.ErrNotFound, "no superseded copy")
	a.MustRefusePlan(look(dataset.OpShow, "db", ""), dataset.ErrInvalid, "submit it")

	hears := func() dataset.Copy {
		t.Helper()
		e.CheckInvariants()
		return b.MustSync(0).Copies[0].Copy
	}
	says := func(c dataset.Copy, path, problem string) dataset.Copy {
		t.Helper()
		c.Path, c.Problem = path, problem
		b.OK(b.ReportCopy(b.Ctx, b.ID, api.CopyReport{Incarnation: b.Incarnation, Copy: c, MountOnly: true}))
		return hears()
	}
	gamma := controltest.As(controltest.NodeIdentity("gamma", e.NewAgent("gamma").ID))
	_, err = e.Submit(gamma, look(dataset.OpShow, "db", "beta"))
	controltest.Refused(t, err, dataset.ErrForbidden, "may not request this show of the superseded copy of volume db")
	rev := b.MustSync(0).Revision
	op := e.MustSubmit(look(dataset.OpShow, "db", "")).Operation
	if op.OtherNode != b.ID || op.Kind != dataset.OpShow || op.State != dataset.OpDone {
		t.Errorf("%+v", op)
	}
	if s := b.MustSync(rev); len(s.Copies) != 1 || !s.Copies[0].MountReadOnly {
		t.Errorf("the node gets %+v", s.Copies)
	}
	before := hears()
	if c := says(before, "", strings.Repeat("x", 2*dataset.MaxLine)); c.Path != "" || c.Problem == "" || len(c.Problem) > dataset.MaxLine {
		t.Errorf("%+v", c)
	}
	e.MustSubmit(look(dataset.OpShow, "db", "beta"))
	if c := hears(); !c.MountReadOnly || c.Problem != "" {
		t.Errorf("asked again: %+v", c)
	}
	if c := says(hears(), "/there", ""); c.Path != "/there" || e.MustVolume("db").CopyDetails[0].Path != "/there" {
		t.Errorf("%+v", c)
	}
	index := b.MustSync(0).Copies[0].Index
	says(hears(), "/there", "")
	if b.MustSync(0).Copies[0].Index != index {
		t.Error("a report without a change was written")
	}

	e.MustRefuse(look(dataset.OpDiscard, "db", ""), dataset.ErrInUse, "node beta", "drover copy mount db beta --off")
	a.MustDelete("db")
	e.MustRefuse(look(dataset.OpDiscard, d.ID.String(), ""), dataset.ErrInUse, "drover copy mount "+d.ID.String()+" beta --off")
	shown := hears()
	e.MustSubmit(look(dataset.OpHide, d.ID.String(), ""))
	if c := says(shown, "/elsewhere", ""); c.MountReadOnly || c.Path != "/there" {
		t.Errorf("a report from before the request changed: %+v", c)
	}
	if c := says(hears(), "", ""); c.Path != "" {
		t.Errorf("%+v", c)
	}
	e.MustSubmit(look(dataset.OpDiscard, d.ID.String(), ""))
	if c := says(hears(), "/there", ""); c.Kind != dataset.CopyCondemned || c.Path != "" {
		t.Errorf("a report about a destroyed copy: %+v", c)
	}
}

// A head on an unreachable node cannot be looked at until the node is reachable again. A person can stop looking at
// any time.
func TestShowOnALostNode(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	l.Replicas.EndSession(l.Alpha)
	l.OK(l.Fence(l.Ctx, l.Alpha.ID, api.Fenced{Confirmed: true}))
	op, err := l.AskFailover(l.Service, "beta")
	require.NoError(t, err)
	l.Beta.MustCommit(*op)
	show := api.Request{Kind: dataset.OpShow, Volume: "db"}
	l.MustRefuse(show, dataset.ErrOffline, "node alpha, which has the superseded copy, is unreachable since 2026-")
	if out, err := l.Submit(l.Ctx, api.Request{Kind: dataset.OpHide, Volume: "db"}); err != nil || out.Operation.OtherNode != l.Alpha.ID {
		t.Errorf("%+v, %v", out.Operation, err)
	}
	l.RestartAgent(l.Alpha, "alpha")
	if out, err := l.Submit(l.Ctx, show); err != nil || out.Operation.OtherNode != l.Alpha.ID {
		t.Errorf("%+v, %v", out.Operation, err)
	}
}
