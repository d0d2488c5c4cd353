package housekeeping_test

import (
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// TestSchedules: the age of the newest scheduled snapshot and the time since one is missing, until it is taken.
func TestSchedules(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold") // every quarter of an hour
	a.MustCreate("plain@silver")
	e.Round()
	got, _ := e.Schedules()
	if len(got) != 1 || got[0].Volume != "db" || got[0].Age != 0 || got[0].Overdue != 0 {
		t.Fatalf("after the create: %+v", got)
	}
	e.Clock.Advance(20 * time.Minute)
	if got, _ := e.Schedules(); got[0].Age != 20*time.Minute || got[0].Overdue != 5*time.Minute {
		t.Errorf("20 minutes later: %+v", got)
	}
	e.Round()
	a.DoWork()
	e.Round()
	if got, _ := e.Schedules(); got[0].Age > time.Minute || got[0].Overdue != 0 {
		t.Errorf("after the snapshot: %+v", got)
	}
	a.MustDelete("db")
	e.Round()
	if got, _ := e.Schedules(); len(got) != 0 {
		t.Errorf("after the delete: %+v", got)
	}
}

// TestScheduleAppliesSinceTheProfileChanged: a volume that gets a schedule misses no snapshot from before, also after a
// restart of control. Its record shows when the next one is due.
func TestScheduleAppliesSinceTheProfileChanged(t *testing.T) {
	for _, resized := range []bool{false, true} {
		e := controltest.New(t)
		a := e.NewAgent("alpha")
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
			if got, _ := e.Schedules(); len(got) != 1 || got[0].Overdue != 0 {
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
