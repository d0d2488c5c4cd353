package housekeeping_test

import (
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/controltest"
)

// A volume whose backup is late, or whose repository is not recorded, has a finding and metrics.
func TestLateBackupsAreReported(t *testing.T) {
	e := controltest.New(t)
	hourly(e)
	a := e.NewAgent("alpha")
	a.MustCreate("db@hourly")
	a.MustCreate("plain@silver")
	found := func() string {
		t.Helper()
		h, err := e.ClusterHealth(e.Ctx)
		if err != nil {
			t.Fatal(err)
		}
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
	_, backups := e.Schedules()
	if len(backups) != 1 || backups[0].Volume != "db" || backups[0].Failures != 2 || backups[0].Overdue < 3*time.Hour ||
		backups[0].Age < 4*time.Hour {
		t.Errorf("got %+v", backups)
	}
	finishBackup(a, wantBackup(a, "tried again"))
	e.AdvanceAndRun(time.Minute)
	if _, backups := e.Schedules(); found() != "" || backups[0].Failures != 0 {
		t.Errorf("after a good backup: %s, %+v", found(), backups)
	}
	if err := e.RemoveRepository(e.Ctx, "offsite", true); err != nil {
		t.Fatal(err)
	}
	e.AdvanceAndRun(2 * time.Hour)
	const missing = "warning volume db: its profile has it backed up to repository offsite, which is not recorded " +
		"[drover repository add offsite URL --password file:PATH]"
	if got := found(); got != missing {
		t.Errorf("got %q, want %q", got, missing)
	}
	a.MustDelete("db")
	e.AdvanceAndRun(time.Minute)
	if _, backups := e.Schedules(); found() != "" || len(backups) != 0 {
		t.Errorf("after the removal of the volume: %s, %+v", found(), backups)
	}
}
