package housekeeping_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func scheduled(a *controltest.Agent) (kinds []dataset.OpKind) {
	for _, op := range a.OpenOperations() {
		kinds = append(kinds, op.Kind)
	}
	return kinds
}

// wantDue fails the test unless the given number of operations waits for the agent.
func wantDue(a *controltest.Agent, want int, when string) {
	a.Helper()
	if got := a.OpenOperations(); len(got) != want {
		a.Fatalf("%s: got %d operations %+v, want %d", when, len(got), got, want)
	}
}

func TestSchedule(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold") // every quarter of an hour
	a.MustCreate("plain@silver")
	e.Round()
	wantDue(a, 0, "a new volume")
	e.AdvanceAndRun(14 * time.Minute)
	wantDue(a, 0, "before the time")
	for i := range 3 {
		e.AdvanceAndRun(time.Minute)
		for range 3 {
			e.Round() // more often than due
		}
		open := a.OpenOperations()
		if len(open) != 1 || open[0].Kind != dataset.OpSnapshot || open[0].Snapshot.Kind != dataset.SnapshotScheduled || open[0].Volume != "db" {
			t.Fatalf("%d: %+v", i, open)
		}
		a.DoWork()
		e.AdvanceAndRun(14 * time.Minute)
	}
	if v := e.MustVolume("db"); v.Snapshots != 3 {
		t.Errorf("%d snapshots", v.Snapshots)
	}
	if len(e.Failures) != 0 {
		t.Errorf("%v", e.Failures)
	}
	e.CheckInvariants()
}

// A8: a host that was down makes up for missed snapshots once, not N times. The same applies to a control service.
func TestScheduleCatchesUpOnce(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	e.Round()
	// The node is unreachable. Only one operation waits for it.
	for range 20 {
		e.AdvanceAndRun(15 * time.Minute)
	}
	wantDue(a, 1, "while the node is away")
	// Nor do more wait after control has restarted.
	e.Restart()
	for range 3 {
		e.AdvanceAndRun(15 * time.Minute)
	}
	wantDue(a, 1, "while the node is away")
	a.DoWork()
	e.AdvanceAndRun(15 * time.Minute)
	wantDue(a, 1, "when the node is back")
	a.DoWork()
	// Control was down for a day.
	e.Restart()
	e.AdvanceAndRun(24 * time.Hour)
	e.Round()
	wantDue(a, 1, "after a day without control")
	a.DoWork()
	e.Restart()
	e.Round()
	wantDue(a, 0, "after another restart")
	e.CheckInvariants()
}

// Two services on one store request the same snapshot.
func TestScheduleOfTwoServices(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	e.Round()
	other := &controltest.Control{TB: t, Ctx: e.Ctx, Spy: e.Spy, Clock: e.Clock, ProfileSet: e.ProfileSet}
	other.Restart()
	defer other.Service.Close()
	other.Round()
	for range 3 {
		e.Clock.Advance(15 * time.Minute)
		e.Round()
		other.Round()
		wantDue(a, 1, "with two services")
		a.DoWork()
		other.Round()
	}
}

// A snapshot that failed or was cancelled is due again at the next time.
func TestScheduleAfterFailure(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	e.Round()
	e.AdvanceAndRun(15 * time.Minute)
	op := a.OpenOperations()[0]
	op.Problem = dataset.ProblemOf(dataset.ErrNoSpace)
	a.MustCommit(op)
	e.Round()
	e.Restart()
	e.Round()
	wantDue(a, 0, "right after the failure")
	e.AdvanceAndRun(15 * time.Minute)
	wantDue(a, 1, "at the next time")
	e.OK(e.CancelOperation(e.Ctx, a.OpenOperations()[0].ID.String()))
	e.AdvanceAndRun(15 * time.Minute)
	wantDue(a, 1, "at the time after that")
}

