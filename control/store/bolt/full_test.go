package bolt_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
)

// tmpfs mounts a tmpfs of size bytes for the duration of the test.
func tmpfs(t *testing.T, size int64) string {
	t.Helper()
	dir := t.TempDir()
	spec := mount.Spec{Source: "tmpfs", FSType: "tmpfs", Options: []string{fmt.Sprintf("size=%d", size)}}
	if err := mount.Mount(dir, spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The kernel takes some time to release an image whose loop device was removed. Each try waits a tenth of a
		// second.
		err := mount.Unmount(dir)
		for try := 0; errors.Is(err, mount.ErrBusy) && try < 100; try++ {
			err = mount.Unmount(dir)
		}
		if err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillDisk uses up all space of dir's filesystem, and returns a function that frees it again.
func fillDisk(t *testing.T, dir string) (free func()) {
	t.Helper()
	f, err := os.CreateTemp(dir, "filler-*")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var end int64
	for chunk := int64(64 << 20); chunk >= 4096; {
		err := unix.Fallocate(int(f.Fd()), 0, end, chunk)
		switch {
		case err == nil:
			end += chunk
		case errors.Is(err, unix.ENOSPC):
			chunk /= 2
		default:
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	// The space that is left is less than a page, or reserved for others.
	if more, err := os.CreateTemp(dir, "filler-*"); err == nil {
		for err == nil {
			_, err = more.Write(make([]byte, 4096))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		if err := more.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		fillers, err := filepath.Glob(filepath.Join(dir, "filler-*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range fillers {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func createVolume(tb testing.TB, s *bolt.Store, n int) error {
	tb.Helper()
	checks, writes := create(n)
	_, err := s.Txn(tb.Context(), checks, writes)
	return err
}

func TestFullDisk(t *testing.T) {
	for name, dir := range map[string]func(t *testing.T) string{
		"ext4":  func(t *testing.T) string { return scratch.Mount(t, "ext4", 64<<20) },
		"xfs":   func(t *testing.T) string { return scratch.Mount(t, "xfs", scratch.XFS) },
		"btrfs": func(t *testing.T) string { return scratch.Mount(t, "btrfs", scratch.Btrfs) },
		"tmpfs": func(t *testing.T) string { return tmpfs(t, 48<<20) },
	} {
		t.Run(name, func(t *testing.T) { testFullDisk(t, dir(t)) })
	}
}

// grow writes pairs of large values from several callers until there is no space, and returns how many pairs were
// acknowledged.
func grow(t *testing.T, s *bolt.Store) int {
	t.Helper()
	large := make([]byte, 180<<10) // two of them are about as large as the largest transaction
	grown := 0
	for round, full := 0, false; !full; round++ {
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for n := range errs {
			wg.Go(func() {
				key := fmt.Sprintf("large/%03d-%d", round, n)
				_, errs[n] = s.Txn(t.Context(), nil, []store.Write{{Key: key + "a", Value: large}, {Key: key + "b", Value: large}})
			})
		}
		wg.Wait()
		for _, err := range errs {
			switch {
			case err == nil:
				grown++
			case dataset.KindOf(err) == dataset.ErrNoSpace && !errors.Is(err, store.ErrConflict):
				full = true
			default:
				t.Fatal(err)
			}
		}
	}
	return grown
}

func testFullDisk(t *testing.T, dir string) {
	const before = 20
	s := open(t, pathIn(dir))
	for n := range before {
		if err := createVolume(t, s, n); err != nil {
			t.Fatal(err)
		}
	}
	stats := s.Stats()
	if stats.ReserveBytes == 0 {
		t.Fatal("no reserve on an empty disk")
	}
	var file unix.Stat_t
	if err := unix.Stat(pathIn(dir), &file); err != nil {
		t.Fatal(err)
	}
	if has := file.Blocks * 512; has < file.Size+stats.ReserveBytes {
		t.Fatalf("the file of %d bytes has %d of the disk, without the reserve of %d", file.Size, has, stats.ReserveBytes)
	}
	free := fillDisk(t, dir)

	// Volumes are removed, and some are created, in the reserve.
	for n := range before / 2 {
		if err := remove(t, s, n); err != nil {
			t.Fatalf("remove %d on a full disk: %v", n, err)
		}
		if err := createVolume(t, s, before+n); err != nil {
			t.Fatalf("create %d on a full disk: %v", n, err)
		}
	}
	// Then far too much is written.
	grown := grow(t, s)
	if stats = s.Stats(); stats.ReserveBytes != 0 || stats.Entries != int64(4*before+2*grown) {
		t.Errorf("%d large values fit: %+v", grown, stats)
	}
	// What was acknowledged can be read. Removals succeed. Once the reserve is used up a removal may fail, and loses
	// nothing.
	if n := len(all(t, s)); n != 4*before+2*grown {
		t.Errorf("%d entries, want %d", n, 4*before+2*grown)
	}
	removed := before / 2
	for ; removed < before; removed++ {
		if err := remove(t, s, removed); errors.Is(err, dataset.ErrNoSpace) {
			break
		} else if err != nil {
			t.Fatalf("remove %d after a commit that failed: %v", removed, err)
		}
	}
	free()
	for ; removed < before; removed++ {
		if err := remove(t, s, removed); err != nil {
			t.Fatalf("remove %d on a disk with room: %v", removed, err)
		}
	}
	for n := range 30 {
		if _, err := s.Txn(t.Context(), nil, []store.Write{{Key: fmt.Sprintf("large/again%03d", n), Value: make([]byte, store.MaxValue)}}); err != nil {
			t.Fatalf("large value %d on a disk with room: %v", n, err)
		}
	}
	if s.Stats().ReserveBytes == 0 {
		t.Error("the reserve did not come back")
	}
	want := all(t, s)
	shut(t, s)
	if got := all(t, open(t, pathIn(dir))); len(got) != len(want) || len(got) != 2*before+2*grown+30 {
		t.Errorf("%d entries after opening again, %d before", len(got), len(want))
	}
}
