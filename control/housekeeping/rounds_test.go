package housekeeping_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
)

type storeWrite = store.Write

func TestTrashExpires(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	a.MustCreate("kept@kept")
	kept, d := a.MustDelete("kept"), a.MustDelete("db")
	e.Round()
	e.Clock.Advance(time.Hour)
	a.MustCreate("later")
	later := a.MustDelete("later")
	e.Round()
	states := func(want ...dataset.State) {
		t.Helper()
		st := e.CheckInvariants()
		for i, d := range []dataset.Dataset{d, later, kept} {
			if got := st.Datasets[d.ID].State; got != want[i] {
				t.Errorf("%s is %q, not %q", d.Volume, got, want[i])
			}
		}
	}
	e.AdvanceAndRun(71*time.Hour - time.Nanosecond)
	states(dataset.StateTrashed, dataset.StateTrashed, dataset.StateTrashed)
	e.AdvanceAndRun(time.Nanosecond)
	states(dataset.StatePurging, dataset.StateTrashed, dataset.StateTrashed)
	s, err := e.Sync(e.Ctx, a.ID, 0, 0)
	if err != nil || len(s.Datasets) != 3 || len(s.Operations) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	a.MustPurge(d)
	e.AdvanceAndRun(time.Hour)
	states("", dataset.StatePurging, dataset.StateTrashed)
	e.AdvanceAndRun(10000 * time.Hour)
	states("", dataset.StatePurging, dataset.StateTrashed)
	if len(e.Failures) != 0 {
		t.Errorf("%v", e.Failures)
	}
}

// Time that passed while control was down counts, and deletes by another service are noticed in time.
func TestTrashExpiresAfterRestart(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	e.Round()
	d := a.MustDelete("db")
	e.Restart()
	e.AdvanceAndRun(72 * time.Hour)
	if got := e.CheckInvariants().Datasets[d.ID].State; got != dataset.StatePurging {
		t.Errorf("after a restart: %s", got)
	}
	other := &controltest.Control{TB: t, Ctx: e.Ctx, Spy: e.Spy, Clock: e.Clock, ProfileSet: e.ProfileSet}
	other.Restart()
	b := *a
	b.Control = other
	b.ReportDistrust("")
	defer other.Service.Close()
	other.Round()
	a.MustCreate("db2")
	d = a.MustDelete("db2")
	for range int(72*time.Hour/housekeeping.FullInterval) + 1 {
		other.AdvanceAndRun(housekeeping.FullInterval)
	}
	if got := e.CheckInvariants().Datasets[d.ID].State; got != dataset.StatePurging {
		t.Errorf("deleted through another service: %s", got)
	}
}

// A damaged entry does not affect the others.
func TestTrashExpiresBesideDamage(t *testing.T) {
	e, a := controltest.OneNode(t)
	var ids []uuid.UUID
	for i := range 3 {
		a.MustCreate(fmt.Sprint("db", i))
		ids = append(ids, a.MustDelete(fmt.Sprint("db", i)).ID)
	}
	low := ids[0]
	for _, id := range ids {
		if id.String() < low.String() {
			low = id
		}
	}
	e.OK(e.Spy.Txn(e.Ctx, nil, append(spoilt(record.TrashKey(low), "garbage"), storeWrite{Key: "trash/0nonsense", Value: []byte(`{"at":"2020-01-01T00:00:00Z","until":"2020-01-01T00:00:00Z"}`)})))
	e.Round()
	e.AdvanceAndRun(72 * time.Hour)
	e.AdvanceAndRun(membership.HousekeepingInterval)
	purging := 0
	for _, id := range ids {
		var d dataset.Dataset
		e.OK(record.NewTx(e.Ctx, e.Spy).Get(record.DatasetKey(id), &d))
		if d.State == dataset.StatePurging {
			purging++
		}
	}
	if purging != 2 {
		t.Errorf("%d of 2 others went", purging)
	}
	if len(e.Failures) < 2 {
		t.Errorf("the damage was not reported: %v", e.Failures)
	}
	n := len(e.Failures)
	for range 10 {
		e.AdvanceAndRun(membership.HousekeepingInterval)
	}
	if len(e.Failures) != n {
		t.Errorf("the same failures were reported again: %v", e.Failures[n:])
	}
	e.AdvanceAndRun(housekeeping.ReportInterval)
	if len(e.Failures) == n {
		t.Error("a lasting failure is never reported again")
	}
}