// Volumes come, go and change their profile between two rounds.
func TestScheduleFollowsChanges(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	a.MustCreate("other@silver", "fs=xfs")
	e.Round()
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "fleeting"})
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "other", Profile: "gold"})
	a.DoWork() // the volume grows
	a.MustCreate("third@gold")
	e.Round()
	e.AdvanceAndRun(15 * time.Minute)
	got := map[string]bool{}
	for _, op := range a.OpenOperations() {
		got[op.Volume] = true
	}
	if len(got) != 2 || !got["other"] || !got["third"] {
		t.Errorf("due: %v", got)
	}
	a.DoWork()
	a.MustDelete("third")
	d := a.MustDelete("db")
	a.MustPurge(d)
	e.AdvanceAndRun(15 * time.Minute)
	if open := a.OpenOperations(); len(open) != 1 || open[0].Volume != "other" {
		t.Errorf("due: %+v", open)
	}
	if len(e.Failures) != 0 || len(e.Memory.Plans) != 1 {
		t.Errorf("%v, %d plans", e.Failures, len(e.Memory.Plans))
	}
}

// If one volume has an invalid schedule or a damaged record, the other volumes still get their snapshots.
func TestScheduleOfOthers(t *testing.T) {
	e, a := controltest.OneNode(t)
	for i, name := range []string{"aa", "bb", "cc", "dd"} {
		op := a.MustPlan(controltest.Create(name + "@gold"))
		if i%2 == 0 {
			op.DatasetRecord.Profile.Snapshots.Schedule = "every now and then"
		}
		a.MustCommit(op)
	}
	broken := a.MustCreate("ee@gold")
	e.OK(e.Spy.Txn(e.Ctx, nil, spoilt(record.DatasetKey(broken.ID), `{"id":`)))
	for range 4 {
		e.Round()
	}
	e.AdvanceAndRun(15 * time.Minute)
	wantDue(a, 2, "beside volumes without a schedule")
	if len(e.Failures) != 3 { // one for each
		t.Errorf("%d failures: %v", len(e.Failures), e.Failures)
	}
}

func TestRetentionOfScheduled(t *testing.T) {
	e := controltest.New(t)
	p := e.ProfileSet.ByName["gold"]
	p.Snapshots.Keep = dataset.Keep{Last: 3}
	e.ProfileSet.ByName["gold"] = p
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	manual := a.MustSnapshot("db", "mine")
	e.Round()
	for range 8 {
		e.AdvanceAndRun(15 * time.Minute)
		a.DoWork()
		e.Round()
		a.DoWork()
	}
	list, err := e.Snapshots(e.Ctx, "db", api.Page{})
	if err != nil || len(list.Items) != 4 || list.Items[0].ID != manual.ID {
		t.Fatalf("%d snapshots, %v", len(list.Items), err)
	}
	// While the node is unreachable, a removal is requested only once.
	e.AdvanceAndRun(15 * time.Minute)
	a.DoWork()
	for range 5 {
		e.Round()
		e.Restart()
		e.Round()
	}
	if got := scheduled(a); len(got) != 1 || got[0] != dataset.OpSnapshotDelete {
		t.Errorf("to do: %v", got)
	}
	e.CheckInvariants()
}

func spoilt(key, value string) []storeWrite { return []storeWrite{{Key: key, Value: []byte(value)}} }

// A round in which nothing changed reads nothing, however many volumes exist.
func TestQuietRounds(t *testing.T) {
	e, a := controltest.OneNode(t)
	for range 50 {
		a.MustCreate("db" + uuid.NewString() + "@gold")
	}
	a.MustCreate("old")
	a.MustDelete("old")
	e.Round()
	e.Round()
	e.Spy.Counted()
	for range 10 {
		e.AdvanceAndRun(membership.HousekeepingInterval)
		if reads, txns, _ := e.Spy.Counted(); reads+txns != 0 {
			t.Errorf("a quiet round costs %d reads and %d transactions", reads, txns)
		}
	}
	e.AdvanceAndRun(housekeeping.FullInterval) // a full round reads the listed records, but no snapshots
	if reads, txns, _ := e.Spy.Counted(); reads > 2 || txns != 0 {
		t.Errorf("a full round costs %d reads and %d transactions", reads, txns)
	}
	a.MustCreate("one-more")
	e.Spy.Counted()
	e.Round()
	if reads, _, _ := e.Spy.Counted(); reads > 3 {
		t.Errorf("one change costs a round %d reads", reads)
	}
}

