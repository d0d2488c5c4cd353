package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/require"
)

func openDir(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// mkdir makes a directory below another, and opens it.
func mkdir(t testing.TB, elem ...string) *os.File {
	t.Helper()
	path := filepath.Join(elem...)
	require.NoError(t, os.Mkdir(path, 0o755))
	return openDir(t, path)
}

func wantKind(t testing.TB, err error, kind *dataset.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want a %q error", err, kind.Code)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Fatalf("error has several lines: %q", err)
	}
}

// wantEqual fails unless two trees are equal, with the first differences.
func wantEqual(t testing.TB, a, b *os.File) {
	t.Helper()
	found, err := Compare(t.Context(), a, b)
	require.NoError(t, err)
	for _, d := range found[:min(len(found), 20)] {
		t.Errorf("differs: %s", d)
	}
}

// filesystems runs a test on each filesystem that this machine has.
func filesystems(t *testing.T, test func(t *testing.T, dir string)) {
	t.Run("host", func(t *testing.T) { test(t, t.TempDir()) })
	t.Run("tmpfs", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, unix.Mount("none", dir, "tmpfs", 0, "size=256m"))
		t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
		test(t, dir)
	})
	for _, fs := range []string{"xfs", "btrfs", "ext4"} {
		t.Run(fs, func(t *testing.T) { test(t, scratch.Mount(t, fs, 512<<20)) })
	}
}

func TestCopyKeepsEverything(t *testing.T) {
	filesystems(t, func(t *testing.T, dir string) {
		src, dst := mkdir(t, dir, "src"), mkdir(t, dir, "dst")
		treetest.Plant(t, src.Name())
		require.NoError(t, Copy(t.Context(), src, dst, nil, WithSync()))
		wantEqual(t, src, dst)
		a, err := Usage(t.Context(), src)
		require.NoError(t, err)
		b, err := Usage(t.Context(), dst)
		require.NoError(t, err)
		if a.Files != b.Files || b.Bytes > a.Bytes*11/10 {
			t.Errorf("copy takes %+v, the source %+v", b, a)
		}
	})
}

func TestCopyAcrossFilesystems(t *testing.T) {
	src, xfs := mkdir(t, t.TempDir(), "src"), scratch.Mount(t, "xfs", scratch.XFS)
	treetest.Plant(t, src.Name())
	there, back := mkdir(t, xfs, "there"), mkdir(t, t.TempDir(), "back")
	require.NoError(t, Copy(t.Context(), src, there, nil))
	wantEqual(t, src, there)
	require.NoError(t, Copy(t.Context(), there, back, nil))
	wantEqual(t, src, back)
}

func TestCopySharesBlocks(t *testing.T) {
	dir := scratch.Mount(t, "xfs", scratch.XFS)
	src, dst := mkdir(t, dir, "src"), mkdir(t, dir, "dst")
	require.NoError(t, os.WriteFile(filepath.Join(src.Name(), "big"), treetest.Bytes(1, 200<<20), 0o600))
	unix.Sync()
	before := freeBytes(t, dir)
	require.NoError(t, Copy(t.Context(), src, dst, nil, WithSync()))
	if used := before - freeBytes(t, dir); used > 1<<20 {
		t.Errorf("copying 200 MiB took %d bytes of a filesystem with reflinks", used)
	}
	wantEqual(t, src, dst)
}

func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	return int64(st.Bfree) * st.Bsize
}

func TestCopyTellsProgress(t *testing.T) {
	src, dst := mkdir(t, t.TempDir(), "src"), mkdir(t, t.TempDir(), "dst")
	require.NoError(t, os.WriteFile(filepath.Join(src.Name(), "a"), make([]byte, 10<<20), 0o600))
	require.NoError(t, os.Link(filepath.Join(src.Name(), "a"), filepath.Join(src.Name(), "b")))
	require.NoError(t, os.WriteFile(filepath.Join(src.Name(), "c"), []byte("cc"), 0o600))
	var told []int64
	require.NoError(t, Copy(t.Context(), src, dst, func(n int64) { told = append(told, n) }))
	if len(told) < 3 || told[len(told)-1] != 10<<20+2 {
		t.Errorf("progress was %v, want several, %d at last", told, 10<<20+2)
	}
}

