package housekeeping_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/require"
)

// hourlyHost returns a control service with one agent, and the profile of hourly.
func hourlyHost(t *testing.T) (*controltest.Control, *controltest.Agent) {
	t.Helper()
	e := controltest.New(t)
	hourly(e)
	return e, e.NewAgent("alpha")
}

// hourly adds the profile "hourly", whose volumes are backed up every hour, and its repository.
func hourly(e *controltest.Control) {
	p := e.ProfileSet.ByName["silver"]
	p.Name, p.Revision = "hourly", "r1-hourly"
	p.Backup = dataset.Backups{To: "offsite", Schedule: "@hourly"}
	e.ProfileSet.ByName[p.Name] = p
	controltest.AddRepository(e, "offsite")
}

// wantBackup returns the operation of the only scheduled backup that waits for the agent.
func wantBackup(a *controltest.Agent, when string) dataset.Operation {
	a.Helper()
	wantDue(a, 1, when)
	op := a.OpenOperations()[0]
	if op.Kind != dataset.OpBackup || !op.Scheduled || op.Repository != "offsite" || op.Snapshot != nil {
		a.Fatalf("%s: got %+v", when, op)
	}
	return op
}

// finishBackup reports that a backup was made.
func finishBackup(a *controltest.Agent, op dataset.Operation) string {
	a.Helper()
	op.Backup = strings.ReplaceAll(op.ID.String()+op.ID.String(), "-", "")
	a.MustCommit(op)
	return op.Backup
}

// failBackup reports that a backup has failed.
func failBackup(a *controltest.Agent, op dataset.Operation) {
	a.Helper()
	op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrOffline, "the repository does not answer"))
	a.MustCommit(op)
}

// backupsOf reads the record of the scheduled backups of a dataset.
func backupsOf(e *controltest.Control, id uuid.UUID) (b record.Backups) {
	e.Helper()
	e.OK(record.NewTx(e.Ctx, e.Spy).Get(record.BackupsKey(id), &b))
	return b
}

// A volume is backed up after each moment of the schedule, once, also if a backup takes longer than the time between
// two of them.
func TestBackupSchedule(t *testing.T) {
	e, a := hourlyHost(t)
	d := a.MustCreate("db@hourly")
	a.MustCreate("plain@silver")
	e.Round()
	wantDue(a, 0, "a new volume")
	for i := range 3 {
		e.AdvanceAndRun(time.Hour + 15*time.Minute) // the delay is at most a quarter of the time between two
		for range 3 {
			e.AdvanceAndRun(10 * time.Minute)
		}
		op := wantBackup(a, fmt.Sprint("backup ", i))
		for range 30 {
			e.AdvanceAndRun(10 * time.Minute)
		}
		if again := wantBackup(a, "while it runs"); again.ID != op.ID {
			t.Fatalf("got another operation while the first runs: %s, %s", op.ID, again.ID)
		}
		finishBackup(a, op)
		if b := backupsOf(e, d.ID); !b.Last.Equal(op.Created) || b.Running != uuid.Nil {
			t.Fatalf("got %+v", b)
		}
		e.AdvanceAndRun(time.Minute) // several hours were missed: one backup makes up for them
		finishBackup(a, wantBackup(a, "after a long backup"))
		e.AdvanceAndRun(time.Minute)
		wantDue(a, 0, "after the missed one")
		e.Restart()
		e.AdvanceAndRun(time.Minute)
		wantDue(a, 0, "after a restart")
	}
	if len(e.Failures) != 0 {
		t.Errorf("%v", e.Failures)
	}
	e.CheckInvariants()
}

// After the store was rebuilt or restored, no backup has the operation of an earlier one: the agent would take the
// earlier backup for its own remains, and remove it.
func TestRequestAfterRebuildIsAnotherOperation(t *testing.T) {
	e, a := hourlyHost(t)
	d := a.MustCreate("db@hourly")
	e.Round()
	e.AdvanceAndRun(2 * time.Hour)
	op := wantBackup(a, "before")
	finishBackup(a, op)
	e.OK(e.Spy.Txn(e.Ctx, nil, []storeWrite{{Key: record.BackupsKey(d.ID), Delete: true}}))
	e.Restart()
	e.AdvanceAndRun(time.Minute)
	if again := wantBackup(a, "after"); again.ID == op.ID {
		t.Error("the operation has the ID of an earlier one")
	}
}

