package view_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func names(s api.Sync) []string {
	out := []string{}
	for _, d := range s.Datasets {
		out = append(out, d.Volume)
	}
	return out
}

func TestSync(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	d := a.MustCreate("db")
	b.MustCreate("theirs")
	full := a.MustSync(0)
	if !full.Full || !cmp.Equal(names(full), []string{"db"}) || full.Revision == 0 || len(full.Operations) != 0 {
		t.Fatalf("%+v", full)
	}
	entry, err := e.Spy.Get(e.Ctx, record.DatasetKey(d.ID))
	if err != nil || full.Datasets[0].Index != entry.Index {
		t.Errorf("index %d, not %d, %v", full.Datasets[0].Index, entry.Index, err)
	}
	if s := a.MustSync(full.Revision); s.Full || len(s.Datasets) != 0 || s.Revision != full.Revision || s.Cluster != full.Cluster {
		t.Errorf("nothing new: %+v", s)
	}
	b.MustSnapshot("theirs", "")
	if s := a.MustSync(full.Revision); len(s.Datasets) != 0 || s.Revision <= full.Revision {
		t.Errorf("another node's: %+v", s)
	}
	a.MustCreate("db2")
	a.MustSnapshot("db", "")
	op := *e.MustSubmit(api.Request{Kind: dataset.OpResize, Volume: "db2", Size: "1GiB"}).Operation
	s := a.MustSync(full.Revision)
	if s.Full || len(s.Datasets) != 2 || len(s.Operations) != 1 || s.Operations[0].ID != op.ID {
		t.Errorf("%v, %+v", names(s), s.Operations)
	}
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.Yes()})
	if s := a.MustSync(s.Revision); !cmp.Equal(names(s), []string{"db", "db2"}) || len(s.Operations) != 1 {
		t.Errorf("new datasets and those of operations: %v", names(s))
	}
}

// A sync sends an operation together with the records it was planned for, even if it is planned while the answer for
// an agent is put together: a purge arrives together with the condemned dataset.
func TestSyncWhilePlanned(t *testing.T) {
	for _, c := range []struct{ name, news string }{{"news of it", "db"}, {"news of another", "db2"}} {
		t.Run(c.name, func(t *testing.T) {
			e, a := controltest.OneNode(t)
			d := a.MustCreate("db")
			a.MustCreate("db2")
			a.MustDelete("db")
			rev := a.MustSync(0).Revision
			if c.news == "db" {
				rev = 0
			} else {
				e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db2", Protect: controltest.Yes()})
			}
			e.Spy.OnList = func(prefix string) {
				if prefix == record.WorkPrefix(a.ID) {
					e.Spy.OnList = nil
					e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
				}
			}
			s := a.MustSync(rev)
			if len(s.Operations) != 1 {
				t.Fatalf("%+v", s.Operations)
			}
			i := slices.IndexFunc(s.Datasets, func(k api.IndexedDataset) bool { return k.ID == d.ID })
			if i < 0 || s.Datasets[i].State != dataset.StatePurging {
				t.Errorf("a purge of a dataset that is not condemned: %+v", s.Datasets)
			}
		})
	}
}

func TestSyncOfWhatIsGone(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("gone@fleeting")
	moved := a.MustCreate("moved")
	rev := a.MustSync(0).Revision
	e.OK(e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation, Datasets: []dataset.DatasetStatus{{ID: moved.ID, Mounted: true}}}))
	seen, err := e.SeenVolumes(e.Ctx)
	if v := e.MustVolume("moved"); v.Status == nil || !v.Status.Mounted || err != nil || len(seen) != 2 {
		t.Errorf("%+v, seen %+v, %v", v.Status, seen, err)
	}
	d := a.MustDelete("gone")
	s := a.MustSync(rev)
	if len(s.Datasets) != 1 || s.Datasets[0].State != dataset.StatePurging {
		t.Errorf("%+v", s)
	}
	a.MustPurge(d)
	moved.Home = b.ID // as a move does
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		t.NotifyDataset(moved.ID, a.ID)
		return t.PutDataset(moved)
	}))
	s = a.MustSync(s.Revision)
	if s.Full || len(s.Datasets) != 0 || len(s.RemovedDatasets) != 2 {
		t.Errorf("%+v", s)
	}
	if v := e.MustVolume("moved"); v.Status != nil {
		t.Error("what the old home reported of it is still shown")
	}
	if s := b.MustSync(0); !s.Full || len(s.Datasets) != 0 { // its index is written by the move
		t.Errorf("%+v", s)
	}
}

