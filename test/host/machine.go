package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
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

// Await repeats f until it succeeds. It is for conditions that become true soon and are not announced.
func Await(t testing.TB, what string, f func() error) {
	t.Helper()
	const limit = 90 * time.Second
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); ; <-tick.C {
		err := f()
		if err == nil {
			return
		}
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
	}
}

// AwaitNoFinding waits until doctor reports no finding on a host whose text contains the given text.
func AwaitNoFinding(t testing.TB, h *Host, text string) {
	t.Helper()
	Await(t, fmt.Sprintf("doctor reports no finding with %q", text), func() error {
		for _, f := range h.Findings(t) {
			if strings.Contains(f.Text, text) {
				return errors.New(f.Subject + ": " + f.Text)
			}
		}
		return nil
	})
}

// Volumes returns the names of all volumes.
func (h *Host) Volumes(t testing.TB) []string {
	t.Helper()
	var all []api.Volume
	h.JSON(t, &all, "volume", "ls")
	var names []string
	for _, v := range all {
		names = append(names, v.Volume)
	}
	return names
}

// CheckProgram writes a shell script that checks restored volumes, and returns its path. The test removes the script at
// its end. The folder stays, because other tests can use it at the same time.
func CheckProgram(t testing.TB, script string) string {
	t.Helper()
	path := "/etc/drover/checks/test-" + uuid.NewString()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	t.Cleanup(func() {
		assert.NoError(t, os.Remove(path))
	})
	return path
}
