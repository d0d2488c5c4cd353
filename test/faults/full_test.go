// Package faults breaks the Drover of one host on purpose: it kills the process at every step, cuts the power, removes
// or fills up its disks and its store, and acts as a hostile user. The faults of a cluster are in test/cluster and
// test/chaos. A new operation needs a drill, which is interrupted at each of its steps (drills).
package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// fillUp writes into a file until the disk is full, and returns what it has written.
func fillUp(path string) (n int64, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := block("filling")
	for size := len(buf); size > 0; size /= 2 { // to the last block
		for err == nil {
			var m int
			m, err = f.Write(buf[:size])
			n += int64(m)
		}
		if !errors.Is(err, unix.ENOSPC) {
			return n, err
		}
		err = nil
	}
	return n, f.Sync()
}

// isWithin3Percent reports whether a figure equals a size, within 3 %.
func isWithin3Percent(got, size int64) bool { return got >= size*97/100 && got <= size*103/100 }

// allocateAllBut allocates all but the given number of bytes of a disk, without writing.
func allocateAllBut(t testing.TB, path string, leave int64) {
	t.Helper()
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(filepath.Dir(path), &st))
	n := int64(st.Bavail)*st.Bsize - leave
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	require.NoError(t, errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, n), f.Close()))
}

// fillDisk uses up every byte of a disk. The returned function makes room again.
func fillDisk(t testing.TB, dir string) (free func()) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	allocateAllBut(t, ballast, 8<<20)
	_, err := fillUp(ballast + ".rest")
	require.NoError(t, err)
	return func() {
		t.Helper()
		require.NoError(t, errors.Join(os.Remove(ballast), os.Remove(ballast+".rest")))
	}
}

// The disk of the state is full to the last byte. Existing volumes work, and can be mounted, unmounted and removed.
// A request that cannot be recorded is refused and not carried out.
func TestB15StateDiskFull(t *testing.T) {
	shelf := scratch.Mount(t, "xfs", 8<<30)
	state, pool := newDisk(t, shelf, "ext4", 256<<20), newDisk(t, shelf, "xfs", 3<<30)
	w := newWorld(t, host.Options{
		Root:   filepath.Join(state.at, "root"),
		Config: fmt.Sprintf("pools: [{name: default, backend: loop, path: %s/pool}]\n", pool.at),
	})
	for i := range 20 {
		w.make(t, fmt.Sprintf("vol%d", i), "plain", fmt.Sprint(i))
	}
	free := fillDisk(t, state.at)
	w.says(t, w.plug.Create("toomuch", nil), "full")
	w.kept(t)
	for i := range 10 {
		w.drop(t, fmt.Sprintf("vol%d", i))
	}
	w.h.Restart(t)
	w.kept(t)
	w.drop(t, "vol10")
	w.h.Stop(t)
	w.h.Up(t)
	w.kept(t)
	free()
	w.make(t, "toomuch", "plain", "enough")
	w.kept(t)
	w.tidy(t)
}

// No test here needs an engine. The namespaces are needed: each test needs its own plugin socket, and the kernel then
// ends and unmounts whatever a failed test leaves.
func TestMain(m *testing.M) { engine.Main(m) }

// twoPools is a host with its pool "default" and another one, "far", on a disk that can be removed.
func twoPools(t *testing.T) (w *world, far *disk) {
	t.Helper()
	shelf := scratch.Mount(t, "xfs", 8<<30)
	near := newDisk(t, shelf, "xfs", 2<<30)
	far = newDisk(t, shelf, "xfs", 2<<30)
	w = newWorld(t, host.Options{
		Root: filepath.Join(near.at, "root"),
		Config: fmt.Sprintf("pools:\n- {name: default, backend: loop, path: %s/pool}\n- {name: far, backend: loop, path: %s/pool}\n",
			near.at, far.at),
	})
	w.make(t, "here", "plain", "here")
	w.ok(t, w.plug.Create("there", map[string]string{"pool": "far"}))
	w.write(t, "there", "there")
	return w, far
}

// says fails unless err is one line that says all of it.
func (w *world) says(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q does not say %q in one line", err, p)
		}
	}
}

// disk is a disk of a host that can lose its power: an image file on a filesystem with reflinks, so that a copy of it
// has the state of one moment.
type disk struct {
	fs    string
	at    string // where it is mounted
	image string // what is mounted there now
}

// newDisk makes and mounts a disk. shelf is a folder for images on a filesystem with reflinks.
func newDisk(t testing.TB, shelf, fs string, size int64) *disk {
	t.Helper()
	d := &disk{fs: fs, at: filepath.Join(t.TempDir(), "disk")}
	d.image = filepath.Join(shelf, uuid.NewString())
	f, err := os.Create(d.image)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close(), os.Mkdir(d.at, 0o755))
	}
	require.NoError(t, err)
	scratch.Format(t, fs, d.image)
	d.plugIn(t)
	t.Cleanup(func() { d.unplug(t) })
	return d
}

func (d *disk) plugIn(t testing.TB) {
	t.Helper()
	dev, err := loopdev.Attach(t.Context(), d.image, loopdev.Options{BlockSize: 4096})
	require.NoError(t, err)
	defer dev.Close()
	require.NoError(t, mount.Mount(d.at, mount.Spec{Source: dev.Path, FSType: d.fs}))
}

// unplug unmounts the disk. Anything mounted from it must be unmounted before.
func (d *disk) unplug(t testing.TB) {
	t.Helper()
	if err := mount.Unmount(d.at); err != nil && !errors.Is(err, mount.ErrNotMounted) {
		t.Errorf("unplug a disk: %v", err)
		_ = unix.Unmount(d.at, unix.MNT_DETACH)
	}
}

// copy returns a copy of the disk, without the data that the kernel has not written to it yet.
func (d *disk) copy(t testing.TB) (image string) {
	t.Helper()
	image = filepath.Join(filepath.Dir(d.image), uuid.NewString())
	from, err := os.Open(d.image)
	require.NoError(t, err)
	defer from.Close()
	to, err := os.Create(image)
	require.NoError(t, err)
	require.NoError(t, errors.Join(reflink.Clone(to, from), to.Close()))
	return image
}

// become replaces the contents of the disk by an image.
func (d *disk) become(t testing.TB, image string) {
	t.Helper()
	d.unplug(t)
	require.NoError(t, os.Remove(d.image))
	d.image = image
	d.plugIn(t)
}

// powerCut cuts the power: drover is gone, and so is everything that its disks do not have. copies are the disks at
// that moment.
func (w *world) powerCut(t testing.TB, disks []*disk, copies []string, boot host.BootID) {
	t.Helper()
	w.h.Kill9(t)
	for _, path := range w.mountPaths(t) {
		thaw(path)
	}
	require.NoError(t, w.h.Unmount())
	for i, d := range disks {
		d.become(t, copies[i])
	}
	w.inUse = nil
	boot.Change(t, uuid.NewString())
}

// thaw thaws a filesystem that was frozen when its host lost its power.
func thaw(path string) {
	if f, err := os.Open(path); err == nil {
		_ = fsctl.Thaw(f) // most are not frozen
		f.Close()
	}
}
