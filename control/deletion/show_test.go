package deletion_test

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// A person looks at a superseded head. Its node is told to mount it and reports where. The head cannot be discarded
// while anybody looks at it.
func TestShow(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta")
	look := func(kind dataset.OpKind, volume, node string) api.Request {
		return api.Request{Kind: kind, Volume: volume, Node: node}
	}
	_, err := e.Submit(e.Ctx, look(dataset.OpShow, "db", ""))
	controltest.Refused(t, err, dataset.ErrNotFound, "no superseded copy") // a copy that was left by a move
	d := a.MustCommit(*e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation).Dataset
	_, err = e.Submit(e.Ctx, look(dataset.OpShow, "db", "alpha"))
	controltest.Refused(t, err, dataset.ErrNotFound, "no superseded copy")
	a.MustRefusePlan(look(dataset.OpShow, "db", ""), dataset.ErrInvalid, "submit it")

	hears := func() dataset.Copy {
		t.Helper()
		e.CheckInvariants()
		return b.MustSync(0).Copies[0].Copy
	}
	says := func(c dataset.Copy, path, problem string) dataset.Copy {
		t.Helper()
		c.Path, c.Problem = path, problem
		if err := b.ReportCopy(b.Ctx, b.ID, api.CopyReport{Incarnation: b.Incarnation, Copy: c, MountOnly: true}); err != nil {
			t.Fatal(err)
		}
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

	_, err = e.Submit(e.Ctx, look(dataset.OpDiscard, "db", ""))
	controltest.Refused(t, err, dataset.ErrInUse, "node beta", "drover copy mount db beta --off")
	a.MustDelete("db")
	_, err = e.Submit(e.Ctx, look(dataset.OpDiscard, d.ID.String(), ""))
	controltest.Refused(t, err, dataset.ErrInUse, "drover copy mount "+d.ID.String()+" beta --off")
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
	if _, err := l.Fence(l.Ctx, l.Alpha.ID, api.Fenced{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	op, err := l.AskFailover(l.Service, "beta")
	if err != nil {
		t.Fatal(err)
	}
	l.Beta.MustCommit(*op)
	show := api.Request{Kind: dataset.OpShow, Volume: "db"}
	_, err = l.Submit(l.Ctx, show)
	controltest.Refused(t, err, dataset.ErrOffline, "node alpha, which has the superseded copy, is unreachable since 2026-")
	if out, err := l.Submit(l.Ctx, api.Request{Kind: dataset.OpHide, Volume: "db"}); err != nil || out.Operation.OtherNode != l.Alpha.ID {
		t.Errorf("%+v, %v", out.Operation, err)
	}
	l.RestartAgent(l.Alpha, "alpha")
	if out, err := l.Submit(l.Ctx, show); err != nil || out.Operation.OtherNode != l.Alpha.ID {
		t.Errorf("%+v, %v", out.Operation, err)
	}
}
