package housekeeping

import (
	"cmp"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/view"
	"github.com/droverhq/drover/dataset"
)

// expired returns the snapshots that the retention policy does not retain, newest first. keep is the policy: see
// dataset.Keep.Retained. expired is a pure function.
func expired(snaps []dataset.Snapshot, keep dataset.Keep, loc *time.Location) []dataset.Snapshot {
	newest := slices.Clone(snaps)
	slices.SortFunc(newest, func(a, b dataset.Snapshot) int { // not only by time: the clocks of two homes differ
		return cmp.Or(b.At().Compare(a.At()), view.Older(b, a))
	})
	taken := make([]time.Time, len(newest))
	for i, s := range newest {
		taken[i] = s.Created
	}
	kept := map[uuid.UUID]bool{}
	for i, is := range keep.Retained(taken, loc) {
		kept[newest[i].ID] = is
	}
	return slices.DeleteFunc(newest, func(s dataset.Snapshot) bool { return kept[s.ID] })
}
