package record_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestEvents(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@fleeting")
	a.MustSnapshot("db", "")
	e.Clock.Advance(time.Minute)
	a.MustDelete("db")
	read := func(after uint64) (types []string, last api.Event) {
		t.Helper()
		e.OK(e.Events(e.Ctx, after, false, func(ev api.Event) error {
			if ev.ID <= after && after < e.EventLog.Next {
				t.Errorf("event %d after %d", ev.ID, after)
			}
			types, last = append(types, string(ev.Type)), ev
			return nil
		}))
		return types, last
	}
	all, last := read(0)
	if !cmp.Equal(all, []string{"volume.create", "snapshot.create", "volume.delete"}) || !last.Time.Equal(controltest.Start.Add(time.Minute)) || last.Volume != "db" {
		t.Errorf("%v, %+v", all, last)
	}
	if got, _ := read(last.ID - 1); len(got) != 1 {
		t.Errorf("%v", got)
	}
	if got, _ := read(last.ID); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if got, _ := read(last.ID + 100); len(got) != 3 { // from a run with a later clock
		t.Errorf("%v", got)
	}
	stop := errors.New("enough")
	if err := e.Events(e.Ctx, 0, true, func(api.Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	e.Restart()
	a.MustCreate("db2")
	if got, _ := read(last.ID); len(got) != 1 { // what a reader of the last run has not seen
		t.Errorf("after a restart: %v", got)
	}
	for range 3 * record.EventsKept {
		e.EventLog.Publish(api.Event{Type: "x"})
	}
	if got, _ := read(1); len(got) < record.EventsKept || len(got) > 2*record.EventsKept+1 {
		t.Errorf("%d events are kept", len(got))
	}
}

func TestEventsAreFollowed(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db0")
	ctx, cancel := context.WithCancel(e.Ctx)
	got := make(chan string)
	var all sync.WaitGroup
	ends := make([]error, 2)
	for i, ctx := range []context.Context{ctx, e.Ctx} {
		all.Go(func() {
			ends[i] = e.Events(ctx, 0, true, func(ev api.Event) error { got <- ev.Volume; return nil })
		})
	}
	for n := range 5 {
		for range 2 {
			if v := <-got; v != fmt.Sprint("db", n) {
				t.Errorf("event of %s", v)
			}
		}
		a.MustCreate(fmt.Sprint("db", n+1))
	}
	<-got
	<-got
	cancel()
	e.Service.Close()
	all.Wait()
	if !errors.Is(ends[0], context.Canceled) || ends[1] != nil {
		t.Errorf("%v", ends)
	}
}

// newReplica returns a further service on the store, which uses the real clock.
func newReplica(t controltest.TB, st store.Store) *control.Service {
	return control.New(control.Deps{
		Store: st, StoreName: "bolt", Clock: clock.System{}, Version: "test", Shared: true,
		Profiles: func() control.Profiles { return controltest.NewProfileSet() },
		Failed:   func(what string, err error) { t.Errorf("%s: %v", what, err) },
	})
}

// An agent that follows one replica learns of changes that go through another one. So do callers that wait for an
// operation or follow the events.
func TestReplicasHearOfEachOther(t *testing.T) {
	st := controltest.OpenStore(t)
	a, b := newReplica(t, st), newReplica(t, st)
	defer a.Close()
	defer b.Close()
	e := &controltest.Control{TB: t, Service: a, Ctx: t.Context()}
	n := e.NewAgent("n1")
	s, err := b.Sync(t.Context(), n.ID, 0, 0)
	require.NoError(t, err)
	// b may be about to read the existing changes when it starts, and then reports all of them once.
	for s.Full {
		d := n.MustCreate("v-" + uuid.NewString()[:8])
		e.MustSubmit(api.Request{Kind: dataset.OpSnapshot, Volume: d.Volume}) // its own create does not wake an agent
		for told := false; !told; {
			if s, err = b.Sync(t.Context(), n.ID, s.Revision, time.Minute); err != nil || s.Revision == 0 {
				t.Fatal(err)
			}
			told = slices.ContainsFunc(s.Datasets, func(x api.IndexedDataset) bool { return x.ID == d.ID })
		}
	}
	events := make(chan api.Event, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- b.Events(ctx, 0, true, func(ev api.Event) error {
			if ev.Volume == "db" {
				events <- ev
				return errors.New("seen")
			}
			return nil
		})
	}()
	op := e.MustSubmit(api.Request{Kind: dataset.OpCreate, Volume: "db"}).Operation
	if s, err = b.Sync(t.Context(), n.ID, s.Revision, time.Minute); err != nil || s.Full ||
		!slices.ContainsFunc(s.Operations, func(x dataset.Operation) bool { return x.ID == op.ID }) {
		t.Fatalf("%+v, %v", s, err)
	}
	waited := make(chan dataset.Operation, 1)
	go func() {
		got, err := b.Operation(t.Context(), op.ID.String(), time.Minute)
		assert.NoError(t, err)
		waited <- got
	}()
	n.MustCommit(*op)
	if got := <-waited; got.State != dataset.OpDone {
		t.Errorf("%+v", got)
	}
	if ev := <-events; ev.Type != "volume.create" {
		t.Errorf("%+v", ev)
	}
	if err := <-done; err == nil {
		t.Error("events ended by themselves")
	}
}

// The clock never goes back by itself. It does not when lanes are dropped, not even when a running service's lane is
// dropped by mistake. Each change of a home or a lease advances it.
func TestClockGrows(t *testing.T) {
	x := controltest.NewReplicas(t, 3)
	s, keeper := x.Services[0], x.Services[1]
	n := x.On(s).NewAgent("n1")
	last := uint64(0)
	grows := func(what string, by bool) {
		t.Helper()
		_, clock, err := keeper.Ledger.ReadLanes(t.Context(), nil)
		if err != nil || clock < last || by && clock == last {
			t.Fatalf("%s: the clock is %d after %d, %v", what, clock, last, err)
		}
		last = clock
	}
	grows("register", true)
	n.MustCreate("db@fleeting")
	grows("create", true)
	if _, err := keeper.Ledger.Update(t.Context(), func(t *record.Tx) error { t.Delete(record.LeaseKey(uuid.New())); return nil }); err != nil {
		t.Fatal(err)
	}
	grows("a lease that nobody waits for", true)
	n.MustPurge(n.MustDelete("db"))
	grows("purge", true)

	h := keeper.Housekeeper.NewMemory()
	for range 2 { // no service is recorded as running, so all lanes are treated as abandoned
		require.NoError(t, keeper.Housekeeper.ForgetServices(t.Context(), h))
		grows("lanes are dropped", false)
	}
	if list, err := x.Store.List(t.Context(), record.RevPrefix, "", 0); err != nil || len(list) != 1 || list[0].Key != record.RemovedLanesKey {
		t.Fatalf("lanes that are left: %v, %v", list, err)
	}
	// Their service still runs: it continues in another lane.
	n.MustCreate("again")
	grows("create after that", true)
	if x.Halted() {
		t.Error("a dropped lane is taken for a restored store")
	}
}

// The entries that a stopped service wrote for others are removed after the others had time to read them.
func TestLanesOfTheDeadGo(t *testing.T) {
	x := controltest.NewReplicas(t, 3)
	keeper, dead, reader := x.Services[0], x.Services[1], x.Services[2]
	node := uuid.New()
	say := func(s *control.Service) {
		if _, err := s.Ledger.Update(t.Context(), func(x *record.Tx) error { x.WakeNode(node); return x.Put("names/a", record.Claim{ID: uuid.New()}) }); err != nil {
			t.Fatal(err)
		}
	}
	var h record.LanePositions
	hear := func() (full bool) {
		t.Helper()
		rev := reader.Feed.Since(node, 0).Rev
		require.NoError(t, reader.Ledger.ReadNotices(t.Context(), &h))
		return reader.Feed.Since(node, rev).Full
	}
	hear()
	say(keeper)
	say(dead)
	lanes := func() (of []string) {
		list, err := x.Store.List(t.Context(), record.RevPrefix, "", 0)
		require.NoError(t, err)
		for _, e := range list {
			if e.Key == record.RemovedLanesKey {
				continue
			}
			of = append(of, strings.Split(e.Key, "/")[1])
		}
		return of
	}
	ctx, house := record.AsHousekeeper(t.Context()), keeper.Housekeeper.NewMemory()
	forget := func() {
		t.Helper()
		x.TakePart(keeper)
		if mine, err := keeper.Members.AcquireHousekeeping(t.Context()); !mine || err != nil {
			t.Fatal(mine, err)
		}
		require.NoError(t, keeper.Housekeeper.ForgetServices(ctx, house))
	}
	forget()
	if len(lanes()) != 2 {
		t.Fatalf("%v: they are removed at once", lanes())
	}
	if hear() {
		t.Error("it reports a loss, although the lane had all changes")
	}
	forget()
	if got := lanes(); len(got) != 1 || got[0] != keeper.Ledger.Replica().String() {
		t.Fatalf("%v", got)
	}
	if hear() {
		t.Error("it reports a loss, although it had read all entries")
	}
	// A service that did not read for that long does not know what it missed.
	say(dead)
	hear()
	x.Clock.Advance(housekeeping.FullInterval)
	x.AwaitEnd(record.HousekeeperKey)
	forget()
	forget()
	if !hear() {
		t.Error("it does not report that it may have missed something")
	}
}

// counting counts the calls to a store.
type counting struct {
	store.Store
	reads, txns int
}

func (c *counting) Get(ctx context.Context, key string) (store.Entry, error) {
	c.reads++
	return c.Store.Get(ctx, key)
}

func (c *counting) GetMany(ctx context.Context, keys []string) ([]store.Entry, error) {
	c.reads++
	return c.Store.GetMany(ctx, keys)
}

func (c *counting) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	c.reads++
	return c.Store.List(ctx, prefix, after, limit)
}

func (c *counting) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	c.txns++
	return c.Store.Txn(ctx, checks, writes)
}

