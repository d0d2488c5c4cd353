package bolt_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/scratch"
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
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	extents, err := reflink.Extents(f)
	if err != nil || len(extents) == 0 || extents[0].Offset != 0 || extents[0].Length < 8192 {
		t.Fatalf("%+v, %v", extents, err)
	}
	disk, err := os.OpenFile(d.image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := unix.Fallocate(int(disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(extents[0].Physical), 8192); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, filepath.Dir(d.image)) // what the hole gave back
}

// After a failed flush the store relies on the contents of the disk, and not on the page cache. It refuses to
// continue with a file that the disk has damaged.
func TestDiskIsReadAgainAfterAFailedFlush(t *testing.T) {
	d, s := newBadDisk(t)
	f, err := os.Open(pathIn(d.dir))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	extents, err := reflink.Extents(f)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.OpenFile(d.image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
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
	if !errors.Is(err, dataset.ErrCorrupt) {
		t.Fatalf("after a failed flush: %v", err)
	}
	if _, err := s.Get(t.Context(), "k/00"); !errors.Is(err, dataset.ErrCorrupt) {
		t.Errorf("a read: %v", err)
	}
}
