package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The lock of a root must be a file in the root. A symbolic link to another file is refused.
func TestLockThatIsALink(t *testing.T) {
	root, away := t.TempDir(), filepath.Join(t.TempDir(), "precious")
	if err := errors.Join(os.WriteFile(away, []byte("precious"), 0o600), os.Symlink(away, filepath.Join(root, hostLock))); err != nil {
		t.Fatal(err)
	}
	if _, err := lockRoot(root, hostLock); !errors.Is(err, unix.ELOOP) {
		t.Errorf("got %v", err)
	}
	if raw, err := os.ReadFile(away); err != nil || string(raw) != "precious" {
		t.Errorf("%q, %v", raw, err)
	}
}
