// Package docs runs every command that README.md and the pages in docs show, in the order of the page, against a real
// Drover with a real engine. It also checks the links, flags, options, error codes and figures on the pages.
//
// The commands are run unchanged, with the paths that they name. They write to overlays that only this process sees.
// Two things are simulated. For systemctl, the test starts and stops the processes as the units would. UUIDs that a
// page shows as examples are replaced by real ones (see note). If a new block of a page needs a special state, add a
// fixture to fixtures_test.go and name it in a note before the block.
package docs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { engine.Main(m) }

// A world is where the commands of one page run: a Drover with the paths of an installed one, and an engine.
type world struct {
	h *host.Host
	e *engine.Engine

	up  bool
	bin string            // a folder with drover
	cwd string            // of the next command
	ids map[string]string // UUIDs of datasets that the store does not know, by volume
}

// rootSize is the size of the filesystem at /var/lib/drover, in which the profiles of the pages fit. Its file is
// sparse.
const rootSize = 64 << 30

// begin makes a world with an engine.
func begin(t *testing.T, e *engine.Engine) *world {
	t.Helper()
	sandbox(t)
	h := host.Start(t, host.Options{
		Down: true, Activated: true, Driver: "drover", Root: "/var/lib/drover",
		Flags: []string{"--config", "/etc/drover/drover.yaml", "--profiles", "/etc/drover/profiles.yaml"},
	})
	require.NoError(t, os.Symlink("/run/drover", filepath.Join(h.Dir, "run")))
	w := &world{h: h, e: e, bin: t.TempDir(), cwd: t.TempDir(), ids: map[string]string{}}
	require.NoError(t, os.Symlink(host.Binary(t), filepath.Join(w.bin, "drover")))
	w.start(t)
	t.Cleanup(func() { w.end(t) })
	return w
}

// sandbox lets commands write to the folders that pages name, without changing the machine. The contents of these
// folders can be read, except mounts in them.
func sandbox(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"/etc", "/var/lib", "/var/backups", "/srv", "/mnt"} {
		options := "lowerdir=" + dir + ",upperdir=" + t.TempDir() + ",workdir=" + t.TempDir()
		cover(t, "overlay", dir, "overlay", 0, options)
	}
	// The first folder stays: removing a folder unmounts what another test has mounted on it in a separate namespace
	// (rmdir, since Linux 3.18).
	for _, dir := range []string{"/run/drover", "/var/lib/drover", "/etc/drover"} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	cover(t, "tmpfs", "/run/drover", "tmpfs", 0, "mode=0755")
	root := scratch.MountImage(t, "xfs", scratch.Image(t, "xfs", rootSize))
	cover(t, root, "/var/lib/drover", "", unix.MS_BIND, "")
}

// cover mounts something over a folder until the end of the test.
func cover(t *testing.T, source, target, fstype string, flags uintptr, options string) {
	t.Helper()
	require.NoErrorf(t, unix.Mount(source, target, fstype, flags, options), "mount %s on %s", fstype, target)
	t.Cleanup(func() {
		assert.NoErrorf(t, unix.Unmount(target, unix.MNT_DETACH), "unmount %s", target)
	})
}

// start and stop do what the units would do.
func (w *world) start(t *testing.T) {
	t.Helper()
	w.h.Up(t)
	w.up = true
}

func (w *world) stop(t *testing.T) {
	t.Helper()
	w.h.Stop(t)
	w.up = false
}

// end removes what the page made, also if it stopped in the middle.
func (w *world) end(t *testing.T) {
	t.Helper()
	if !w.up {
		w.start(t)
	}
	w.noContainers(t)
	w.stop(t)
	assert.NoError(t, w.h.Unmount())
	// The host searches for loop devices of this path, at which the machine may have another Drover. The devices of
	// the world's disk are gone once it can be unmounted.
	w.h.Root = w.h.Dir
	for _, dir := range []string{"/mnt/new", "/mnt/disk"} {
		if err := unix.Unmount(dir, 0); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unmount %s: %v", dir, err)
		}
	}
}

// noContainers removes all containers and Docker's records of volumes.
func (w *world) noContainers(t *testing.T) {
	t.Helper()
	if ids := strings.Fields(w.e.Must(t, "ps", "-aq")); len(ids) > 0 {
		w.e.Must(t, append([]string{"rm", "-f"}, ids...)...)
	}
	w.awaitUnused(t)
	if names := strings.Fields(w.e.Must(t, "volume", "ls", "-q")); len(names) > 0 {
		w.e.Must(t, append([]string{"volume", "rm", "-f"}, names...)...)
	}
}

// awaitUnused waits until no volume is mounted.
func (w *world) awaitUnused(t *testing.T) {
	t.Helper()
	host.Await(t, "volumes are unmounted", func() error {
		table, err := mount.Table()
		if err == nil && len(table.Under("/var/lib/drover/mnt")) > 0 {
			err = errors.New("they are mounted")
		}
		return err
	})
}

// sh runs a line of shell as in a reader's terminal.
func (w *world) sh(t *testing.T, line string) (out string, exit int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var all bytes.Buffer
	cmd := exec.CommandContext(ctx, "bash", "-e", "-o", "pipefail", "-c", line)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = w.cwd, &all, &all, 10*time.Second
	cmd.Env = append(w.e.Env(), "PATH="+w.bin+":"+os.Getenv("PATH")+":/usr/sbin:/sbin", "HOME="+w.bin, "DROVER_API=", "LC_ALL=C.UTF-8")
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatalf("%s: %v", line, err)
	}
	return all.String(), cmd.ProcessState.ExitCode()
}

// must runs lines of a fixture, which must succeed.
func (w *world) must(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if out, exit := w.sh(t, line); exit != 0 {
			t.Fatalf("fixture: %s: exit %d\n%s", line, exit, out)
		}
	}
}

// dataset returns the UUID of a volume's dataset.
func (w *world) dataset(t *testing.T, volume string) string {
	t.Helper()
	if id := w.ids[volume]; id != "" {
		return id
	}
	var v api.Volume
	w.h.JSON(t, &v, "volume", "inspect", volume)
	return v.ID.String()
}

// snapshot returns the UUID of a snapshot with the name VOLUME/NAME.
func (w *world) snapshot(t *testing.T, name string) string {
	t.Helper()
	volume, snapshot, _ := strings.Cut(name, "/")
	var all []struct{ ID, Name string }
	w.h.JSON(t, &all, "snapshot", "ls", volume)
	for _, s := range all {
		if s.Name == snapshot {
			return s.ID
		}
	}
	t.Fatalf("volume %s has no snapshot %s: %s", volume, snapshot, marshal(all))
	return ""
}

func marshal(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
