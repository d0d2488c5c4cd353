package housekeeping

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/view"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
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
		require.NoError(t, err)
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

// If there are too many records, by number or by bytes, the oldest are surplus. The records that are kept
// last are surplus only once nothing else is left.
func TestSurplus(t *testing.T) {
	record := func(ran time.Duration, bytes int, keptLast bool) endedRecord {
		return endedRecord{key: fmt.Sprint(int64(ran)), bytes: bytes, runTime: ran, keptLast: keptLast}
	}
	records := []endedRecord{
		record(3, 10, false), record(1, 10, true), record(5, 10, false), record(2, 10, false), record(4, 30, false),
	}
	for _, c := range []struct {
		most, bytes int
		want        []string // the ones that are forgotten last come first
	}{
		{5, 70, nil},
		{4, 70, []string{"2"}},
		{2, 70, []string{"4", "3", "2"}},
		{5, 69, []string{"2"}},
		{5, 49, []string{"4", "3", "2"}},
		{1, 70, []string{"5", "4", "3", "2"}},
		{0, 70, []string{"1", "5", "4", "3", "2"}},
		{5, 9, []string{"1", "5", "4", "3", "2"}},
	} {
		var got []string
		for _, r := range surplus(records, c.most, c.bytes) {
			got = append(got, r.key)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%d and %d bytes: %v are surplus, want %v", c.most, c.bytes, got, c.want)
		}
	}
}

func berlin(t testing.TB) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
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
		require.NoError(t, err)
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