// If the agent's revision is from before a restart, from another service, or older than what is remembered, the
// answer has everything.
func TestSyncOfUnknownRevisions(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	old := a.MustSync(0).Revision
	e.Restart()
	for _, rev := range []uint64{old, old + 1, 1, ^uint64(0)} {
		if s := a.MustSync(rev); !s.Full || len(s.Datasets) != 1 {
			t.Errorf("rev %d: %+v", rev, s)
		}
	}
	rev := a.MustSync(0).Revision
	for i := range 2*record.FeedSize + 1 {
		e.Feed.Publish(record.Notice{Nodes: []uuid.UUID{uuid.New()}, Datasets: []uuid.UUID{uuid.New()}})
		if i == 2*record.FeedSize-1 && a.MustSync(rev).Full {
			t.Error("forgotten too soon")
		}
	}
	if s := a.MustSync(rev); !s.Full {
		t.Error("a revision that is not remembered is answered as if nothing had changed")
	}
	now := e.Feed.Since(a.ID, 0).Rev
	if s := a.MustSync(now - record.FeedSize); s.Full {
		t.Error("the newest changes are forgotten")
	}
	if n := len(e.Feed.Changes); n > 2*record.FeedSize {
		t.Errorf("%d changes are kept", n)
	}
}

func TestSyncWaits(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	rev := a.MustSync(0).Revision
	wait := func(ctx context.Context) <-chan controltest.Result[api.Sync] {
		return controltest.Waiting(e, func() (api.Sync, error) { return e.Sync(ctx, a.ID, rev, 25*time.Second) })
	}
	done := wait(e.Ctx)
	b.MustCreate("theirs") // wakes no agent here
	a.MustCreate("db")     // neither does what the answer contained, which the next change sends as well
	if !e.Feed.IsAwaited(a.ID) {
		t.Error("its own create woke the agent")
	}
	op := *e.MustSubmit(api.Request{Kind: dataset.OpSnapshot, Volume: "db"}).Operation
	if r := <-done; r.Err != nil || !cmp.Equal(names(r.V), []string{"db"}) || len(r.V.Operations) != 1 {
		t.Errorf("%+v, %v", r.V, r.Err)
	}
	rev = a.MustSync(0).Revision
	done = wait(e.Ctx)
	e.OK(e.CancelOperation(e.Ctx, op.ID.String()))
	if r := <-done; r.Err != nil || len(r.V.Operations) != 0 {
		t.Errorf("%+v, %v", r.V, r.Err)
	}
	rev = a.MustSync(0).Revision
	done = wait(e.Ctx)
	e.Clock.Advance(25 * time.Second)
	if r := <-done; r.Err != nil || r.V.Full || r.V.Revision != rev {
		t.Errorf("%+v, %v", r.V, r.Err)
	}
	ctx, cancel := context.WithCancel(e.Ctx)
	done = wait(ctx)
	cancel()
	if r := <-done; !errors.Is(r.Err, context.Canceled) {
		t.Errorf("%v", r.Err)
	}
	done = wait(e.Ctx)
	e.Service.Close()
	if r := <-done; dataset.KindOf(r.Err) != dataset.ErrUnavailable {
		t.Errorf("%v", r.Err)
	}
	if n := len(e.Feed.Waiting); n != 0 {
		t.Errorf("%d bells are left", n)
	}
}

