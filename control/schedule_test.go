package control

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/uptime"
	"github.com/droverhq/drover/dataset"
)

// tick moves the clock to the next full quarter and runs a round.
// tick lets time pass of which only the last moment has a round.
func (e *env) tick(d time.Duration) {
	e.Helper()
	e.pass(d)
	e.rounds()
}

// pass lets time pass in which nothing is done but to count it, where the store answers.
func (e *env) pass(d time.Duration) {
	e.Helper()
	for d > 0 {
		_ = e.Uptime.Mark(e.ctx, true)
		step := min(d, uptime.MarkEvery)
		e.clock.Advance(step)
		d -= step
	}
}

func (a *agent) scheduled() (kinds []dataset.OpKind) {
	for _, op := range a.open() {
		kinds = append(kinds, op.Kind)
	}
	return kinds
}

func TestSchedule(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@gold") // every quarter of an hour
	a.create("plain@silver")
	e.rounds()
	if n := len(a.open()); n != 0 {
		t.Fatalf("%d snapshots of a new volume", n)
	}
	e.tick(14 * time.Minute)
	if n := len(a.open()); n != 0 {
		t.Fatalf("%d snapshots before the time", n)
	}
	for i := range 3 {
		e.tick(time.Minute)
		for range 3 {
			e.rounds() // more often than due
		}
		open := a.open()
		if len(open) != 1 || open[0].Kind != dataset.OpSnapshot || open[0].Snapshot.Kind != dataset.SnapshotScheduled || open[0].Volume != "db" {
			t.Fatalf("%d: %+v", i, open)
		}
		a.work()
		e.tick(14 * time.Minute)
	}
	if v := e.volume("db"); v.Snapshots != 3 {
		t.Errorf("%d snapshots", v.Snapshots)
	}
	if len(e.failures) != 0 {
		t.Errorf("%v", e.failures)
	}
	e.check()
}

// A8: a host that was down catches up once, not N times; so does a control
// service.
func TestScheduleCatchesUpOnce(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@gold")
	e.rounds()
	// The node is away: what waits for it does not pile up.
	for range 20 {
		e.tick(15 * time.Minute)
	}
	if n := len(a.open()); n != 1 {
		t.Fatalf("%d snapshots wait for the node", n)
	}
	// Nor does it when control restarts.
	e.restart()
	for range 3 {
		e.tick(15 * time.Minute)
	}
	if n := len(a.open()); n != 1 {
		t.Fatalf("%d snapshots wait for the node", n)
	}
	a.work()
	e.tick(15 * time.Minute)
	if n := len(a.open()); n != 1 {
		t.Fatalf("%d snapshots are due when it is back", n)
	}
	a.work()
	// Control itself was away for a day.
	e.restart()
	e.tick(24 * time.Hour)
	e.rounds()
	if n := len(a.open()); n != 1 {
		t.Fatalf("%d snapshots to catch up with a day", n)
	}
	a.work()
	e.restart()
	e.rounds()
	if n := len(a.open()); n != 0 {
		t.Fatalf("%d snapshots again", n)
	}
	e.check()
}

// Two services on one store ask for the same snapshot.
func TestScheduleOfTwoServices(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@gold")
	e.rounds()
	other := &env{tb: t, ctx: e.ctx, spy: e.spy, clock: e.clock, profiles: e.profiles}
	other.restart()
	defer other.Service.Close()
	other.rounds()
	for range 3 {
		e.clock.Advance(15 * time.Minute)
		e.rounds()
		other.rounds()
		if n := len(a.open()); n != 1 {
			t.Fatalf("%d snapshots", n)
		}
		a.work()
		other.rounds()
	}
}

// A snapshot that failed or was cancelled is due again at the next time.
func TestScheduleAfterFailure(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@gold")
	e.rounds()
	e.tick(15 * time.Minute)
	op := a.open()[0]
	op.Problem = dataset.ProblemOf(dataset.ErrNoSpace)
	a.commit(op)
	e.rounds()
	e.restart()
	e.rounds()
	if n := len(a.open()); n != 0 {
		t.Errorf("%d: asked for again at once", n)
	}
	e.tick(15 * time.Minute)
	if n := len(a.open()); n != 1 {
		t.Errorf("%d at the next time", n)
	}
	if _, err := e.CancelOperation(e.ctx, a.open()[0].ID.String()); err != nil {
		t.Fatal(err)
	}
	e.tick(15 * time.Minute)
	if n := len(a.open()); n != 1 {
		t.Errorf("%d at the time after", n)
	}
}