// A backup that has failed is tried again, later after each failure, and at least every two and a half hours.
func TestFailedBackupIsRetried(t *testing.T) {
	e, a := hourlyHost(t)
	d := a.MustCreate("db@hourly")
	e.AdvanceAndRun(time.Hour + 15*time.Minute)
	var waits []time.Duration
	for i := range 10 {
		failBackup(a, wantBackup(a, "failure"))
		if b := backupsOf(e, d.ID); b.Failures != i+1 || b.Problem == "" || !b.Failed.Equal(e.Clock.Now()) {
			t.Fatalf("after %d failures: %+v", i+1, b)
		}
		failed := e.Clock.Now()
		if i == 5 {
			e.Restart() // the failures are counted on
		}
		for len(a.OpenOperations()) == 0 {
			e.AdvanceAndRun(time.Minute)
			if e.Clock.Now().Sub(failed) > 3*time.Hour {
				t.Fatalf("failure %d: not tried again within 3 hours", i)
			}
		}
		waits = append(waits, e.Clock.Now().Sub(failed))
	}
	if !slices.IsSorted(waits) || waits[0] > 3*time.Minute || waits[9] < 2*time.Hour {
		t.Errorf("got %v, want growing times from a minute to two hours", waits)
	}
	finishBackup(a, wantBackup(a, "the last try"))
	if b := backupsOf(e, d.ID); b.Failures != 0 || b.Problem != "" || !b.Failed.IsZero() {
		t.Errorf("after a good backup: %+v", b)
	}
	e.CheckInvariants()
}

// A volume whose backup failed is examined each minute, because a good backup that a user requests clears the failure.
// The records of many volumes are read in one call.
func TestFailedBackupsAreReadTogether(t *testing.T) {
	e, a := hourlyHost(t)
	const volumes = 200
	for i := range volumes {
		a.MustCreate(fmt.Sprintf("v%d@hourly", i))
	}
	for range 4 {
		e.AdvanceAndRun(time.Hour)
		for _, op := range a.OpenOperations() {
			failBackup(a, op)
		}
	}
	before := len(a.OpenOperations())
	e.AdvanceAndRun(time.Minute)
	requested := len(a.OpenOperations()) - before
	before += requested
	e.AdvanceClock(time.Minute)
	e.Spy.Counted()
	e.Round()
	reads, _, _ := e.Spy.Counted()
	requested = len(a.OpenOperations()) - before
	if most := 20 + 20*requested; requested > volumes/10 || reads > most {
		t.Errorf("a round read %d times for %d volumes with failed backups, and requested %d backups, want at most %d",
			reads, volumes, requested, most)
	}
}

// A good backup that a user requests clears the failures of the scheduled ones, if it is in the same repository, and
// not of a snapshot.
func TestManualBackupClearsFailures(t *testing.T) {
	e, a := hourlyHost(t)
	controltest.AddRepository(e, "other")
	d := a.MustCreate("db@hourly")
	a.MustCommit(*e.MustSubmit(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "old"}).Operation)
	e.AdvanceAndRun(time.Hour + 15*time.Minute)
	failBackup(a, wantBackup(a, "due"))
	for _, c := range []struct {
		repository, snapshot string
		want                 int
	}{{"other", "", 1}, {"offsite", "old", 1}, {"offsite", "", 0}} {
		_, err := e.Submit(e.Ctx, api.Request{
			Kind: dataset.OpBackup, Volume: "db", Repository: c.repository, Snapshot: c.snapshot,
		})
		require.NoError(t, err)
		wantDue(a, 1, c.repository)
		finishBackup(a, a.OpenOperations()[0])
		b := backupsOf(e, d.ID)
		if b.Failures != c.want || (b.Problem == "") != (c.want == 0) || !b.Last.IsZero() {
			t.Errorf("after a backup to %s of snapshot %q: %+v, want %d failures", c.repository, c.snapshot, b, c.want)
		}
	}
	e.AdvanceAndRun(time.Minute)
	finishBackup(a, wantBackup(a, "scheduled, without a delay"))
	e.CheckInvariants()
}

