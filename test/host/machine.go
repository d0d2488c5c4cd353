package host

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// BootID is the file from which the kernel's boot ID is read in a test.
type BootID string

// NewBootID mounts a file with an ID over the kernel's file until the end of the test. Uses of volumes count only on
// the boot on which they were recorded.
func NewBootID(t testing.TB, id string) BootID {
	t.Helper()
	const kernel = "/proc/sys/kernel/random/boot_id"
	b := BootID(filepath.Join(t.TempDir(), "boot_id"))
	b.Change(t, id)
	require.NoError(t, unix.Mount(string(b), kernel, "", unix.MS_BIND, ""))
	t.Cleanup(func() {
		assert.NoError(t, unix.Unmount(kernel, unix.MNT_DETACH))
	})
	return b
}

// Change changes the boot ID, as another boot does.
func (b BootID) Change(t testing.TB, id string) {
	t.Helper()
	require.NoError(t, os.WriteFile(string(b), []byte(id+"\n"), 0o444))
}

// SetClock sets how much the clock that the process sees differs from the clock of this machine. It also applies
// after restarts.
func (h *Host) SetClock(t testing.TB, off time.Duration) {
	t.Helper()
	next := h.clock() + ".next"
	require.NoError(t, errors.Join(os.WriteFile(next, []byte(off.String()), 0o600), os.Rename(next, h.clock())))
}

func (h *Host) clock() string { return filepath.Join(h.Dir, "clock") }

// FillTo writes the file "filler", so that so many percent of the filesystem of dir are used.
func FillTo(dir string, percent int) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	size := int64(fs.Blocks-fs.Bfree+fs.Bavail) * int64(percent) / 100
	size -= int64(fs.Blocks - fs.Bfree)
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), 0, 0, max(size*fs.Bsize-1<<20, 1))
}
