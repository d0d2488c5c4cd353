package tree

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/require"
)

// TestCompareSees makes one change after another in a copy. Compare must report exactly that change.
func TestCompareSees(t *testing.T) {
	src, dst := mkdir(t, t.TempDir(), "src"), mkdir(t, t.TempDir(), "dst")
	treetest.Plant(t, src.Name())
	in := func(name string) string { return filepath.Join(dst.Name(), name) }
	keep := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	for _, test := range []struct {
		name, want string
		change     func() error
	}{
		{"bytes", `"file-4096": content`, func() error { return flip(in("file-4096"), 4000) }},
		{
			"bytes of a hole", `"sparse-huge": content: differs from byte 777777777777`,
			func() error { return flip(in("sparse-huge"), 777777777777) },
		},
		{"size", `"zeros": size`, func() error { return os.Truncate(in("zeros"), 5) }},
		{"mode", `"file-512": mode: 6711 != 4711`, func() error { return unix.Chmod(in("file-512"), 0o4711) }},
		{"mode of the root", `".": mode`, func() error { return unix.Chmod(dst.Name(), 0o700) }},
		{
			"owner of a symlink", `"symlink-relative": owner: 70000:70001 != 1:2`,
			func() error { return os.Lchown(in("symlink-relative"), 1, 2) },
		},
		{"target", `"symlink-dangling": target`, func() error {
			require.NoError(t, os.Remove(in("symlink-dangling")))
			return os.Symlink("elsewhere", in("symlink-dangling"))
		}},
		{
			"attribute", `"wide": attribute "user.dir": "of a directory" (14 bytes) != absent`,
			func() error { return unix.Removexattr(in("wide"), "user.dir") },
		},
		{
			"acl", `"inherit": attribute "system.posix_acl_default"`,
			func() error { return unix.Removexattr(in("inherit"), aclDefault) },
		},
		{
			"time", `"a-third-name": modification time`,
			func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, in("links/one"), keep, 0) },
		},
		{"hard link broken", `"links/two": hard link of: "a-third-name" != "links/two"`, func() error {
			require.NoError(t, os.Remove(in("links/two")))
			return os.WriteFile(in("links/two"), []byte("one inode, three names"), 0o640)
		}},
		{"missing", `"fifo": missing: fifo != absent`, func() error { return os.Remove(in("fifo")) }},
		{
			"more", `"new\nline": missing: absent != file`,
			func() error { return os.WriteFile(in("new\nline"), nil, 0o600) },
		},
		{
			"kind", `"file-0": kind: file != directory`,
			func() error { require.NoError(t, os.Remove(in("file-0"))); return os.Mkdir(in("file-0"), 0o700) },
		},
		{"device", `"char": device`, func() error {
			require.NoError(t, os.Remove(in("char")))
			return unix.Mknod(in("char"), unix.S_IFCHR|0o666, 5)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.NoError(t, os.RemoveAll(dst.Name()))
			dst = mkdir(t, dst.Name())
			require.NoError(t, Copy(t.Context(), src, dst, nil))
			require.NoError(t, test.change())
			found, err := Compare(t.Context(), src, dst)
			require.NoError(t, err)
			for _, d := range found {
				if strings.Contains(d.String(), "\n") {
					t.Errorf("several lines: %q", d)
				}
				if strings.HasPrefix(d.String(), test.want) {
					return
				}
			}
			t.Errorf("found %v, want %s", found, test.want)
		})
	}
}

func flip(path string, off int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte{0x5a}, off)
	return err
}

func TestCompareStopsAfterEnough(t *testing.T) {
	a, b := mkdir(t, t.TempDir(), "a"), mkdir(t, t.TempDir(), "b")
	for i := range maxDifferences + 10 {
		require.NoError(t, os.WriteFile(filepath.Join(a.Name(), string(rune('a'+i%26))+strings.Repeat("x", i/26)), nil, 0o600))
	}
	found, err := Compare(t.Context(), a, b)
	require.NoError(t, err)
	if len(found) != maxDifferences {
		t.Errorf("%d differences, want %d", len(found), maxDifferences)
	}
}

func TestUsageCountsHardLinksOnce(t *testing.T) {
	dir := mkdir(t, t.TempDir(), "d")
	require.NoError(t, os.WriteFile(filepath.Join(dir.Name(), "a"), treetest.Bytes(1, 1<<20), 0o600))
	require.NoError(t, os.Link(filepath.Join(dir.Name(), "a"), filepath.Join(dir.Name(), "b")))
	require.NoError(t, os.WriteFile(filepath.Join(dir.Name(), "hole"), nil, 0o600))
	require.NoError(t, os.Truncate(filepath.Join(dir.Name(), "hole"), 1<<30))
	unix.Sync()
	s, err := Usage(t.Context(), dir)
	require.NoError(t, err)
	if s.Files != 3 || s.Bytes < 1<<20 || s.Bytes > 1<<20+64<<10 {
		t.Errorf("usage is %+v, want 3 files of about 1 MiB", s)
	}
}
