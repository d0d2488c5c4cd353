package control

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/planning"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/uptime"
	"github.com/droverhq/drover/dataset"
)

type storeWrite = store.Write

func TestTrashExpires(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	a.create("kept@kept")
	kept, d := a.delete("kept"), a.delete("db")
	e.rounds()
	e.clock.Advance(time.Hour)
	a.create("later")
	later := a.delete("later")
	e.rounds()
	states := func(want ...dataset.State) {
		t.Helper()
		st := e.check()
		for i, d := range []dataset.Dataset{d, later, kept} {
			if got := st.datasets[d.ID].State; got != want[i] {
				t.Errorf("%s is %q, not %q", d.Volume, got, want[i])
			}
		}
	}
	e.tick(71*time.Hour - time.Nanosecond)
	states(dataset.StateTrashed, dataset.StateTrashed, dataset.StateTrashed)
	e.tick(time.Nanosecond)
	states(dataset.StatePurging, dataset.StateTrashed, dataset.StateTrashed)
	s, err := e.Sync(e.ctx, a.id, 0, 0)
	if err != nil || len(s.Datasets) != 3 || len(s.Operations) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	a.purge(d)
	e.tick(time.Hour)
	states("", dataset.StatePurging, dataset.StateTrashed)
	e.tick(10000 * time.Hour)
	states("", dataset.StatePurging, dataset.StateTrashed)
	if len(e.failures) != 0 {
		t.Errorf("%v", e.failures)
	}
}

// Time that passed while control was down counts, and another service's deletes
// are seen in time.
func TestTrashExpiresAfterRestart(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	e.rounds()
	d := a.delete("db")
	e.restart()
	e.tick(72 * time.Hour)
	if got := e.check().datasets[d.ID].State; got != dataset.StatePurging {
		t.Errorf("after a restart: %s", got)
	}
	other := &env{tb: t, ctx: e.ctx, spy: e.spy, clock: e.clock, profiles: e.profiles}
	other.restart()
	b := *a
	b.env = other
	b.distrust("")
	defer other.Service.Close()
	other.rounds()
	a.create("db2")
	d = a.delete("db2")
	for range int(72*time.Hour/housekeeping.FullEvery) + 1 {
		other.tick(housekeeping.FullEvery)
	}
	if got := e.check().datasets[d.ID].State; got != dataset.StatePurging {
		t.Errorf("deleted through another service: %s", got)
	}
}

// One entry that is damaged does not keep the others.
func TestTrashExpiresBesideDamage(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	var ids []uuid.UUID
	for i := range 3 {
		a.create(fmt.Sprint("db", i))
		ids = append(ids, a.delete(fmt.Sprint("db", i)).ID)
	}
	low := ids[0]
	for _, id := range ids {
		if id.String() < low.String() {
			low = id
		}
	}
	if _, err := e.spy.Txn(e.ctx, nil, append(spoilt(record.TrashKey(low), "garbage"), storeWrite{Key: "trash/0nonsense", Value: []byte(`{"at":"2020-01-01T00:00:00Z","until":"2020-01-01T00:00:00Z"}`)})); err != nil {
		t.Fatal(err)
	}
	e.rounds()
	e.tick(72 * time.Hour)
	e.tick(membership.HouseEvery)
	purging := 0
	for _, id := range ids {
		var d dataset.Dataset
		if _, err := record.NewTx(e.ctx, e.spy).Get(record.DatasetKey(id), &d); err != nil {
			t.Fatal(err)
		}
		if d.State == dataset.StatePurging {
			purging++
		}
	}
	if purging != 2 {
		t.Errorf("%d of 2 others went", purging)
	}
	if len(e.failures) < 2 {
		t.Errorf("the damage was not reported: %v", e.failures)
	}
	n := len(e.failures)
	for range 10 {
		e.tick(membership.HouseEvery)
	}
	if len(e.failures) != n {
		t.Errorf("the same failures were reported again: %v", e.failures[n:])
	}
	e.tick(housekeeping.ReportAgain)
	if len(e.failures) == n {
		t.Error("a failure that lasts is never said again")
	}
}

func TestOperationsAreForgotten(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	for i := range 250 {
		op := *e.submit(create(fmt.Sprint("db", i))).Operation
		a.commit(op)
	}
	open := *e.submit(create("slow")).Operation
	e.rounds()
	e.tick(housekeeping.OperationKept - time.Second)
	e.tick(0)
	if n := len(e.check().operations); n != 251 {
		t.Errorf("%d operations of the last day", n)
	}
	e.spy.counted()
	e.tick(housekeeping.ForgetEvery)
	if _, txns, _ := e.spy.counted(); txns > 5 {
		t.Errorf("%d transactions to forget 250 operations", txns)
	}
	st := e.check()
	if _, ok := st.operations[open.ID]; len(st.operations) != 1 || !ok {
		t.Errorf("%d operations are left", len(st.operations))
	}
	a.work()
}

