package volumes

import (
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// The hint on stopped containers names the spellings of the dropped alias that the engine of the home knows. Without
// such a spelling there is no hint.
func TestStrandedHint(t *testing.T) {
	v := &api.Volume{Node: "web-1", Status: &dataset.DatasetStatus{EngineAliases: []string{"first", "old", "old@gold"}}}
	want := "; if a stopped container on node web-1 has this name, it cannot start any more (docker ps -a " +
		"--filter volume=old --filter volume=old@gold there shows it)"
	if got := strandedHint(v, "old"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, v := range []*api.Volume{nil, {}, {Status: &dataset.DatasetStatus{}}, v} {
		if got := strandedHint(v, "other"); got != "" {
			t.Errorf("%q", got)
		}
	}
}