// A clock was far ahead, as at a boot before the network is up, and is set back. A volume gets its snapshots without
// waiting for the time that the clock had, also after a restart.
func TestClockSetBack(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		e, a := controltest.OneNode(t)
		a.MustCreate("db@gold")
		e.Round()
		const ahead = 1000 * time.Hour
		e.AdvanceAndRun(ahead)
		if got := scheduled(a); len(got) != 1 {
			t.Fatalf("to do: %v", got)
		}
		a.DoWork()
		e.Round()
		e.Clock.Advance(-ahead)
		if restarted {
			e.Restart()
		}
		e.Round()
		e.AdvanceAndRun(15 * time.Minute) // it was made up for before
		e.AdvanceAndRun(15 * time.Minute)
		if got := scheduled(a); len(got) != 1 {
			t.Errorf("restarted %t: to do: %v", restarted, got)
		}
	}
}

// The same for verifications: control does not wait for the time at which one is due by the clock that was ahead.
func TestClockSetBackDuringVerifications(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		e, a, _ := newTested(t)
		verifications(e, a, 30*time.Hour, 30*time.Hour)
		const ahead = 1000 * time.Hour
		open := verifications(e, a, ahead, ahead)
		if len(open) != 1 {
			t.Fatalf("while the clock is ahead: %+v", open)
		}
		endVerification(a, open[0], nil)
		verifications(e, a, time.Hour, 10*time.Minute)
		e.Clock.Advance(-ahead)
		if restarted {
			e.Restart()
		}
		if open := verifications(e, a, time.Hour, 10*time.Minute); len(open) != 1 {
			t.Errorf("restarted %t: got %+v", restarted, open)
		}
	}
}

// A service that stops while it requests a snapshot reports no failure.
func TestStopDuringSnapshots(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	e.Round()
	ctx, cancel := context.WithCancel(e.Ctx)
	e.Clock.Advance(15 * time.Minute)
	e.Spy.Before(func() {
		cancel()
		e.Spy.FailFrom(1, false)
	})
	e.Housekeeper.Round(ctx, e.Memory, e.Clock.Now())
	e.Spy.FailFrom(0, false)
	if ctx.Err() == nil || len(e.Failures) != 0 {
		t.Errorf("context: %v, failures: %v", ctx.Err(), e.Failures)
	}
	e.Round()
	wantDue(a, 1, "the next round")
}

// A volume that was recovered from the backup of another cluster, and is kept apart, makes no scheduled backups into the
// repository that it came from. That is reported until somebody decides: the volume takes over, or gets a profile with
// another repository.
func TestKeptApartVolumeMakesNoScheduledBackups(t *testing.T) {
	e := controltest.New(t)
	p := e.ProfileSet.ByName["silver"]
	p.Name, p.Revision = "daily", "r1-daily"
	p.Backup = dataset.Backups{To: "offsite", Schedule: "@daily"}
	e.ProfileSet.ByName[p.Name] = p
	p.Name, p.Revision, p.Backup.To = "elsewhere", "r1-elsewhere", "nas"
	e.ProfileSet.ByName[p.Name] = p
	controltest.AddRepository(e, "offsite")
	controltest.AddRepository(e, "nas")
	a := e.NewAgent("alpha")
	other := uuid.New()
	for _, name := range []string{"db", "web"} {
		a.MustDo(api.Request{
			Kind: dataset.OpImport, Volume: name + "@daily", Repository: "offsite", Backup: strings.Repeat("b", 64),
			KeptApart: other,
		})
	}
	backups := func() (volumes []string) {
		t.Helper()
		for range 30 {
			e.AdvanceAndRun(time.Hour)
			for _, op := range a.OpenOperations() {
				volumes = append(volumes, op.Volume+" to "+op.Repository)
				finishBackup(a, op)
			}
		}
		return volumes
	}
	if list := backups(); len(list) > 0 {
		t.Errorf("backups: %q", list)
	}
	for _, when := range []string{"seen", "read from the records"} {
		for _, name := range []string{"db", "web"} {
			want := "warning volume " + name + ": it was recovered from a backup of cluster " + other.String()[:8]
			if got := volumeFindings(e); !strings.Contains(got, want) || !strings.Contains(got, "--take-over") {
				t.Errorf("%s: got %q, want %q", when, got, want)
			}
		}
		e.Restart()
	}
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", TakeOver: true})
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "web", Profile: "elsewhere"})
	if v := e.MustVolume("db"); v.KeptApart != nil {
		t.Errorf("after --take-over: %+v", v.KeptApart)
	}
	list := strings.Join(backups(), ", ")
	if !strings.Contains(list, "db to offsite") || !strings.Contains(list, "web to nas") {
		t.Errorf("after the decision: %s", list)
	}
	if got := volumeFindings(e); got != "" {
		t.Errorf("after the decision: %q", got)
	}
	e.CheckInvariants()
}