func TestCopyRefusesWhatIsNotEmpty(t *testing.T) {
	src, dst := mkdir(t, t.TempDir(), "src"), mkdir(t, t.TempDir(), "dst")
	require.NoError(t, os.WriteFile(filepath.Join(src.Name(), "new"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dst.Name(), "old"), []byte("precious"), 0o600))
	wantKind(t, Copy(t.Context(), src, dst, nil), dataset.ErrExists)
	wantKind(t, ReadTar(t.Context(), strings.NewReader(""), dst), dataset.ErrExists)
	if _, err := os.Stat(filepath.Join(dst.Name(), "new")); err == nil {
		t.Error("something was copied")
	}
}

func TestCopyIntoDirectoryWithDefaultACL(t *testing.T) {
	src, dst := mkdir(t, t.TempDir(), "src"), mkdir(t, t.TempDir(), "dst")
	require.NoError(t, os.MkdirAll(filepath.Join(src.Name(), "a/b"), 0o755))
	require.NoError(t, unix.Setxattr(dst.Name(), aclDefault, treetest.ACL(1, 7, 7), 0))
	require.NoError(t, unix.Setxattr(dst.Name(), "user.old", []byte("x"), 0))
	require.NoError(t, Copy(t.Context(), src, dst, nil))
	wantEqual(t, src, dst)
}

func TestCopyLeavesMountsOut(t *testing.T) {
	src := mkdir(t, t.TempDir(), "src")
	covered := filepath.Join(src.Name(), "covered")
	require.NoError(t, os.Mkdir(covered, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(covered, "below"), []byte("below"), 0o600))
	require.NoError(t, unix.Mount("none", covered, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(covered, unix.MNT_DETACH)) })
	require.NoError(t, os.WriteFile(filepath.Join(covered, "above"), []byte("above"), 0o600))
	dst := mkdir(t, t.TempDir(), "dst")
	require.NoError(t, Copy(t.Context(), src, dst, nil))
	if got := listing(t, filepath.Join(dst.Name(), "covered")); !cmp.Equal(got, []string{"below"}) {
		t.Errorf("copied %q, want what the mount covers", got)
	}
}

