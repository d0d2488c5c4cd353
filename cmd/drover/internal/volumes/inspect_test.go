package volumes

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// copyLines describes the copies on other nodes: the age of the data, or why there is none.
func TestCopyLines(t *testing.T) {
	a := &cli.App{Now: func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }}
	now := a.Now()
	kept := func(c dataset.Copy) api.CopyDetail {
		c.Kind = dataset.CopyReplica
		return api.CopyDetail{Copy: c, NodeName: "host-b"}
	}
	got := copyLines(a, api.Volume{CopyDetails: []api.CopyDetail{
		kept(dataset.Copy{}),
		kept(dataset.Copy{Problem: "its pool is offline: absent"}),
		kept(dataset.Copy{Snapshot: uuid.New(), Taken: now.Add(-15 * time.Second), VerifiedAt: now.Add(-5 * time.Second)}),
		kept(dataset.Copy{Snapshot: uuid.New(), Taken: now.Add(-time.Hour), Problem: "from its home, node host-a: no route"}),
	}})
	want := []string{
		"host-b: replica, no data yet",
		"host-b: replica, no data yet, because its pool is offline: absent",
		"host-b: replica, of 15 seconds ago, and nothing was written between then and 5 seconds ago",
		"host-b: replica, of about an hour ago, cannot be refreshed, retrying: from its home, node host-a: no route",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestNextSnapshotLine(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for want, due := range map[string]time.Time{
		"":                                     {},
		"due now":                              now.Add(-time.Minute),
		"2026-03-01 15:00:00 UTC (in 3 hours)": now.Add(3 * time.Hour),
	} {
		if got := nextSnapshotLine(now, api.Volume{NextSnapshot: due}); got != want {
			t.Errorf("due at %s: got %q, want %q", due, got, want)
		}
	}
}

// TestCreatedLine: a volume that was renamed is not shown as requested under its new name.
func TestCreatedLine(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for requested, want := range map[string]string{"new": "", "": "", "old@gold": ", requested as old@gold", "new@gold": ", requested as new@gold"} {
		v := api.Volume{Dataset: dataset.Dataset{Volume: "new", RequestedAs: requested, Created: at}}
		if got := createdLine(at.Add(time.Hour), v); got != "2026-03-01 12:00:00 UTC (about an hour ago)"+want {
			t.Errorf("requested as %q: %q", requested, got)
		}
	}
}

// The lines about verifications are about the scheduled ones: others are in the list of backups.
func TestLinesAboutScheduledVerifications(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	v := api.Volume{Backups: &api.BackupState{Verify: &api.VerifyState{}}}
	if got := verifyLines(now, v)[0]; got != "last scheduled verification: none" {
		t.Error(got)
	}
	v.Backups.Verify.Last = now.Add(-time.Hour)
	if got := verifyLines(now, v)[0]; !strings.HasPrefix(got, "last scheduled verification: 2026-03-01 11:00:00 UTC") {
		t.Error(got)
	}
}
