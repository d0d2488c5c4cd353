package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// The home of a volume that nobody uses looks whether it is still there, and tells control:
// otherwise what else there is of it would go as it is thought to be well.
func TestI3IdleVolumeIsLookedAt(t *testing.T) {
	t.Parallel()
	for backend, head := range map[string]string{"loop": "head.img", "dir": ""} {
		t.Run(backend, func(t *testing.T) {
			f := newFlock(t, backend, backend)
			d := f.a.volume("db@plain", nil)
			problem := func() (string, bool) {
				v, err := f.a.Control.Volume(t.Context(), "db")
				if err != nil || v.Status == nil {
					return "", false
				}
				return v.Status.Problem, true
			}
			await(t, func() bool { why, told := problem(); return told && why == "" })
			if err := os.RemoveAll(filepath.Join(f.a.pools.All()[0].Path, "datasets", d.ID.String(), head)); err != nil {
				t.Fatal(err)
			}
			await(t, func() bool { why, _ := problem(); return why != "" })
		})
	}
}
