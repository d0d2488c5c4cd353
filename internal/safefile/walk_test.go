package safefile_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A layout is a tree of folders and links below a folder that only root can write to.
//
//	real/data, real/run       a folder and a program
//	links/real -> ../real     made by root, where only root can write
//	links/abs  -> .../real
//	open/      mode 0777      open/real -> ../real; open/data
//	sticky/    mode 1777      sticky/real -> ../real; sticky/data/real -> ../../real; sticky/run
//	theirs/    another user's theirs/real -> ../real; theirs/data/run
//	group/     mode 0775      group/run; group/data/real -> ../../real
func layout(t *testing.T) string {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for _, dir := range []string{"real/data", "links", "open/data", "sticky/data", "theirs/data", "group/data"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(top, dir), 0o755))
	}
	for _, file := range []string{
		"real/run", "sticky/run", "theirs/data/run", "group/run", "open/data/run", "sticky/data/run",
	} {
		err = errors.Join(err, os.WriteFile(filepath.Join(top, file), []byte("#!/bin/sh\n"), 0o755))
	}
	for link, to := range map[string]string{
		"links/real": "../real", "links/abs": filepath.Join(top, "real"), "links/twice": "abs/../real/.",
		"links/loop": "loop",
		"links/run":  "../real/run", "links/open": "../open/real", "links/proc": "/proc/self/root",
		"open/real": "../real", "sticky/real": "../real", "sticky/data/real": "../../real", "theirs/real": "../real",
		"theirs/data/real": "../../real", "group/data/real": "../../real",
	} {
		err = errors.Join(err, os.Symlink(to, filepath.Join(top, link)))
	}
	err = errors.Join(err,
		os.Chmod(filepath.Join(top, "open"), 0o777),
		os.Chmod(filepath.Join(top, "sticky"), 0o777|os.ModeSticky),
		os.Chmod(filepath.Join(top, "group"), 0o775),
		os.Lchown(filepath.Join(top, "theirs/real"), nobody, nobody),
		os.Chown(filepath.Join(top, "theirs"), nobody, nobody))
	require.NoError(t, err)
	return top
}

// OpenFolder follows links that only root can change, and no others.
func TestOpenFolder(t *testing.T) {
	top := layout(t)
	for path, want := range map[string]error{
		"real/data":             nil,
		"links/real/data":       nil,
		"links/abs/data":        nil,
		"links/twice/data":      nil,
		"open/data":             nil, // another user may exchange it: it is opened once
		"theirs/data":           nil,
		"sticky/data/real":      dataset.ErrInvalid, // a link itself
		"links/real":            dataset.ErrInvalid,
		"sticky/data/real/data": nil, // nobody else can exchange sticky/data
		"sticky/real/data":      dataset.ErrForbidden,
		"open/real/data":        dataset.ErrForbidden,
		"theirs/real/data":      dataset.ErrForbidden,
		"theirs/data/real/data": dataset.ErrForbidden, // root made that link, but another user can exchange theirs/data
		"group/data/real/data":  dataset.ErrForbidden, // root made that link too, and a group can exchange group/data
		"links/open/data":       dataset.ErrForbidden,
		"links/proc/tmp":        dataset.ErrForbidden,
		"links/loop/data":       unix.ELOOP,
		"real/run":              unix.ENOTDIR,
		"real/run/data":         unix.ENOTDIR,
		"real/none":             os.ErrNotExist,
	} {
		f, err := safefile.OpenFolder(filepath.Join(top, path))
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
		if err != nil {
			continue
		}
		is, err := f.Stat()
		named, nerr := os.Stat(filepath.Join(top, path))
		if err != nil || nerr != nil || !os.SameFile(is, named) {
			t.Errorf("%s: another folder: %v, %v", path, err, nerr)
		}
		f.Close()
	}
	if _, err := safefile.OpenFolder("real"); !errors.Is(err, dataset.ErrInvalid) {
		t.Error(err)
	}
	if f, err := safefile.OpenFolder("/"); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	_, err := safefile.OpenFolder(filepath.Join(top, "theirs/data/real/data"))
	if err == nil || !strings.Contains(err.Error(), "write to "+filepath.Join(top, "theirs")+" ") ||
		!strings.Contains(err.Error(), "theirs/data/real is a symbolic link") {
		t.Errorf("%v does not say which link, and who can change it", err)
	}
}

