package mounting_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
)

// A program that writes to a volume below OpenRoot and tree.NoFollow, as restic does in a restore, writes through no
// link and opens no device, on each kind of pool.
func TestOpenRootFollowsNoLink(t *testing.T) {
	for _, backend := range []string{"loop", "dir"} {
		f := agenttest.NewCluster(t, backend, "dir")
		d := f.A.NewVolume("db")
		root, err := mounting.OpenRoot(t.Context(), f.A.Pool(), d.ID, backends.AttachOptions{})
		if err != nil {
			t.Fatal(err)
		}
		at := fmt.Sprintf("/proc/%d/fd/%d/", os.Getpid(), root.Fd())
		victim := filepath.Join(t.TempDir(), "victim")
		if err := errors.Join(os.Symlink(victim, at+"link"), unix.Mknod(at+"null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(at+"link", nil, 0o600); !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s: a write through a link: %v", backend, err)
		}
		if err := os.WriteFile(at+"null", nil, 0o600); !errors.Is(err, unix.EACCES) {
			t.Errorf("%s: a write to a device: %v", backend, err)
		}
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	}
}
