package volumes

import (
	"slices"
	"testing"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A use is shown with its engine and its mount ID, if these are known.
func TestMountLines(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a := &cli.App{Now: func() time.Time { return now }}
	got := mountLines(a, api.Volume{Status: &dataset.DatasetStatus{Mounted: true, Mounts: []dataset.Mount{
		{Count: 2, Since: now},
		{ID: "0011aabb", Count: 1, Since: now, Engine: "docker", Names: []string{"db", "old@gold"}},
		{ID: "job", Count: 1, Since: now, Unverified: true},
	}}})
	want := []string{
		"(no ID) since just now, 2 times",
		"docker mount ID 0011aabb since just now, as db and old@gold",
		"mount ID job since just now, unverified: it may have ended",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}
