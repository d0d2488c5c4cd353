package volumes

import (
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func TestStatusOfAVolume(t *testing.T) {
	for name, c := range map[string]struct {
		status *dataset.DatasetStatus
		want   string
	}{
		"not reported":    {nil, "unknown"},
		"not used":        {&dataset.DatasetStatus{}, "idle"},
		"pool is offline": {&dataset.DatasetStatus{Problem: "pool fast is offline: its disk fails"}, "offline"},
		"other problem":   {&dataset.DatasetStatus{Mounted: true, Problem: "its filesystem is read-only"}, "problem"},
		"mounted":         {&dataset.DatasetStatus{Mounted: true}, "mounted"},
		"used":            {&dataset.DatasetStatus{Mounted: true, Mounts: make([]dataset.Mount, 2)}, "in use by 2"},
	} {
		if got := status(&api.VolumeSummary{PoolName: "fast", Status: c.status}); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if got := status(&api.VolumeSummary{PoolName: "fast", Status: c.status, Unreachable: true}); got != "unreachable" {
			t.Errorf("%s, and its home is unreachable: %s", name, got)
		}
	}
}