// CheckProgram accepts a program that only root can change or exchange.
func TestCheckProgram(t *testing.T) {
	top := layout(t)
	for path, want := range map[string]error{
		"real/run":        nil,
		"links/run":       nil,
		"links/real/run":  nil,
		"sticky/data/run": nil,
		"sticky/run":      dataset.ErrForbidden, // another user can move a file that root owns there
		"open/data/run":   dataset.ErrForbidden,
		"theirs/data/run": dataset.ErrForbidden,
		"group/run":       dataset.ErrForbidden,
		"theirs/real/run": dataset.ErrForbidden,
		"real/data":       dataset.ErrForbidden,
		"real/none":       dataset.ErrNotFound,
	} {
		if err := safefile.CheckProgram(filepath.Join(top, path)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	program := filepath.Join(top, "real/run")
	for name, change := range map[string]func() error{
		"group":  func() error { return os.Chmod(program, 0o775) },
		"others": func() error { return os.Chmod(program, 0o757) },
		"owner":  func() error { return errors.Join(os.Chmod(program, 0o755), os.Chown(program, nobody, 0)) },
	} {
		require.NoError(t, change())
		assert.ErrorIsf(t, safefile.CheckProgram(program), dataset.ErrForbidden, "%s", name)
		require.NoError(t, errors.Join(os.Chmod(program, 0o755), os.Chown(program, 0, 0)))
	}
	assert.ErrorIs(t, safefile.CheckProgram("run"), dataset.ErrInvalid)
}

// OpenFolder follows as many links as the kernel, and no more.
func TestOpenFolderFollowsFewLinks(t *testing.T) {
	dir := t.TempDir()
	link := func(n int) string { return filepath.Join(dir, fmt.Sprint("link", n)) }
	require.NoError(t, os.Mkdir(link(0), 0o700))
	for n := 1; n <= 41; n++ {
		require.NoError(t, os.Symlink(fmt.Sprint("link", n-1), link(n)))
	}
	f, err := safefile.OpenFolder(link(40) + "/.")
	if err != nil {
		t.Errorf("40 links: %v", err)
	} else {
		f.Close()
	}
	if _, err := safefile.OpenFolder(link(41) + "/."); !errors.Is(err, unix.ELOOP) {
		t.Errorf("41 links: %v", err)
	}
}

// A folder that another user can change, or that another user can exchange, is refused.
func TestCheckFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "parent", "journals")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	assert.NoError(t, safefile.CheckFolder(dir))
	for name, c := range map[string]struct{ change, back func() error }{
		"mode":          {func() error { return os.Chmod(dir, 0o770) }, func() error { return os.Chmod(dir, 0o700) }},
		"owner":         {func() error { return os.Chown(dir, nobody, 0) }, func() error { return os.Chown(dir, 0, 0) }},
		"parent's mode": {func() error { return os.Chmod(filepath.Dir(dir), 0o777) }, func() error { return os.Chmod(filepath.Dir(dir), 0o700) }},
	} {
		require.NoError(t, c.change())
		assert.ErrorIsf(t, safefile.CheckFolder(dir), dataset.ErrForbidden, "%s", name)
		require.NoError(t, c.back())
	}
	require.NoError(t, os.Symlink(dir, dir+".link"))
	assert.ErrorIsf(t, safefile.CheckFolder(dir+".link"), dataset.ErrInvalid, "a symbolic link")
	require.NoError(t, os.WriteFile(dir+".file", nil, 0o600))
	if err := safefile.CheckFolder(dir + ".file"); err == nil {
		t.Error("a file is no folder")
	}
}

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
