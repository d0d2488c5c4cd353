package loop

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
)

// A head that was truncated or overwritten is reported. Operations that would read or keep it as if it were whole
// refuse it. Its snapshots are not affected: a restore starts from one of them and keeps the damaged head.
func TestDamagedHead(t *testing.T) {
	onAll(t, func(f *fixture, d dataset.Dataset) {
		for name, damage := range map[string]func(*os.File) error{
			"image truncated": func(image *os.File) error { return image.Truncate(int64(d.Size) / 3) },
			"no ext4 or XFS": func(image *os.File) error {
				_, err := image.WriteAt(make([]byte, 64<<10), 0)
				return err
			},
		} {
			d := d
			d.ID = uuid.New()
			f.create(d)
			f.put(d.ID, "a", "one")
			s := f.takeSnapshot(d)
			f.must(f.Resize(f.Context(), d.ID, larger, nil))
			d.Size = larger
			f.must(f.WriteRecord(f.Context(), d, true))
			f.harm(d, headItem, damage)
			f.refusesDamaged(d, name)

			keep := newSnapshot(d)
			keep.Kind = dataset.SnapshotRestore
			for range 2 {
				f.must(f.Restore(f.Context(), d.ID, s.ID, keep, nil))
			}
			if got := f.get(d.ID, "a"); got != "one" {
				f.Errorf("%s: after the restore it has %q", name, got)
			}
			f.hasSize(d.ID, larger)
			f.hasSnapshot(s, "one", true)
			f.refusesKept(d, keep)
			f.harm(d, headItem, damage)
			f.must(f.Delete(f.Context(), d.ID))
		}
	})
}

// If only the image of a head was deleted, its snapshots are still known, and a restore continues from one of them.
func TestDeletedHead(t *testing.T) {
	onAll(t, func(f *fixture, d dataset.Dataset) {
		f.create(d)
		f.put(d.ID, "a", "one")
		s := f.takeSnapshot(d)
		dir := f.folderOf(d.ID)
		f.must(f.layout.Remove(dir.Dir, headItem))
		f.must(dir.Dir.Close())
		keep := newSnapshot(d)
		keep.Kind = dataset.SnapshotRestore
		f.isKind(f.Restore(f.Context(), d.ID, uuid.New(), keep, nil), dataset.ErrNotFound)
		e, err := f.Stat(f.Context(), d.ID)
		f.isKind(err, dataset.ErrCorrupt)
		if len(e.Snapshots) != 1 || e.Snapshots[0].ID != s.ID || e.Problem != "its image is missing" {
			f.Errorf("entry %+v", e)
		}
		for range 2 {
			f.must(f.Restore(f.Context(), d.ID, s.ID, keep, nil))
		}
		if got := f.get(d.ID, "a"); got != "one" {
			f.Errorf("after the restore it has %q", got)
		}
		f.hasSize(d.ID, d.Size)
		f.must(f.Delete(f.Context(), d.ID))
	})
}

// harm damages an image.
func (f *fixture) harm(d dataset.Dataset, item string, damage func(*os.File) error) {
	f.Helper()
	dir := f.folderOf(d.ID)
	image, err := dir.OpenFile(f.layout.Image(item), os.O_RDWR)
	f.must(err)
	f.must(damage(image))
	f.must(image.Close())
}

// refusesDamaged checks that a damaged head is refused with the cause and the remedy, and is listed so.
func (f *fixture) refusesDamaged(d dataset.Dataset, why string) {
	f.Helper()
	_, attached := f.Attach(f.Context(), d.ID, backends.AttachOptions{})
	_, cloned := f.Clone(f.Context(), newDataset(d.Profile.Filesystem.Type), head0(d), nil)
	_, used := f.Used(f.Context(), d.ID)
	moved := newSnapshot(d)
	moved.Kind = dataset.SnapshotTransfer
	e, err := f.Stat(f.Context(), d.ID)
	f.must(err)
	for what, err := range map[string]error{
		"attach": attached, "clone": cloned, "used": used,
		"snapshot":      f.Snapshot(f.Context(), newSnapshot(d), nil),
		"snapshot sent": f.Snapshot(f.Context(), moved, nil),
		"resize":        f.Resize(f.Context(), d.ID, 2*larger, nil),
		"listed":        dataset.Errorf(dataset.ErrCorrupt, "%s", f.entries()[d.ID].Problem),
		"looked at":     dataset.Errorf(dataset.ErrCorrupt, "%s", e.Problem),
	} {
		if err == nil {
			f.Fatalf("%s: %s was not refused", why, what)
		}
		f.isKind(err, dataset.ErrCorrupt)
		if !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "\n") {
			f.Errorf("%s: %v", what, err)
		}
	}
	if len(e.Snapshots) != 1 {
		f.Errorf("it has the snapshots %+v", e.Snapshots)
	}
}

