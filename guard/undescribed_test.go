package guard_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/scratch"
)

// playFUSE mounts a FUSE filesystem that answers no request and belongs to user nobody, and opens its root as its
// first descriptor. args are the folder, a user ID, a file to which it writes (may be empty), and its log, or a file
// that shows that it is ready.
func playFUSE(args []string) error {
	dir, file, log := args[0], args[2], args[3]
	uid, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", dev, nobody, nobody)
	if err := unix.Mount("fuse", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return err
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Dup2(root, 0); err != nil { // like sudo command < ~/sshfs/file
		return err
	}
	if file != "" {
		return playWriter(file, log)
	}
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		return err
	}
	if err := unix.Setuid(uid); err != nil {
		return err
	}
	time.Sleep(time.Hour)
	return nil
}

// fuseRoot returns a folder on which a FUSE filesystem can be mounted until the test ends.
func fuseRoot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
	return dir
}

// A descriptor of a filesystem that does not describe its files to root hides none of the other descriptors.
func TestI1BesideFUSE(t *testing.T) {
	for name, dataset := range map[string]func(*testing.T) guard.Registration{"own": own, "shared": shared} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := dataset(t)
			log := filepath.Join(t.TempDir(), "log")
			cmd := begin(t, "fuse", fuseRoot(t), "0", filepath.Join(r.Paths[0], "file"), log)
			wrote(t, log, 0)
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			w.recheckedAfter(t, r.Dataset, e.Fence.At)
			silent(t, log, e)
			if _, err := w.Supersede(t.Context(), r.Dataset, r.Epoch); err != nil {
				t.Fatal(err)
			}
			await(t, "the writer is killed", func() bool { s := stateOf(t, cmd.Process.Pid); return s == "Z" || s == "X" },
				func() string { return stateOf(t, cmd.Process.Pid) })
		})
	}
}

// Some filesystems do not describe their files to root, like a FUSE filesystem of another user or one that has shut
// down. A process that has such a file open is neither stopped nor killed for it, and does not keep a dataset from
// being superseded.
func TestI1UndescribedBystanders(t *testing.T) {
	newDisk := func(t *testing.T) string { return scratch.Mount(t, "xfs", scratch.XFS) }
	for name, start := range map[string]func(t *testing.T) *exec.Cmd{
		"a user with a FUSE": func(t *testing.T) *exec.Cmd {
			ready := filepath.Join(t.TempDir(), "ready")
			cmd := begin(t, "fuse", fuseRoot(t), strconv.Itoa(nobody), "", ready)
			await(t, "it is ready", func() bool { _, err := os.Stat(ready); return err == nil }, func() string { return "" })
			return cmd
		},
		"a process in a dead disk": func(t *testing.T) *exec.Cmd {
			disk := newDisk(t)
			cmd := exec.Command("sleep", "1000")
			cmd.Dir = disk
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			end(t, cmd)
			scratch.ShutDown(t, disk)
			return cmd
		},
		"the agent with a dead pool": func(t *testing.T) *exec.Cmd {
			disk := newDisk(t)
			dir, err := os.Open(disk) // opened by this process, which registers the dataset
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = dir.Close() })
			scratch.ShutDown(t, disk)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			bystander := start(t)
			w := newWorld(t)
			r := shared(t)
			_, log := writing(t, "writer", filepath.Join(r.Paths[0], "file"))
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			w.recheckedAfter(t, r.Dataset, e.Fence.At)
			silent(t, log, e)
			if e.Fence.By != guard.ActStop {
				t.Errorf("fenced by %s", e.Fence.By)
			}
			if _, err := w.Supersede(t.Context(), r.Dataset, r.Epoch); err != nil {
				t.Error(err)
			}
			if bystander != nil {
				w.goesOn(t, bystander)
			}
		})
	}
}
