package housekeeping

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/view"
	"github.com/droverhq/drover/dataset"
)

// expired returns the snapshots that no rule of the retention policy keep retains, newest first. A rule such as Daily
// divides time into periods, in the time zone loc. The rule considers the latest periods that contain a snapshot, and
// keeps the newest snapshot of each of them. expired is a pure function.
func expired(snaps []dataset.Snapshot, keep dataset.Keep, loc *time.Location) []dataset.Snapshot {
	if keep == (dataset.Keep{}) {
		return nil
	}
	newest := slices.Clone(snaps)
	slices.SortFunc(newest, func(a, b dataset.Snapshot) int { // not only by time: the clocks of two homes differ
		return cmp.Or(b.At().Compare(a.At()), view.Older(b, a))
	})
	kept := map[uuid.UUID]bool{}
	for i := range min(max(keep.Last, 0), len(newest)) {
		kept[newest[i].ID] = true
	}
	for _, rule := range []struct {
		n      int
		period func(time.Time) string
	}{
		// with the offset, because the hour in which clocks are set back occurs twice
		{keep.Hourly, func(t time.Time) string { return t.Format("2006-01-02T15-0700") }},
		{keep.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{keep.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-%d", y, w) }},
		{keep.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
	} {
		seen := map[string]bool{}
		for _, snap := range newest {
			if len(seen) >= rule.n {
				break
			}
			if p := rule.period(snap.Created.In(loc)); !seen[p] {
				seen[p] = true
				kept[snap.ID] = true
			}
		}
	}
	return slices.DeleteFunc(newest, func(s dataset.Snapshot) bool { return kept[s.ID] })
}
