package loop

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
)

// trim runs fstrim(8) on a mounted filesystem, as fstrim.timer does on every filesystem of a host.
func trim(t *testing.T, dir string) (output string) {
	t.Helper()
	out, err := exec.Command("fstrim", "-v", dir).CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return string(out)
}

// allocated fails the test unless every block of the pool's image is allocated.
func (f *fixture) allocated(cfg backends.Config, when string) {
	f.Helper()
	if got := blocks(f.T, cfg.Path); got < int64(cfg.Image) {
		f.Errorf("%s %d bytes of the image's %d are allocated", when, got, cfg.Image)
	}
}

// B15: fstrim takes no blocks from a pool image, so a host disk that fills up afterwards takes nothing from the
// volumes.
func TestB15TrimTakesNothing(t *testing.T) {
	f, cfg := hosted(t, 2*dataset.GiB, 600*dataset.MiB)
	d := newDataset(ext4)
	f.create(d)
	root, _ := f.mounted(d.ID)
	out := trim(t, cfg.Mount)
	f.allocated(cfg, "after fstrim")
	if !strings.Contains(out, "not supported") {
		t.Errorf("fstrim of the image says %q", out)
	}
	if list := f.Pool.Warnings(); len(list) > 0 {
		t.Errorf("warnings: %q", list)
	}
	scratch.Fill(t, f.disk)
	f.write(filepath.Join(root, "a"), strings.Repeat("x", 100<<20))

	// The volume still returns the space of deleted files to the pool.
	full, err := f.Used(t.Context(), d.ID)
	f.must(err)
	f.must(os.Remove(filepath.Join(root, "a")))
	scratch.Run(t, "sync", "-f", root)
	f.eventually("the pool has the blocks of a deleted file again", func() bool { // ext4 discards in the background
		now, err := f.Used(t.Context(), d.ID)
		f.must(err)
		return now < full-90*dataset.MiB
	})
	trim(t, root)
	f.allocated(cfg, "after fstrim in a volume")
}

// An image is found mounted, as after a crash, and its device accepts discards. The discards end then.
func TestB15TrimOfAnImageMountedBefore(t *testing.T) {
	f, cfg := hosted(t, 2*dataset.GiB, 600*dataset.MiB)
	f.must(f.Pool.Close())
	dev, err := loopdev.Attach(t.Context(), cfg.Path, loopdev.Options{DirectIO: true, BlockSize: sector})
	f.must(err)
	f.must(mount.Mount(cfg.Mount, mount.Spec{Source: dev.Path, FSType: xfs, Options: []string{"nodiscard", "nouuid"}}))
	f.must(dev.Close())
	cfg.Make = false
	g := openHosted(t, cfg)
	trim(t, cfg.Mount)
	g.allocated(cfg, "after fstrim")
}

// Discards are off only for the image's device. The next file on a device with the same number has them.
func TestDiscardsAfterAnImage(t *testing.T) {
	f, _ := hosted(t, 2*dataset.GiB, 600*dataset.MiB)
	f.must(f.Pool.Close())
	for range 3 {
		file := scratch.Image(t, "", 1<<20)
		f.must(os.WriteFile(file, make([]byte, 1<<20), 0o600))
		dev, err := loopdev.Attach(t.Context(), file, loopdev.Options{BlockSize: sector})
		f.must(err)
		defer dev.Close()
		if out, err := exec.Command("blkdiscard", dev.Path).CombinedOutput(); err != nil || blocks(t, file) > 0 {
			t.Errorf("%s: %v: %s", dev.Path, err, out)
		}
	}
}

// An open image that lost blocks gets them back at the next status check, and the pool reports that. Without room for
// them nothing new begins.
func TestB15LostBlocksComeBack(t *testing.T) {
	f, cfg := hosted(t, 2*dataset.GiB, dataset.GiB)
	hole := func() {
		file, err := os.OpenFile(cfg.Path, os.O_RDWR, 0)
		f.must(err)
		defer file.Close()
		f.must(unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 900<<20, 100<<20))
	}
	hole()
	if st := f.Status(t.Context()); !st.Online || st.Reason != "" {
		t.Errorf("status %+v", st)
	}
	f.allocated(cfg, "after a look")
	if list := f.Pool.Warnings(); len(list) != 1 || !strings.Contains(list[0], "had lost 100MiB of its blocks") {
		t.Errorf("warnings: %q", list)
	}
	hole()
	hog, err := os.Create(filepath.Join(f.disk, "hog"))
	f.must(err)
	defer hog.Close()
	f.must(unix.Fallocate(int(hog.Fd()), 0, 0, int64(freeOf(t, f.disk)-60*dataset.MiB)))
	_, err = f.Create(t.Context(), newDataset(xfs))
	f.isKind(err, dataset.ErrNoSpace)
	if st := f.Status(t.Context()); !st.Online ||
		!strings.Contains(st.Reason, "not fully allocated (100MiB are missing)") {
		t.Errorf("status %+v", st)
	}
	f.must(os.Remove(hog.Name()))
	f.must(hog.Close())
	_, err = f.Create(t.Context(), newDataset(xfs))
	f.must(err)
	f.allocated(cfg, "with room again")
	if list := f.Pool.Warnings(); len(list) != 1 || !strings.Contains(list[0], "had lost 200MiB of its blocks") {
		t.Errorf("warnings: %q", list)
	}
}

// eventually fails the test unless a condition holds within half a minute.
func (f *fixture) eventually(what string, holds func() bool) {
	f.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			f.Fatalf("it does not come that %s", what)
		}
	}
}

// Where discards cannot be turned off, the pool says what that means.
func TestDiscardsThatStayOn(t *testing.T) {
	img := &poolImage{file: "/disk/pool.img"}
	img.keepBlocks("/dev/loop-that-is-none")
	if list := img.Warnings(); len(list) != 1 || !strings.Contains(list[0], "fstrim") ||
		!strings.Contains(list[0], "/dev/loop-that-is-none") {
		t.Errorf("warnings: %q", list)
	}
}
