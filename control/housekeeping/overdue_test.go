package housekeeping_test

import (
	"testing"
	"time"

	"github.com/droverhq/drover/control/controltest"
)

// TestSchedules: the age of the newest scheduled snapshot and the time since one is missing, until it is taken.
func TestSchedules(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold") // every quarter of an hour
	a.MustCreate("plain@silver")
	e.Round()
	got := e.SnapshotSchedules()
	if len(got) != 1 || got[0].Volume != "db" || got[0].Age != 0 || got[0].Overdue != 0 {
		t.Fatalf("after the create: %+v", got)
	}
	e.Clock.Advance(20 * time.Minute)
	if got := e.SnapshotSchedules(); got[0].Age != 20*time.Minute || got[0].Overdue != 5*time.Minute {
		t.Errorf("20 minutes later: %+v", got)
	}
	e.Round()
	a.DoWork()
	e.Round()
	if got := e.SnapshotSchedules(); got[0].Age > time.Minute || got[0].Overdue != 0 {
		t.Errorf("after the snapshot: %+v", got)
	}
	a.MustDelete("db")
	e.Round()
	if got := e.SnapshotSchedules(); len(got) != 0 {
		t.Errorf("after the delete: %+v", got)
	}
}
