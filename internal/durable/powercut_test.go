package durable

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/internal/scratch"
)

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// disk is a filesystem whose power a test can cut.
type disk struct {
	*testing.T
	fstype, image, root string
}

// onDisks runs a test on each filesystem that this test can make.
func onDisks(t *testing.T, test func(d disk)) {
	for fstype, size := range map[string]int64{"ext4": scratch.Ext4, "xfs": scratch.XFS, "btrfs": scratch.Btrfs} {
		t.Run(fstype, func(t *testing.T) {
			image := scratch.Image(t, fstype, size)
			test(disk{t, fstype, image, scratch.MountImage(t, fstype, image)})
		})
	}
}

// cut returns the root of the filesystem as it would be after a power cut now.
func (d disk) cut() string {
	d.Helper()
	return scratch.CutPower(d.T, d.fstype, d.image)
}

// After a power cut, a file that Replace wrote exists with its complete content: both a new file and one that replaced
// another.
func TestI2ReplaceSurvivesAPowerCut(t *testing.T) {
	onDisks(t, func(d disk) {
		for _, want := range []string{"first", "second"} {
			if err := Replace(filepath.Join(d.root, "file"), []byte(want)); err != nil {
				d.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(d.cut(), "file")); err != nil || string(got) != want {
				d.Errorf("it holds %q, %v; want %q", got, err, want)
			}
		}
	})
}

// After a directory was flushed, a power cut does not change the names in it.
func TestI2SyncDirSurvivesAPowerCut(t *testing.T) {
	onDisks(t, func(d disk) {
		if err := os.Mkdir(filepath.Join(d.root, "old"), 0o700); err != nil {
			d.Fatal(err)
		}
		scratch.Run(d.T, "sync", "-f", d.root)
		if err := os.Rename(filepath.Join(d.root, "old"), filepath.Join(d.root, "new")); err != nil {
			d.Fatal(err)
		}
		if err := SyncDir(d.root); err != nil {
			d.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(d.cut(), "new")); err != nil {
			d.Error(err)
		}
	})
}
