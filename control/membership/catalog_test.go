package membership_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// shelf is a catalog.
type shelf struct {
	mu    sync.Mutex
	shows map[string]store.Service // by address
	looks []bool
	err   error
}

func (s *shelf) Publish(_ context.Context, all []store.Service, look bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks = append(s.looks, look)
	if s.err != nil {
		return s.err
	}
	s.shows = map[string]store.Service{}
	for _, v := range all {
		s.shows[v.Address] = v
	}
	return nil
}

func (s *shelf) Withdraw(_ context.Context, _, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.shows, id)
	return s.err
}

func (s *shelf) has() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.shows))
}

// The catalog shows the running replicas and the nodes on record: whether each is reachable and, if the catalog asks
// for it, its details. It does not show what was shut down in order.
func TestMembersAreShown(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	s, shelf := x.Services[0], &shelf{}
	s.Members.Catalog, s.Members.Replica = shelf, membership.Replica{Name: "c1", Address: "c1:9470"}
	x.TakePart(s)
	show := func() {
		t.Helper()
		if err := s.Members.PublishMembers(t.Context(), new(bool), false); err != nil {
			t.Fatal(err)
		}
	}
	node := func(name string) api.Registration {
		r := controltest.Registration(uuid.New(), "boot")
		r.Node.Name, r.Node.Address, r.Node.Version, r.Node.Labels = name, name+":9471", "v1", map[string]string{"rack": "r1"}
		if err := s.Members.Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	a, b := node("a"), node("b")
	if err := s.Members.Register(t.Context(), controltest.Registration(uuid.New(), "boot")); err != nil { // has no address
		t.Fatal(err)
	}
	told := api.FactsReport{Incarnation: a.Node.Incarnation, Facts: dataset.Facts{Load10: 0.25, Pools: []dataset.PoolFacts{{Name: "fast", Backend: "loop", Online: true}}}}
	if _, err := s.Members.Facts(t.Context(), a.Node.ID, told); err != nil {
		t.Fatal(err)
	}
	show()
	want := store.Service{Kind: "agent", ID: a.Node.ID.String(), Address: "a:9471", Meta: map[string]string{"drover_node": "a", "drover_version": "v1"}, Alive: true}
	if diff := cmp.Diff(want, shelf.shows["a:9471"]); diff != "" || !slices.Equal(shelf.has(), []string{"a:9471", "b:9471", "c1:9470"}) {
		t.Error(shelf.has(), diff)
	}
	before := x.Txns()
	show()
	if x.Txns() != before {
		t.Error("it costs a transaction of the store")
	}
	s.Members.PublishFacts = true
	show()
	if got := shelf.shows["a:9471"]; got.Meta["drover_load_10"] != "0.25" || !slices.Equal(got.Tags, []string{"backend.loop", "label.rack.r1", "pool.fast"}) {
		t.Errorf("%+v", got)
	}

	// One replica is stopped in order, and the other is not.
	if err := s.Members.Heartbeat(t.Context(), a.Node.ID, api.Heartbeat{Incarnation: a.Node.Incarnation, Stopping: true}); err != nil {
		t.Fatal(err)
	}
	show()
	if !slices.Equal(shelf.has(), []string{"b:9471", "c1:9470"}) {
		t.Error("what has left is shown:", shelf.has())
	}
	if _, alive, err := membership.LivingSession(record.NewTx(t.Context(), x.Store), a.Node.ID); err != nil || !alive {
		t.Error("its session went before its time:", err)
	}
	x.Clock.Advance(21 * time.Second)
	x.AwaitEnd(record.LiveNodeKey(a.Node.ID))
	x.AwaitEnd(record.LiveNodeKey(b.Node.ID))
	x.TakePart(s)
	if err := s.Members.RecordUnreachable(t.Context()); err != nil {
		t.Fatal(err)
	}
	show()
	if got := shelf.shows["b:9471"]; got.Alive || got.Note != "its agent has not been heard from since "+x.Clock.Now().Format(time.RFC3339) || len(shelf.has()) != 2 {
		t.Errorf("%v: %+v", shelf.has(), got)
	}
	a.Node.Incarnation = uuid.New()
	if err := s.Members.Register(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	show()
	if got := shelf.shows["a:9471"]; !got.Alive {
		t.Errorf("it is back: %v", shelf.has())
	}
	if _, err := s.RemoveNode(t.Context(), "b", api.NodeRemoval{}); err != nil {
		t.Fatal(err)
	}
	show()
	if !slices.Equal(shelf.has(), []string{"a:9471", "c1:9470"}) {
		t.Error(shelf.has())
	}
}

// Without the permission, the catalog is left alone until the next full round, and all other work continues.
func TestCatalogThatMayNotBeWritten(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	s, shelf := x.Services[0], &shelf{err: dataset.Errorf(dataset.ErrForbidden, "give its policy this")}
	s.Members.Catalog, s.Members.Replica = shelf, membership.Replica{Name: "c1", Address: "c1:9470"}
	var failed []string
	s.Ledger.Failed = func(what string, err error) { failed = append(failed, what+": "+err.Error()) }
	x.TakePart(s)
	if mine, err := s.Members.AcquireHousekeeping(t.Context()); err != nil || !mine {
		t.Fatal(mine, err)
	}
	h := s.Housekeeper.NewMemory()
	for range 4 {
		s.Housekeeper.Round(t.Context(), h, x.Clock.Now())
	}
	if len(failed) != 1 || !strings.Contains(failed[0], "in the catalog: give its policy this") || len(shelf.looks) != 1 {
		t.Error(failed, shelf.looks)
	}
	shelf.err = nil
	x.Clock.Advance(housekeeping.FullInterval)
	x.TakePart(s)
	if mine, err := s.Members.AcquireHousekeeping(t.Context()); err != nil || !mine {
		t.Fatal(mine, err)
	}
	s.Housekeeper.Round(t.Context(), h, x.Clock.Now())
	s.Housekeeper.Round(t.Context(), h, x.Clock.Now())
	if !slices.Equal(shelf.looks, []bool{true, true, false}) || !slices.Equal(shelf.has(), []string{"c1:9470"}) {
		t.Error(shelf.looks, shelf.has())
	}
	if err := s.Members.Withdraw(t.Context()); err != nil || len(shelf.has()) != 1 {
		t.Error("while it lives:", err)
	}
	if err := s.Ledger.Store.End(t.Context(), s.Members.ReplicaSession()); err != nil {
		t.Fatal(err)
	}
	if err := s.Members.Withdraw(t.Context()); err != nil || len(shelf.has()) != 0 {
		t.Error("the last one:", shelf.has(), err)
	}
}