// An operator who cancels a scheduled backup does not get another one until the next moment of the schedule.
func TestCancelledBackupIsNotRepeated(t *testing.T) {
	e, a := hourlyHost(t)
	d := a.MustCreate("db@hourly")
	e.AdvanceAndRun(time.Hour + 15*time.Minute)
	op := wantBackup(a, "due")
	e.OK(e.CancelOperation(e.Ctx, op.ID.String()))
	for range 30 {
		e.AdvanceAndRun(time.Minute)
	}
	wantDue(a, 0, "after the cancellation")
	e.AdvanceAndRun(time.Hour)
	if next := wantBackup(a, "the next hour"); next.ID == op.ID {
		t.Error("got the cancelled operation again")
	}
	if b := backupsOf(e, d.ID); !b.Last.IsZero() || b.Failures != 0 {
		t.Errorf("got %+v", b)
	}
	e.CheckInvariants()
}

// moveDuringBackup moves the volume db from node alpha to node beta while alpha makes its scheduled backup op.
func moveDuringBackup(t *testing.T) (e *controltest.Control, alpha, beta *controltest.Agent, op dataset.Operation) {
	t.Helper()
	e = controltest.New(t)
	hourly(e)
	alpha, beta = e.NewAgent("alpha"), e.NewAgent("beta")
	alpha.MustRegister("alpha")
	beta.MustRegister("beta")
	alpha.MustCreate("db@hourly")
	e.AdvanceAndRun(time.Hour + 15*time.Minute)
	op = wantBackup(alpha, "due")
	e.MustMove("db", alpha, beta, "beta")
	return e, alpha, beta, op
}

// After a move, the new home makes the backups: once the former home has ended its own, or if it is unreachable.
func TestNewHomeContinuesBackups(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprint("lost ", lost), func(t *testing.T) {
			e, a, b, op := moveDuringBackup(t)
			e.AdvanceAndRun(5 * time.Minute)
			wantDue(b, 0, "while the former home makes the backup")
			if !lost {
				finishBackup(a, op)
				e.AdvanceAndRun(2 * time.Minute)
				wantDue(b, 0, "after the backup")
				e.AdvanceAndRun(time.Hour)
				finishBackup(b, wantBackup(b, "the next hour"))
				e.CheckInvariants()
				return
			}
			markUnreachable(e, a.ID)
			e.AdvanceAndRun(5 * time.Minute)
			e.Round()
			again := wantBackup(b, "while the former home is unreachable")
			op.Backup = strings.Repeat("0f", 32)
			if err := a.TryCommit(op); !errors.Is(err, dataset.ErrCancelled) {
				t.Errorf("the former home reports its backup: got %v, want that it was cancelled", err)
			}
			finishBackup(b, again)
			if got := backupsOf(e, op.DatasetID); !got.Last.Equal(again.Created) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// markUnreachable records that a node is unreachable.
func markUnreachable(e *controltest.Control, node uuid.UUID) {
	e.Helper()
	_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		return t.Put(record.UnreachableKey(node), record.Unreachable{Since: e.Clock.Now()})
	})
	e.OK(err)
}

// A clock that was ahead neither stops the backups nor makes more of them.
func TestBackupsAfterClockWasAhead(t *testing.T) {
	e, a := hourlyHost(t)
	a.MustCreate("db@hourly")
	e.AdvanceAndRun(365 * 24 * time.Hour)
	finishBackup(a, wantBackup(a, "while the clock is ahead"))
	e.Clock.Advance(-364 * 24 * time.Hour)
	e.Round()
	finishBackup(a, wantBackup(a, "after the clock was corrected"))
	for range 30 {
		e.AdvanceAndRun(time.Minute)
	}
	wantDue(a, 0, "within the hour")
	e.AdvanceAndRun(time.Hour)
	finishBackup(a, wantBackup(a, "the next hour"))
}