func TestOperationsAreForgotten(t *testing.T) {
	e, a := controltest.OneNode(t)
	for i := range 250 {
		op := *e.MustSubmit(controltest.Create(fmt.Sprint("db", i))).Operation
		a.MustCommit(op)
	}
	open := *e.MustSubmit(controltest.Create("slow")).Operation
	e.Round()
	e.AdvanceAndRun(housekeeping.OperationRetention - time.Second)
	e.AdvanceAndRun(0)
	if n := len(e.CheckInvariants().Operations); n != 251 {
		t.Errorf("%d operations of the last day", n)
	}
	e.Spy.Counted()
	e.AdvanceAndRun(housekeeping.ForgetInterval)
	if _, txns, _ := e.Spy.Counted(); txns > 5 {
		t.Errorf("%d transactions to forget 250 operations", txns)
	}
	st := e.CheckInvariants()
	if _, ok := st.Operations[open.ID]; len(st.Operations) != 1 || !ok {
		t.Errorf("%d operations are left", len(st.Operations))
	}
	a.DoWork()
}

// Operations that were requested by schedules and succeeded do not fill the store.
func TestRoutineIsForgottenSoon(t *testing.T) {
	e := controltest.New(t)
	p := e.ProfileSet.ByName["gold"]
	p.Snapshots.Keep = dataset.Keep{Last: 1}
	e.ProfileSet.ByName["gold"] = p
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	e.Round()
	for range 4 * 24 {
		e.AdvanceAndRun(15 * time.Minute)
		open := a.OpenOperations()
		if len(open) > 0 && e.Clock.Now().Hour() == 0 {
			open[0].Problem = dataset.ProblemOf(dataset.ErrNoSpace)
			a.MustCommit(open[0])
		}
		a.DoWork()
		e.Round()
		a.DoWork()
	}
	failed, done := 0, 0
	for _, op := range e.CheckInvariants().Operations {
		switch op.State {
		case dataset.OpFailed:
			failed++
		case dataset.OpDone:
			done++
		}
	}
	if done > 4*4 || failed != 4 {
		t.Errorf("%d successful and %d failed operations are on record", done, failed)
	}
}

// Work that fails is done once the store is available again, and its failure is logged once.
func TestHouseWithoutStore(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	a.MustCreate("old")
	d := a.MustDelete("old")
	e.Spy.FailFrom(1, false)
	for range 5 {
		e.AdvanceAndRun(membership.HousekeepingInterval)
	}
	n := len(e.Failures)
	if n == 0 || n > 4 || !errors.Is(e.Failures[0], dataset.ErrUnavailable) {
		t.Errorf("%d failures: %v", n, e.Failures)
	}
	e.Spy.FailFrom(0, false)
	e.AdvanceAndRun(72 * time.Hour)
	if got := e.CheckInvariants().Datasets[d.ID].State; got != dataset.StatePurging {
		t.Errorf("%s", got)
	}
	if got := scheduled(a); len(got) != 1 {
		t.Errorf("to do: %v", got)
	}
	// The store becomes unavailable after a good start.
	a.DoWork()
	e.Round()
	e.Spy.FailFrom(1, false)
	e.AdvanceAndRun(15 * time.Minute)
	e.Spy.FailFrom(0, false)
	e.AdvanceAndRun(membership.HousekeepingInterval)
	if got := scheduled(a); len(got) != 1 {
		t.Errorf("to do: %v", got)
	}
}

