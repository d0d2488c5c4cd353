package btrfsctl_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

type pool struct {
	*testing.T
	path string
	dir  *os.File
}

func newPool(t *testing.T) pool {
	t.Helper()
	path := scratch.Mount(t, "btrfs", scratch.Btrfs)
	p := pool{T: t, path: path}
	p.dir = p.open("")
	return p
}

func (p pool) open(name string) *os.File {
	p.Helper()
	f, err := os.Open(filepath.Join(p.path, name))
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { f.Close() })
	return f
}

func (p pool) create(name string) *os.File {
	p.Helper()
	if err := btrfsctl.Create(p.open(filepath.Dir(name)), filepath.Base(name)); err != nil {
		p.Fatal(err)
	}
	return p.open(name)
}

func (p pool) write(name, data string) {
	p.Helper()
	if err := os.WriteFile(filepath.Join(p.path, name), []byte(data), 0o600); err != nil {
		p.Fatal(err)
	}
}

func (p pool) read(name string) string {
	p.Helper()
	b, err := os.ReadFile(filepath.Join(p.path, name))
	if err != nil {
		p.Fatal(err)
	}
	return string(b)
}

func (p pool) isSubvolume(name string) bool {
	p.Helper()
	ok, err := btrfsctl.IsSubvolume(p.open(name))
	if err != nil {
		p.Fatal(err)
	}
	return ok
}

func TestCreateAndDelete(t *testing.T) {
	p := newPool(t)
	p.create("a")
	if !p.isSubvolume("a") {
		t.Error("no subvolume")
	}
	p.write("a/f", "data")
	if err := btrfsctl.Create(p.dir, "a"); !errors.Is(err, os.ErrExist) {
		t.Errorf("again: %v", err)
	}
	require.NoError(t, btrfsctl.Delete(p.dir, "a"))
	if err := btrfsctl.Delete(p.dir, "a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("delete again: %v", err)
	}
	require.NoError(t, os.Mkdir(filepath.Join(p.path, "plain"), 0o700))
	if err := btrfsctl.Delete(p.dir, "plain"); !errors.Is(err, btrfsctl.ErrNotSubvolume) {
		t.Errorf("delete of a plain directory: %v", err)
	}
	if p.isSubvolume("plain") {
		t.Error("a plain directory is a subvolume")
	}
}

func TestSnapshot(t *testing.T) {
	p := newPool(t)
	src := p.create("src")
	p.write("src/f", "before")
	require.NoError(t, btrfsctl.Snapshot(p.dir, "ro", src, true))
	require.NoError(t, btrfsctl.Snapshot(p.dir, "rw", src, false))
	p.write("src/f", "after")
	p.write("rw/g", "new")
	if p.read("ro/f") != "before" || p.read("rw/f") != "before" {
		t.Error("the snapshot changed")
	}
	if err := os.WriteFile(filepath.Join(p.path, "ro/f"), nil, 0o600); err == nil {
		t.Error("wrote to a read-only snapshot")
	}
	// Unlike btrfs-progs, Snapshot never creates the snapshot inside an existing directory of that name.
	if err := btrfsctl.Snapshot(p.dir, "rw", src, false); !errors.Is(err, os.ErrExist) {
		t.Errorf("again: %v", err)
	}
	if err := btrfsctl.Delete(p.dir, "ro"); err != nil {
		t.Errorf("delete a read-only one: %v", err)
	}
	rw := p.open("rw")
	for range 2 {
		require.NoError(t, btrfsctl.SetReadOnly(rw))
	}
	if err := os.WriteFile(filepath.Join(p.path, "rw/g"), nil, 0o600); err == nil {
		t.Error("wrote to what was made read-only")
	}
}