// Volumes come, go and change their profile between two rounds.
func TestScheduleFollowsChanges(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@gold")
	a.create("other@silver", "fs=xfs")
	e.rounds()
	e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "fleeting"})
	e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "other", Profile: "gold"})
	a.work() // it grows
	a.create("third@gold")
	e.rounds()
	e.tick(15 * time.Minute)
	got := map[string]bool{}
	for _, op := range a.open() {
		got[op.Volume] = true
	}
	if len(got) != 2 || !got["other"] || !got["third"] {
		t.Errorf("due: %v", got)
	}
	a.work()
	a.delete("third")
	d := a.delete("db")
	a.purge(d)
	e.tick(15 * time.Minute)
	if open := a.open(); len(open) != 1 || open[0].Volume != "other" {
		t.Errorf("due: %+v", open)
	}
	if len(e.failures) != 0 || len(e.house.Plans) != 1 {
		t.Errorf("%v, %d plans", e.failures, len(e.house.Plans))
	}
}

// One volume whose schedule makes no sense, or whose record is damaged, does not
// keep the others from their snapshots.
func TestScheduleOfOthers(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	for i, name := range []string{"aa", "bb", "cc", "dd"} {
		op := a.plan(create(name + "@gold"))
		if i%2 == 0 {
			op.Dataset.Profile.Snapshots.Schedule = "every now and then"
		}
		a.commit(op)
	}
	broken := a.create("ee@gold")
	if _, err := e.spy.Txn(e.ctx, nil, spoilt(record.DatasetKey(broken.ID), `{"id":`)); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		e.rounds()
	}
	e.tick(15 * time.Minute)
	if got := len(a.open()); got != 2 {
		t.Errorf("%d snapshots, not 2", got)
	}
	if len(e.failures) != 3 { // each once
		t.Errorf("%d failures: %v", len(e.failures), e.failures)
	}
}

func TestRetentionOfScheduled(t *testing.T) {
	e := newEnv(t)
	p := e.profiles.byName["gold"]
	p.Snapshots.Keep = dataset.Keep{Last: 3}
	e.profiles.byName["gold"] = p
	a := e.agent("alpha")
	a.create("db@gold")
	manual := a.snapshot("db", "mine")
	e.rounds()
	for range 8 {
		e.tick(15 * time.Minute)
		a.work()
		e.rounds()
		a.work()
	}
	list, err := e.Snapshots(e.ctx, "db", api.Page{})
	if err != nil || len(list.Items) != 4 || list.Items[0].ID != manual.ID {
		t.Fatalf("%d snapshots, %v", len(list.Items), err)
	}
	// While the node is away a removal is asked for once.
	e.tick(15 * time.Minute)
	a.work()
	for range 5 {
		e.rounds()
		e.restart()
		e.rounds()
	}
	if got := a.scheduled(); len(got) != 1 || got[0] != dataset.OpSnapshotDelete {
		t.Errorf("to do: %v", got)
	}
	e.check()
}

func spoilt(key, value string) []storeWrite { return []storeWrite{{Key: key, Value: []byte(value)}} }

// A round in which nothing changed reads nothing, however many volumes there
// are.
func TestQuietRounds(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	for range 50 {
		a.create("db" + uuid.NewString() + "@gold")
	}
	a.create("old")
	a.delete("old")
	e.rounds()
	e.rounds()
	e.spy.counted()
	for range 10 {
		e.tick(membership.HouseEvery)
		if reads, txns, _ := e.spy.counted(); reads+txns != 0 {
			t.Errorf("a quiet round costs %d reads and %d transactions", reads, txns)
		}
	}
	e.tick(housekeeping.FullEvery) // a look at everything reads what is listed, and no snapshots
	if reads, txns, _ := e.spy.counted(); reads > 2 || txns != 0 {
		t.Errorf("a look at everything costs %d reads and %d transactions", reads, txns)
	}
	a.create("one-more")
	e.spy.counted()
	e.rounds()
	if reads, _, _ := e.spy.counted(); reads > 3 {
		t.Errorf("one change costs a round %d reads", reads)
	}
}

// A clock that was far ahead, as at a boot before the network is there, and is set
// back does not keep a volume from its snapshots until then, nor after a restart.
func TestClockSetBack(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		e := newEnv(t)
		a := e.agent("alpha")
		a.create("db@gold")
		e.rounds()
		const ahead = 1000 * time.Hour
		e.tick(ahead)
		if got := a.scheduled(); len(got) != 1 {
			t.Fatalf("to do: %v", got)
		}
		a.work()
		e.rounds()
		e.clock.Advance(-ahead)
		if restarted {
			e.restart()
		}
		e.rounds()
		e.tick(15 * time.Minute) // made up for before
		e.tick(15 * time.Minute)
		if got := a.scheduled(); len(got) != 1 {
			t.Errorf("restarted %t: to do: %v", restarted, got)
		}
	}
}
