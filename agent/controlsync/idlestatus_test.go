package controlsync_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
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
			s := *f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpSnapshot, Volume: "db"}).Operation).Snapshot
			if backend == "dir" { // the whole dataset is missing, with its snapshots
				s.ID = uuid.Nil
			}
			data := filepath.Join(f.A.Pools.All()[0].Path, "datasets", d.ID.String(), head)
			agenttest.Await(t, func() bool { return os.RemoveAll(data) == nil }) // the record may be written meanwhile
			agenttest.Await(t, func() bool { why, _ := problem(); return why != "" })
			want := "drover backup ls db lists the backups"
			if s.ID != uuid.Nil {
				want = "(drover snapshot restore db " + s.ID.String()[:8] + " continues from its newest snapshot, of "
			}
			if why, _ := problem(); !strings.Contains(why, want) {
				t.Errorf("the problem %q does not say %q", why, want)
			}
		})
	}
}