func listing(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestCopyNoSpace(t *testing.T) {
	src, dir := mkdir(t, t.TempDir(), "src"), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(src.Name(), "big"), make([]byte, 8<<20), 0o600))
	require.NoError(t, unix.Mount("none", dir, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	err := Copy(t.Context(), src, openDir(t, dir), nil)
	wantKind(t, err, dataset.ErrNoSpace)
	if want := `copy "big": no space left on device`; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestCopyStopsWhenCancelled(t *testing.T) {
	src, dst := mkdir(t, t.TempDir(), "src"), mkdir(t, t.TempDir(), "dst")
	require.NoError(t, os.WriteFile(filepath.Join(src.Name(), "big"), make([]byte, 64<<20), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := Copy(ctx, src, dst, func(int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestDeepTrees(t *testing.T) {
	for _, test := range []struct {
		depth int
		fails bool
	}{{maxDepth - 2, false}, {maxDepth + 50, true}} {
		t.Run(fmt.Sprint(test.depth), func(t *testing.T) {
			src, dst := mkdir(t, t.TempDir(), "src"), mkdir(t, t.TempDir(), "dst")
			at, err := unix.Dup(int(src.Fd()))
			require.NoError(t, err)
			for range test.depth {
				require.NoError(t, unix.Mkdirat(at, "d", 0o755))
				next, err := unix.Openat(at, "d", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
				require.NoError(t, err)
				require.NoError(t, unix.Close(at))
				at = next
			}
			require.NoError(t, unix.Close(at))
			err = Copy(t.Context(), src, dst, nil)
			if test.fails {
				wantKind(t, err, dataset.ErrUnsupported)
				return
			}
			require.NoError(t, err)
			wantEqual(t, src, dst)
		})
	}
}

func TestNoDescriptorsLeak(t *testing.T) {
	src := mkdir(t, t.TempDir(), "src")
	treetest.Plant(t, src.Name())
	before := len(listing(t, "/proc/self/fd"))
	for range 3 {
		dst := mkdir(t, t.TempDir(), "dst")
		require.NoError(t, Copy(t.Context(), src, dst, nil))
		wantEqual(t, src, dst)
		dst.Close()
	}
	if after := len(listing(t, "/proc/self/fd")); after > before+1 {
		t.Errorf("%d descriptors are open, %d were", after, before)
	}
}

// A damaged directory lists names that "do not exist". They are not taken for removed ones.
func TestDamagedDirectory(t *testing.T) {
	image := scratch.Image(t, "ext4", scratch.Ext4)
	at := scratch.MountImage(t, "ext4", image)
	src := mkdir(t, at, "src")
	for i := range 1000 { // enough for a hashed index
		require.NoError(t, os.WriteFile(filepath.Join(src.Name(), strings.Repeat("x", 100)+fmt.Sprint(i)), nil, 0o600))
	}
	require.NoError(t, src.Close())
	require.NoError(t, unix.Unmount(at, 0))
	scratch.Run(t, "debugfs", "-w", "-R", "set_super_value hash_seed "+uuid.NewString(), image)
	src = openDir(t, filepath.Join(scratch.MountImage(t, "ext4", image), "src"))
	_, err := SurveyTree(t.Context(), src, math.MaxInt64)
	wantKind(t, err, dataset.ErrCorrupt)
	wantKind(t, WriteTar(t.Context(), src, io.Discard), dataset.ErrCorrupt)
	_, err = Compare(t.Context(), src, openDir(t, t.TempDir()))
	wantKind(t, err, dataset.ErrCorrupt)
	wantKind(t, Copy(t.Context(), src, openDir(t, t.TempDir()), nil), dataset.ErrCorrupt)
}

// A file that gets the inode of a file that was removed meanwhile is not a hard link of that file. Mail servers deliver
// with link and unlink, and ext4 assigns the lowest free inode.
func TestReusedInode(t *testing.T) {
	for _, links := range []int{1, 2} {
		t.Run(fmt.Sprint(links, " names"), func(t *testing.T) { copyReused(t, links) })
	}
}

func copyReused(t *testing.T, links int) {
	dir := scratch.Mount(t, "ext4", scratch.Ext4)
	src, dst := mkdir(t, dir, "src"), mkdir(t, dir, "dst")
	in := func(name string) string { return filepath.Join(src.Name(), name) }
	require.NoError(t, os.WriteFile(in("a"), []byte("old"), 0o600))
	require.NoError(t, os.Link(in("a"), in("z")))
	require.NoError(t, os.WriteFile(in("m"), bytes.Repeat([]byte("m"), 1<<20), 0o600))
	old := inodeOf(t, in("a"))
	done := false
	progress := func(bytes int64) {
		if done || bytes < 1<<20 {
			return // a is copied first
		}
		done = true
		require.NoError(t, os.Remove(in("a")))
		require.NoError(t, os.Remove(in("z")))
		require.NoError(t, os.WriteFile(in("z"), []byte("new"), 0o600))
		if links > 1 {
			require.NoError(t, os.Link(in("z"), in("zz")))
		}
		if inodeOf(t, in("z")) != old {
			t.Fatal("ext4 gave another inode: the test shows nothing")
		}
	}
	require.NoError(t, Copy(t.Context(), src, dst, progress))
	if !done {
		t.Fatal("nothing was exchanged")
	}
	got, err := os.ReadFile(filepath.Join(dst.Name(), "z"))
	require.NoError(t, err)
	if string(got) != "new" {
		t.Errorf("z holds %q, want that of the new file", got)
	}
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	return st.Ino
}

// peak measures the memory in use when a function asks whether it should end.
type peak struct {
	context.Context
	calls int
	bytes uint64
}

func (p *peak) Err() error {
	if p.calls++; p.calls < 10_000 && p.calls%500 == 0 || p.calls%10_000 == 0 {
		p.bytes = max(p.bytes, heap())
	}
	return p.Context.Err()
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// wantSmall runs a function, which may have 8 MiB in use at a time.
func wantSmall(t *testing.T, name string, run func(ctx context.Context) error) {
	t.Helper()
	before, p := heap(), &peak{Context: t.Context()}
	require.NoError(t, run(p))
	if p.calls < 500 {
		t.Fatalf("%s: asked only %d times: the test shows nothing", name, p.calls)
	}
	if p.bytes > before+8<<20 {
		t.Errorf("%s has %d KiB in use", name, (p.bytes-before)>>10)
	}
}

// plantDeep makes nested folders with long names, and returns the deepest.
func plantDeep(t *testing.T, top *os.File, levels int) (deepest int) {
	t.Helper()
	at, err := unix.Dup(int(top.Fd()))
	require.NoError(t, err)
	for range levels {
		require.NoError(t, unix.Mkdirat(at, strings.Repeat("d", 250), 0o755))
		next, err := unix.Openat(at, strings.Repeat("d", 250), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(at))
		at = next
	}
	t.Cleanup(func() { require.NoError(t, unix.Close(at)) })
	return at
}

// The memory for hard links grows with their number, and not with the lengths of their paths: 2,000 of 25 kB here.
func TestMemoryForHardLinks(t *testing.T) {
	src, dst := mkdir(t, t.TempDir(), "src"), mkdir(t, t.TempDir(), "dst")
	at := plantDeep(t, src, 100)
	for i := range 2000 {
		name := fmt.Sprint("f", i)
		require.NoError(t, unix.Mknodat(at, name, unix.S_IFREG|0o600, 0))
		require.NoError(t, unix.Linkat(at, name, at, name+"-too", 0))
	}
	wantSmall(t, "WriteTar", func(ctx context.Context) error { return WriteTar(ctx, src, io.Discard) })
	wantSmall(t, "Copy", func(ctx context.Context) error { return Copy(ctx, src, dst, nil) })
	wantSmall(t, "Compare", func(ctx context.Context) error {
		found, err := Compare(ctx, src, dst)
		if len(found) > 0 {
			t.Errorf("differs: %.200v", found[0])
		}
		return err
	})
}

// ReadTar does not keep the attributes of folders, 30 MB here, and not their paths, 20 MB here.
func TestMemoryForFolders(t *testing.T) {
	dir := scratch.Mount(t, "xfs", scratch.XFS)
	src, dst := mkdir(t, dir, "src"), mkdir(t, dir, "dst")
	for i := range 500 {
		sub := filepath.Join(src.Name(), fmt.Sprint("a", i))
		require.NoError(t, os.Mkdir(sub, 0o755))
		require.NoError(t, unix.Setxattr(sub, "user.large", make([]byte, 60_000), 0))
	}
	at := plantDeep(t, src, 400)
	for i := range 200 { // so that the use is measured at the end
		require.NoError(t, unix.Mknodat(at, fmt.Sprint("f", i), unix.S_IFREG|0o600, 0))
	}
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(WriteTar(t.Context(), src, w)) }()
	wantSmall(t, "ReadTar", func(ctx context.Context) error { return ReadTar(ctx, r, dst) })
	wantEqual(t, src, dst)
}

// What only counts or removes names never holds all names of a folder, 15 MB here.
func TestMemoryForNames(t *testing.T) {
	top := openDir(t, scratch.Mount(t, "xfs", scratch.XFS))
	dir := mkdir(t, top.Name(), "flat")
	require.NoError(t, unix.Mknodat(int(dir.Fd()), "f", unix.S_IFREG|0o600, 0))
	require.NoError(t, unix.Setxattr(filepath.Join(dir.Name(), "f"), "user.large", make([]byte, 60_000), 0)) // is read once
	for i := range 60_000 {
		require.NoError(t, unix.Linkat(int(dir.Fd()), "f", int(dir.Fd()), fmt.Sprintf("%0240d", i), 0))
	}
	wantSmall(t, "SurveyTree", func(ctx context.Context) error {
		s, err := SurveyTree(ctx, dir, math.MaxInt64)
		if s.Names != 60_001 {
			t.Errorf("surveyed %d", s.Names)
		}
		return err
	})
	s, err := SurveyTree(t.Context(), dir, 1<<20)
	wantKind(t, err, dataset.ErrUnsupported)
	if s.Names > 1000 {
		t.Errorf("surveyed %d names", s.Names)
	}
	wantSmall(t, "Remove", func(ctx context.Context) error { return Remove(ctx, top, "flat") })
	if got := listing(t, top.Name()); slices.Contains(got, "flat") {
		t.Errorf("left %q", got)
	}
}