// The service as it runs: it makes one round once agents had time to register, then one whenever the clock has
// advanced, until it is closed.
func TestKeepHouse(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	d := a.MustDelete("db")
	c := &controltest.Clock{Clock: e.Clock.Clock, Waiting: make(chan struct{})}
	s := control.New(control.Deps{
		Store: e.Spy, StoreName: "bolt", Clock: c, Version: "1.2", Profiles: func() control.Profiles { return e.ProfileSet },
		Failed: func(what string, err error) { t.Errorf("%s: %v", what, err) },
	})
	trashTime := func() {
		for range 72 * time.Hour / record.MarkInterval {
			e.Clock.Advance(record.MarkInterval)
			<-c.Waiting
		}
	}
	<-c.Waiting
	e.Clock.Advance(membership.HousekeepingInterval) // it finds the waiting work
	<-c.Waiting
	trashTime()
	if got := e.CheckInvariants().Datasets[d.ID].State; got != dataset.StateTrashed {
		t.Errorf("before anyone was heard: %s", got)
	}
	e.OK(s.Members.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation}))
	e.Clock.Advance(membership.HousekeepingInterval)
	<-c.Waiting
	if got := e.CheckInvariants().Datasets[d.ID].State; got != dataset.StatePurging {
		t.Errorf("%s", got)
	}
	a.MustCreate("db2")
	d = a.MustDelete("db2")
	trashTime()
	if got := e.CheckInvariants().Datasets[d.ID].State; got != dataset.StatePurging {
		t.Errorf("%s", got)
	}
	if v, err := s.Version(e.Ctx); err != nil || v != (api.Version{Version: "1.2", API: "v1", Store: "bolt", Started: controltest.Start}) {
		t.Errorf("%+v, %v", v, err)
	}
	s.Close()
	s.Close()
}

// An agent that registers again keeps its session. A steady cluster writes nothing while volumes are in use, replicas
// are refreshed and copies are kept, once no timer is pending.
func TestSteadyClusterWritesNothing(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	e := x.On(x.Services[0])
	e.AddReplicaProfile(1)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	for range 2 {
		b.MustRegister("beta")
	}
	d := a.MustCreate("db@safe")
	houses := []*housekeeping.Memory{x.Services[0].Housekeeper.NewMemory(), x.Services[1].Housekeeper.NewMemory()}
	steps := func(n int) {
		for range n {
			now, used := x.Clock.Now(), dataset.Size(x.Clock.Steady())
			for i, s := range x.Services {
				x.TakePart(s)
				if mine, err := s.Members.AcquireHousekeeping(t.Context()); err != nil {
					t.Fatal(err)
				} else if mine {
					s.Housekeeper.Round(record.AsHousekeeper(t.Context()), houses[i], now)
				}
				tells := func(g *controltest.Agent, h api.Heartbeat) {
					h.Incarnation = g.Incarnation
					in := api.Generations{Incarnation: g.Incarnation, Transient: true, Pools: []api.Generation{{Pool: g.LocalPools[0].ID, Generation: uint64(used)}}}
					_, err := s.Generations(t.Context(), g.ID, in)
					_, rerr := s.Members.Renew(t.Context(), g.ID, g.Incarnation)
					g.OK(errors.Join(err, rerr, s.Members.Heartbeat(t.Context(), g.ID, h)))
				}
				tells(a, api.Heartbeat{Datasets: []dataset.DatasetStatus{{ID: d.ID, Mounted: true, Used: new(used)}}})
				tells(b, api.Heartbeat{Copies: []dataset.Copy{{Dataset: d.ID, Node: b.ID, Epoch: d.Epoch, Snapshot: d.ID, VerifiedAt: now, VerifiedAtHome: now}}})
			}
			x.Clock.Advance(5 * time.Second)
		}
	}
	steps(3)
	b.ReportCopyTaken(d, x.Clock.Now())
	steps(3)
	steps(int((housekeeping.OperationRetention + housekeeping.ForgetInterval + record.MarkInterval) / (5 * time.Second)))
	onRecord := func() map[string]uint64 {
		out := map[string]uint64{}
		for _, e := range x.Save() {
			out[e.Key] = e.Index
		}
		return out
	}
	before, was := x.Txns(), onRecord()
	steps(3 * 3600 / 5)
	if now := onRecord(); !maps.Equal(was, now) || x.Txns() != before {
		t.Errorf("%d transactions: on record was %v and is %v", x.Txns()-before, was, now)
	}
}

