package loop

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/google/uuid"
)

// folderOf opens a dataset's directory.
func (f *fixture) folderOf(id uuid.UUID) *shelf.Folder {
	f.Helper()
	dir, err := f.Shelf.OpenUnclaimed(id) // a claim would stop Reap
	f.must(err)
	f.Cleanup(func() { dir.Close() })
	return &shelf.Folder{Dir: dir, ID: id, State: backends.EntryReady}
}

// shared makes a dataset with file a, and a snapshot for another node that is the same file.
func (f *fixture) shared() (dataset.Dataset, dataset.Snapshot) {
	f.Helper()
	d := newDataset(xfs)
	f.create(d)
	f.put(d.ID, "a", "one")
	s := newTransfer(d)
	f.must(f.Snapshot(f.Context(), s, nil))
	f.names(d, map[string]uint64{headItem: 2})
	return d, s
}

// A device that another program holds for a moment, as udev does, is not used while its file has two names.
func TestDeviceOfASharedImageIsNotHeld(t *testing.T) {
	f := newFixture(t, "xfs")
	d, s := f.shared()
	dir := f.folderOf(d.ID).Dir
	theirs, err := openDevice(t.Context(), dir.Path(f.layout.Image(headItem)), loopdev.Options{BlockSize: sector})
	f.must(err)
	tries := 0
	f.backend.step = func(step string) {
		if step == "loop.attach.owned" {
			if tries++; tries == 3 {
				f.must(theirs.Close())
			}
		}
	}
	f.put(d.ID, "a", "two")
	if tries < 4 {
		t.Errorf("attached at the %d. try, while another had it", tries)
	}
	f.hasSnapshot(s, "one", true)
	f.names(d, map[string]uint64{headItem: 1})
}

// A crash while a snapshot is taken can leave a second name of the head, which was mounted meanwhile. That name is
// worthless: it does not block the head, and its file is not overwritten.
func TestSecondNameThatWasLeft(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	f.put(d.ID, "a", "one")
	dir, s := f.folderOf(d.ID).Dir, newTransfer(d)
	root, unmount := f.mounted(d.ID)
	left := shelf.Temp + f.layout.Image(s.ID.String())
	f.must(dir.Link(f.layout.Image(headItem), left))
	att, err := f.Attach(t.Context(), d.ID, backends.AttachOptions{})
	f.must(err)
	f.must(att.Release())
	f.must(dir.Link(f.layout.Image(headItem), left))
	f.must(f.Snapshot(t.Context(), s, nil))
	mine := newSnapshot(d) // it is cloned at once
	f.must(dir.Link(f.layout.Image(headItem), shelf.Temp+f.layout.Image(mine.ID.String())))
	f.must(f.Snapshot(t.Context(), mine, nil))
	f.write(filepath.Join(root, "a"), "two")
	unmount()
	if got := f.get(d.ID, "a"); got != "two" {
		t.Errorf("the head has %q", got)
	}
	f.hasSnapshot(s, "one", true)
	f.hasSnapshot(mine, "one", true)
	f.settled()
}

// A snapshot that is being sent keeps its bytes when it is deleted and its head is written to.
func TestDeletedWhileItIsRead(t *testing.T) {
	f := newFixture(t, "xfs")
	d, s := f.shared()
	image, err := f.folderOf(d.ID).Dir.Open(f.layout.Image(s.ID.String()))
	f.must(err)
	defer image.Close()
	sum := func() []byte {
		data := make([]byte, 64<<20)
		_, err := image.ReadAt(data, 0)
		f.must(err)
		return data
	}
	before := sum()
	f.must(f.DeleteSnapshot(t.Context(), d.ID, s.ID))
	f.put(d.ID, "a", "two")
	if !bytes.Equal(sum(), before) {
		t.Error("what is read has changed")
	}
}

// In a full pool, a snapshot that is being read is not removed, and a snapshot that is being removed cannot be
// opened.
func TestDeletedWhileItIsReadInAFullPool(t *testing.T) {
	f := newFixture(t, "xfs")
	d, s := f.shared()
	dir, name := f.folderOf(d.ID).Dir, f.layout.Image(s.ID.String())
	image, err := dir.Open(name)
	f.must(err)
	defer image.Close()
	sum := func() [sha256.Size]byte {
		data := make([]byte, 64<<20)
		_, err := image.ReadAt(data, 0)
		f.must(err)
		return sha256.Sum256(data)
	}
	before := sum()
	fill(f)
	begun := 0
	f.backend.step = func(step string) {
		if step != "loop.snapshot-delete.unnamed" {
			return
		}
		begun++
		if other, err := dir.Open(name); err == nil {
			t.Error("it can be opened by its name while it is removed")
			f.must(other.Close())
		}
	}
	f.isKind(f.DeleteSnapshot(t.Context(), d.ID, s.ID), dataset.ErrNoSpace)
	f.names(d, map[string]uint64{headItem: 2, s.ID.String(): 2})
	f.must(os.Remove(filepath.Join(f.disk, "bulk")))
	f.hasSnapshot(s, "one", true)
	f.must(f.DeleteSnapshot(t.Context(), d.ID, s.ID))
	f.put(d.ID, "a", "two")
	if sum() != before {
		t.Error("what is read has changed")
	}
	if begun != 2 {
		t.Errorf("%d removals took the name away first, want 2", begun)
	}
	f.lacksSnapshot(s)
	f.settled()
}

// In a full pool, a head that shares its image is not opened, and the error says why.
func TestNoRoomForAnImage(t *testing.T) {
	f := newFixture(t, "xfs")
	d, s := f.shared()
	fill(f)
	_, err := f.Attach(t.Context(), d.ID, backends.AttachOptions{})
	f.isKind(err, dataset.ErrNoSpace)
	if err == nil || !strings.Contains(err.Error(), "pool test lacks space") {
		t.Errorf("got %v", err)
	}
	f.names(d, map[string]uint64{headItem: 2, s.ID.String(): 2})
}

// fill uses up all blocks and inodes of the pool's filesystem.
func fill(f *fixture) {
	f.Helper()
	bulk, err := os.Create(filepath.Join(f.disk, "bulk"))
	f.must(err)
	defer bulk.Close()
	for n := int64(64 << 20); n >= 4096; {
		fi, err := bulk.Stat()
		f.must(err)
		if unix.Fallocate(int(bulk.Fd()), 0, fi.Size(), n) != nil {
			n /= 2
		}
	}
	for n := 0; ; n++ {
		if os.WriteFile(filepath.Join(f.disk, "small"+string(rune('a'+n%26))+string(rune('a'+n/26))), []byte("x"),
			0o600) != nil {
			return
		}
	}
}
