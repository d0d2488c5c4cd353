package durable

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
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
			require.NoError(d, Replace(filepath.Join(d.root, "file"), []byte(want)))
			if got, err := os.ReadFile(filepath.Join(d.cut(), "file")); err != nil || string(got) != want {
				d.Errorf("it holds %q, %v; want %q", got, err, want)
			}
		}
	})
}

// After a directory was flushed, a power cut does not change the names in it.
func TestI2SyncDirSurvivesAPowerCut(t *testing.T) {
	onDisks(t, func(d disk) {
		require.NoError(d, os.Mkdir(filepath.Join(d.root, "old"), 0o700))
		scratch.Run(d.T, "sync", "-f", d.root)
		require.NoError(d, os.Rename(filepath.Join(d.root, "old"), filepath.Join(d.root, "new")))
		require.NoError(d, SyncDir(d.root))
		if _, err := os.Stat(filepath.Join(d.cut(), "new")); err != nil {
			d.Error(err)
		}
	})
}

// Replace creates a file and replaces it, even if a crash left its temporary file. If the temporary file is a symbolic
// link, Replace fails, and does not change the target.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(path+".tmp", []byte("left by a crash, and longer"), 0o600))
	for _, want := range []string{"one", "", "another"} {
		require.NoError(t, Replace(path, []byte(want)))
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
		if _, err := os.Lstat(path + ".tmp"); !os.IsNotExist(err) {
			t.Errorf("the file that was written first is there: %v", err)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	victim := filepath.Join(dir, "victim")
	require.NoError(t, os.WriteFile(victim, []byte("mine"), 0o600))
	require.NoError(t, os.Symlink(victim, path+".tmp"))
	if err := Replace(path, []byte("x")); err == nil {
		t.Error("it followed a link")
	}
	if got, _ := os.ReadFile(victim); string(got) != "mine" {
		t.Errorf("the link's file holds %q", got)
	}
}

func TestNoSuchDirectory(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	if err := SyncDir(gone); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
	if err := Replace(filepath.Join(gone, "file"), nil); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
}
