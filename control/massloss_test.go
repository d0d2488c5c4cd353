package control

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// However many nodes vanish, that is decided in one transaction, and said in one line.
func TestMassLossOfHundreds(t *testing.T) {
	e := newEnv(t)
	e.Shared, e.Members.Shared = true, true
	const nodes = 400
	for range nodes {
		if _, err := e.Ledger.Update(e.ctx, func(x *record.Tx) error {
			n := dataset.Node{ID: uuid.New(), Name: "n-" + uuid.NewString()[:8], Registered: e.clock.Now()}
			return errors.Join(x.Put(record.NodeKey(n.ID), n), x.Put(record.AwayKey(n.ID), record.Away{Since: e.clock.Now()}))
		}); err != nil {
			t.Fatal(err)
		}
	}
	var loud []string
	e.Members.Failed = func(_ string, err error) { loud = append(loud, err.Error()) }
	if err := e.LookForMassLoss(e.ctx); err != nil {
		t.Fatal(err)
	}
	if len(loud) != 1 || !strings.Contains(loud[0], "400 nodes vanished") || !strings.Contains(loud[0], "and 390 more") || len(loud[0]) > 500 {
		t.Errorf("%q", loud)
	}
	if st, err := e.Failover(e.ctx); err != nil || st.Halted == "" {
		t.Errorf("%+v, %v", st, err)
	}
}

// Nodes that vanish together stop all failover, until they are back or a person has vouched
// for each that is not.
func TestMassLoss(t *testing.T) {
	l := newLost(t, 1)
	others := []*agent{l.env.agent("delta"), l.env.agent("epsilon")}
	l.others = others
	var loud []string
	l.Members.Failed = func(what string, err error) { loud = append(loud, what+": "+err.Error()) }
	op := l.begins()
	for i, a := range others {
		l.passes(membership.MassTime/3, append([]*agent{l.b, l.c}, others[i:]...)...)
		l.x.dies(a)
		if i == 0 { // the last one finds who puts the promotion on record
			if err := l.LookForAway(l.ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.b.guarded()
	// delta and epsilon, or alpha and delta, are two of five.
	_, err := l.Commit(l.ctx, l.b.id, l.b.report(op))
	refused(t, err, dataset.ErrConflict, "3 nodes vanished within 5m0s (alpha, delta, epsilon)", "drover node fence NODE --confirmed")
	if len(loud) != 1 || !strings.Contains(loud[0], "3 nodes vanished") {
		t.Errorf("%q", loud)
	}
	if st, err := l.Failover(l.ctx); err != nil || !strings.Contains(st.Halted, "halted for the whole cluster") || st.Since.IsZero() {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := l.CancelOperation(l.ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	_, err = l.asks(l.Service, "beta")
	refused(t, err, dataset.ErrOffline, "alpha", "3 nodes vanished")

	fence := func(a *agent, confirmed bool) error {
		_, err := l.Fence(l.ctx, a.id, api.Fenced{Confirmed: confirmed})
		return err
	}
	refused(t, fence(l.b, true), dataset.ErrConflict, "node beta: it is alive")
	refused(t, fence(others[0], false), dataset.ErrInvalid, "--confirmed")
	others[1].incarnation = uuid.New()
	others[1].register("epsilon") // two of five
	l.passes(membership.LossEvery, l.b, l.c, others[1])
	_, err = l.asks(l.Service, "beta")
	refused(t, err, dataset.ErrOffline, "2 nodes vanished within 5m0s (alpha, delta)")
	for range 2 {
		if err := fence(others[0], true); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := l.Failover(l.ctx); err != nil || st.Halted != "" {
		t.Errorf("%+v, %v", st, err)
	}
	if op, err := l.asks(l.Service, "beta"); err != nil || op == nil {
		t.Errorf("%+v, %v", op, err)
	}
}

// Another service finds more nodes lost, and halts failover, while one looks: that goes on
// from neither half of it.
func TestMassLossThatIsFoundMeanwhile(t *testing.T) {
	for _, at := range []string{"the halt is read", "the nodes are read", "it is written"} {
		t.Run(at, func(t *testing.T) {
			e := newEnv(t)
			e.Shared, e.Members.Shared = true, true
			var nodes []dataset.Node
			for range 5 {
				nodes = append(nodes, dataset.Node{ID: uuid.New(), Registered: e.clock.Now()})
			}
			goes := func(halts bool, list ...dataset.Node) {
				if _, err := e.Ledger.Update(e.ctx, func(x *record.Tx) (err error) {
					h := record.FailoverHalt{Since: e.clock.Now()}
					for _, n := range list {
						err = errors.Join(err, x.Put(record.NodeKey(n.ID), n), x.Put(record.AwayKey(n.ID), record.Away{Since: e.clock.Now()}))
					}
					for _, n := range nodes[:3] {
						h.Nodes = append(h.Nodes, n.ID)
					}
					if halts {
						slices.SortFunc(h.Nodes, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
						err = errors.Join(err, x.Put(record.FailoverKey, h))
					}
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			goes(false, nodes[0])
			for _, n := range nodes[1:] {
				if _, err := e.Ledger.Update(e.ctx, func(x *record.Tx) error { return x.Put(record.NodeKey(n.ID), n) }); err != nil {
					t.Fatal(err)
				}
			}
			meanwhile := sync.OnceFunc(func() { goes(true, nodes[1:3]...) })
			switch at {
			case "the halt is read":
				e.spy.onGet = func(key string) {
					if key == record.FailoverKey {
						meanwhile()
					}
				}
			case "the nodes are read":
				e.spy.onList = func(string) { meanwhile() }
			default:
				goes(true, nodes[0]) // over, as one alone is away: it is to be taken off
				e.spy.first(meanwhile)
			}
			if err := e.LookForMassLoss(e.ctx); err != nil {
				t.Fatal(err)
			}
			meanwhile()
			if st, err := e.Failover(e.ctx); err != nil || st.Halted == "" {
				t.Errorf("three of five are away, and failover goes on: %+v, %v", st, err)
			}
		})
	}
}
