package tree_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/tree"
)

// A program that writes below the descriptor of NoFollow creates files and links, and never writes through a link.
func TestNoFollow(t *testing.T) {
	top := t.TempDir()
	victim := filepath.Join(top, "victim")
	if err := os.WriteFile(victim, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	safe, err := tree.NoFollow(dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer safe.Close()
	at := fmt.Sprintf("/proc/%d/fd/%d/", os.Getpid(), safe.Fd())
	if err := errors.Join(os.Mkdir(at+"sub", 0o700), os.WriteFile(at+"sub/file", nil, 0o600),
		os.Symlink(victim, at+"sub/x"), os.Lchown(at+"sub/x", 1, 1)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at+"sub/x", nil, 0o600); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a write through a link: got %v", err)
	}
	if err := os.Chmod(at+"sub/x", 0o666); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a change of the mode through a link: got %v", err)
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "kept" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir.Name(), "sub", "file")); err != nil {
		t.Error(err)
	}
}