// Only control itself may request a scheduled backup. Nobody can have it make several.
func TestScheduledBackupsAreRequestedByControl(t *testing.T) {
	e, a := hourlyHost(t)
	a.MustRegister("alpha")
	a.MustCreate("db@hourly")
	a.MustCreate("plain@silver")
	req := api.Request{Kind: dataset.OpBackup, Volume: "db", Repository: "offsite", Scheduled: true}
	for _, p := range []api.Principal{
		{Identity: controltest.NodeIdentity("alpha", a.ID)}, {Local: true, From: "uid 0"},
	} {
		_, err := e.Submit(api.WithPrincipal(e.Ctx, p), req)
		controltest.Refused(t, err, dataset.ErrForbidden, "may not request a backup on schedule of volume db")
	}
	e.MustSubmit(req)
	controltest.Refused(t, a.TrySubmit(req), dataset.ErrConflict, "backup of volume db: another one runs (operation ")
	req.Volume = "plain"
	controltest.Refused(t, a.TrySubmit(req), dataset.ErrConflict, "its profile has no such schedule")
	e.CheckInvariants()
}

// A repository that is not recorded is reported, and the backup is made once it is recorded.
func TestBackupToUnrecordedRepository(t *testing.T) {
	e, a := hourlyHost(t)
	e.OK(e.RemoveRepository(e.Ctx, "offsite", true))
	a.MustCreate("db@hourly")
	for range 80 {
		e.AdvanceAndRun(time.Minute)
	}
	wantDue(a, 0, "without the repository")
	if len(e.Failures) != 0 {
		t.Errorf("got the failures %v; want a finding instead, because a log line for each volume and minute hides others", e.Failures)
	}
	controltest.AddRepository(e, "offsite")
	e.AdvanceAndRun(2 * time.Minute)
	finishBackup(a, wantBackup(a, "with the repository"))
}

// A scheduled backup whose end was not recorded, because the record of the schedule was damaged, counts like any other,
// and the next one follows. So does one whose operation was forgotten.
func TestBackupEndedWithoutRecord(t *testing.T) {
	for _, forgotten := range []bool{false, true} {
		e, a := hourlyHost(t)
		d := a.MustCreate("db@hourly")
		e.AdvanceAndRun(time.Hour + 15*time.Minute)
		op := wantBackup(a, "due")
		running := backupsOf(e, d.ID)
		finishBackup(a, op)
		e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
			if forgotten {
				t.Delete(record.OperationKey(op.ID))
			}
			return t.Put(record.BackupsKey(d.ID), running)
		}))
		e.AdvanceAndRun(time.Hour)
		e.AdvanceAndRun(time.Minute)
		e.AdvanceAndRun(time.Minute)
		if next := wantBackup(a, "after the end"); next.ID == op.ID {
			t.Errorf("forgotten %v: got the ended operation again", forgotten)
		}
		if b := backupsOf(e, d.ID); b.Running == op.ID || b.Last.IsZero() != forgotten {
			t.Errorf("forgotten %v: got %+v", forgotten, b)
		}
	}
}

// The backups of many volumes do not begin at once, and none begins while another one of its volume runs.
func TestBackupsOfManyVolumesAreSpread(t *testing.T) {
	e := controltest.New(t)
	hourly(e)
	p := e.ProfileSet.ByName["hourly"]
	p.Backup.Schedule = "15 2 * * *"
	e.ProfileSet.ByName["hourly"] = p
	a := e.NewAgent("alpha")
	volumes := long.Rounds(300, 1000)
	for i := range volumes {
		a.MustCreate(fmt.Sprintf("v%d@hourly", i))
	}
	perMinute, made := map[time.Time]int{}, map[string]int{}
	running := map[uuid.UUID]bool{}
	e.AdvanceAndRun(14 * time.Hour) // to two o'clock
	for range 100 {
		e.AdvanceAndRun(time.Minute)
		of := map[string]bool{}
		for _, op := range a.OpenOperations() {
			if of[op.Volume] {
				t.Fatalf("two backups of volume %s at once", op.Volume)
			}
			of[op.Volume] = true
			if !running[op.ID] {
				running[op.ID] = true
				perMinute[e.Clock.Now()]++
				made[op.Volume]++
			} else if e.Clock.Now().Sub(op.Created) >= 20*time.Minute {
				finishBackup(a, op)
			}
		}
	}
	busiest := 0
	for _, n := range perMinute {
		busiest = max(busiest, n)
	}
	if len(made) != volumes || busiest > volumes/20 || len(perMinute) < 50 {
		t.Errorf("got backups of %d volumes in %d minutes, %d in the busiest, want %d spread over an hour",
			len(made), len(perMinute), busiest, volumes)
	}
	for volume, n := range made {
		if n != 1 {
			t.Errorf("volume %s has %d backups, want 1", volume, n)
		}
	}
}

