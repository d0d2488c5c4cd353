package controlsync_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
)

// The home of a volume that nobody uses checks that its data still exists, and reports that to control. Otherwise the
// other copies would be removed because the volume is believed to be healthy.
func TestI3IdleVolumeIsCheckedAndReported(t *testing.T) {
	t.Parallel()
	for backend, head := range map[string]string{"loop": "head.img", "dir": ""} {
		t.Run(backend, func(t *testing.T) {
			f := agenttest.NewCluster(t, backend, backend)
			d := f.A.NewVolume("db@plain", nil)
			problem := func() (string, bool) {
				v, err := f.A.Control.Volume(t.Context(), "db")
				if err != nil || v.Status == nil {
					return "", false
				}
				return v.Status.Problem, true
			}
			agenttest.Await(t, func() bool { why, told := problem(); return told && why == "" })
			if err := os.RemoveAll(filepath.Join(f.A.Pools.All()[0].Path, "datasets", d.ID.String(), head)); err != nil {
				t.Fatal(err)
			}
			agenttest.Await(t, func() bool { why, _ := problem(); return why != "" })
		})
	}
}
