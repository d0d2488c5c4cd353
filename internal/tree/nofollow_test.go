package tree_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A program that writes below the descriptor of NoFollow creates files and links, and never writes through a link.
func TestNoFollow(t *testing.T) {
	top := t.TempDir()
	victim := filepath.Join(top, "victim")
	require.NoError(t, os.WriteFile(victim, []byte("kept"), 0o600))
	dir, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer dir.Close()
	safe, err := tree.NoFollow(dir)
	require.NoError(t, err)
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
	_, err = os.Stat(filepath.Join(dir.Name(), "sub", "file"))
	assert.NoError(t, err)
}

// A device node can be created below the descriptor of NoFollow, and not be opened, even if the mount of the volume
// allows it. A set-user-ID bit and a file capability stay.
func TestNoFollowOpensNoDevice(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer dir.Close()
	safe, err := tree.NoFollow(dir)
	require.NoError(t, err)
	defer safe.Close()
	at := fmt.Sprintf("/proc/%d/fd/%d/", os.Getpid(), safe.Fd())
	capability := []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	if err := errors.Join(unix.Mknod(at+"null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
		os.WriteFile(at+"tool", nil, 0o700), os.Chmod(at+"tool", os.ModeSetuid|0o755),
		unix.Setxattr(at+"tool", "security.capability", capability, 0)); err != nil {
		t.Fatal(err)
	}
	if f, err := os.OpenFile(at+"null", os.O_WRONLY|os.O_TRUNC, 0); !errors.Is(err, unix.EACCES) {
		_ = f.Close()
		t.Errorf("opening the device: got %v", err)
	}
	info, err := os.Lstat(filepath.Join(dir.Name(), "null"))
	if err != nil || info.Mode().Type() != os.ModeDevice|os.ModeCharDevice {
		t.Errorf("the device is %v, %v", info, err)
	}
	got := make([]byte, 64)
	if n, err := unix.Getxattr(filepath.Join(dir.Name(), "tool"), "security.capability", got); n != len(capability) {
		t.Errorf("the capability has %d bytes, %v", n, err)
	}
	if info, err = os.Lstat(filepath.Join(dir.Name(), "tool")); err != nil || info.Mode()&os.ModeSetuid == 0 {
		t.Errorf("the program is %v, %v", info, err)
	}
}

// A mount that cannot be opened again and follows links is refused, even if it opens no devices.
func TestNoFollowRefusesUnbindableMount(t *testing.T) {
	top := t.TempDir()
	if err := errors.Join(unix.Mount("tmpfs", top, "tmpfs", unix.MS_NODEV, ""),
		unix.Mount("", top, "", unix.MS_UNBINDABLE, "")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		assert.NoError(t, unix.Unmount(top, unix.MNT_DETACH))
	}()
	dir, err := os.Open(top)
	require.NoError(t, err)
	defer dir.Close()
	if safe, err := tree.NoFollow(dir); err == nil || !strings.Contains(err.Error(), "unbindable") {
		_ = safe.Close()
		t.Errorf("a mount that follows links: %v", err)
	}
}