// TestSchedules: the age of the newest scheduled snapshot and the time since one is missing, until it is taken.
func TestSchedules(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold") // every quarter of an hour
	a.MustCreate("plain@silver")
	e.Round()
	got := e.Housekeeper.Schedules()
	if len(got) != 1 || got[0].Volume != "db" || got[0].Age != 0 || got[0].Overdue != 0 {
		t.Fatalf("after the create: %+v", got)
	}
	e.Clock.Advance(20 * time.Minute)
	if got := e.Housekeeper.Schedules(); got[0].Age != 20*time.Minute || got[0].Overdue != 5*time.Minute {
		t.Errorf("20 minutes later: %+v", got)
	}
	e.Round()
	a.DoWork()
	e.Round()
	if got := e.Housekeeper.Schedules(); got[0].Age > time.Minute || got[0].Overdue != 0 {
		t.Errorf("after the snapshot: %+v", got)
	}
	a.MustDelete("db")
	e.Round()
	if got := e.Housekeeper.Schedules(); len(got) != 0 {
		t.Errorf("after the delete: %+v", got)
	}
}

// TestScheduleAppliesSinceTheProfileChanged: a volume that gets a schedule misses no snapshot from before, also after a
// restart of control. Its record shows when the next one is due.
func TestScheduleAppliesSinceTheProfileChanged(t *testing.T) {
	for _, resized := range []bool{false, true} {
		e, a := controltest.OneNode(t)
		options := []string{"fs=xfs"}
		if !resized {
			options = append(options, "size=20GiB")
		}
		a.MustCreate("db@silver", options...)
		e.AdvanceAndRun(5*time.Hour + time.Minute)
		if next := e.MustVolume("db").NextSnapshot; !next.IsZero() {
			t.Errorf("without a schedule, a snapshot is due at %s", next)
		}
		e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "gold"}) // every quarter of an hour
		a.DoWork()
		want := e.Clock.Now().Truncate(15 * time.Minute).Add(15 * time.Minute)
		for _, restarts := range []bool{false, true} {
			if restarts {
				e.Restart()
			}
			e.Round()
			wantDue(a, 0, "right after the change")
			if got := e.Housekeeper.Schedules(); len(got) != 1 || got[0].Overdue != 0 {
				t.Errorf("%+v", got)
			}
			if next := e.MustVolume("db").NextSnapshot; !next.Equal(want) {
				t.Errorf("the next snapshot is due at %s, want %s", next, want)
			}
		}
		e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Labels: &dataset.LabelChange{Set: map[string]string{"a": "b"}}})
		e.AdvanceAndRun(15 * time.Minute)
		wantDue(a, 1, "a quarter of an hour later")
		a.DoWork()
		if next := e.MustVolume("db").NextSnapshot; !next.After(want) {
			t.Errorf("after the snapshot, the next one is due at %s", next)
		}
	}
}
