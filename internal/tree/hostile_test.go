package tree

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/require"
)

// TestCopyWhileNamesAreExchanged copies, streams, compares and measures a tree, while a process keeps exchanging a
// file, a directory and a FIFO for symbolic links that lead out of the tree. Nothing from outside may be read, and no
// call may block.
func TestCopyWhileNamesAreExchanged(t *testing.T) {
	outer := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(outer, "secrets"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outer, "secrets/key"), []byte("secret"), 0o600))
	src := mkdir(t, outer, "src")
	in := func(name string) string { return filepath.Join(src.Name(), name) }
	require.NoError(t, os.Mkdir(in("dir"), 0o755))
	require.NoError(t, os.WriteFile(in("dir/key"), []byte("harmless"), 0o600))
	require.NoError(t, os.WriteFile(in("file"), []byte("harmless"), 0o600))
	require.NoError(t, unix.Mkfifo(in("fifo"), 0o600))
	require.NoError(t, os.Symlink("../secrets", in("to-dir")))
	require.NoError(t, os.Symlink("../secrets/key", in("to-file")))
	stop := exchange(t, src.Name(), [][2]string{
		{"dir", "to-dir"}, {"file", "to-file"}, {"fifo", "file"}, {"dir", "fifo"},
	})
	defer stop()
	for range 300 {
		dst := mkdir(t, t.TempDir(), "dst")
		require.NoError(t, Copy(t.Context(), src, dst, nil))
		wantNowhere(t, dst.Name(), "secret")
		require.NoError(t, dst.Close())
		var stream bytes.Buffer
		require.NoError(t, WriteTar(t.Context(), src, &stream))
		if bytes.Contains(stream.Bytes(), []byte("secret\x00")) {
			t.Fatal("a secret was streamed")
		}
		_, err := Compare(t.Context(), src, src)
		require.NoError(t, err)
		_, err = Usage(t.Context(), src)
		require.NoError(t, err)
	}
}

// exchange keeps exchanging pairs of names until the returned function is called.
func exchange(t *testing.T, dir string, pairs [][2]string) (stop func()) {
	t.Helper()
	at, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer unix.Close(at)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
				p := pairs[i%len(pairs)]
				if err := unix.Renameat2(at, p[0], at, p[1], unix.RENAME_EXCHANGE); err != nil {
					t.Errorf("exchange: %v", err)
					return
				}
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

func wantNowhere(t *testing.T, dir, content string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), content) {
			t.Fatalf("%s was copied from outside", path)
		}
		return err
	}))
}

// TestNoPrivateMount copies a tree on a detached mount, of which no private copy can be made.
func TestNoPrivateMount(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, unix.Mount("none", dir, "tmpfs", 0, ""))
	src := mkdir(t, dir, "src")
	treetest.Plant(t, src.Name())
	require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH))
	dst := mkdir(t, t.TempDir(), "dst")
	require.NoError(t, Copy(t.Context(), src, dst, nil))
	wantEqual(t, src, dst)
}

// A private mount has no usable device nodes, and is read-only for readers. It does not show mounts that are made
// elsewhere later.
func TestPrivateMount(t *testing.T) {
	base := t.TempDir()
	require.NoError(t, unix.Mount("none", base, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(base, unix.MNT_DETACH)) })
	require.NoError(t, unix.Mount("", base, "", unix.MS_SHARED, ""))
	dir := mkdir(t, base, "src")
	below := mkdir(t, dir.Name(), "below").Name()
	const always, still = unix.ST_NODEV, unix.ST_RDONLY | unix.ST_NOATIME
	for a, want := range map[access]int64{readOnly: always | still, writable: always} {
		r, err := openRoot(dir, a)
		require.NoError(t, err)
		defer r.close()
		var st unix.Statfs_t
		require.NoError(t, unix.Fstatfs(int(r.dir.Fd()), &st))
		if got := st.Flags & (always | still); got != want {
			t.Errorf("access %d: flags %#x, want %#x", a, got, want)
		}
		require.NoError(t, unix.Mount("none", below, "tmpfs", 0, ""))
		fd, err := openAt(int(r.dir.Fd()), "below", unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			t.Errorf("access %d: what was mounted since is seen: %v", a, err)
		} else {
			require.NoError(t, unix.Close(fd))
		}
		require.NoError(t, unix.Unmount(below, unix.MNT_DETACH))
	}
}
