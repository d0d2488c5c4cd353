package housekeeping

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
)

func TestNextTick(t *testing.T) {
	loc := berlin(t)
	for _, c := range []struct{ expr, from, want string }{
		{"*/15 * * * *", "2026-11-18T12:00:00+01:00", "2026-11-18T12:15:00+01:00"},
		{"*/15 * * * *", "2026-11-18T12:00:01+01:00", "2026-11-18T12:15:00+01:00"},
		{"@daily", "2026-11-18T12:00:00+01:00", "2026-11-19T00:00:00+01:00"},
		{"30 2 * * *", "2026-11-18T02:30:00+01:00", "2026-11-19T02:30:00+01:00"},
		{"0 0 29 2 *", "2026-11-18T12:00:00+01:00", "2028-02-29T00:00:00+01:00"},
		// Clocks are set forward at two o'clock. Half past two does not exist, and the snapshot is made up for.
		{"30 2 * * *", "2026-03-28T02:30:00+01:00", "2026-03-29T03:30:00+02:00"},
		{"30 2 * * *", "2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00"},
		{"0 2 * * 0", "2026-03-28T12:00:00+01:00", "2026-03-29T03:00:00+02:00"},
		{"*/15 * * * *", "2026-03-29T01:45:00+01:00", "2026-03-29T03:00:00+02:00"},
		{"@hourly", "2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"},
		// Clocks are set back at three o'clock. The hour that occurs twice is served twice.
		{"*/15 * * * *", "2026-10-25T02:45:00+02:00", "2026-10-25T02:00:00+01:00"},
		{"*/15 * * * *", "2026-10-25T02:45:00+01:00", "2026-10-25T03:00:00+01:00"},
		{"@hourly", "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"},
		{"30 3 * * *", "2026-10-24T12:00:00+02:00", "2026-10-25T03:30:00+01:00"},
	} {
		from, err := time.Parse(time.RFC3339, c.from)
		if err != nil {
			t.Fatal(err)
		}
		got, err := nextTick(c.expr, from.In(loc))
		if err != nil || got.Format(time.RFC3339) != c.want {
			t.Errorf("%s after %s: %s, %v, not %s", c.expr, c.from, got.Format(time.RFC3339), err, c.want)
		}
	}
	for _, expr := range []string{"", "often", "* * * *", "61 * * * *", "0 0 31 2 *"} {
		got, err := nextTick(expr, noon)
		if !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), "schedule") {
			t.Errorf("%q: %v, want an invalid schedule", expr, err)
		}
		if !got.IsZero() {
			t.Errorf("%q: %s beside its error", expr, got)
		}
	}
}

// The next tick is in the future, and no day is without one.
func TestNextTickGoesOn(t *testing.T) {
	loc := berlin(t)
	rapid.Check(t, func(t *rapid.T) {
		expr := rapid.SampledFrom([]string{"*/15 * * * *", "@hourly", "30 2 * * *", "0 2 * * *", "59 23 * * *", "7 1-3 * * *"}).Draw(t, "expr")
		now := time.Date(2026, time.Month(rapid.IntRange(1, 12).Draw(t, "month")), rapid.IntRange(1, 31).Draw(t, "day"), 0, 0, 0, 0, loc).
			Add(time.Duration(rapid.IntRange(0, 86400).Draw(t, "second")) * time.Second)
		for range 10 {
			next, err := nextTick(expr, now)
			if err != nil || !next.After(now) || next.Sub(now) > 25*time.Hour {
				t.Fatalf("%s after %s: %s, %v", expr, now, next, err)
			}
			now = next
		}
	})
}

var noon = time.Date(2026, 11, 18, 12, 0, 0, 0, time.UTC)
