package safefile_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/test/require"
	"golang.org/x/sys/unix"
)

// No name in a folder of a pool leads out of it, or through a symbolic link.
func TestI6DirFollowsNothing(t *testing.T) {
	outer := t.TempDir()
	path := filepath.Join(outer, "pool")
	err := errors.Join(
		os.MkdirAll(filepath.Join(path, "sub"), 0o700),
		os.WriteFile(filepath.Join(path, "sub", "file"), nil, 0o600),
		os.WriteFile(filepath.Join(outer, "file"), nil, 0o600),
		os.Symlink("sub", filepath.Join(path, "link")),
		os.Symlink("sub/file", filepath.Join(path, "last")),
		os.Symlink("pool", filepath.Join(outer, "linked")),
	)
	require.NoError(t, err)
	if d, err := safefile.OpenDir(filepath.Join(outer, "linked")); err == nil {
		t.Error("a folder was opened through a link")
		d.Close()
	}
	d, err := safefile.OpenDir(path)
	require.NoError(t, err)
	defer d.Close()
	for name, want := range map[string]error{
		"sub/file": nil, "..": unix.EXDEV, "../file": unix.EXDEV, outer + "/file": unix.EXDEV,
		"link/file": unix.ELOOP, "last": unix.ELOOP,
	} {
		f, err := d.Open(name)
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if st, err := d.Lstat("last"); err != nil || safefile.IsRegular(st) {
		t.Errorf("a link is taken for what it names: %v", err)
	}
}
