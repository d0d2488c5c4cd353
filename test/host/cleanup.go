package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
)

// cleanup ends the processes and unmounts what is mounted, whatever state it is in. The test fails if drover does
// not end as it should, or leaves a device.
func (h *Host) cleanup(t testing.TB) {
	t.Helper()
	if h.proc.Running() {
		if err := h.proc.End(unix.SIGTERM, 40*time.Second); err != nil {
			t.Error(err)
			_ = h.proc.End(unix.SIGKILL, time.Minute)
		} else if err := h.proc.Err(); err != nil {
			t.Errorf("drover stopped with %v", err)
		}
	}
	if t.Failed() {
		t.Logf("end of drover's log:\n%s", h.LogTail(60))
	}
	assert.NoErrorf(t, h.Unmount(), "clean up")
	h.unprotectMountPoints()
	assert.NoErrorf(t, h.devices(), "clean up")
	_ = os.Remove(h.Socket())
}

// devices returns an error while a loop device uses a file of this host.
func (h *Host) devices() (err error) {
	for range 50 { // a device disappears after its last user
		list, lerr := loopdev.List()
		if lerr != nil {
			return lerr
		}
		err = nil
		for _, d := range list {
			if strings.HasPrefix(d.Backing, h.Root+"/") || h.opts.On != nil && d.Backing == h.Image {
				err = fmt.Errorf("%s still has %s", d.Path, d.Backing)
			}
		}
		if err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// Unmount unmounts everything below the root, as a reboot would. If the host runs on a machine (Options.On), it also
// unmounts the pool.
func (h *Host) Unmount() error {
	if h.opts.On == nil {
		return unmountBelow(h.Root)
	}
	return h.opts.On.Do(func() error { return unmountBelow(h.Dir) })
}

func unmountBelow(dir string) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	var errs []error
	under := table.Under(dir)
	for _, m := range under {
		scratch.Thaw(m.Mountpoint) // the mounts below are stored on it
	}
	for i := len(under) - 1; i >= 0; i-- {
		if p := under[i].Mountpoint; strings.HasPrefix(p, dir+"/") {
			errs = append(errs, unmountHard(p))
		}
	}
	return errors.Join(errs...)
}

// unprotectMountPoints clears the immutable flag that drover sets on empty mount points, so that they can be removed.
func (h *Host) unprotectMountPoints() {
	dirs, _ := filepath.Glob(filepath.Join(h.Root, "mnt", "*"))
	for _, d := range dirs {
		f, err := os.Open(d)
		if err != nil {
			continue
		}
		_ = fsctl.SetImmutable(f, false)
		f.Close()
	}
}

// unmountHard waits while ending containers still use the mount, then detaches it.
func unmountHard(path string) error {
	for range 50 {
		err := unix.Unmount(path, 0)
		if err == nil || errors.Is(err, unix.EINVAL) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return unix.Unmount(path, unix.MNT_DETACH)
}
