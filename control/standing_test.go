package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/ledger"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/planning"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// shared are some services on one store, with a clock that only the test moves, and
// without anything in the background.
type shared struct {
	*testing.T
	st    store.Store
	clock *testClock
	list  []*Service
	names *profileSet
}

func newShared(t *testing.T, n int) *shared {
	x := &shared{T: t, clock: &testClock{Fake: clock.NewFake(someday)}, names: newProfiles()}
	dir := t.TempDir()
	st, err := bolt.Open(t.Context(), dir+"/store.db", bolt.Options{Clock: x.clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	x.st = st
	for range n {
		s, _ := Assemble(Deps{
			Store: st, StoreName: "bolt", Clock: x.clock, Version: "test", Shared: true,
			Profiles: func() planning.Profiles { return x.names }, Failed: func(what string, err error) { t.Errorf("%s: %v", what, err) },
		})
		t.Cleanup(s.Close)
		if _, err := s.Uptime.Read(record.NewTx(t.Context(), st)); err != nil { // as keepHouse begins
			t.Fatal(err)
		}
		x.list = append(x.list, s)
	}
	return x
}

func (x *shared) count() uint64 {
	x.Helper()
	return x.st.(*bolt.Store).Stats().Txns
}

func (x *shared) stand(s *Service) {
	x.Helper()
	if err := s.Members.Stand(x.Context()); err != nil {
		x.Fatal(err)
	}
}

// registration is an agent's.
func registration(node uuid.UUID, boot string, previous ...uuid.UUID) api.Registration {
	return api.Registration{Node: dataset.Node{ID: node, Name: "n1", Incarnation: uuid.New()}, Boot: boot, Previous: previous}
}

// Of two machines with one identity the one that came first stays, as long as it
// renews, through whichever replica. Its own restarted agent is let in at once.
func TestOneIdentityOneMachine(t *testing.T) {
	x := newShared(t, 2)
	a, b := x.list[0], x.list[1]
	node := uuid.New()
	first := registration(node, "boot1")
	if err := a.Members.Register(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	copied := registration(node, "boot1")
	rebooted := registration(node, "boot2", first.Node.Incarnation)
	for name, r := range map[string]api.Registration{"copy": copied, "another boot": rebooted} {
		err := b.Members.Register(t.Context(), r)
		refused(t, err, dataset.ErrInUse, "is alive as another agent", "--root", "20s")
		if n, _ := a.Members.Renew(t.Context(), node, r.Node.Incarnation); n.TTL != 0 {
			t.Errorf("%s: renewed", name)
		}
	}
	for range 30 { // it lives by renewals alone
		x.clock.Advance(2 * time.Second)
		for _, s := range x.list {
			if st, err := s.Members.Renew(t.Context(), node, first.Node.Incarnation); err != nil || time.Duration(st.TTL) != 10*time.Second {
				t.Fatal(st, err)
			}
		}
	}
	again := registration(node, "boot1", uuid.New(), first.Node.Incarnation)
	if err := b.Members.Register(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	for _, s := range x.list {
		if _, err := s.Members.Renew(t.Context(), node, first.Node.Incarnation); dataset.KindOf(err) != dataset.ErrStale {
			t.Errorf("the one before: %v", err)
		}
		if _, err := s.Members.Renew(t.Context(), node, again.Node.Incarnation); err != nil {
			t.Error(err)
		}
	}
	// Once it is silent for its time, anybody may come.
	x.clock.Advance(21 * time.Second)
	x.awaitEnd(record.LiveNodeKey(node))
	if _, err := a.Members.Renew(t.Context(), node, again.Node.Incarnation); dataset.KindOf(err) != dataset.ErrStale {
		t.Error(err)
	}
	if err := a.Members.Register(t.Context(), copied); err != nil {
		t.Error(err)
	}
}

// A session has one name through all replicas, and another one after it was over: of an
// agent that was silent meanwhile, and registered again as the same.
func TestSessionsHaveNames(t *testing.T) {
	x := newShared(t, 2)
	r := registration(uuid.New(), "boot1")
	var names []uuid.UUID
	for range 2 {
		if err := x.list[0].Members.Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		for _, s := range x.list {
			st, err := s.Members.Renew(t.Context(), r.Node.ID, r.Node.Incarnation)
			if err != nil || st.Session == uuid.Nil {
				t.Fatal(st, err)
			}
			names = append(names, st.Session)
		}
		x.clock.Advance(21 * time.Second)
		x.awaitEnd(record.LiveNodeKey(r.Node.ID))
		for _, s := range x.list { // as an agent does, which is refused by each
			if _, err := s.Members.Renew(t.Context(), r.Node.ID, r.Node.Incarnation); dataset.KindOf(err) != dataset.ErrStale {
				t.Error(err)
			}
		}
	}
	if names[0] != names[1] || names[2] != names[3] || names[0] == names[2] {
		t.Errorf("%v: want one name twice, and then another twice", names)
	}
}

// awaitEnd waits until the store has ended the session of a key.
func (x *shared) awaitEnd(key string) {
	x.Helper()
	for after := uint64(0); ; {
		if _, err := x.st.Get(x.Context(), key); err != nil {
			return
		}
		var err error
		if after, err = x.st.Watch(x.Context(), store.LivePrefix, after); err != nil {
			x.Fatal(err)
		}
	}
}

// One service at a time does the background work. When it is no more another does,
// and what it still was about to write is refused.
func TestHouseIsKeptOnce(t *testing.T) {
	x := newShared(t, 2)
	a, b := x.list[0], x.list[1]
	take := func(s *Service) bool {
		t.Helper()
		x.stand(s)
		mine, err := s.Members.TakeHouse(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return mine
	}
	if mine, err := a.Members.TakeHouse(t.Context()); mine || err != nil {
		t.Errorf("without a session: %v, %v", mine, err)
	}
	if !take(a) || take(b) || !take(a) || take(b) {
		t.Fatal("not the first, and it alone")
	}
	work := func(s *Service) error {
		_, err := s.Ledger.Update(ledger.AsHousekeeper(t.Context()), func(x *record.Tx) error { return x.Put("house/test", 1) })
		return err
	}
	if err := work(a); err != nil {
		t.Error(err)
	}
	refused(t, work(b), dataset.ErrStale, "another replica")
	// It is killed: nothing of it is renewed.
	for range 11 {
		x.clock.Advance(2 * time.Second)
		x.stand(b)
	}
	x.awaitEnd(record.HouseKey)
	refused(t, work(a), dataset.ErrStale, "another replica")
	if !take(b) {
		t.Error("the other does not take over")
	}
	refused(t, work(a), dataset.ErrStale, "another replica")
	// And comes back, as one that was stopped for a while.
	if take(a) {
		t.Error("two")
	}
}

// A node that is not heard of is away since then, and no more once it registers.
func TestNodesAreAway(t *testing.T) {
	x := newShared(t, 2)
	a, b := x.list[0], x.list[1]
	r := registration(uuid.New(), "b")
	if err := a.Members.Register(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	look := func() {
		t.Helper()
		if err := b.Members.LookForAway(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	look()
	if known, err := record.NewTx(t.Context(), x.st).Peek(record.AwayKey(r.Node.ID), &record.Away{}); known || err != nil {
		t.Errorf("it is alive: %v", err)
	}
	x.clock.Advance(21 * time.Second)
	x.awaitEnd(record.LiveNodeKey(r.Node.ID))
	look()
	since := x.clock.Now()
	x.clock.Advance(time.Hour)
	look()
	var at record.Away
	if known, err := record.NewTx(t.Context(), x.st).Peek(record.AwayKey(r.Node.ID), &at); !known || err != nil || !at.Since.Equal(since) {
		t.Errorf("away since %v, %v", at.Since, err)
	}
	if err := b.Members.Register(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if known, err := record.NewTx(t.Context(), x.st).Peek(record.AwayKey(r.Node.ID), &at); known || err != nil {
		t.Errorf("it is back: %v", err)
	}
	var types []string
	for _, s := range x.list {
		list, _ := s.EventLog.After(0)
		for _, ev := range list {
			types = append(types, ev.Type)
		}
	}
	if !slices.Equal(types, []string{"node.live", "node.away", "node.live"}) {
		t.Errorf("%v", types)
	}
}

// What a service that is no more wrote for others goes, once they had time to read it.
func TestLanesOfTheDeadGo(t *testing.T) {
	x := newShared(t, 3)
	keeper, dead, reader := x.list[0], x.list[1], x.list[2]
	node := uuid.New()
	say := func(s *Service) {
		if _, err := s.Ledger.Update(t.Context(), func(x *record.Tx) error { x.WakeNode(node); return x.Put("names/a", record.Claim{ID: uuid.New()}) }); err != nil {
			t.Fatal(err)
		}
	}
	var h ledger.Hearing
	hear := func() (full bool) {
		t.Helper()
		rev := reader.Feed.Since(node, 0).Rev
		if err := reader.Ledger.HearNow(t.Context(), &h); err != nil {
			t.Fatal(err)
		}
		return reader.Feed.Since(node, rev).Full
	}
	hear()
	say(keeper)
	say(dead)
	lanes := func() (of []string) {
		list, err := x.st.List(t.Context(), record.RevPrefix, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Key == record.DroppedKey {
				continue
			}
			of = append(of, strings.Split(e.Key, "/")[1])
		}
		return of
	}
	ctx, house := ledger.AsHousekeeper(t.Context()), keeper.Housekeeper.NewMemory()
	forget := func() {
		t.Helper()
		x.stand(keeper)
		if mine, err := keeper.Members.TakeHouse(t.Context()); !mine || err != nil {
			t.Fatal(mine, err)
		}
		if err := keeper.Housekeeper.ForgetServices(ctx, house); err != nil {
			t.Fatal(err)
		}
	}
	forget()
	if len(lanes()) != 2 {
		t.Fatalf("%v: they go at once", lanes())
	}
	if hear() {
		t.Error("what lay there was not enough")
	}
	forget()
	if got := lanes(); len(got) != 1 || got[0] != keeper.Ledger.Replica().String() {
		t.Fatalf("%v", got)
	}
	if hear() {
		t.Error("it had read all there was")
	}
	// Who did not look for so long does not know what it missed.
	say(dead)
	hear()
	x.clock.Advance(housekeeping.FullEvery)
	x.awaitEnd(record.HouseKey)
	forget()
	forget()
	if !hear() {
		t.Error("something may have been missed")
	}
}

// A service does not work beside others whose versions do not go together with its own, but
// for what is left of itself.
func TestFits(t *testing.T) {
	x := newShared(t, 0)
	at := func(name, address, version string) *Service {
		s, _ := Assemble(Deps{
			Store: x.st, Clock: x.clock, Version: version, Shared: true, Replica: membership.Replica{Name: name, Address: address},
			Profiles: func() planning.Profiles { return x.names },
		})
		t.Cleanup(s.Close)
		return s
	}
	x.stand(at("c1", "h1:9470", "v1.4.0"))
	old := at("c2", "h2:9470", "v1.2.0")
	refused(t, old.Members.Stand(t.Context()), dataset.ErrForbidden, "replica c2", "control replica c1 (h1:9470) is drover v1.4.0", "v1.2.0")
	if list, err := x.st.List(t.Context(), record.LiveServicesPrefix, "", 0); err != nil || len(list) != 1 || old.Members.OwnSession() != "" {
		t.Errorf("it stands all the same: %v, %v", list, err)
	}
	x.stand(at("c2", "h2:9470", "v1.5.1"))
	if err := membership.Fits(t.Context(), x.st, membership.Replica{Name: "c1", Address: "h1:9470", Version: "v1.6.0"}); err != nil {
		t.Error("beside what is left of itself:", err)
	}
	refused(t, membership.Fits(t.Context(), x.st, membership.Replica{Name: "c3", Address: "h3:9470", Version: "v1.6.0"}), dataset.ErrForbidden, "control replica c1")
}
