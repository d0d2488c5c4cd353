package shelf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/scratch"
)

// powered is a ready dataset in a pool on a disk whose power a test can cut. The disk has an ext4 without a
// journal, where fsync(2) writes one file and nothing else. On a filesystem with a journal one flush often
// writes what another one forgot.
type powered struct {
	*shelved
	shelf       *Shelf
	data        dataset.Dataset
	image, root string
}

func newPowered(t *testing.T) *powered {
	t.Helper()
	p := &powered{
		shelved: &shelved{T: t},
		image:   scratch.Image(t, "", scratch.Ext4),
		data:    dataset.Dataset{ID: uuid.New(), Epoch: 1},
	}
	scratch.Run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal", "-E", "lazy_itable_init=0", p.image)
	first := scratch.MountImage(t, "ext4", p.image)
	s := p.open(first, "pool")
	p.incoming(s, p.data)
	p.ok(errors.Join(s.Commit(t.Context(), p.data.ID), mount.Unmount(first)))
	// A flush of a directory writes its name as well while the kernel still knows that the directory is new.
	p.root = scratch.MountImage(t, "ext4", p.image)
	p.shelf = p.open(p.root, "pool")
	var err error
	p.Folder, err = p.shelf.FindDataset(p.data.ID)
	p.ok(err)
	t.Cleanup(func() { p.ok(p.Close()) })
	return p
}

// open opens a pool, and makes it if it does not exist.
func (p *powered) open(root, name string) *Shelf {
	p.Helper()
	s, err := Open(backends.Config{Name: name, Path: filepath.Join(root, name), Make: true}, "test")
	p.ok(err)
	return s
}

// incoming makes a dataset that is not committed.
func (p *powered) incoming(s *Shelf, d dataset.Dataset) {
	p.Helper()
	f, _, err := s.Make(d.ID)
	p.ok(err)
	p.ok(f.Mkdir(FirstHead))
	// The inodes of the record and of its folder must be in different blocks, which are flushed separately.
	for i := range 32 {
		p.ok(f.Mkdir(fmt.Sprintf("%s%d", Temp, i)))
	}
	p.ok(errors.Join(s.Finish(f, d), f.Close()))
}

// flush writes everything to the disk.
func (p *powered) flush() {
	p.Helper()
	scratch.Run(p.T, "sync", "-f", p.root)
}

// cut returns the folder of the dataset in an area as it would be after a power cut now. The folder is nil if the
// area does not have it.
func (p *powered) cut(pool, area string) *shelved { return p.cutOf(p.data.ID, pool, area) }

func (p *powered) cutOf(id uuid.UUID, pool, area string) *shelved {
	p.Helper()
	after := &shelved{T: p.T}
	path := filepath.Join(scratch.CutPower(p.T, "ext4", p.image), pool, area, id.String())
	root, err := safefile.OpenDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return after
	}
	p.ok(err)
	after.Folder = &Folder{Dir: root, ID: id, State: backends.EntryReady, done: func() {}}
	p.Cleanup(func() { p.ok(after.Close()) })
	return after
}

// I2: a dataset is on the disk when Finish returns.
func TestI2FinishSurvivesAPowerCut(t *testing.T) {
	p := newPowered(t)
	d := dataset.Dataset{ID: uuid.New()}
	p.incoming(p.shelf, d)
	after := p.cutOf(d.ID, "pool", Incoming)
	if after.Folder == nil {
		t.Fatal("the dataset is not there")
	}
	if d, err := after.ReadRecord(); err != nil {
		t.Errorf("the record: %+v, %v", d, err)
	}
}

// I2: a record, a head and the end of a snapshot are on the disk when the call that makes them returns.
func TestI2RecordsSurviveAPowerCut(t *testing.T) {
	p := newPowered(t)
	one := uuid.New()
	p.ok(p.Mkdir(RestoredTree(one)))
	p.data.Volume = "renamed"
	p.ok(p.WriteRecord(p.data, true))
	if d, err := p.cut("pool", Datasets).ReadRecord(); err != nil || d.Volume != "renamed" {
		t.Errorf("the record: %+v, %v", d, err)
	}
	p.ok(p.WriteSnapshot(SnapshotRecord{Snapshot: dataset.Snapshot{ID: one}, Tree: FirstHead}))
	if named, err := p.cut("pool", Datasets).IsTreeOf(FirstHead, one); err != nil || !named {
		t.Errorf("the snapshot: %t, %v", named, err)
	}
	p.ok(p.SetHead(Head{Tree: RestoredTree(one)}))
	if h, err := p.cut("pool", Datasets).Head(); err != nil || h.Tree != RestoredTree(one) {
		t.Errorf("the head: %+v, %v", h, err)
	}
	p.ok(p.RemoveRecord(one))
	if named, err := p.cut("pool", Datasets).IsTreeOf(FirstHead, one); err != nil || named {
		t.Errorf("the removed snapshot: %t, %v", named, err)
	}
}

