package recovery_test

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A distrust that one node reports to one replica is obeyed by every replica. Nothing is created, deleted or
// destroyed, planned or not, until all nodes that reported distrust trust the store again.
func TestAllReplicasHalt(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	a, b := x.Services[0], x.Services[1]
	e := &controltest.Control{TB: t, Service: a, Ctx: t.Context()}
	n, other := e.NewAgent("n1"), e.NewAgent("n2")
	d := n.MustCreate("db")
	move := *e.MustSubmit(controltest.Move("db", "n2")).Operation
	planned, deleted := n.MustPlan(controltest.Create("late")), n.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	n.ReportDistrust("it is older than what this node has seen")
	other.ReportDistrust("it lacks something")
	for _, s := range x.Services {
		e.Service = s
		for _, op := range []dataset.Operation{planned, deleted} {
			_, err := s.Commit(t.Context(), n.ID, n.ReportOf(op))
			controltest.Refused(t, err, dataset.ErrConflict, "changes suspended", "older than what", "lacks something", n.ID.String()[:8], "drover store recover")
		}
		_, err := s.Submit(t.Context(), api.Request{Kind: dataset.OpCreate, Volume: "more"})
		controltest.Refused(t, err, dataset.ErrConflict, "changes suspended")
		_, err = s.Recall(t.Context(), other.ID, other.ReportOf(move)) // its home would not let anybody mount it any more
		controltest.Refused(t, err, dataset.ErrConflict, "changes suspended")
		if why, err := s.Halted(t.Context()); err != nil || !strings.Contains(why, "lacks something") {
			t.Errorf("%q, %v", why, err)
		}
		if v, err := s.Volume(t.Context(), "db"); err != nil || v.ID != d.ID {
			t.Errorf("existing volumes are not shown: %v", err)
		}
	}
	// The distrust is on record, so a service that was started since knows it.
	later, _ := control.Assemble(b.Deps)
	t.Cleanup(later.Close)
	if _, err := later.Submit(t.Context(), api.Request{Kind: dataset.OpDelete, Volume: "db"}); dataset.KindOf(err) != dataset.ErrConflict {
		t.Error(err)
	}
	e.Service = later
	believe := func(n *controltest.Agent) {
		t.Helper()
		n.OK(later.Members.Heartbeat(t.Context(), n.ID, api.Heartbeat{Incarnation: n.Incarnation}))
	}
	believe(n)
	if _, err := later.Commit(t.Context(), n.ID, n.ReportOf(planned)); dataset.KindOf(err) != dataset.ErrConflict {
		t.Errorf("only one of two nodes trusts it: %v", err)
	}
	believe(other)
	for _, s := range []*control.Service{later, b} {
		n.OK(s.Commit(t.Context(), n.ID, n.ReportOf(planned)))
	}
	if why, err := later.Halted(t.Context()); err != nil || why != "" {
		t.Errorf("%q, %v", why, err)
	}
	if list, err := x.Store.List(t.Context(), record.HaltedKey, "", 0); err != nil || len(list) != 0 {
		t.Errorf("%d, %v", len(list), err)
	}
}
