package housekeeping

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/view"
	"github.com/droverhq/drover/dataset"
)

func berlin(t testing.TB) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatalf("%v", err)
	}
	return loc
}

func at(times ...time.Time) (snaps []dataset.Snapshot) {
	for i, c := range times {
		snaps = append(snaps, dataset.Snapshot{ID: uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i)), Created: c, Kind: dataset.SnapshotScheduled})
	}
	return snaps
}

func TestRetention(t *testing.T) {
	loc := berlin(t)
	date := func(s string) time.Time {
		c, err := time.ParseInLocation("2006-01-02 15:04", s, loc)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, c := range []struct {
		name string
		keep dataset.Keep
		at   []time.Time
		kept []int
	}{
		{"nothing said keeps all", dataset.Keep{}, []time.Time{date("2026-01-01 00:00"), date("2020-01-01 00:00")}, []int{0, 1}},
		{"no snapshots", dataset.Keep{Last: 3, Daily: 2}, nil, nil},
		{"the last, in whatever order", dataset.Keep{Last: 2}, []time.Time{date("2026-01-02 00:00"), date("2026-01-03 00:00"), date("2026-01-01 00:00")}, []int{0, 1}},
		{"more than there are", dataset.Keep{Last: 9}, []time.Time{date("2026-01-02 00:00")}, []int{0}},
		{"the newest of each hour", dataset.Keep{Hourly: 2}, []time.Time{date("2026-01-02 10:00"), date("2026-01-02 10:45"), date("2026-01-02 09:59"), date("2026-01-02 08:00")}, []int{1, 2}},
		{"hours without one are not counted", dataset.Keep{Hourly: 2}, []time.Time{date("2026-01-02 10:00"), date("2026-01-01 03:00"), date("2026-01-01 02:00")}, []int{0, 1}},
		{"local days", dataset.Keep{Daily: 2}, []time.Time{date("2026-01-02 00:30"), date("2026-01-01 23:30"), date("2026-01-01 00:30"), date("2025-12-31 23:59")}, []int{0, 1}},
		{"ISO weeks over the year's end", dataset.Keep{Weekly: 2}, []time.Time{date("2027-01-03 12:00"), date("2026-12-28 12:00"), date("2026-12-27 12:00")}, []int{0, 2}},
		{"months", dataset.Keep{Monthly: 2}, []time.Time{date("2026-03-01 00:00"), date("2026-02-28 00:00"), date("2026-02-01 00:00"), date("2026-01-31 00:00")}, []int{0, 1}},
		{"rules together", dataset.Keep{Last: 1, Daily: 2}, []time.Time{date("2026-01-02 12:00"), date("2026-01-02 11:00"), date("2026-01-01 12:00"), date("2026-01-01 11:00")}, []int{0, 2}},
		{"the hour that comes twice", dataset.Keep{Hourly: 3}, []time.Time{
			date("2026-10-25 00:30").Add(2 * time.Hour), date("2026-10-25 00:30").Add(3 * time.Hour), date("2026-10-25 00:30").Add(time.Hour),
		}, []int{0, 1, 2}},
		{"a negative number keeps none", dataset.Keep{Last: 1, Hourly: -1}, []time.Time{date("2026-01-02 12:00"), date("2026-01-02 11:00")}, []int{0}},
	} {
		snaps := at(c.at...)
		gone := expired(snaps, c.keep, loc)
		var kept []int
		for i, s := range snaps {
			if !slices.ContainsFunc(gone, func(g dataset.Snapshot) bool { return g.ID == s.ID }) {
				kept = append(kept, i)
			}
		}
		if !slices.Equal(kept, c.kept) {
			t.Errorf("%s: kept %v, not %v", c.name, kept, c.kept)
		}
	}
}

// The newest snapshot is the one of the latest epoch. Within an epoch it is the one that was taken last, whatever the
// clocks of the homes said.
func TestC4RetentionWithClocksThatAreOff(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	snaps := at(noon, noon.Add(-time.Hour), noon.Add(-30*time.Minute))
	snaps[0].Epoch, snaps[1].Epoch, snaps[2].Epoch = 1, 2, 1
	snaps[2].OrderTime = noon.Add(1) // the clock was set back before this one
	for n, want := range [][]int{nil, {0, 2}, {0}, nil} {
		gone := expired(snaps, dataset.Keep{Last: n}, time.UTC)
		var got []int
		for i, s := range snaps {
			if slices.ContainsFunc(gone, func(g dataset.Snapshot) bool { return g.ID == s.ID }) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("after the last %d, %v were removed, want %v", n, got, want)
		}
	}
}

// A snapshot is kept if and only if some rule keeps it: it is the newest of its period, and fewer than n later
// periods have one. A snapshot that is kept stays kept as long as no newer one is taken.
func TestRetentionKeepsWhatItSays(t *testing.T) {
	loc := berlin(t)
	rapid.Check(t, func(t *rapid.T) {
		n := func(name string) int { return rapid.IntRange(0, 4).Draw(t, name) }
		keep := dataset.Keep{Last: n("last"), Hourly: n("hourly"), Daily: n("daily"), Weekly: n("weekly"), Monthly: n("monthly")}
		start := time.Date(2026, 10, 20, 0, 0, 0, 0, time.UTC) // clocks are set back on the 25th
		var times []time.Time
		for range rapid.IntRange(0, 60).Draw(t, "count") {
			times = append(times, start.Add(time.Duration(rapid.IntRange(0, 4*30*24*4).Draw(t, "at"))*15*time.Minute))
		}
		snaps := at(times...)
		before := slices.Clone(snaps)
		gone := map[uuid.UUID]bool{}
		for _, s := range expired(snaps, keep, loc) {
			gone[s.ID] = true
		}
		if !slices.EqualFunc(before, snaps, func(a, b dataset.Snapshot) bool { return a.ID == b.ID }) {
			t.Fatal("the argument was changed")
		}
		var kept []dataset.Snapshot
		for _, s := range snaps {
			want := keep == (dataset.Keep{}) || justified(s, snaps, keep, loc)
			if gone[s.ID] == want {
				t.Fatalf("%s: gone %v", s.Created, gone[s.ID])
			}
			if want {
				kept = append(kept, s)
			}
		}
		if more := expired(kept, keep, loc); len(more) != 0 {
			t.Fatalf("a second round removes %d more", len(more))
		}
	})
}

func justified(s dataset.Snapshot, all []dataset.Snapshot, keep dataset.Keep, loc *time.Location) bool {
	day := func(c time.Time) int64 { y, m, d := c.In(loc).Date(); return int64(y*10000 + int(m)*100 + d) }
	rules := []struct {
		n      int
		period func(time.Time) int64
	}{
		{keep.Hourly, func(c time.Time) int64 { return c.Unix() / 3600 }},
		{keep.Daily, day},
		{keep.Weekly, func(c time.Time) int64 { y, w := c.In(loc).ISOWeek(); return int64(y*100 + w) }},
		{keep.Monthly, func(c time.Time) int64 { return day(c) / 100 }},
	}
	newer := slices.DeleteFunc(slices.Clone(all), func(o dataset.Snapshot) bool { return view.Older(o, s) <= 0 })
	if len(newer) < keep.Last {
		return true
	}
	for _, r := range rules {
		later, newest := map[int64]bool{}, true
		for _, o := range newer {
			later[r.period(o.Created)] = true
			newest = newest && r.period(o.Created) != r.period(s.Created)
		}
		if newest && len(later) < r.n {
			return true
		}
	}
	return false
}
