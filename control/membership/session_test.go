package membership_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Of two machines with one identity, the one that came first stays as long as it renews its session, through any
// replica. Its restarted agent is admitted at once.
func TestOneIdentityOneMachine(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	a, b := x.Services[0], x.Services[1]
	node := uuid.New()
	first := controltest.Registration(node, "boot1")
	require.NoError(t, a.Members.Register(t.Context(), first))
	copied := controltest.Registration(node, "boot1")
	rebooted := controltest.Registration(node, "boot2", first.Node.Incarnation)
	for name, r := range map[string]api.Registration{"copy": copied, "another boot": rebooted} {
		err := b.Members.Register(t.Context(), r)
		controltest.Refused(t, err, dataset.ErrInUse, "is alive as another agent", "--root", "20s")
		if n, _ := a.Members.Renew(t.Context(), node, r.Node.Incarnation); n.TTL != 0 {
			t.Errorf("%s: renewed", name)
		}
	}
	for range 30 { // it stays alive only by renewals
		x.Clock.Advance(2 * time.Second)
		for _, s := range x.Services {
			if st, err := s.Members.Renew(t.Context(), node, first.Node.Incarnation); err != nil || time.Duration(st.TTL) != 10*time.Second {
				t.Fatal(st, err)
			}
		}
	}
	again := controltest.Registration(node, "boot1", uuid.New(), first.Node.Incarnation)
	require.NoError(t, b.Members.Register(t.Context(), again))
	for _, s := range x.Services {
		if _, err := s.Members.Renew(t.Context(), node, first.Node.Incarnation); dataset.KindOf(err) != dataset.ErrStale {
			t.Errorf("the one before: %v", err)
		}
		_, err := s.Members.Renew(t.Context(), node, again.Node.Incarnation)
		assert.NoError(t, err)
	}
	// Once it has been silent for the length of a session, any machine may register.
	x.Clock.Advance(21 * time.Second)
	x.AwaitEnd(record.LiveNodeKey(node))
	if _, err := a.Members.Renew(t.Context(), node, again.Node.Incarnation); dataset.KindOf(err) != dataset.ErrStale {
		t.Error(err)
	}
	assert.NoError(t, a.Members.Register(t.Context(), copied))
}

// A session has one name through all replicas. It gets another one after it has ended, when an agent that was silent
// registers again.
func TestSessionsHaveNames(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	r := controltest.Registration(uuid.New(), "boot1")
	var names []uuid.UUID
	for range 2 {
		require.NoError(t, x.Services[0].Members.Register(t.Context(), r))
		for _, s := range x.Services {
			st, err := s.Members.Renew(t.Context(), r.Node.ID, r.Node.Incarnation)
			if err != nil || st.Session == uuid.Nil {
				t.Fatal(st, err)
			}
			names = append(names, st.Session)
		}
		x.Clock.Advance(21 * time.Second)
		x.AwaitEnd(record.LiveNodeKey(r.Node.ID))
		for _, s := range x.Services { // as an agent does, when each replica refuses it
			if _, err := s.Members.Renew(t.Context(), r.Node.ID, r.Node.Incarnation); dataset.KindOf(err) != dataset.ErrStale {
				t.Error(err)
			}
		}
	}
	if names[0] != names[1] || names[2] != names[3] || names[0] == names[2] {
		t.Errorf("%v: want one name twice, and then another twice", names)
	}
}

// One service at a time does the background work. When it stops, another one takes over, and what the first one was
// about to write is refused.
func TestHouseIsKeptOnce(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	a, b := x.Services[0], x.Services[1]
	take := func(s *control.Service) bool {
		t.Helper()
		x.TakePart(s)
		mine, err := s.Members.AcquireHousekeeping(t.Context())
		require.NoError(t, err)
		return mine
	}
	if mine, err := a.Members.AcquireHousekeeping(t.Context()); mine || err != nil {
		t.Errorf("without a session: %v, %v", mine, err)
	}
	if !take(a) || take(b) || !take(a) || take(b) {
		t.Fatal("not the first, and it alone")
	}
	work := func(s *control.Service) error {
		_, err := s.Ledger.Update(record.AsHousekeeper(t.Context()), func(x *record.Tx) error { return x.Put("house/test", 1) })
		return err
	}
	assert.NoError(t, work(a))
	controltest.Refused(t, work(b), dataset.ErrStale, "another replica")
	// It is killed, so nothing renews its session.
	for range 11 {
		x.Clock.Advance(2 * time.Second)
		x.TakePart(b)
	}
	x.AwaitEnd(record.HousekeeperKey)
	controltest.Refused(t, work(a), dataset.ErrStale, "another replica")
	if !take(b) {
		t.Error("the other does not take over")
	}
	controltest.Refused(t, work(a), dataset.ErrStale, "another replica")
	// It continues, like a process that was suspended for a while.
	if take(a) {
		t.Error("two")
	}
}

