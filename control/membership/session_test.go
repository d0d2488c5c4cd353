package membership_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/planning"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Of two machines with one identity, the one that came first stays as long as it renews its session, through any
// replica. Its restarted agent is admitted at once.
func TestOneIdentityOneMachine(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	a, b := x.Services[0], x.Services[1]
	node := uuid.New()
	first := controltest.Registration(node, "boot1")
	if err := a.Members.Register(t.Context(), first); err != nil {
		t.Fatal(err)
	}
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
	if err := b.Members.Register(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	for _, s := range x.Services {
		if _, err := s.Members.Renew(t.Context(), node, first.Node.Incarnation); dataset.KindOf(err) != dataset.ErrStale {
			t.Errorf("the one before: %v", err)
		}
		if _, err := s.Members.Renew(t.Context(), node, again.Node.Incarnation); err != nil {
			t.Error(err)
		}
	}
	// Once it has been silent for the length of a session, any machine may register.
	x.Clock.Advance(21 * time.Second)
	x.AwaitEnd(record.LiveNodeKey(node))
	if _, err := a.Members.Renew(t.Context(), node, again.Node.Incarnation); dataset.KindOf(err) != dataset.ErrStale {
		t.Error(err)
	}
	if err := a.Members.Register(t.Context(), copied); err != nil {
		t.Error(err)
	}
}

// A session has one name through all replicas. It gets another one after it has ended, when an agent that was silent
// registers again.
func TestSessionsHaveNames(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	r := controltest.Registration(uuid.New(), "boot1")
	var names []uuid.UUID
	for range 2 {
		if err := x.Services[0].Members.Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
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
		if err != nil {
			t.Fatal(err)
		}
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
	if err := work(a); err != nil {
		t.Error(err)
	}
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
	if err := a.Members.Register(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	look := func() {
		t.Helper()
		if err := b.Members.RecordUnreachable(t.Context()); err != nil {
			t.Fatal(err)
		}
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
	if err := b.Members.Register(t.Context(), r); err != nil {
		t.Fatal(err)
	}
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
			Profiles: func() planning.Profiles { return x.Profiles },
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