// A create by an agent that reported recently costs one read, to plan it, and one transaction. The transaction checks
// the assumptions of the plan. If they are wrong, the create is decided again with what was read.
func TestSuppositions(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("first")
	c := &counting{Store: e.Service.Ledger.Store}
	e.Ledger.Store = c
	cost := func(what string, reads, txns int, do func()) {
		t.Helper()
		c.reads, c.txns = 0, 0
		do()
		if c.reads != reads || c.txns != txns {
			t.Errorf("%s: %d reads and %d transactions, want %d and %d", what, c.reads, c.txns, reads, txns)
		}
	}
	cost("create", 1, 1, func() { a.MustCreate("db") })
	e.OK(e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation}))
	cost("heartbeat", 0, 0, func() {
		e.OK(e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation}))
	})

	taken := a.MustPlan(controltest.Create("late"))
	a.MustCreate("late")
	cost("commit of a name that was claimed meanwhile", 4, 1, func() {
		if out := a.MustCommit(taken); !out.Duplicate || out.Dataset.Volume != "late" {
			t.Errorf("%+v", out)
		}
	})

	// Another replica registers an agent again, and this service does not learn of it.
	stale := a.MustPlan(controltest.Create("stale"))
	var n dataset.Node
	other := record.NewTx(e.Ctx, c.Store)
	a.OK(other.Get(record.NodeKey(a.ID), &n))
	n.Incarnation = uuid.New()
	a.OK(other.Put(record.NodeKey(a.ID), n))
	e.OK(other.Commit())
	if _, err := e.Commit(e.Ctx, a.ID, a.ReportOf(stale)); dataset.KindOf(err) != dataset.ErrStale {
		t.Errorf("a commit of an agent that is not the node's newest: %v", err)
	}
	if _, err := e.Volume(e.Ctx, "stale"); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Errorf("it made a volume: %v", err)
	}
}

// The record of a node is taken from memory for a few seconds. It is not after the store was restored from a backup,
// because the store may then give the index of a record to another one.
func TestRecalledForAFewSeconds(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	a := e.NewAgent("alpha")
	recalled := func(want bool) {
		t.Helper()
		if _, ok := e.Ledger.Nodes().Entry(a.ID); ok != want {
			t.Errorf("it is taken from memory: %t, want %t", ok, want)
		}
	}
	a.MustCreate("db")
	recalled(true)
	x.Clock.Advance(record.NodeCacheTTL)
	recalled(false)
	a.MustCreate("again")
	recalled(true)
	e.OK(e.Ledger.HaltRestored(e.Ctx, 1))
	recalled(false)
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