// A node that is not heard of is recorded as unreachable since then, until it registers.
func TestNodesAreAway(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	a, b := x.Services[0], x.Services[1]
	r := controltest.Registration(uuid.New(), "b")
	require.NoError(t, a.Members.Register(t.Context(), r))
	look := func() {
		t.Helper()
		require.NoError(t, b.Members.RecordUnreachable(t.Context()))
	}
	look()
	if known, err := record.NewTx(t.Context(), x.Store).Peek(record.UnreachableKey(r.Node.ID), &record.Unreachable{}); known || err != nil {
		t.Errorf("it is alive: %v", err)
	}
	x.Clock.Advance(21 * time.Second)
	x.AwaitEnd(record.LiveNodeKey(r.Node.ID))
	look()
	since := x.Clock.Now()
	x.Clock.Advance(time.Hour)
	look()
	var at record.Unreachable
	if known, err := record.NewTx(t.Context(), x.Store).Peek(record.UnreachableKey(r.Node.ID), &at); !known || err != nil || !at.Since.Equal(since) {
		t.Errorf("away since %v, %v", at.Since, err)
	}
	require.NoError(t, b.Members.Register(t.Context(), r))
	if known, err := record.NewTx(t.Context(), x.Store).Peek(record.UnreachableKey(r.Node.ID), &at); known || err != nil {
		t.Errorf("it is back: %v", err)
	}
	var types []string
	for _, s := range x.Services {
		list, _ := s.EventLog.After(0)
		for _, ev := range list {
			types = append(types, string(ev.Type))
		}
	}
	if !slices.Equal(types, []string{"node.live", "node.away", "node.live"}) {
		t.Errorf("%v", types)
	}
}

// A service does not work next to others whose versions are incompatible with its own, unless those are only what is
// left of its earlier process.
func TestFits(t *testing.T) {
	x := controltest.NewReplicas(t, 0)
	at := func(name, address, version string) *control.Service {
		s, _ := control.Assemble(control.Deps{
			Store: x.Store, Clock: x.Clock, Version: version, Shared: true, Replica: membership.Replica{Name: name, Address: address},
			Profiles: func() control.Profiles { return x.Profiles },
		})
		t.Cleanup(s.Close)
		return s
	}
	x.TakePart(at("c1", "h1:9470", "v1.4.0"))
	old := at("c2", "h2:9470", "v1.2.0")
	controltest.Refused(t, old.Members.RenewReplicaSession(t.Context()), dataset.ErrForbidden, "replica c2", "control replica c1 (h1:9470) is drover v1.4.0", "v1.2.0")
	if list, err := x.Store.List(t.Context(), record.LiveServicesPrefix, "", 0); err != nil || len(list) != 1 || old.Members.ReplicaSession() != "" {
		t.Errorf("it registered nevertheless: %v, %v", list, err)
	}
	x.TakePart(at("c2", "h2:9470", "v1.5.1"))
	if err := membership.CheckCompatible(t.Context(), x.Store, membership.Replica{Name: "c1", Address: "h1:9470", Version: "v1.6.0"}); err != nil {
		t.Error("beside its own earlier process:", err)
	}
	controltest.Refused(t, membership.CheckCompatible(t.Context(), x.Store, membership.Replica{Name: "c3", Address: "h3:9470", Version: "v1.6.0"}), dataset.ErrForbidden, "control replica c1")
}