// refusesKept checks that the damaged head that a restore has kept exists, and is not accepted as whole.
func (f *fixture) refusesKept(d dataset.Dataset, keep dataset.Snapshot) {
	f.Helper()
	e, err := f.Stat(f.Context(), d.ID)
	f.must(err)
	if len(e.Snapshots) != 2 || e.Problem != "" {
		f.Errorf("entry %+v", e)
	}
	_, cloned := f.Clone(f.Context(), newDataset(""), at(keep), nil)
	_, sent := f.Send(f.Context(), at(keep), uuid.Nil, 0, io.Discard, nil)
	again := newSnapshot(d)
	again.Kind = dataset.SnapshotRestore
	for _, err := range []error{cloned, sent, f.Restore(f.Context(), d.ID, keep.ID, again, nil)} {
		f.isKind(err, dataset.ErrCorrupt)
	}
	f.must(f.DeleteSnapshot(f.Context(), d.ID, keep.ID))
}

// Listing a directory can miss an item that gets its name meanwhile, because btrfs reads only up to the end that the
// directory had.
func TestHeadThatAListMissed(t *testing.T) {
	f := newFixture(t, "btrfs")
	d := newDataset(ext4)
	f.create(d)
	dir := f.folderOf(d.ID)
	e := backends.Entry{ID: d.ID, State: backends.EntryReady}
	f.describeContents(dir, &e, contents{})
	if e.Problem != "" {
		t.Error(e.Problem)
	}
	f.must(f.layout.Remove(dir.Dir, headItem))
	f.describeContents(dir, &e, contents{})
	if e.Problem != "its image is missing" {
		t.Errorf("without a head: %q", e.Problem)
	}
}

// Without the key only the headers of a container can be checked for completeness.
func TestCutContainer(t *testing.T) {
	header := make([]byte, 512)
	copy(header, "LUKS\xba\xbe\x00\x02")
	copy(header[168:], uuid.NewString())
	for size, whole := range map[int]bool{512: false, crypt.Overhead: false, crypt.Overhead + sector: true} {
		fs, _, err := superblock(bytes.NewReader(append(header, make([]byte, size-512)...)))
		if fs != luks || whole != (err == nil) || !whole && dataset.KindOf(err) != dataset.ErrCorrupt {
			t.Errorf("of %d bytes: %s, %v", size, fs, err)
		}
	}
}

// cutShort runs an operation up to a step and leaves everything as it is at that step.
func (f *fixture) cutShort(do func() error, step int) {
	f.Helper()
	type cut struct{}
	n := 0
	f.backend.step = func(string) {
		if n == step {
			panic(cut{})
		}
		n++
	}
	defer func() {
		f.backend.step = func(string) {}
		if p := recover(); p != (cut{}) {
			f.Fatalf("step %d: %v", step, p)
		}
	}()
	f.must(do())
}

// lacksSnapshot checks that a removed snapshot is absent.
func (f *fixture) lacksSnapshot(s dataset.Snapshot) {
	f.Helper()
	e, err := f.Stat(f.Context(), s.Dataset)
	f.must(err)
	if slices.ContainsFunc(e.Snapshots, func(o dataset.Snapshot) bool { return o.ID == s.ID }) {
		f.Errorf("snapshot %s is there", s.ID)
	}
}

// A restore that was interrupted at any step can be repeated after the volume was used. Bytes that were written
// meanwhile are in the head or in the snapshot that keeps it, and a snapshot that was listed as kept does not change.
func TestRestoreGoesOnAfterWrites(t *testing.T) {
	onPools(t, func(f *fixture) {
		c := f.stage(xfs)
		restore := func() error { return f.Restore(f.Context(), c.Dataset.ID, c.Snapshot.ID, c.Keep, nil) }
		steps := 0
		f.backend.step = func(string) { steps++ }
		f.must(restore())
		swapped := 0
		for step := range steps {
			f.backend.step = func(string) {}
			c = f.stage(xfs)
			f.cutShort(restore, step)
			done := f.get(c.Dataset.ID, "a") == "one"
			f.hasSnapshot(c.Keep, "two", done)
			if e, err := f.Stat(t.Context(), c.Dataset.ID); err != nil || len(e.Snapshots) > 1 && !done {
				t.Errorf("step %d: %v is shown before it was kept (%v)", step, e.Snapshots, err)
			}
			f.put(c.Dataset.ID, "a", "acknowledged")
			f.must(restore())
			head, kept := "one", "acknowledged"
			if done {
				swapped++
				head, kept = kept, "two"
			}
			if got := f.get(c.Dataset.ID, "a"); got != head {
				t.Errorf("step %d: the head has %q instead of %q", step, got, head)
			}
			f.hasSnapshot(c.Keep, kept, true)
			image, err := f.folderOf(c.Dataset.ID).OpenFile(f.layout.Image(c.Keep.ID.String()), os.O_RDWR)
			if err == nil {
				f.must(image.Close())
			}
			if !f.layout.Costly() && !errors.Is(err, unix.EROFS) {
				t.Errorf("step %d: what is kept can be written to (%v)", step, err)
			}
			f.settled()
		}
		if swapped == 0 || swapped == steps {
			t.Errorf("%d of %d steps are behind the exchange", swapped, steps)
		}
	})
}