// I2: an earlier attempt may have been interrupted before its flush. A repeated call finds nothing to do, but flushes
// nevertheless.
func TestI2RepeatedCallFlushes(t *testing.T) {
	t.Run("Finish", func(t *testing.T) {
		p := newPowered(t)
		incoming, ready := filepath.Join(p.root, "pool", Incoming,
			p.data.ID.String()), filepath.Join(p.root, "pool", Datasets, p.data.ID.String())
		p.ok(errors.Join(os.Rename(ready, incoming), p.Rename(RecordFile, "away")))
		p.flush()
		p.ok(errors.Join(p.Rename("away", RecordFile), os.Rename(incoming, ready)))
		f, whole, err := p.shelf.Make(p.data.ID)
		if err != nil || !whole {
			t.Fatalf("whole %t, %v", whole, err)
		}
		p.ok(errors.Join(p.shelf.Finish(f, p.data), f.Close()))
		after := p.cut("pool", Datasets)
		if after.Folder == nil {
			t.Fatal("the dataset is not among the ready ones")
		}
		if d, err := after.ReadRecord(); err != nil || d.ID != p.data.ID {
			t.Errorf("the record: %+v, %v", d, err)
		}
	})
	t.Run("Drop", func(t *testing.T) {
		p := newPowered(t)
		one := uuid.New()
		p.ok(p.restore(one))
		p.flush()
		p.ok(p.Remove(snapshotRecordName(one)))
		if tree, err := p.Drop(one); err != nil || tree != "" {
			t.Errorf("%q, %v", tree, err)
		}
		if named, err := p.cut("pool", Datasets).IsTreeOf(FirstHead, one); err != nil || named {
			t.Errorf("the snapshot is back: %t, %v", named, err)
		}
	})
	t.Run("Sweep", func(t *testing.T) {
		p := newPowered(t)
		one := uuid.New()
		p.ok(p.WriteSnapshot(SnapshotRecord{Snapshot: dataset.Snapshot{ID: one}, Tree: FirstHead}))
		p.ok(p.Sweep())
		if named, err := p.cut("pool", Datasets).IsTreeOf(FirstHead, one); err != nil || named {
			t.Errorf("the record of the failed restore is back: %t, %v", named, err)
		}
	})
	t.Run("Delete", func(t *testing.T) {
		p := newPowered(t)
		p.ok(
			os.Rename(filepath.Join(p.root, "pool", Datasets, p.data.ID.String()),
				filepath.Join(p.root, "pool", Deleting, p.data.ID.String())))
		p.deletedUnlessReaped()
	})
}

// deletedUnlessReaped deletes the dataset with a cancelled context, which leaves the bytes to Reap.
func (p *powered) deletedUnlessReaped() {
	p.Helper()
	ctx, cancel := context.WithCancel(p.Context())
	cancel()
	p.ok(p.shelf.Delete(ctx, p.data.ID))
	if p.cut("pool", Datasets).Folder != nil {
		p.Error("the dataset is back")
	}
	if p.cut("pool", Deleting).Folder == nil {
		p.Error("nothing knows of its bytes any more")
	}
}

// I2: a deleted dataset does not come back, and its bytes are not lost to the pool.
func TestI2DeleteSurvivesAPowerCut(t *testing.T) { newPowered(t).deletedUnlessReaped() }

// I1, I2: a dataset that a pool took from another pool is only in the new pool, and has the epoch at which it was
// taken.
func TestI2TakeSurvivesAPowerCut(t *testing.T) {
	p := newPowered(t)
	other := p.open(p.root, "other")
	p.data.Epoch++
	p.ok(NewExchange(other).Take(p.shelf.Path(), p.data))
	if p.cut("pool", Datasets).Folder != nil {
		t.Error("the dataset is still in the pool that had it")
	}
	after := p.cut("other", Datasets)
	if after.Folder == nil {
		t.Fatal("the pool that took it does not have it")
	}
	if d, err := after.ReadRecord(); err != nil || d.Epoch != p.data.Epoch {
		t.Errorf("the record: %+v, %v", d, err)
	}
}