// However many nodes are lost at once, that is recorded in one transaction and logged in one line.
func TestMassLossOfHundreds(t *testing.T) {
	e := controltest.New(t)
	e.Shared, e.Ledger.Shared = true, true
	const nodes = 400
	for range nodes {
		e.OK(e.Ledger.Update(e.Ctx, func(x *record.Tx) error {
			n := dataset.Node{ID: uuid.New(), Name: "n-" + uuid.NewString()[:8], Registered: e.Clock.Now()}
			return errors.Join(x.Put(record.NodeKey(n.ID), n), x.Put(record.UnreachableKey(n.ID), record.Unreachable{Since: e.Clock.Now()}))
		}))
	}
	var loud []string
	e.Ledger.Failed = func(_ string, err error) { loud = append(loud, err.Error()) }
	e.OK(e.CheckMassLoss(e.Ctx))
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
			l.OK(l.RecordUnreachable(l.Ctx))
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
	l.OK(l.CancelOperation(l.Ctx, op.ID.String()))
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
		require.NoError(t, fence(others[0], true))
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
				e.OK(e.Ledger.Update(e.Ctx, func(x *record.Tx) (err error) {
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
				}))
			}
			goes(false, nodes[0])
			for _, n := range nodes[1:] {
				e.OK(e.Ledger.Update(e.Ctx, func(x *record.Tx) error { return x.Put(record.NodeKey(n.ID), n) }))
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
			e.OK(e.CheckMassLoss(e.Ctx))
			meanwhile()
			if st, err := e.Failover(e.Ctx); err != nil || st.Halted == "" {
				t.Errorf("three of five are away, and failover goes on: %+v, %v", st, err)
			}
		})
	}
}

// A node that trusts the store again reports it to any service that it can reach. That works even if the service that
// recorded the distrust has stopped, and the service that receives the report never knew of the distrust.
func TestTrustIsReadFromTheRecord(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	a, b := x.Services[0], x.Services[1]
	e := &controltest.Control{TB: t, Service: a, Ctx: t.Context()}
	n := e.NewAgent("n1") // a, which trusts it, says so
	e.Service = b
	n.ReportDistrust("it is older")
	e.Service = a
	x.Clock.Advance(record.NodeCacheTTL)
	before := x.Txns()
	n.ReportDistrust("")
	if x.Txns() == before {
		t.Error("the store stays halted, as nobody looked")
	}
	if there, err := record.NewTx(t.Context(), x.Store).Peek(record.HaltedKey, &record.Halt{}); err != nil || there {
		t.Error("it is halted yet:", err)
	}
	x.Clock.Advance(record.NodeCacheTTL)
	before = x.Txns()
	n.ReportDistrust("")
	if got := x.Txns(); got != before {
		t.Errorf("%d transactions for a heartbeat that says what is on record", got-before)
	}
}

// TestDrained: a node that is being drained is drained once it has no volume and no replica. Its trash does not count.
func TestDrained(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	want := func(when string, drained bool) {
		t.Helper()
		nodes, err := e.NodeList(e.Ctx, "")
		require.NoError(t, err)
		for _, n := range nodes {
			if n.Drained != (drained && n.ID == a.ID) {
				t.Errorf("%s: node %s has drained=%t", when, n.Name, n.Drained)
			}
		}
	}
	a.MustCreate("db")
	other := b.MustCreate("other")
	want("before the drain", false)
	e.OK(e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: true, Draining: true}))
	want("with a volume", false)
	a.MustDelete("db")
	want("with a dataset in the trash", true)
	change := func(fn func(*record.Tx) error) {
		t.Helper()
		e.OK(e.Ledger.Update(e.Ctx, fn))
	}
	replica := dataset.Copy{Dataset: other.ID, Node: a.ID, Pool: uuid.New(), Kind: dataset.CopyReplica}
	change(func(t *record.Tx) error { return t.Put(record.CopyKey(a.ID, other.ID), replica) })
	want("with a replica", false)
	change(func(t *record.Tx) error { t.Delete(record.CopyKey(a.ID, other.ID)); return nil })
	want("without the replica", true)
	e.OK(e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: true}))
	want("only cordoned", false)
}