func TestNested(t *testing.T) {
	p := newPool(t)
	src := p.create("src")
	p.create("src/inner")
	p.write("src/inner/f", "x")
	if err := btrfsctl.Delete(p.dir, "src"); !errors.Is(err, btrfsctl.ErrNested) {
		t.Errorf("got %v", err)
	}
	require.NoError(t, btrfsctl.Snapshot(p.dir, "snap", src, true))
	if p.isSubvolume("snap/inner") {
		t.Error("the stub counts as a subvolume")
	}
	if err := btrfsctl.Snapshot(p.dir, "other", p.open("snap/inner"), true); err == nil {
		t.Error("snapshot of a stub")
	}
	if err := btrfsctl.Delete(p.dir, "snap"); err != nil {
		t.Errorf("a stub is in the way: %v", err)
	}
}

func TestSnapshotOfAPlainDirectory(t *testing.T) {
	p := newPool(t)
	require.NoError(t, os.Mkdir(filepath.Join(p.path, "plain"), 0o700))
	if err := btrfsctl.Snapshot(p.dir, "snap", p.open("plain"), true); !errors.Is(err, btrfsctl.ErrNotSubvolume) {
		t.Errorf("got %v", err)
	}
}

// After a sync, a copy of the disk contains the created subvolume.
func TestSyncMakesDurable(t *testing.T) {
	image := scratch.Image(t, "btrfs", scratch.Btrfs)
	mnt := scratch.MountImage(t, "btrfs", image)
	dir, err := os.Open(mnt)
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, btrfsctl.Create(dir, "made"))
	id, err := btrfsctl.StartSync(dir)
	require.NoError(t, err)
	if err := btrfsctl.WaitSync(dir, id+1000); err == nil {
		t.Error("waited for a transaction that there never was")
	}
	require.NoError(t, errors.Join(btrfsctl.WaitSync(dir, id), btrfsctl.WaitSync(dir, id)))
	copied := filepath.Join(t.TempDir(), "copy")
	scratch.Copy(t, image, copied)
	if list := scratch.Run(t, "btrfs", "inspect-internal", "dump-tree", "-t", "root",
		copied); !strings.Contains(list, "name made") {
		t.Error("it is not on the disk")
	}
}

func TestSetNOCOW(t *testing.T) {
	p := newPool(t)
	require.NoError(t, os.Mkdir(filepath.Join(p.path, "d"), 0o700))
	for range 2 {
		require.NoError(t, btrfsctl.SetNOCOW(p.open("d")))
	}
	p.write("d/inherits", "x")
	if err := btrfsctl.SetNOCOW(p.open("d/inherits")); err != nil {
		t.Errorf("a file in a NOCOW directory: %v", err)
	}
	p.write("full", "x")
	if err := btrfsctl.SetNOCOW(p.open("full")); err == nil {
		t.Error("set on a file that has bytes")
	}
	p.write("empty", "")
	if err := btrfsctl.SetNOCOW(p.open("empty")); err != nil {
		t.Error(err)
	}
}

func TestBadNames(t *testing.T) {
	p := newPool(t)
	src := p.create("src")
	for _, name := range []string{"", ".", "..", "a/b", "/a", "a\x00b", strings.Repeat("x", 256)} {
		if err := btrfsctl.Create(p.dir, name); err == nil {
			t.Errorf("created %q", name)
		}
		if err := btrfsctl.Delete(p.dir, name); err == nil {
			t.Errorf("deleted %q", name)
		}
		if err := btrfsctl.Snapshot(p.dir, name, src, false); err == nil {
			t.Errorf("snapshot %q", name)
		}
	}
	long := strings.Repeat("x", 255)
	p.create(long)
	if !p.isSubvolume(long) {
		t.Error("the longest name")
	}
}

func TestOtherFilesystems(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer dir.Close()
	if ok, err := btrfsctl.IsSubvolume(dir); ok || err != nil {
		t.Errorf("subvolume %v, %v", ok, err)
	}
	if err := btrfsctl.Create(dir, "a"); err == nil {
		t.Error("created a subvolume")
	}
}
