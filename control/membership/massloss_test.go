package membership_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// However many nodes are lost at once, that is recorded in one transaction and logged in one line.
func TestMassLossOfHundreds(t *testing.T) {
	e := controltest.New(t)
	e.Shared, e.Ledger.Shared = true, true
	const nodes = 400
	for range nodes {
		if _, err := e.Ledger.Update(e.Ctx, func(x *record.Tx) error {
			n := dataset.Node{ID: uuid.New(), Name: "n-" + uuid.NewString()[:8], Registered: e.Clock.Now()}
			return errors.Join(x.Put(record.NodeKey(n.ID), n), x.Put(record.UnreachableKey(n.ID), record.Unreachable{Since: e.Clock.Now()}))
		}); err != nil {
			t.Fatal(err)
		}
	}
	var loud []string
	e.Ledger.Failed = func(_ string, err error) { loud = append(loud, err.Error()) }
	if err := e.CheckMassLoss(e.Ctx); err != nil {
		t.Fatal(err)
	}
	if len(loud) != 1 || !strings.Contains(loud[0], "400 nodes vanished") || !strings.Contains(loud[0], "and 390 more") || len(loud[0]) > 500 {
		t.Errorf("%q", loud)
	}
	if st, err := e.Failover(e.Ctx); err != nil || st.Halted == "" {
		t.Errorf("%+v, %v", st, err)
	}
}

// If many nodes are lost together, all failover stops until they are reachable again, or a person has confirmed each
// of the others as stopped.
func TestMassLoss(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	others := []*controltest.Agent{l.Control.NewAgent("delta"), l.Control.NewAgent("epsilon")}
	l.Others = others
	var loud []string
	l.Ledger.Failed = func(what string, err error) { loud = append(loud, what+": "+err.Error()) }
	op := l.MustFailOver()
	for i, a := range others {
		l.Wait(record.MassLossWindow/3, append([]*controltest.Agent{l.Beta, l.Gamma}, others[i:]...)...)
		l.Replicas.EndSession(a)
		if i == 0 { // the last one is noticed by the service that records the promotion
			if err := l.RecordUnreachable(l.Ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.Beta.ReportGuard()
	// delta and epsilon, or alpha and delta, are two of five.
	_, err := l.Commit(l.Ctx, l.Beta.ID, l.Beta.ReportOf(op))
	controltest.Refused(t, err, dataset.ErrConflict, "3 nodes vanished within 5m0s (alpha, delta, epsilon)", "drover node fence NODE")
	if len(loud) != 1 || !strings.Contains(loud[0], "3 nodes vanished") {
		t.Errorf("%q", loud)
	}
	if st, err := l.Failover(l.Ctx); err != nil || !strings.Contains(st.Halted, "halted for the whole cluster") || st.HaltedSince.IsZero() {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := l.CancelOperation(l.Ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	_, err = l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "alpha", "3 nodes vanished")

	fence := func(a *controltest.Agent, confirmed bool) error {
		_, err := l.Fence(l.Ctx, a.ID, api.Fenced{Confirmed: confirmed})
		return err
	}
	controltest.Refused(t, fence(l.Beta, true), dataset.ErrConflict, "node beta: it is alive")
	controltest.Refused(t, fence(others[0], false), dataset.ErrInvalid, "set confirmed")
	others[1].Incarnation = uuid.New()
	others[1].MustRegister("epsilon") // two of five
	l.Wait(membership.LossCheckInterval, l.Beta, l.Gamma, others[1])
	_, err = l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "2 nodes vanished within 5m0s (alpha, delta)")
	for range 2 {
		if err := fence(others[0], true); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := l.Failover(l.Ctx); err != nil || st.Halted != "" {
		t.Errorf("%+v, %v", st, err)
	}
	if op, err := l.AskFailover(l.Service, "beta"); err != nil || op == nil {
		t.Errorf("%+v, %v", op, err)
	}
}

// While one service checks the nodes, another one finds more nodes lost and halts failover. The first one does not
// continue with half of either state.
func TestMassLossThatIsFoundMeanwhile(t *testing.T) {
	for _, at := range []string{"the halt is read", "the nodes are read", "it is written"} {
		t.Run(at, func(t *testing.T) {
			e := controltest.New(t)
			e.Shared, e.Ledger.Shared = true, true
			var nodes []dataset.Node
			for range 5 {
				nodes = append(nodes, dataset.Node{ID: uuid.New(), Registered: e.Clock.Now()})
			}
			goes := func(halts bool, list ...dataset.Node) {
				if _, err := e.Ledger.Update(e.Ctx, func(x *record.Tx) (err error) {
					h := record.FailoverHalt{Since: e.Clock.Now()}
					for _, n := range list {
						err = errors.Join(err, x.Put(record.NodeKey(n.ID), n), x.Put(record.UnreachableKey(n.ID), record.Unreachable{Since: e.Clock.Now()}))
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
				if _, err := e.Ledger.Update(e.Ctx, func(x *record.Tx) error { return x.Put(record.NodeKey(n.ID), n) }); err != nil {
					t.Fatal(err)
				}
			}
			meanwhile := sync.OnceFunc(func() { goes(true, nodes[1:3]...) })
			switch at {
			case "the halt is read":
				e.Spy.OnGet = func(key string) {
					if key == record.FailoverKey {
						meanwhile()
					}
				}
			case "the nodes are read":
				e.Spy.OnList = func(string) { meanwhile() }
			default:
				goes(true, nodes[0]) // over, because only one is unreachable: it must be removed
				e.Spy.Before(meanwhile)
			}
			if err := e.CheckMassLoss(e.Ctx); err != nil {
				t.Fatal(err)
			}
			meanwhile()
			if st, err := e.Failover(e.Ctx); err != nil || st.Halted == "" {
				t.Errorf("three of five are away, and failover goes on: %+v, %v", st, err)
			}
		})
	}
}
