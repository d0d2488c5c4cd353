package tree

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

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
