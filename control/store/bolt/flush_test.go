package bolt_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// badDisk is an ext4 on a sparse image on a full tmpfs. A write to a block that the image does not have yet is an I/O
// error of the disk: write(2) does not notice it, and the flush does.
type badDisk struct {
	dir   string // of the ext4
	image string
	free  func() // makes the disk good again
}

// newBadDisk returns a disk with a store on it, and turns the disk bad. The store has been written to for a while
// before, so that its free pages have blocks.
func newBadDisk(t *testing.T) (*badDisk, *bolt.Store) {
	t.Helper()
	tmp := tmpfs(t, 64<<20)
	d := &badDisk{image: filepath.Join(tmp, "disk")}
	newImage(t, d.image, 256<<20)
	// It has no journal either, since the journal's blocks would be missing too.
	scratch.Run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal", d.image)
	d.dir = scratch.MountImage(t, "ext4", d.image)
	s := open(t, pathIn(d.dir))
	for n := range 300 {
		put(t, s, set(fmt.Sprintf("k/%02d", n%50), fmt.Sprint("good ", n)))
	}
	scratch.Run(t, "sync", "-f", d.dir)
	d.free = fillDisk(t, tmp)
	return d, s
}

// failed reports whether err is an error of the disk: the kernel returns an I/O error or the error of the image's
// filesystem.
func failed(err error) bool {
	return errors.Is(err, unix.EIO) && dataset.KindOf(err) == dataset.ErrUnavailable ||
		errors.Is(err, unix.ENOSPC) && dataset.KindOf(err) == dataset.ErrNoSpace
}

// A failed flush of data pages loses nothing, and the store continues to work.
func TestDataFlushFails(t *testing.T) {
	_, s := newBadDisk(t)
	made, fails := 0, 0
	for n := 0; n < 400 && fails < 3; n++ {
		_, err := s.Txn(t.Context(), nil, []store.Write{{Key: fmt.Sprintf("large/%03d", n), Value: make([]byte, store.MaxValue)}})
		switch {
		case err == nil:
			made++
		case failed(err):
			fails++
		default:
			t.Fatal(err)
		}
		if list := all(t, s); len(list) != 50+made {
			t.Fatalf("%d entries, want %d", len(list), 50+made)
		}
	}
	if fails == 0 {
		t.Fatal("no flush failed")
	}
	put(t, s, set("k/00", "small changes go through"))
}

// If the flush of a meta page failed, the page cache has a state that is not on the disk. Nobody may see that state,
// and nothing may be built on it, until it is on the disk.
func TestMetaFlushFails(t *testing.T) {
	d, s := newBadDisk(t)
	last := put(t, s, set("acknowledged", "x"))
	loseMetaPages(t, d)

	for range 3 {
		_, err := s.Txn(t.Context(), nil, []store.Write{set("in-doubt", "x"), set("in-doubt-too", "x")})
		if !failed(err) {
			t.Fatalf("a change: %v", err)
		}
		if _, err := s.Get(t.Context(), "in-doubt"); !failed(err) {
			t.Fatalf("a state that is not on the disk was shown: %v", err)
		}
		if _, err := s.List(t.Context(), "", "", 0); !failed(err) {
			t.Fatalf("a list of that state: %v", err)
		}
	}
	d.free()
	if e, err := s.Get(t.Context(), "acknowledged"); err != nil || e.Index != last {
		t.Fatalf("after the disk works again: %+v, %v", e, err)
	}
	// Of the change with the unknown outcome both keys are there, or none, and watchers are told to read again.
	_, one := s.Get(t.Context(), "in-doubt")
	_, two := s.Get(t.Context(), "in-doubt-too")
	if (one == nil) != (two == nil) {
		t.Errorf("half of a transaction: %v, %v", one, two)
	}
	if index := put(t, s, set("after", "x")); index <= last {
		t.Errorf("index %d after %d", index, last)
	}
	want := all(t, s)
	shut(t, s)
	if got := all(t, open(t, pathIn(d.dir))); len(got) != len(want) {
		t.Errorf("%d entries after opening again, %d before", len(got), len(want))
	}
}

