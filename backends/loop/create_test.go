package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
)

func TestWhatCannotBeCreated(t *testing.T) {
	f := newFixture(t, "xfs")
	for name, tt := range map[string]struct {
		change func(*dataset.Dataset)
		want   string
	}{
		"filesystem": {
			func(d *dataset.Dataset) { d.Profile.Filesystem.Type = "ntfs" },
			`filesystem "ntfs" is not available for volumes here (available: xfs, ext4)`,
		},
		"small XFS": {
			func(d *dataset.Dataset) { d.Size = 100 * dataset.MiB }, "100MiB is too small for xfs, which needs 300MiB",
		},
		"small ext4": {
			func(d *dataset.Dataset) { d.Profile.Filesystem.Type = ext4; d.Size = dataset.MiB },
			"1MiB is too small for ext4",
		},
		"less than a block": {
			func(d *dataset.Dataset) { d.Profile.Filesystem.Type, d.Size = "", dataset.KiB },
			"1KiB is too small for a volume (at least 16MiB)",
		},
		"huge": {
			func(d *dataset.Dataset) { d.Size = 17 * dataset.TiB }, "17TiB is too large for a volume (at most 16TiB)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDataset(xfs)
			tt.change(&d)
			_, err := f.Create(t.Context(), d)
			f.isKind(err, dataset.ErrUnsupported)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	if f.forks.Count() != 0 {
		t.Errorf("commands: %+v", f.forks.Calls())
	}
	f.settled()
}

// The size is the requested one, also if it is not a whole number of blocks: only the image is rounded up.
func TestSizes(t *testing.T) {
	f := newFixture(t, "xfs")
	for size, want := range map[dataset.Size]struct {
		size dataset.Size
		fs   string
	}{
		0:                   {10 * dataset.GiB, xfs},
		400_000_000:         {400_000_000, xfs},
		20 * dataset.MiB:    {20 * dataset.MiB, ext4},
		300*dataset.MiB - 1: {300*dataset.MiB - 1, ext4},
	} {
		d := newDataset("")
		d.Size = size
		got, err := f.Create(t.Context(), d)
		if err != nil || got != want.size {
			t.Errorf("%s: got %s, %v", size, got, err)
			continue
		}
		att, err := f.Attach(t.Context(), d.ID, backends.AttachOptions{})
		f.must(err)
		if att.Mount.FSType != want.fs || att.Mount.Grow {
			t.Errorf("%s: mounted as %+v", size, att.Mount)
		}
		f.must(att.Release())
	}
}

func TestPoolNearlyFull(t *testing.T) {
	onPools(t, func(f *fixture) {
		d := newDataset(xfs)
		f.create(d)
		hog, err := os.Create(filepath.Join(f.disk, "hog"))
		f.must(err)
		defer hog.Close()
		free := freeOf(f.T, f.disk)
		f.must(allocate(hog, int64(free-20*dataset.MiB)))
		f.must(hog.Sync())
		_, err = f.Create(f.Context(), newDataset(xfs))
		f.isKind(err, dataset.ErrNoSpace)
		c := newDataset("")
		_, err = f.Clone(f.Context(), c, head0(d), nil)
		f.isKind(err, dataset.ErrNoSpace)
		f.isKind(f.Snapshot(f.Context(), newSnapshot(d), nil), dataset.ErrNoSpace)
		if st := f.Status(f.Context()); !st.Online || !strings.Contains(st.Reason, "nearly full") || st.Free > free {
			f.Errorf("status %+v", st)
		}
		if got := f.entries(); len(got) != 1 {
			f.Errorf("entries %v", got)
		}
		f.must(f.Delete(f.Context(), d.ID)) // which must always work
		f.settled()
	})
}

// Datasets that have the UUID of the same template can all be mounted at once.
func TestManyMountedAtOnce(t *testing.T) {
	onPools(t, func(f *fixture) {
		var stop []func()
		for i := range 12 {
			d := newDataset(xfs)
			f.create(d)
			root, unmount := f.mounted(d.ID)
			stop = append(stop, unmount)
			f.write(filepath.Join(root, "a"), fmt.Sprint(i))
			f.isKind(f.Delete(f.Context(), d.ID), dataset.ErrInUse)
		}
		for _, unmount := range stop {
			unmount()
		}
	})
}

func TestStall(t *testing.T) {
	onPools(t, func(f *fixture) {
		d := newDataset(xfs)
		f.create(d)
		root, unmount := f.mounted(d.ID)
		before, _, err := f.PredictStall(f.Context(), d.ID)
		f.must(err)
		for i := range 200 {
			f.write(filepath.Join(root, fmt.Sprint(i)), strings.Repeat("x", 5000))
			if i%20 == 0 {
				f.takeSnapshot(d)
			}
		}
		unmount()
		after, why, err := f.PredictStall(f.Context(), d.ID)
		f.must(err)
		if constant := f.Info().Capabilities.ConstantSnapshot; constant != (after == before) ||
			constant == strings.Contains(why, "extents") {
			f.Errorf("%d, then %d ns from %q", before, after, why)
		}
	})
}

// A dataset whose folder contains files that Drover did not make is reported, and is not deleted.
func TestUnknownFilesSurviveDeletion(t *testing.T) {
	onPools(t, func(f *fixture) {
		d := newDataset(xfs)
		f.create(d)
		stranger := filepath.Join(f.Shelf.Path(), shelf.Datasets, d.ID.String(), "precious")
		f.write(stranger, "data")
		if e := f.entries()[d.ID]; !strings.Contains(e.Problem, `"precious"`) {
			f.Errorf("entry %+v", e)
		}
		f.isKind(f.Delete(f.Context(), d.ID), dataset.ErrCorrupt)
		if got, err := os.ReadFile(stranger); err != nil || string(got) != "data" {
			f.Errorf("got %q, %v", got, err)
		}
		f.must(os.Remove(stranger))
		f.must(f.Delete(f.Context(), d.ID))
		f.settled()
	})
}

func TestMountOptions(t *testing.T) {
	for _, tt := range []struct {
		fs         string
		more, want []string
	}{
		{xfs, nil, []string{"nouuid", "discard"}},
		{ext4, []string{"noatime"}, []string{"discard", "noatime"}},
		{xfs, []string{"nodiscard", "noatime"}, []string{"nouuid", "nodiscard", "noatime"}},
	} {
		if got := mkfs.MountOptions(tt.fs, tt.more); !slices.Equal(got, tt.want) {
			t.Errorf("%s with %v: %v", tt.fs, tt.more, got)
		}
	}
}

func TestMountsWithOptions(t *testing.T) {
	onAll(t, func(f *fixture, d dataset.Dataset) {
		f.create(d)
		att, err := f.Attach(f.Context(), d.ID, backends.AttachOptions{
			ReadOnly: true,
			Mount:    []string{"noatime", "nodiscard"},
		})
		f.must(err)
		m := att.Mount
		if !m.Flags.ReadOnly || !m.Flags.NoDev {
			f.Errorf("flags %+v", m.Flags)
		}
		target := f.TempDir()
		err = mount.Mount(target, mount.Spec{
			Source:   m.Source,
			FSType:   m.FSType,
			Options:  m.Options,
			ReadOnly: m.Flags.ReadOnly,
		})
		f.must(errors.Join(err, att.Release()))
		f.must(mount.Unmount(target))
	})
}

// Overwriting shared blocks takes as much space in the pool as was written, and not more.
func TestWritesAfterASnapshotTakeWhatTheyAre(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	root, _ := f.mounted(d.ID)
	const blocks = 400
	path := filepath.Join(root, "a")
	f.write(path, strings.Repeat("x", blocks*2*16<<10))
	f.takeSnapshot(d)
	image := filepath.Join(f.Shelf.Path(), shelf.Datasets, d.ID.String(), "head.img")
	before := freeOf(t, f.disk)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	f.must(err)
	defer file.Close()
	for i := range blocks {
		_, err := file.WriteAt(make([]byte, 16<<10), int64(i)*2*16<<10)
		f.must(err)
	}
	f.must(file.Sync())
	if took, wrote := before-freeOf(t, f.disk), dataset.Size(blocks*16<<10); took > wrote*3/2 {
		t.Errorf("%s written took %s of the pool (%s)", wrote.Human(), took.Human(), image)
	}
}

// A pool without a free block can be opened, after a restart too, and its datasets can be removed. There is no other
// way to make room.
func TestOpenWhenFull(t *testing.T) {
	onPools(t, func(f *fixture) {
		d := newDataset(ext4)
		f.create(d)
		f.put(d.ID, "a", "kept")
		scratch.Fill(t, f.disk)
		b, _ := newBackend()
		pool, err := b.Open(t.Context(), backends.Config{ID: f.ID(), Name: "test", Path: filepath.Join(f.disk, "pool")})
		f.must(err)
		entries, err := pool.List(t.Context())
		f.must(err)
		if len(entries) == 0 || entries[0].ID != d.ID {
			t.Errorf("the full pool lists %+v", entries)
		}
		f.must(pool.Delete(t.Context(), d.ID))
	})
}
