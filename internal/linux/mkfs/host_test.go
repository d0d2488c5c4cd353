package mkfs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// The kernel mounts a filesystem, but the program that creates it must be installed. A program that was missing when a
// pool was opened is found after it was installed.
func TestWithoutMkfs(t *testing.T) {
	tools, bin := map[string]string{}, t.TempDir()
	for _, fs := range []string{XFS, Ext4} {
		path, err := exec.LookPath("mkfs." + fs)
		require.NoError(t, err)
		tools[fs] = path
	}
	t.Setenv("PATH", bin)
	none := DetectHost()
	if len(none.Makes) > 0 || !slices.Equal(none.Mounts, []string{XFS, Ext4}) {
		t.Errorf("without tools: %+v", none)
	}
	refused := func(err error, says ...string) {
		t.Helper()
		if !errors.Is(err, dataset.ErrUnsupported) || strings.Contains(err.Error(), "\n") {
			t.Fatal(err)
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%v does not say %q", err, s)
			}
		}
	}
	refused(none.CheckAny(none.Makes, "x"), "apt-get install xfsprogs", "apt-get install e2fsprogs")
	_, err := Choose("", dataset.GiB, nil)
	refused(err, "apt-get install xfsprogs", "apt-get install e2fsprogs")
	for fs, pkg := range map[string]string{XFS: "xfsprogs", Ext4: "e2fsprogs"} {
		_, err := Choose(fs, dataset.GiB, nil)
		refused(err, `filesystem "`+fs+`" is not available`, "apt-get install "+pkg)
		refused(CheckUsable(fs), "apt-get install "+pkg)
	}
	for i, fs := range []string{Ext4, XFS} {
		require.NoError(t, os.Symlink(tools[fs], filepath.Join(bin, "mkfs."+fs)))
		if got, err := Choose("", dataset.GiB, nil); err != nil || got != fs {
			t.Errorf("with %s: %q, %v", fs, got, err)
		}
		got, err := Choose(XFS, dataset.GiB, []string{Ext4})
		if i == 0 {
			refused(err, "apt-get install xfsprogs")
		} else if err != nil || got != XFS {
			t.Errorf("once it is there: %q, %v", got, err)
		}
	}
	_, err = Choose("ntfs", dataset.GiB, []string{XFS, Ext4})
	refused(err, `filesystem "ntfs" is not available for volumes here (available: xfs, ext4)`)
	if got, err := Choose("", MinXFS-1, []string{XFS, Ext4}); got != Ext4 || err != nil {
		t.Errorf("a small one: %q, %v", got, err)
	}
}