// What schedules ask for and went well does not fill the store.
func TestRoutineIsForgottenSoon(t *testing.T) {
	e := newEnv(t)
	p := e.profiles.byName["gold"]
	p.Snapshots.Keep = dataset.Keep{Last: 1}
	e.profiles.byName["gold"] = p
	a := e.agent("alpha")
	a.create("db@gold")
	e.rounds()
	for range 4 * 24 {
		e.tick(15 * time.Minute)
		open := a.open()
		if len(open) > 0 && e.clock.Now().Hour() == 0 {
			open[0].Problem = dataset.ProblemOf(dataset.ErrNoSpace)
			a.commit(open[0])
		}
		a.work()
		e.rounds()
		a.work()
	}
	failed, done := 0, 0
	for _, op := range e.check().operations {
		switch op.State {
		case dataset.OpFailed:
			failed++
		case dataset.OpDone:
			done++
		}
	}
	if done > 4*4 || failed != 4 {
		t.Errorf("%d that went well and %d that failed are on record", done, failed)
	}
}

// Work that fails is done when the store is back, and its failure is said once.
func TestHouseWithoutStore(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@gold")
	a.create("old")
	d := a.delete("old")
	e.spy.fail(1, false)
	for range 5 {
		e.tick(membership.HouseEvery)
	}
	n := len(e.failures)
	if n == 0 || n > 4 || !errors.Is(e.failures[0], dataset.ErrUnavailable) {
		t.Errorf("%d failures: %v", n, e.failures)
	}
	e.spy.fail(0, false)
	e.tick(72 * time.Hour)
	if got := e.check().datasets[d.ID].State; got != dataset.StatePurging {
		t.Errorf("%s", got)
	}
	if got := a.scheduled(); len(got) != 1 {
		t.Errorf("to do: %v", got)
	}
	// With the store away after a good start.
	a.work()
	e.rounds()
	e.spy.fail(1, false)
	e.tick(15 * time.Minute)
	e.spy.fail(0, false)
	e.tick(membership.HouseEvery)
	if got := a.scheduled(); len(got) != 1 {
		t.Errorf("to do: %v", got)
	}
}

// The service as it is run: a round once agents could be heard, then one whenever
// the clock has moved on, until it is closed.
func TestKeepHouse(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	d := a.delete("db")
	c := &testClock{Fake: e.clock.Fake, begun: make(chan struct{})}
	s := New(Deps{
		Store: e.spy, StoreName: "bolt", Clock: c, Version: "1.2", Profiles: func() planning.Profiles { return e.profiles },
		Failed: func(what string, err error) { t.Errorf("%s: %v", what, err) },
	})
	trashTime := func() {
		for range 72 * time.Hour / uptime.MarkEvery {
			e.clock.Advance(uptime.MarkEvery)
			<-c.begun
		}
	}
	<-c.begun
	e.clock.Advance(membership.HouseEvery) // it finds what waits
	<-c.begun
	trashTime()
	if got := e.check().datasets[d.ID].State; got != dataset.StateTrashed {
		t.Errorf("before anyone was heard: %s", got)
	}
	if err := s.Members.Heartbeat(e.ctx, a.id, api.Heartbeat{Incarnation: a.incarnation}); err != nil {
		t.Fatal(err)
	}
	e.clock.Advance(membership.HouseEvery)
	<-c.begun
	if got := e.check().datasets[d.ID].State; got != dataset.StatePurging {
		t.Errorf("%s", got)
	}
	a.create("db2")
	d = a.delete("db2")
	trashTime()
	if got := e.check().datasets[d.ID].State; got != dataset.StatePurging {
		t.Errorf("%s", got)
	}
	if v, err := s.Version(e.ctx); err != nil || v != (api.Version{Version: "1.2", API: "v1", Store: "bolt", Started: someday}) {
		t.Errorf("%+v, %v", v, err)
	}
	s.Close()
	s.Close()
}

func TestProfilesAreShown(t *testing.T) {
	e := newEnv(t)
	if all, err := e.Profiles(e.ctx); err != nil || len(all) != 5 {
		t.Errorf("%d, %v", len(all), err)
	}
	if p, err := e.Profile(e.ctx, "gold"); err != nil || p.Name != "gold" {
		t.Errorf("%+v, %v", p, err)
	}
	_, err := e.Profile(e.ctx, "glod")
	refused(t, err, dataset.ErrNotFound, "have: bronze")
}
