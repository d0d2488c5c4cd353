package volumes

import (
	"slices"
	"testing"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// sharedMountLines names the hosts that have mounted a volume besides its home, and the command for a host that is
// lost. The status in a list counts their uses.
func TestSharedMountLines(t *testing.T) {
	a := &cli.App{Now: func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }}
	stay := dataset.SharedMount{Since: a.Now().Add(-5 * time.Minute)}
	v := api.Volume{
		Dataset: dataset.Dataset{Profile: dataset.Profile{Access: dataset.AccessMany}},
		Status:  &dataset.DatasetStatus{Mounted: true, Mounts: []dataset.Mount{{ID: "x", Count: 1}}},
		SharedMountDetails: []api.SharedMountDetail{
			{SharedMount: stay, NodeName: "host-b", MountCount: 2, Problem: "it was restored since"},
			{SharedMount: stay, NodeName: "host-c", MountCount: 1, Unreachable: true},
			{SharedMount: stay, NodeName: "host-d", Unreachable: true, Fenced: true},
		},
	}
	listed := func(v api.Volume) string { s := v.Summary(); return status(&s) }
	want := []string{
		"host-b, mounted 2 times, since 5 minutes ago: it was restored since",
		"host-c, mounted once, since 5 minutes ago; unreachable (once it is off for good: drover node fence " +
			"host-c)",
		"host-d, mounted 0 times, since 5 minutes ago; unreachable, and confirmed as fenced",
	}
	if got := sharedMountLines(a, v); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := listed(v); got != "in use by 4 on 3" {
		t.Errorf("a list says %q", got)
	}
	v.SharedMountDetails[2].MountCount = 5 // the last report of the host before it was fenced
	if got := listed(v); got != "in use by 4 on 3" {
		t.Errorf("with the mounts of a fenced host, a list says %q", got)
	}
	v.SharedMountDetails = []api.SharedMountDetail{{SharedMount: stay, NodeName: "host-a", Exclusive: true}}
	if got := sharedMountLines(a, v); !slices.Equal(got, []string{"host-a has exclusive use, since 5 minutes ago"}) {
		t.Errorf("%q", got)
	}
	if got := listed(v); got != "in use by 1" {
		t.Errorf("a list says %q", got)
	}
	if got := cli.AccessLine(v.Profile.Access) + cli.AccessLine(""); got != "many hosts at once" {
		t.Errorf("%q", got)
	}
}
