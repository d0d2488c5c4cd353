package control

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// What one node tells one replica, every replica heeds: nothing is made, deleted or
// destroyed, before or after it was planned, until all who said so believe the store
// again.
func TestAllReplicasHalt(t *testing.T) {
	x := newShared(t, 2)
	a, b := x.list[0], x.list[1]
	e := &env{tb: t, Service: a, ctx: t.Context()}
	n, other := e.agent("n1"), e.agent("n2")
	d := n.create("db")
	move := *e.submit(moveTo("db", "n2")).Operation
	planned, deleted := n.plan(create("late")), n.plan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	n.distrust("it is older than what this node has seen")
	other.distrust("it lacks something")
	for _, s := range x.list {
		e.Service = s
		for _, op := range []dataset.Operation{planned, deleted} {
			_, err := s.Commit(t.Context(), n.id, n.report(op))
			refused(t, err, dataset.ErrConflict, "not to be believed", "older than what", "lacks something", n.id.String(), "drover store recover")
		}
		_, err := s.Submit(t.Context(), api.Request{Kind: dataset.OpCreate, Volume: "more"})
		refused(t, err, dataset.ErrConflict, "not to be believed")
		_, err = s.Recall(t.Context(), other.id, other.report(move)) // its home would let nobody mount it any more
		refused(t, err, dataset.ErrConflict, "not to be believed")
		if why, err := s.Halted(t.Context()); err != nil || !strings.Contains(why, "lacks something") {
			t.Errorf("%q, %v", why, err)
		}
		if v, err := s.Volume(t.Context(), "db"); err != nil || v.ID != d.ID {
			t.Errorf("what is there is not shown: %v", err)
		}
	}
	// It is on record: a service that was started since knows.
	later, _ := Assemble(b.Deps)
	t.Cleanup(later.Close)
	if _, err := later.Submit(t.Context(), api.Request{Kind: dataset.OpDelete, Volume: "db"}); dataset.KindOf(err) != dataset.ErrConflict {
		t.Error(err)
	}
	e.Service = later
	believe := func(n *agent) {
		t.Helper()
		if err := later.Members.Heartbeat(t.Context(), n.id, api.Heartbeat{Incarnation: n.incarnation}); err != nil {
			t.Fatal(err)
		}
	}
	believe(n)
	if _, err := later.Commit(t.Context(), n.id, n.report(planned)); dataset.KindOf(err) != dataset.ErrConflict {
		t.Errorf("one of two believes it: %v", err)
	}
	believe(other)
	for _, s := range []*Service{later, b} {
		if _, err := s.Commit(t.Context(), n.id, n.report(planned)); err != nil {
			t.Error(err)
		}
	}
	if why, err := later.Halted(t.Context()); err != nil || why != "" {
		t.Errorf("%q, %v", why, err)
	}
	if list, err := x.st.List(t.Context(), record.HaltedKey, "", 0); err != nil || len(list) != 0 {
		t.Errorf("%d, %v", len(list), err)
	}
}

// A node that believes the store costs it nothing, however often it says so.
func TestTrustIsNotWritten(t *testing.T) {
	x := newShared(t, 1)
	e := &env{tb: t, Service: x.list[0], ctx: t.Context()}
	n := e.agent("n1")
	for _, why := range []string{"", "it is older", "it is older", ""} {
		n.distrust(why)
	}
	before := x.count()
	for range 10 {
		n.distrust("")
	}
	if got := x.count() - before; got != 0 {
		t.Errorf("%d transactions", got)
	}
}
