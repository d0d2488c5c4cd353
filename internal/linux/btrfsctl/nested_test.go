package btrfsctl_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/test/require"
)

func TestDeleteAll(t *testing.T) {
	p := newPool(t)
	p.create("src")
	p.create("src/b")
	p.create("src/b/deep")
	for i := range 300 { // more than one answer of the kernel may have
		p.create(filepath.Join("src/b", "many"+string(rune('a'+i%26))+string(rune('a'+i/26))))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(p.path, "src/plain/dir"), 0o700))
	p.create("src/plain/dir/inner")
	p.write("src/plain/dir/inner/f", "x")
	require.NoError(t, btrfsctl.Snapshot(p.open("src/plain"), "ro", p.open("src/b"), true))
	for _, name := range []string{"src/b/deep/in", "src/b/deep/in/most"} {
		p.create(name)
	}
	if err := errors.Join(btrfsctl.SetReadOnly(p.open("src/b/deep/in")),
		btrfsctl.SetReadOnly(p.open("src/b"))); err != nil {
		t.Fatal(err)
	}
	p.create("beside")
	p.write("beside/f", "x")
	require.NoError(t, os.Symlink("../beside", filepath.Join(p.path, "src/link")))
	if in, err := btrfsctl.Nested(p.open("src")); err != nil || len(in) != 3 { // b, inner, ro
		t.Errorf("%d inside, %v", len(in), err)
	}
	if err := btrfsctl.Delete(p.dir, "src"); !errors.Is(err, btrfsctl.ErrNested) {
		t.Errorf("delete without what is inside: %v", err)
	}
	require.NoError(t, btrfsctl.DeleteAll(p.dir, "src", nil))
	if err := btrfsctl.DeleteAll(p.dir, "src", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("again: %v", err)
	}
	if p.read("beside/f") != "x" {
		t.Error("what is beside it has gone")
	}
	if in, err := btrfsctl.Nested(p.dir); err != nil || len(in) != 1 {
		t.Errorf("%d are left, %v", len(in), err)
	}
	require.NoError(t, os.Mkdir(filepath.Join(p.path, "plain"), 0o700))
	require.NoError(t, os.Symlink("beside", filepath.Join(p.path, "link")))
	p.write("file", "x")
	for _, name := range []string{"plain", "link", "file"} {
		if err := btrfsctl.DeleteAll(p.dir, name, nil); !errors.Is(err, btrfsctl.ErrNotSubvolume) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
