package host

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
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
	if err := unix.Mount(string(b), kernel, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(kernel, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return b
}

// Change changes the boot ID, as another boot does.
func (b BootID) Change(t testing.TB, id string) {
	t.Helper()
	if err := os.WriteFile(string(b), []byte(id+"\n"), 0o444); err != nil {
		t.Fatal(err)
	}
}
