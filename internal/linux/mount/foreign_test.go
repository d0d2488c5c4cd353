package mount_test

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// apart runs do on a thread with a separate mount namespace, and keeps the thread until the test ends.
func apart(t *testing.T, do func() error) {
	t.Helper()
	done, end, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = do()
		}
		done <- err
		<-end
	}()
	require.NoError(t, <-done)
	t.Cleanup(func() { close(end); <-ended })
}

// stackDeep mounts filesystems on top of each other, on a directory whose path is longer than 64 KiB. Any user with a
// user namespace can do that.
func stackDeep(base string, mounts int) error {
	if err := os.Chdir(base); err != nil {
		return err
	}
	name := strings.Repeat("x", 250)
	for range 300 {
		if err := unix.Mkdir(name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		if err := unix.Chdir(name); err != nil {
			return err
		}
	}
	for range mounts {
		if err := unix.Mount("none", ".", "tmpfs", 0, "size=4k"); err != nil {
			return err
		}
	}
	return nil
}

// A View does not prevent an unmount, and nobody can write through it.
func TestViewIsNoUse(t *testing.T) {
	target := t.TempDir()
	if _, err := mount.View(target); !errors.Is(err, mount.ErrNotMounted) {
		t.Errorf("of a directory: %v", err)
	}
	mountAt(t, target, mount.Spec{Source: device(t, "ext4", scratch.Ext4), FSType: "ext4"})
	view, err := mount.View(target)
	require.NoError(t, err)
	defer view.Close()
	assert.NoError(t, mount.Unmount(target))
	if _, err := unix.Openat(int(view.Fd()), "file", unix.O_CREAT|unix.O_WRONLY, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a write: %v", err)
	}
}

// A long line in the mount table of one process hides no holder, not even that process.
func TestElsewhereReadsLongLines(t *testing.T) {
	dev, target, inside, deep := device(t, "ext4", scratch.Ext4), t.TempDir(), t.TempDir(), t.TempDir()
	mountAt(t, target, mount.Spec{Source: dev, FSType: "ext4"})
	e := table(t).At(target)
	container(t, `mount --bind "$1" "$2"`, target, inside)
	apart(t, func() error {
		if err := unix.Mount(target, inside, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return stackDeep(deep, 1)
	})
	elsewhere, err := mount.ReadForeign()
	require.NoError(t, err)
	holders := elsewhere.Holders(mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: "/"}, target)
	if len(holders) != 2 || holders[0].Mountpoint != inside || holders[1].Mountpoint != inside {
		t.Errorf("%v", holders)
	}
}

// A process whose mount table is too large to be read counts as a possible holder of every filesystem.
func TestElsewhereReportsWhatItCannotRead(t *testing.T) {
	deep := t.TempDir()
	apart(t, func() error { return stackDeep(deep, mount.MaxTable/(300*250)+1) })
	elsewhere, err := mount.ReadForeign()
	require.NoError(t, err)
	holders := elsewhere.Holders(mount.Filesystem{Major: 1 << 11, Root: "/"}, "")
	if len(holders) != 1 || holders[0].PID != os.Getpid() || !errors.Is(holders[0].Unexamined, mount.ErrTooLarge) {
		t.Errorf("%v", holders)
	}
}
