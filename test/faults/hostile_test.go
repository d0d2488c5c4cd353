package faults

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// What a container can put into its volume does no harm outside of the volume: symbolic links that lead out, device
// nodes, and setuid programs of root. Nor does a mount over it.
func TestC8HostileVolume(t *testing.T) {
	for _, pool := range []string{"xfs", "dir"} {
		t.Run(pool, func(t *testing.T) {
			w := newWorld(t, host.Options{Pool: pool})
			w.make(t, "evil", "plain", "evil")
			outside := filepath.Join(w.h.Dir, "outside")
			w.ok(t, os.Mkdir(outside, 0o755))
			w.ok(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("top secret"), 0o644))
			w.plug.Within(t, "evil", func(root string) {
				w.ok(t, os.Symlink(outside, filepath.Join(root, "out")))
				w.ok(t, os.Symlink(filepath.Join(outside, "secret"), filepath.Join(root, "secret")))
				w.ok(t, os.Symlink("/", filepath.Join(root, "slash")))
				w.ok(t, unix.Mknod(filepath.Join(root, "disk"), unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))))
				w.ok(t, os.WriteFile(filepath.Join(root, "id"), readFile(t, "/usr/bin/id"), 0o755))
				w.ok(t, unix.Chmod(filepath.Join(root, "id"), 0o4755))
				w.harmless(t, root)
			})
			if out := w.h.Must(t, "volume", "export", "evil"); strings.Contains(out, "top secret") {
				t.Error("an export contains data from outside of the volume")
			}
			w.snapshot(t, "evil", "first")
			w.ok(t, w.plug.Create("copy@snapshot-"+w.snapshotID(t, "evil", "first"), nil))
			w.plug.Within(t, "copy", func(root string) {
				if to, err := os.Readlink(filepath.Join(root, "out")); err != nil || to != outside {
					t.Errorf("a link of the clone: %q, %v", to, err)
				}
			})
			w.volumes["copy"] = "evil"
			w.drop(t, "copy")
			w.drop(t, "evil")
			if got := string(readFile(t, filepath.Join(outside, "secret"))); got != "top secret" {
				t.Errorf("outside: %q", got)
			}
			w.mountedOver(t)
			w.tidy(t)
		})
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

// harmless fails if a device node in a volume can be opened, or if anyone but root can read its contents.
func (w *world) harmless(t testing.TB, root string) {
	t.Helper()
	if f, err := os.Open(filepath.Join(root, "disk")); !errors.Is(err, unix.EACCES) {
		t.Errorf("a device node in a volume opens: %v", err)
		f.Close()
	}
	cmd := exec.Command(filepath.Join(root, "id"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("nobody runs a program of root's in a volume: %s", out)
	}
}

// mountedOver mounts something else over a volume, and inside of it. An unmount removes Drover's mount, or says that it
// cannot.
func (w *world) mountedOver(t *testing.T) {
	w.make(t, "base", "plain", "base")
	id := host.NewID()
	root, err := w.plug.Mount("base", id)
	w.ok(t, err)
	inside := filepath.Join(root, "inside")
	w.ok(t, os.Mkdir(inside, 0o755))
	w.ok(t, unix.Mount("over", inside, "tmpfs", 0, ""))
	w.says(t, w.plug.Unmount("base", id), "base", "still uses")
	w.h.Clean(t, "no recorded use")
	w.ok(t, unix.Unmount(inside, 0))
	w.holds(t, "base", "base") // the last one unmounts it
	if left := w.mounted(t); len(left) > 0 {
		t.Errorf("still mounted: %v", left)
	}

	root, err = w.plug.Mount("base", id)
	w.ok(t, err)
	w.ok(t, unix.Mount("over", root, "tmpfs", 0, ""))
	_ = w.plug.Unmount("base", id)
	_ = unix.Unmount(root, 0)
	w.h.Restart(t)
	w.holds(t, "base", "base")
}