// loseMetaPages takes the blocks of the file's first two pages from the disk.
func loseMetaPages(t *testing.T, d *badDisk) {
	t.Helper()
	f, err := os.Open(pathIn(d.dir))
	require.NoError(t, err)
	defer f.Close()
	extents, err := reflink.Extents(f)
	if err != nil || len(extents) == 0 || extents[0].Offset != 0 || extents[0].Length < 8192 {
		t.Fatalf("%+v, %v", extents, err)
	}
	disk, err := os.OpenFile(d.image, os.O_RDWR, 0)
	require.NoError(t, err)
	defer disk.Close()
	require.NoError(t, unix.Fallocate(int(disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(extents[0].Physical), 8192))
	fillDisk(t, filepath.Dir(d.image)) // what the hole gave back
}

// After a failed flush the store relies on the contents of the disk, and not on the page cache. It refuses to
// continue with a file that the disk has damaged.
func TestDiskIsReadAgainAfterAFailedFlush(t *testing.T) {
	d, s := newBadDisk(t)
	f, err := os.Open(pathIn(d.dir))
	require.NoError(t, err)
	defer f.Close()
	extents, err := reflink.Extents(f)
	require.NoError(t, err)
	disk, err := os.OpenFile(d.image, os.O_RDWR, 0)
	require.NoError(t, err)
	defer disk.Close()
	for _, e := range extents {
		from := max(e.Offset, 8192) // after the meta pages
		for off := from; off < e.Offset+e.Length; off += 4096 {
			at := int64(e.Physical) + off - e.Offset
			if _, err := unix.Seek(int(disk.Fd()), at, unix.SEEK_DATA); err != nil {
				break // the rest has no blocks, and gets none
			}
			if _, err := disk.WriteAt(make([]byte, 16), at); err != nil {
				break
			}
		}
	}
	if len(all(t, s)) != 50 {
		t.Fatal("it is not in the page cache any more")
	}
	for range 400 {
		_, err = s.Txn(t.Context(), nil, []store.Write{{Key: "large", Value: make([]byte, store.MaxValue)}})
		if err != nil && !failed(err) {
			break
		}
	}
	require.ErrorIsf(t, err, dataset.ErrCorrupt, "after a failed flush")
	if _, err := s.Get(t.Context(), "k/00"); !errors.Is(err, dataset.ErrCorrupt) {
		t.Errorf("a read: %v", err)
	}
}

// tmpfs mounts a tmpfs of size bytes for the duration of the test.
func tmpfs(t *testing.T, size int64) string {
	t.Helper()
	dir := t.TempDir()
	spec := mount.Spec{Source: "tmpfs", FSType: "tmpfs", Options: []string{fmt.Sprintf("size=%d", size)}}
	require.NoError(t, mount.Mount(dir, spec))
	t.Cleanup(func() {
		// The kernel takes some time to release an image whose loop device was removed. Each try waits a tenth of a
		// second.
		err := mount.Unmount(dir)
		for try := 0; errors.Is(err, mount.ErrBusy) && try < 100; try++ {
			err = mount.Unmount(dir)
		}
		assert.NoError(t, err)
	})
	return dir
}

// fillDisk uses up all space of dir's filesystem, and returns a function that frees it again.
func fillDisk(t *testing.T, dir string) (free func()) {
	t.Helper()
	f, err := os.CreateTemp(dir, "filler-*")
	require.NoError(t, err)
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
	require.NoError(t, f.Sync())
	// The space that is left is less than a page, or reserved for others.
	if more, err := os.CreateTemp(dir, "filler-*"); err == nil {
		for err == nil {
			_, err = more.Write(make([]byte, 4096))
		}
		require.ErrorIs(t, err, unix.ENOSPC)
		require.NoError(t, more.Close())
	}
	return func() {
		t.Helper()
		fillers, err := filepath.Glob(filepath.Join(dir, "filler-*"))
		require.NoError(t, err)
		for _, name := range fillers {
			require.NoError(t, os.Remove(name))
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
		require.NoError(t, createVolume(t, s, n))
	}
	stats := s.Stats()
	if stats.ReserveBytes == 0 {
		t.Fatal("no reserve on an empty disk")
	}
	var file unix.Stat_t
	require.NoError(t, unix.Stat(pathIn(dir), &file))
	if has := file.Blocks * 512; has < file.Size+stats.ReserveBytes {
		t.Fatalf("the file of %d bytes has %d of the disk, without the reserve of %d", file.Size, has, stats.ReserveBytes)
	}
	free := fillDisk(t, dir)

	// Volumes are removed, and some are created, in the reserve.
	for n := range before / 2 {
		require.NoErrorf(t, remove(t, s, n), "remove %d on a full disk", n)
		require.NoErrorf(t, createVolume(t, s, before+n), "create %d on a full disk", n)
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
		require.NoErrorf(t, remove(t, s, removed), "remove %d on a disk with room", removed)
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

// TestReleasePages: after a release, no page of the file is mapped, and everything is read as before, also while others
// read and write.
func TestReleasePages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	st, err := bolt.Open(t.Context(), path, bolt.Options{Clock: clock.System{}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = st.Close() })
	var work sync.WaitGroup
	for w := range 4 {
		work.Go(func() {
			for i := range 50 {
				key, value := fmt.Sprintf("key/%d/%03d", w, i), strings.Repeat("x", 4000)
				if _, err := st.Txn(t.Context(), nil, []store.Write{{Key: key, Value: []byte(value)}}); err != nil {
					t.Errorf("write %s: %v", key, err)
				}
				assert.NoError(t, st.ReleasePages())
				if e, err := st.Get(t.Context(), key); err != nil || string(e.Value) != value {
					t.Errorf("read %s after a release: %d bytes, %v", key, len(e.Value), err)
				}
			}
		})
	}
	work.Wait()
	if got := mappedKiB(t, path); got == 0 {
		t.Error("no page is mapped after 200 reads: the test measures nothing")
	}
	require.NoError(t, st.ReleasePages())
	// The read transaction of the release itself may map the root again.
	if got := mappedKiB(t, path); got > 64 {
		t.Errorf("%d KiB of the file are mapped after the release", got)
	}
	require.NoError(t, st.Close())
	assert.NoErrorf(t, st.ReleasePages(), "release of a closed store")
}

// mappedKiB returns how much of a file is in the memory of this process, in KiB.
func mappedKiB(t *testing.T, path string) (sum int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)`+regexp.QuoteMeta(path)+`\n(?:.*\n)*?Rss: +(\d+) kB`).FindAllSubmatch(text, -1) {
		n, err := strconv.Atoi(string(m[1]))
		require.NoError(t, err)
		sum += n
	}
	return sum
}

// The store is on an ext4 whose disk is an image file on XFS. A reflink of the image has the contents of the disk at
// one moment: it lacks what the filesystem has not flushed. Such copies are made while callers write, mounted as
// after a power cut (the journal is replayed), and opened.
func TestAcknowledgedSurvivesPowerCut(t *testing.T) {
	disks := scratch.Mount(t, "xfs", 2*scratch.XFS)
	image := filepath.Join(disks, "disk")
	newImage(t, image, 64<<20)
	scratch.Format(t, "ext4", image)
	s := open(t, pathIn(scratch.MountImage(t, "ext4", image)))

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var acked []string
	more := make(chan struct{}, 1)
	wg.Go(func() {
		write(ctx, s, "w", func(key string) {
			mu.Lock()
			acked = append(acked, key)
			mu.Unlock()
			select {
			case more <- struct{}{}:
			default:
			}
		})
	})
	type cut struct {
		image string
		acked []string
	}
	var cuts []cut
	for n := range 16 {
		for range 1 + rand.IntN(60) {
			<-more
		}
		mu.Lock()
		before := slices.Clone(acked)
		mu.Unlock()
		copied := filepath.Join(disks, "cut"+string(rune('a'+n)))
		clone(t, copied, image)
		cuts = append(cuts, cut{copied, before})
	}
	cancel()
	wg.Wait()
	shut(t, s)
	for _, c := range cuts {
		afterCut(t, c.image, func(dir string) { whole(t, pathIn(dir), c.acked) })
	}
}

func newImage(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(size))
}

func clone(t *testing.T, dst, src string) {
	t.Helper()
	from, err := os.Open(src)
	require.NoError(t, err)
	defer from.Close()
	to, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	require.NoError(t, err)
	defer to.Close()
	require.NoError(t, reflink.Clone(to, from))
}

// afterCut mounts a copy of a disk while fn runs.
func afterCut(t *testing.T, image string, fn func(dir string)) {
	t.Helper()
	dev, err := loopdev.Attach(t.Context(), image, loopdev.Options{BlockSize: 4096})
	require.NoError(t, err)
	dir := t.TempDir()
	if err := mount.Mount(dir, mount.Spec{Source: dev.Path, FSType: "ext4"}); err != nil {
		t.Fatal(err, dev.Close())
	}
	defer func() {
		assert.NoError(t, mount.Unmount(dir))
		assert.NoError(t, dev.Close())
	}()
	fn(dir)
}
