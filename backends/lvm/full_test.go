//go:build lab

package lvm

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/lab/inside"
	"github.com/droverhq/drover/test/require"
)

// fill writes the given number of incompressible bytes, and returns how many could be written.
func fill(t *testing.T, path string, size int64) (written int64, err error) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	buf := make([]byte, 1<<20)
	_, _ = rand.Read(buf)
	for written < size && err == nil {
		var n int
		n, err = f.Write(buf)
		written += int64(n)
	}
	return written, errors.Join(err, f.Sync())
}

// If the pool is more than four fifths full, new work is refused, and the error names the remedy. Work that makes room
// in a full pool is allowed. When there is room again, everything is allowed.
func TestWatermark(t *testing.T) {
	const vg = "test-small"
	disk := inside.Disk(t, "lvm-first")
	dropped(t, vg)
	lvmDo(t, "vgcreate", vg, disk)
	lvmDo(t, "lvcreate", "--yes", "--size", "5000m", "--name", "theirs", vg)
	b := newBench(t, backends.Config{
		Name:  "test",
		Path:  "/dev/" + vg,
		Mount: filepath.Join(t.TempDir(), "mnt"),
		Make:  true,
	})
	st := b.Status(t.Context())
	if !st.Online || st.Reason != "" || st.Size > 1200*dataset.MiB || st.Size < 600*dataset.MiB {
		t.Fatalf("%+v", st)
	}
	d := b.create(2 * dataset.GiB) // more than the pool has
	b.in(d.ID, func(dir string) {
		_, err := fill(t, filepath.Join(dir, "file"), int64(st.Size)*82/100)
		assert.NoError(t, err)
	})
	if st = b.Status(t.Context()); !st.Online || !strings.Contains(st.Reason, "lvextend") {
		t.Errorf("nearly full: %+v", st)
	}
	e := dataset.Dataset{ID: uuid.New(), Size: little}
	s := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}
	_, err := b.Create(t.Context(), e)
	_, cErr := b.Clone(t.Context(), e, dataset.Source{Dataset: d.ID}, nil)
	for what, err := range map[string]error{"create": err, "clone": cErr, "snapshot": b.Snapshot(t.Context(), s, nil)} {
		if !errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), "lvextend") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := len(b.volumes()); n != 1 {
		t.Errorf("there are %d volumes", n)
	}
	s.Kind = dataset.SnapshotTransfer
	b.must(b.Snapshot(t.Context(), s, nil))
	b.must(b.DeleteSnapshot(t.Context(), d.ID, s.ID))
	b.in(d.ID, func(dir string) { // deleted files return their blocks to the pool
		b.must(os.Remove(filepath.Join(dir, "file")))
		f, err := os.Open(dir)
		b.must(err)
		b.must(errors.Join(fsctl.Sync(f), f.Close()))
	})
	if st = b.Status(t.Context()); st.Reason != "" || st.Free < st.Size/2 {
		t.Errorf("after a file was deleted: %+v", st)
	}
	_, err = b.Create(t.Context(), e)
	b.must(err)
}

// A snapshot of a filesystem that its owner has frozen is refused, because LVM cannot freeze it. The filesystem stays
// frozen. After it is thawed, a snapshot can be taken.
func TestFrozenVolume(t *testing.T) {
	b := newBench(t, place(t, "lvm-first"))
	for _, fs := range []string{xfs, ext4} {
		d := dataset.Dataset{ID: uuid.New(), Size: 320 * dataset.MiB}
		d.Profile.Filesystem.Type = fs
		_, err := b.Create(t.Context(), d)
		b.must(err)
		s := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}
		b.in(d.ID, func(dir string) {
			b.must(os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600))
			root, err := os.Open(dir)
			b.must(err)
			defer root.Close()
			b.must(fsctl.Freeze(root))
			err = b.Snapshot(t.Context(), s, nil)
			assert.NoErrorf(t, fsctl.Thaw(root), "%s: it was not frozen any more", fs)
			if !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "frozen") {
				t.Errorf("%s: %v", fs, err)
			}
			b.must(b.Snapshot(t.Context(), s, nil))
		})
		b.snapshotHolds(d.ID, s.ID, "content")
	}
	b.settled()
}

// A volume that a killed lvm(8) left suspended is resumed when the pool is opened.
func TestSuspendedVolumeGoesOn(t *testing.T) {
	b := newBench(t, place(t, "lvm-first"))
	d := b.create(little)
	b.write(d.ID, "content")
	name, err := b.head(d.ID)
	b.must(err)
	device := b.Pool.(*Pool).device(name)
	do(t, "dmsetup", "suspend", "--noudevsync", device)
	b.open()
	dev, err := dm.Find(device)
	b.must(err)
	if dev.Suspended {
		do(t, "dmsetup", "resume", "--noudevsync", device)
		t.Fatal("it is suspended still")
	}
	if got := b.read(d.ID); got != "content" {
		t.Errorf("it holds %q", got)
	}
}

// Snapshots are never active, and a former head is inactive after a restore.
func TestSnapshotsStayInactive(t *testing.T) {
	b := newBench(t, place(t, "lvm-first"))
	c := b.stage()
	b.must(b.Restore(t.Context(), c.ds.ID, c.snapshot.ID, c.keep, nil))
	b.read(c.ds.ID)
	said := lvmDo(t, "lvs", "--noheadings", "--options", "lv_name", "--select",
		"pool_lv="+poolName+" && lv_active=active", filepath.Base(b.cfg.Path))
	head, err := b.head(c.ds.ID)
	b.must(err)
	if strings.TrimSpace(said) != head {
		t.Errorf("active is %q, the head is %s", said, head)
	}
}
