package pool_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
)

// A pool whose data is in memory, in a folder or in an image, is reported as such when it is made and by doctor, also
// after a restart.
func TestPoolInMemoryIsReported(t *testing.T) {
	tmpfs := t.TempDir()
	if err := mount.Mount(tmpfs, mount.Spec{Source: "tmpfs", FSType: "tmpfs", Options: []string{"size=2g"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(tmpfs); err != nil {
			t.Error(err)
		}
	})
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(dir.Backend{}, loop.New(&run.System{})) })
	const says = "it is on tmpfs: its data is in memory and is lost at a reboot"
	for _, n := range []api.NewPool{
		{Name: "folders", Backend: "dir", Path: filepath.Join(tmpfs, "folders")},
		{Name: "images", Backend: "loop", Path: filepath.Join(tmpfs, "images.img"), Image: "600MiB"},
	} {
		if err := os.MkdirAll(filepath.Dir(r.Pools.ImageMount(n.Name)), 0o700); err != nil {
			t.Fatal(err)
		}
		made, err := r.CreatePool(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(made.Note, says) {
			t.Errorf("%s: %s", n.Name, made.Note)
		}
	}
	r.Restart()
	found, err := r.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	for _, f := range found {
		if f.Level == host.Warning && f.Text == says {
			said[f.Subject] = true
		}
	}
	if !said["pool folders"] || !said["pool images"] {
		t.Errorf("doctor says it of %v", said)
	}
}