// Many agents follow while others change things. Each agent ends up with the records in the store.
func TestSyncFollows(t *testing.T) {
	e := controltest.New(t)
	agents := []*controltest.Agent{e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")}
	ctx, cancel := context.WithCancel(e.Ctx)
	defer cancel()
	known := make([]map[uuid.UUID]api.IndexedDataset, len(agents))
	var followers, workers sync.WaitGroup
	last := make(chan struct{})
	for i, a := range agents {
		known[i] = map[uuid.UUID]api.IndexedDataset{}
		followers.Go(func() {
			rev := uint64(0)
			for {
				s, err := e.Sync(ctx, a.ID, rev, time.Hour)
				if err != nil {
					return
				}
				rev = s.Revision
				for _, d := range s.Datasets {
					if d.Index > known[i][d.ID].Index {
						known[i][d.ID] = d
					}
				}
				for _, id := range s.RemovedDatasets {
					delete(known[i], id)
				}
				select {
				case <-last:
					if e.Feed.Since(a.ID, rev).Any {
						continue
					}
					return
				default:
				}
			}
		})
	}
	for i, a := range agents {
		workers.Go(func() {
			for n := range 30 {
				name := fmt.Sprintf("v%d-%d", i, n)
				a.MustCreate(name + "@fleeting")
				a.MustSnapshot(name, "")
				if n%3 == 0 {
					a.MustPurge(a.MustDelete(name))
				}
			}
		})
	}
	workers.Wait()
	close(last)
	for _, a := range agents {
		e.Feed.Publish(record.Notice{Nodes: []uuid.UUID{a.ID}}) // so that all read once more
	}
	followers.Wait()
	for id, d := range e.CheckInvariants().Datasets {
		for i, a := range agents {
			got, ok := known[i][id]
			if ok != (d.Home == a.ID) || ok && !cmp.Equal(got.Dataset, d) {
				t.Errorf("agent %d knows %v: %s", i, ok, cmp.Diff(d, got.Dataset))
			}
		}
	}
	for i := range agents {
		if n := len(known[i]); n != 20 {
			t.Errorf("agent %d knows %d datasets", i, n)
		}
	}
}

func TestHeartbeats(t *testing.T) {
	e, a := controltest.OneNode(t)
	pool := a.LocalPools[0].ID
	beat := func(st dataset.PoolStatus) []api.Event {
		t.Helper()
		st.ID = pool
		n := len(e.EventLog.Ring)
		e.OK(e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation, Pools: []dataset.PoolStatus{st}}))
		return e.EventLog.Ring[n:]
	}
	for i, c := range []struct {
		st   dataset.PoolStatus
		want api.EventType
	}{
		{dataset.PoolStatus{Online: true, Size: 100, Free: 50}, ""},
		{dataset.PoolStatus{Online: true, Size: 1000, Free: 160}, ""},
		{dataset.PoolStatus{Online: true, Size: 1000, Free: 155}, "pool.full"},
		{dataset.PoolStatus{Online: true, Size: 1000, Free: 100}, ""},
		{dataset.PoolStatus{Reason: "its disk is absent"}, "pool.offline"},
		{dataset.PoolStatus{Reason: "its disk is absent"}, ""},
		{dataset.PoolStatus{Online: true, Size: 1000, Free: 500}, "pool.online"},
	} {
		got := beat(c.st)
		if c.want == "" && len(got) != 0 || c.want != "" && (len(got) != 1 || got[0].Type != c.want || got[0].Labels["pool"] != pool.String() || got[0].Node != "alpha" || got[0].Time.IsZero()) {
			t.Errorf("%d: %+v, not %q", i, got, c.want)
		}
	}
	e.Restart()
	if got := beat(dataset.PoolStatus{Reason: "absent"}); len(got) != 1 || got[0].Type != "pool.offline" {
		t.Errorf("a pool that is offline from the start: %+v", got)
	}
	// Progress of an operation is not kept after the operation has ended, however it ended.
	op := *e.MustSubmit(controltest.Create("db")).Operation
	e.OK(e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation, Operations: []dataset.Operation{{ID: op.ID, Progress: dataset.Progress{Step: "making"}}}}))
	e.OK(e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation}))
	if p := e.Reports.WithProgress(op).Progress; p.Step != "" {
		t.Errorf("its progress is kept: %+v", p)
	}
}

// A volume that fills up causes one event for each threshold that it crosses, and one when it has space again.
func TestFullVolumes(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	d := a.MustCreate("db")
	report := func(from *controltest.Agent, st dataset.DatasetStatus) (events []api.EventType) {
		t.Helper()
		st.ID = d.ID
		n := len(e.EventLog.Ring)
		h := api.Heartbeat{Incarnation: from.Incarnation, Datasets: []dataset.DatasetStatus{st}}
		e.OK(e.Heartbeat(e.Ctx, from.ID, h))
		for _, ev := range e.EventLog.Ring[n:] {
			if ev.Volume != "db" || ev.Dataset != d.ID || ev.Node != "alpha" || ev.Time.IsZero() || ev.Detail == "" {
				t.Errorf("%+v", ev)
			}
			events = append(events, ev.Type)
		}
		return events
	}
	used := func(percent int, is dataset.Fullness) dataset.DatasetStatus {
		u := &dataset.Usage{Used: dataset.Size(percent), Available: dataset.Size(100 - percent)}
		return dataset.DatasetStatus{Usage: u, Fullness: is}
	}
	for i, c := range []struct {
		from *controltest.Agent
		st   dataset.DatasetStatus
		want []api.EventType
	}{
		{a, used(10, dataset.NotFull), nil},
		{a, used(86, dataset.NearlyFull), []api.EventType{"volume.nearly_full"}},
		{a, used(87, dataset.NearlyFull), nil},
		{a, used(98, dataset.Full), []api.EventType{"volume.full"}},
		{a, dataset.DatasetStatus{Problem: "its pool is offline"}, nil}, // its use is unknown now
		{a, used(98, dataset.Full), nil},
		{a, used(40, dataset.NotFull), []api.EventType{"volume.not_full"}},
		{b, used(98, dataset.Full), nil}, // not from its home
	} {
		if got := report(c.from, c.st); !slices.Equal(got, c.want) {
			t.Errorf("%d: %v, want %v", i, got, c.want)
		}
	}
	e.Restart()
	if got := report(a, used(98, dataset.Full)); !slices.Equal(got, []api.EventType{"volume.full"}) {
		t.Errorf("after a restart of control: %v", got)
	}
}
