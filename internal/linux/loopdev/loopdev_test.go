package loopdev_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

const mib = 1 << 20

func attach(t *testing.T, file string, opts loopdev.Options) *loopdev.Device {
	t.Helper()
	d, err := loopdev.Attach(t.Context(), file, opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// find returns the device that a file is attached to, if any.
func find(t *testing.T, file string) (loopdev.Info, bool) {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	info, ok, err := loopdev.FindByFile(f)
	require.NoError(t, err)
	return info, ok
}

func TestAttachReadsAndWritesTheFile(t *testing.T) {
	file := scratch.Image(t, "", mib)
	d := attach(t, file, loopdev.Options{DirectIO: true, BlockSize: 4096})
	if d.BlockSize != 4096 {
		t.Errorf("block size %d", d.BlockSize)
	}
	info, ok := find(t, file)
	if !ok || info.Path != d.Path || info.Backing != file || !info.Autoclear || info.ReadOnly ||
		info.DirectIO != d.DirectIO {
		t.Errorf("found %v %+v, have %+v", ok, info, d)
	}
	dev, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	require.NoError(t, err)
	block := bytes.Repeat([]byte("x"), 4096)
	_, err = dev.WriteAt(block, 8192)
	require.NoError(t, err)
	require.NoError(t, dev.Sync())
	dev.Close()
	require.NoError(t, d.Close())
	data, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(data[8192:8192+4096], block) {
		t.Errorf("the file has other bytes (%v)", err)
	}
	if _, ok := find(t, file); ok {
		t.Error("attached after close")
	}
	assert.ErrorIsf(t, d.Close(), os.ErrClosed, "second close")
}

func TestReadOnly(t *testing.T) {
	file := scratch.Image(t, "", mib)
	require.NoError(t, os.Chmod(file, 0o400))
	d := attach(t, file, loopdev.Options{ReadOnly: true})
	if info, ok := find(t, file); !ok || !info.ReadOnly {
		t.Errorf("found %v %+v", ok, info)
	}
	if dev, err := os.OpenFile(d.Path, os.O_RDWR, 0); err == nil {
		_, err = dev.WriteAt(make([]byte, 4096), 0)
		dev.Close()
		if err == nil {
			t.Error("wrote to a read-only device")
		}
	}
}

// A mount keeps a device without a descriptor, so the device survives the end of the process.
func TestDeviceLivesAsLongAsItsMount(t *testing.T) {
	file := scratch.Image(t, "ext4", scratch.Ext4)
	target := t.TempDir()
	d := attach(t, file, loopdev.Options{BlockSize: 4096})
	require.NoError(t, mount.Mount(target, mount.Spec{Source: d.Path, FSType: "ext4"}))
	t.Cleanup(func() { _ = mount.Unmount(target) })
	require.NoError(t, d.Close())
	if _, ok := find(t, file); !ok {
		t.Error("mounted and not attached")
	}
	require.NoError(t, mount.Unmount(target))
	if info, ok := find(t, file); ok {
		t.Errorf("unmounted and attached: %+v", info)
	}
}

// The kernel detaches the file of a device after its process was killed.
func TestKilledProcessLeavesNothing(t *testing.T) {
	if file := os.Getenv("LOOPDEV_TEST_ATTACH"); file != "" {
		attach(t, file, loopdev.Options{})
		fmt.Println("attached")
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	file := scratch.Image(t, "", mib)
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, "-test.run=^TestKilledProcessLeavesNothing$")
	cmd.Env = append(os.Environ(), "LOOPDEV_TEST_ATTACH="+file)
	_, err = cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "attached\n" {
		t.Errorf("the other process said %q (%v)", line, err)
	}
	if _, ok := find(t, file); !ok {
		t.Error("the other process did not attach")
	}
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	if info, ok := find(t, file); ok {
		t.Errorf("left behind: %+v", info)
	}
}

func TestAttachedTwiceIsRefused(t *testing.T) {
	file := scratch.Image(t, "", mib)
	hard := filepath.Join(filepath.Dir(file), "hard")
	require.NoError(t, os.Link(file, hard))
	d := attach(t, file, loopdev.Options{})
	moved := file + ".moved"
	require.NoError(t, os.Rename(file, moved))
	for _, name := range []string{moved, hard} {
		_, err := loopdev.Attach(t.Context(), name, loopdev.Options{})
		var a *loopdev.AttachedError
		if !errors.Is(err, loopdev.ErrAttached) || !errors.As(err, &a) || a.Device.Path != d.Path {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestForeignAttachIsSeen(t *testing.T) {
	file := scratch.Image(t, "", mib)
	dev := strings.TrimSpace(scratch.Run(t, "losetup", "--find", "--show", file))
	t.Cleanup(func() { scratch.Run(t, "losetup", "-d", dev) })
	_, err := loopdev.Attach(t.Context(), file, loopdev.Options{})
	var a *loopdev.AttachedError
	if !errors.As(err, &a) || a.Device.Path != dev || a.Device.Autoclear {
		t.Errorf("got %v", err)
	}
}

// A file that is open is not attached, and can be attached.
func TestReaderDoesNotPreventAttach(t *testing.T) {
	file := scratch.Image(t, "", mib)
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	attach(t, file, loopdev.Options{})
}

func TestLockedFileWaitsForTheContext(t *testing.T) {
	file := scratch.Image(t, "", mib)
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := loopdev.Attach(ctx, file, loopdev.Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestOneOfManyWins(t *testing.T) {
	file := scratch.Image(t, "", mib)
	var wg sync.WaitGroup
	won := make(chan *loopdev.Device, 20)
	for range cap(won) {
		wg.Go(func() {
			d, err := loopdev.Attach(t.Context(), file, loopdev.Options{})
			if err == nil {
				won <- d
			} else if !errors.Is(err, loopdev.ErrAttached) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(won)
	n := 0
	for d := range won {
		n++
		d.Close()
	}
	if n != 1 {
		t.Errorf("%d attached one file", n)
	}
}

func TestMoreThanEightAtOnce(t *testing.T) {
	var wg sync.WaitGroup
	devices := make([]*loopdev.Device, 24)
	for i := range devices {
		file := scratch.Image(t, "", mib)
		wg.Go(func() {
			d, err := loopdev.Attach(t.Context(), file, loopdev.Options{})
			assert.NoError(t, err)
			devices[i] = d
		})
	}
	wg.Wait()
	paths := map[string]bool{}
	for _, d := range devices {
		if d == nil {
			continue
		}
		paths[d.Path] = true
		assert.NoError(t, d.Close())
	}
	if len(paths) != len(devices) {
		t.Errorf("%d devices for %d files", len(paths), len(devices))
	}
}

// A file on a filesystem with blocks of 4096 bytes cannot be read by direct I/O in the units of a device with blocks of
// 512 bytes. The kernel then continues with buffered I/O.
func TestFallbackFromDirectIOIsTold(t *testing.T) {
	pool := scratch.Mount(t, "ext4", scratch.Ext4)
	file := filepath.Join(pool, "image")
	require.NoError(t, os.WriteFile(file, make([]byte, mib), 0o600))
	d := attach(t, file, loopdev.Options{DirectIO: true, BlockSize: 4096})
	if !d.DirectIO {
		t.Error("no direct I/O with equal block sizes")
	}
	d.Close()
	d = attach(t, file, loopdev.Options{DirectIO: true, BlockSize: 512})
	if d.DirectIO {
		t.Error("direct I/O with blocks of 512 on 4096")
	}
	d.Close()
}

func TestSetCapacity(t *testing.T) {
	file := scratch.Image(t, "", mib)
	d := attach(t, file, loopdev.Options{BlockSize: 4096})
	require.NoError(t, os.Truncate(file, 3*mib))
	for range 2 {
		require.NoError(t, loopdev.SetCapacity(d.Path))
	}
	dev, err := os.Open(d.Path)
	require.NoError(t, err)
	defer dev.Close()
	if size, err := dev.Seek(0, 2); err != nil || size != 3*mib {
		t.Errorf("size %d, %v", size, err)
	}
}

func TestWhatCannotBeAttached(t *testing.T) {
	dir := t.TempDir()
	link, fifo := filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	require.NoError(t, os.Symlink(scratch.Image(t, "", mib), link))
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	for _, file := range []string{link, fifo, dir, filepath.Join(dir, "missing"), "/dev/null"} {
		if d, err := loopdev.Attach(t.Context(), file, loopdev.Options{}); err == nil {
			d.Close()
			t.Errorf("attached %s", file)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("more than a line: %q", err)
		}
	}
}

// A caller that finds a file attached can keep the device, even if the first user closes it.
func TestHold(t *testing.T) {
	file := scratch.Image(t, "", mib)
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	if info, ok, err := loopdev.Attached(f); ok || err != nil {
		t.Errorf("attached to %+v, %v", info, err)
	}
	d := attach(t, file, loopdev.Options{BlockSize: 4096})
	info, ok, err := loopdev.Attached(f)
	if !ok || err != nil || info.Path != d.Path {
		t.Fatalf("attached to %+v, %v", info, err)
	}
	held, err := loopdev.OpenExisting(info)
	require.NoError(t, err)
	d.Close()
	if _, ok := find(t, file); !ok || held.Path != d.Path || held.BlockSize != 4096 {
		t.Errorf("gone in spite of %+v", held)
	}
	assert.NoError(t, held.Close())
	if _, err := loopdev.OpenExisting(info); !errors.Is(err, loopdev.ErrGone) {
		t.Errorf("held a device that is gone: %v", err)
	}
	attach(t, scratch.Image(t, "", mib), loopdev.Options{})
	other := info
	other.Inode = ^other.Inode // the next inode number may be that of the new image
	if _, err := loopdev.OpenExisting(other); !errors.Is(err, loopdev.ErrGone) {
		t.Errorf("held a device that has another file: %v", err)
	}
}

// A device whose file is on a failed disk does not prevent List from finding the other devices.
func TestListBesideFailedDisk(t *testing.T) {
	device, fail := scratch.FailingDisk(t, 64*mib)
	file := scratch.Image(t, "", mib)
	healthy := attach(t, file, loopdev.Options{})
	fail()
	info, ok := find(t, file)
	if !ok || info.Path != healthy.Path {
		t.Errorf("found %+v, %t", info, ok)
	}
	list, err := loopdev.List()
	require.NoError(t, err)
	i := slices.IndexFunc(list, func(i loopdev.Info) bool { return i.Path == device })
	if i < 0 || list[i].Inode != 0 || list[i].Backing == "" {
		t.Errorf("the device on the failed disk: %d of %+v", i, list)
	}
}

// With the option Sole, a file with two names is refused. Attach waits for a file that another caller has claimed.
func TestSoleAndClaimed(t *testing.T) {
	file := scratch.Image(t, "", mib)
	hard := filepath.Join(filepath.Dir(file), "hard")
	require.NoError(t, os.Link(file, hard))
	if _, err := loopdev.Attach(t.Context(), file, loopdev.Options{Sole: true}); !errors.Is(err, loopdev.ErrShared) {
		t.Errorf("got %v", err)
	}
	if info, ok := find(t, file); ok {
		t.Errorf("left behind: %+v", info)
	}
	require.NoError(t, os.Remove(hard))
	f, err := os.Open(file)
	require.NoError(t, err)
	require.NoError(t, loopdev.Claim(t.Context(), f))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := loopdev.Attach(ctx, file, loopdev.Options{Sole: true}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("claimed: %v", err)
	}
	f.Close()
	d := attach(t, file, loopdev.Options{Sole: true})
	if fi, err := os.Stat(file); err != nil || fi.Sys().(*syscall.Stat_t).Ino != d.Inode {
		t.Errorf("inode %d, %v", d.Inode, err)
	}
	f, err = os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	assert.ErrorIsf(t, loopdev.Claim(t.Context(), f), loopdev.ErrAttached, "attached")
}

// A device with disabled discards frees no blocks of its file. The next attached file gets a device that accepts
// discards, whether or not the number of the first device was removed.
func TestDisableDiscard(t *testing.T) {
	filled := func() string {
		file := scratch.Image(t, "", mib)
		require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte("x"), mib), 0o600))
		return file
	}
	discard := func(d *loopdev.Device) error { return exec.Command("blkdiscard", d.Path).Run() }
	for _, remove := range []bool{true, false} {
		file := filled()
		d := attach(t, file, loopdev.Options{BlockSize: 4096})
		for range 2 {
			require.NoError(t, loopdev.DisableDiscard(d.Path))
		}
		if discard(d) == nil {
			t.Error("discarded all the same")
		}
		if data, err := os.ReadFile(file); err != nil || bytes.ContainsRune(data, 0) {
			t.Errorf("its file has lost bytes: %v", err)
		}
		assert.ErrorIsf(t, loopdev.Remove(d.Path), unix.EBUSY, "removed while it is in use")
		require.NoError(t, d.Close())
		if remove {
			for range 2 {
				if err := loopdev.Remove(d.Path); err != nil && !errors.Is(err, unix.EBUSY) { // another may take it
					t.Error(err)
				}
			}
		}
		if err := discard(attach(t, filled(), loopdev.Options{BlockSize: 4096})); err != nil {
			t.Errorf("the next device does not discard: %v", err)
		}
	}
	if err := loopdev.DisableDiscard("/dev/loop-that-is-none"); err == nil {
		t.Error("turned off on a device that is absent")
	}
}
