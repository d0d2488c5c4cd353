package tree

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree/treetest"
)

func TestHoist(t *testing.T) {
	at := scratch.Mount(t, "ext4", scratch.Ext4)
	src, dst := mkdir(t, at, "src"), mkdir(t, at, "dst")
	treetest.Plant(t, src.Name(), treetest.Sparse)
	must(t, os.Chown(src.Name(), 5, 6))
	must(t, os.Chmod(src.Name(), 0o2751))
	must(t, unix.Setxattr(src.Name(), "user.root", []byte("x"), 0))
	must(t, unix.Setxattr(dst.Name(), "user.before", []byte("x"), 0))
	sub := mkdir(t, dst.Name(), "sub")
	must(t, Copy(t.Context(), src, sub, nil))
	want, err := CountNames(t.Context(), src)
	must(t, err)
	must(t, Hoist(t.Context(), dst, "sub"))
	wantEqual(t, src, dst)
	if n, err := CountNames(t.Context(), dst); err != nil || n != want || n < 10 {
		t.Errorf("got %d names, %v, want %d", n, err, want)
	}
}

func TestHoistRefusesOtherNames(t *testing.T) {
	dir := mkdir(t, t.TempDir(), "dir")
	mkdir(t, dir.Name(), "sub")
	must(t, os.WriteFile(filepath.Join(dir.Name(), "other"), nil, 0o600))
	wantKind(t, Hoist(t.Context(), dir, "sub"), dataset.ErrExists)
	must(t, os.Remove(filepath.Join(dir.Name(), "other")))
	must(t, os.Mkdir(filepath.Join(dir.Name(), "sub", "sub"), 0o700))
	if err := Hoist(t.Context(), dir, "sub"); err == nil {
		t.Error("a name was moved over its own directory")
	}
	must(t, os.RemoveAll(filepath.Join(dir.Name(), "sub")))
	must(t, os.Symlink("/", filepath.Join(dir.Name(), "sub")))
	if err := Hoist(t.Context(), dir, "sub"); err == nil {
		t.Error("a symbolic link was followed")
	}
}