// However many operations end within a day, only a fixed number of the latest stays on record. The store's file only
// grows to what they need, because the space of forgotten operations is used again.
func TestEndedOperationsAreBounded(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	cancelled := *e.MustSubmit(controltest.Create("never")).Operation
	e.OK(e.CancelOperation(e.Ctx, cancelled.ID.String()))
	running := *e.MustSubmit(controltest.Create("slow")).Operation
	e.Round()
	protect, last := false, uuid.Nil
	const perRound = 500 // as if 25 ended each second
	end := func(n int) {
		for range n / perRound {
			for range perRound {
				protect = !protect
				last = e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: &protect}).Operation.ID
			}
			e.AdvanceAndRun(membership.HousekeepingInterval)
		}
	}
	size := func() int64 { return e.Spy.Store.(*bolt.Store).Stats().FileBytes }
	end(housekeeping.MaxEndedOperations + 2*housekeeping.ForgetAfter)
	first := size()
	end(housekeeping.MaxEndedOperations)
	st := e.CheckInvariants()
	if n := len(st.Operations); n > housekeeping.MaxEndedOperations+housekeeping.ForgetAfter+1 || n < housekeeping.MaxEndedOperations {
		t.Errorf("%d operations are on record", n)
	}
	for what, id := range map[string]uuid.UUID{"cancelled": cancelled.ID, "running": running.ID, "last": last} {
		if _, there := st.Operations[id]; !there {
			t.Errorf("the %s operation was forgotten", what)
		}
	}
	t.Logf("the store's file has %d bytes after %d operations and %d after %d", first, housekeeping.MaxEndedOperations+2*housekeeping.ForgetAfter, size(), 2*housekeeping.MaxEndedOperations+2*housekeeping.ForgetAfter)
	if now := size(); now > first+first/4 {
		t.Errorf("the store's file grew from %d to %d bytes", first, now)
	}
	a.DoWork()
}

// A backup ends although the record of the scheduled backups is damaged, or that of the dataset. Otherwise its agent
// would report it for ever. An event names the damaged record.
func TestBackupEndsBesideDamagedRecord(t *testing.T) {
	for name, c := range map[string]struct {
		damaged   func(dataset.Dataset) string
		scheduled bool
		end       func(*controltest.Agent, dataset.Operation)
		want      dataset.OpState
	}{
		"manual": {
			damaged: func(d dataset.Dataset) string { return record.BackupsKey(d.ID) },
			end:     func(a *controltest.Agent, op dataset.Operation) { finishBackup(a, op) }, want: dataset.OpDone,
		},
		"manual, failed": {
			damaged: func(d dataset.Dataset) string { return record.DatasetKey(d.ID) },
			end:     failBackup, want: dataset.OpFailed,
		},
		"scheduled": {
			damaged:   func(d dataset.Dataset) string { return record.BackupsKey(d.ID) },
			scheduled: true,
			end:       func(a *controltest.Agent, op dataset.Operation) { finishBackup(a, op) }, want: dataset.OpDone,
		},
		"scheduled, failed": {
			damaged:   func(d dataset.Dataset) string { return record.BackupsKey(d.ID) },
			scheduled: true, end: failBackup, want: dataset.OpFailed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			hourly(e)
			a := e.NewAgent("alpha")
			d := a.MustCreate("db@hourly")
			if c.scheduled {
				e.AdvanceAndRun(time.Hour + 15*time.Minute)
			} else {
				e.MustSubmit(api.Request{Kind: dataset.OpBackup, Volume: "db", Repository: "offsite"})
			}
			op := a.OpenOperations()[0]
			key := c.damaged(d)
			e.OK(e.Spy.Txn(e.Ctx, nil, spoilt(key, "garbage")))
			c.end(a, op)
			if now := e.MustOperation(op.ID); now.State != c.want || (now.Backup == "") == (c.want == dataset.OpDone) {
				t.Errorf("got %+v, want %s", now, c.want)
			}
			named := false
			err := e.Events(e.Ctx, 0, false, func(ev api.Event) error {
				named = named || ev.Type == api.EventOperationFail && strings.Contains(ev.Detail, key)
				return nil
			})
			if err != nil || named == (name == "manual, failed") { // this failure changes no other record
				t.Errorf("an event names the damaged record: %t, %v", named, err)
			}
		})
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
