package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
)

// TestVolumeIOAndTrash writes to a mounted volume and deletes it: the counters of its block device grow, and then the
// trash has its bytes. A volume that shares the device of its pool has no counters.
func TestVolumeIOAndTrash(t *testing.T) {
	t.Parallel()
	const written = 3 << 20
	for backend, counted := range map[string]bool{"loop": true, "dir": false} {
		t.Run(backend, func(t *testing.T) {
			f := agenttest.NewCluster(t, backend, "dir")
			f.A.NewVolume("db", nil)
			path := f.A.MustMount("db", "one")
			before, err := f.A.VolumeIO(t.Context())
			if err != nil || (len(before) == 1) != counted {
				t.Fatalf("%+v, %v", before, err)
			}
			file, err := os.Create(filepath.Join(path, "f"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.Write(make([]byte, written)); err != nil {
				t.Fatal(err)
			}
			if err := file.Sync(); err != nil {
				t.Fatal(err)
			}
			file.Close()
			if after, err := f.A.VolumeIO(t.Context()); err != nil || (len(after) == 1) != counted {
				t.Errorf("%+v, %v", after, err)
			} else if counted {
				io, was := after[0].Write, before[0].Write
				if io.Bytes-was.Bytes < written || io.Operations == was.Operations || io.Time < was.Time || after[0].Volume != "db" {
					t.Errorf("before writing %+v, after it %+v", before[0], after[0])
				}
			}
			f.A.MustUnmount("db", "one")
			if got := f.A.TrashUsage(t.Context()); len(got) != 0 {
				t.Errorf("before the delete: %+v", got)
			}
			if err := f.A.Remove(t.Context(), "db"); err != nil {
				t.Fatal(err)
			}
			agenttest.Await(t, func() bool { return len(f.A.TrashUsage(t.Context())) == 1 })
			for range 2 { // measured the first time, cached the second time
				got := f.A.TrashUsage(context.Background())
				if len(got) != 1 || got[0].Volume != "db" || got[0].Known != counted || counted && got[0].Used < written {
					t.Errorf("after the delete: %+v", got)
				}
			}
		})
	}
}