// A volume whose backup is late, or whose repository is not recorded, has a finding and metrics.
func TestLateBackupsAreReported(t *testing.T) {
	e, a := hourlyHost(t)
	a.MustCreate("db@hourly")
	a.MustCreate("plain@silver")
	found := func() string {
		t.Helper()
		h, err := e.ClusterHealth(e.Ctx)
		require.NoError(t, err)
		var texts []string
		for _, f := range h.Findings {
			if !strings.HasPrefix(f.Subject, "volume ") {
				continue // the node does not report
			}
			texts = append(texts, f.Level+" "+f.Subject+": "+f.Text+" ["+f.Fix+"]")
		}
		return strings.Join(texts, "\n")
	}
	e.Round()
	if got := found(); got != "" {
		t.Errorf("a new volume: %s", got)
	}
	e.AdvanceAndRun(time.Hour + 15*time.Minute)
	failBackup(a, wantBackup(a, "due"))
	e.AdvanceAndRun(30 * time.Second) // shorter than the time until the backup is tried again
	if got := found(); got != "" {
		t.Errorf("within the grace: %s", got)
	}
	e.AdvanceAndRun(time.Minute)
	failBackup(a, wantBackup(a, "tried a second time"))
	e.AdvanceAndRun(90 * time.Second) // it is looked at, and not tried again yet
	const failed = "warning volume db: its scheduled backup failed 2 times, the last time because the repository does " +
		"not answer [drover operation ls --filter volume=db]"
	if got := found(); got != failed {
		t.Errorf("got %q, want %q", got, failed)
	}
	for range 3 {
		e.AdvanceAndRun(time.Hour)
	}
	got := found()
	for _, part := range []string{"warning volume db: its scheduled backup is ", " late, and it has no good one; failed attempts: 2, the " +
		"last one because the repository does not answer [drover volume inspect db]"} {
		if !strings.Contains(got, part) {
			t.Errorf("got %q, want %q in it", got, part)
		}
	}
	backups, _ := e.Housekeeper.BackupSchedules(e.Ctx)
	if len(backups) != 1 || backups[0].Volume != "db" || backups[0].Failures != 2 || backups[0].Overdue < 3*time.Hour ||
		backups[0].Age < 4*time.Hour {
		t.Errorf("got %+v", backups)
	}
	finishBackup(a, wantBackup(a, "tried again"))
	e.AdvanceAndRun(time.Minute)
	if backups, _ := e.Housekeeper.BackupSchedules(e.Ctx); found() != "" || backups[0].Failures != 0 {
		t.Errorf("after a good backup: %s, %+v", found(), backups)
	}
	e.OK(e.RemoveRepository(e.Ctx, "offsite", true))
	e.AdvanceAndRun(2 * time.Hour)
	const missing = "warning volume db: its profile has it backed up to repository offsite, which is not recorded " +
		"[drover repository add offsite URL --password file:PATH]"
	if got := found(); got != missing {
		t.Errorf("got %q, want %q", got, missing)
	}
	a.MustDelete("db")
	e.AdvanceAndRun(time.Minute)
	if backups, _ := e.Housekeeper.BackupSchedules(e.Ctx); found() != "" || len(backups) != 0 {
		t.Errorf("after the removal of the volume: %s, %+v", found(), backups)
	}
}
