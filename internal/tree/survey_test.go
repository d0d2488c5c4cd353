package tree_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/test/require"
)

// A survey counts what restic stores, and names the files whose flags and times it does not restore.
func TestSurvey(t *testing.T) {
	dir := filepath.Join(scratch.Mount(t, "xfs", scratch.XFS), "data")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "folder"), 0o700))
	for name, at := range map[string]time.Time{
		"plain": time.Unix(0, 0), "folder/old": time.Unix(-1e9, 0), "future": time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC),
		"fixed": time.Unix(1e9, 0),
	} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte("text"), 0o600))
		ts := []unix.Timespec{{Sec: at.Unix()}, {Sec: at.Unix()}}
		require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, 0))
	}
	require.NoError(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0))
	require.NoError(t, os.Link(filepath.Join(dir, "plain"), filepath.Join(dir, "twin")))
	fixed, err := os.Open(filepath.Join(dir, "fixed"))
	require.NoError(t, err)
	defer fixed.Close()
	require.NoError(t, fsctl.SetImmutable(fixed, true))
	defer func() { _ = fsctl.SetImmutable(fixed, false) }()
	root, err := os.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	got, err := tree.SurveyTree(t.Context(), root, math.MaxInt64)
	if want := (tree.Found{Count: 1, First: "fixed"}); err != nil || got.Flags != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if want := (tree.Found{Count: 1, First: "future"}); got.Names != 6 || got.Reads != 20 || got.Size != 16 || got.Times != want {
		t.Errorf("got %+v, want 6 names, 20 bytes to read, 16 to restore, and %+v", got, want)
	}
}

// The digest of a tree changes with everything that restic restores of a file, and with nothing else.
func TestSurveyOfMetadata(t *testing.T) {
	dir := filepath.Join(scratch.Mount(t, "xfs", scratch.XFS), "data")
	path := filepath.Join(dir, "file")
	must := func(err error) {
		t.Helper()
		require.NoError(t, err)
	}
	must(os.Mkdir(dir, 0o700))
	must(os.WriteFile(path, []byte("content"), 0o600))
	must(os.Symlink("to", filepath.Join(dir, "link")))
	survey := func() string {
		t.Helper()
		must(os.Chtimes(path, time.Unix(2, 0), time.Unix(1, 0)))
		must(os.Chtimes(dir, time.Unix(2, 0), time.Unix(1, 0)))
		root, err := os.Open(dir)
		must(err)
		defer root.Close()
		s, err := tree.SurveyTree(t.Context(), root, math.MaxInt64)
		must(err)
		return s.Metadata.String()
	}
	seen := map[string]string{survey(): "at first"}
	change := func(what string, do func() error) {
		t.Helper()
		must(do())
		now := survey()
		if same, ok := seen[now]; ok {
			t.Errorf("%s: the digest is that of: %s", what, same)
		}
		seen[now] = what
	}
	change("mode", func() error { return os.Chmod(path, 0o640) })
	change("owner", func() error { return os.Chown(path, 1, 0) })
	change("group", func() error { return os.Chown(path, 1, 2) })
	change("attribute", func() error { return unix.Setxattr(path, "user.a", []byte("1"), 0) })
	change("value", func() error { return unix.Setxattr(path, "user.a", []byte("2"), 0) })
	change("size", func() error { return os.Truncate(path, 3) })
	change("name", func() error { return os.Rename(filepath.Join(dir, "link"), filepath.Join(dir, "other")) })
	change("mode of the root", func() error { return os.Chmod(dir, 0o750) })
	change("hard link", func() error { return os.Link(path, filepath.Join(dir, "second")) })
	now := survey()
	must(os.WriteFile(path, []byte("abc"), 0o600))
	must(unix.Setxattr(path, "security.selinux", []byte("label"), 0))
	if survey() != now {
		t.Error("content, or a label of the host, changed the digest")
	}
}

// What restic stores and cannot restore is refused, with the name and the remedy.
func TestSurveyRefuses(t *testing.T) {
	dir := scratch.Mount(t, "xfs", scratch.XFS)
	deep := strings.Repeat(strings.Repeat("d", 249)+"/", 16)
	for want, make := range map[string]func(top string) error{
		"rename or remove it": func(top string) error {
			return errors.Join(os.MkdirAll(filepath.Join(top, deep), 0o700),
				os.WriteFile(filepath.Join(top, deep, "f"), nil, 0o600))
		},
		"setfattr --remove": func(top string) error {
			return errors.Join(os.MkdirAll(top, 0o700), unix.Setxattr(top, "user.\xff", []byte("x"), 0))
		},
		"more than 16MiB": func(top string) error {
			err := os.MkdirAll(top, 0o700)
			for i := range 300 {
				err = errors.Join(err, unix.Setxattr(top, fmt.Sprintf("user.%d", i), make([]byte, 64<<10), 0))
			}
			return err
		},
		"lists no more": func(top string) error {
			err := os.MkdirAll(top, 0o700)
			for i := range 300 {
				err = errors.Join(err, unix.Setxattr(top, fmt.Sprintf("user.%0240d", i), nil, 0))
			}
			return err
		},
		"remove the symbolic link": func(top string) error {
			return errors.Join(os.MkdirAll(top, 0o700), os.Symlink(strings.Repeat("\xff", 1000), filepath.Join(top, "l")))
		},
	} {
		top := filepath.Join(dir, "top")
		require.NoError(t, make(top))
		root, err := os.Open(top)
		require.NoError(t, err)
		_, err = tree.SurveyTree(t.Context(), root, math.MaxInt64)
		if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		require.NoError(t, errors.Join(root.Close(), os.RemoveAll(top)))
	}
}
