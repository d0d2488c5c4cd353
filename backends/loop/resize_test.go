package loop

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// A resize that was cut short after the image grew is finished at the next mount.
func TestGrowAtMount(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	f.must(os.Truncate(filepath.Join(f.path, datasets, d.ID.String(), "head.img"), int64(larger)))
	att, err := f.Attach(t.Context(), d.ID, backends.AttachOptions{})
	f.must(err)
	if !att.Mount.Grow {
		t.Error("no growth is asked for")
	}
	f.must(att.Release())
	root, _ := f.mounted(d.ID)
	dir, err := os.Open(root)
	f.must(err)
	for range 2 {
		f.must(f.Grow(t.Context(), d.ID, dir))
	}
	dir.Close()
	f.hasSize(d.ID, larger)
}

func TestResizeMounted(t *testing.T) {
	onAll(t, func(f *fixture, d dataset.Dataset) {
		f.create(d)
		root, unmount := f.mounted(d.ID)
		f.write(filepath.Join(root, "a"), "data")
		dir, err := os.Open(root)
		f.must(err)
		defer dir.Close()
		f.isKind(f.Resize(f.Context(), d.ID, larger, nil), dataset.ErrInUse)
		err = f.Resize(f.Context(), d.ID, larger, dir)
		if slices.Contains(f.Info().Capabilities.OfflineGrow, d.Profile.Filesystem.Type) {
			f.isKind(err, dataset.ErrUnsupported)
			dir.Close()
			unmount()
			f.hasSize(d.ID, d.Size)
			f.must(f.Resize(f.Context(), d.ID, larger, nil))
		} else {
			f.must(err)
			dir.Close()
			unmount()
		}
		f.hasSize(d.ID, larger)
		if got := f.get(d.ID, "a"); got != "data" {
			f.Errorf("got %q", got)
		}
		root, _ = f.mounted(d.ID)
		if left, err := os.ReadDir(root); err != nil || len(left) != 1 {
			f.Errorf("the root holds %v (%v)", left, err)
		}
	})
}
