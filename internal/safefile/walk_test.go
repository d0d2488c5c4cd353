package safefile_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
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

// replacements returns functions that put something unusual at the path of a file, as another user can.
func replacements() map[string]func(path string) error {
	return map[string]func(path string) error{
		"fifo":    func(p string) error { return unix.Mkfifo(p, 0o644) },
		"endless": func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o644), os.Truncate(p, 1<<40)) },
		"device":  func(p string) error { return os.Symlink("/dev/zero", p) },
		"folder":  func(p string) error { return os.Mkdir(p, 0o755) },
		"socket":  func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o666, 0) },
	}
}

// ended returns what f returned, and fails the test if f does not return.
func ended[T any](t *testing.T, what string, f func() (T, error)) (got T, err error) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); got, err = f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not end", what)
	}
	return got, err
}

// A file that blocks its readers, or that never ends, is refused.
func TestReadEnds(t *testing.T) {
	for name, make := range replacements() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, make(filepath.Join(dir, "pool.json")))
			root, err := safefile.OpenDir(dir)
			require.NoError(t, err)
			defer root.Close()
			for what, read := range map[string]func() ([]byte, error){
				"Read":     func() ([]byte, error) { return safefile.Read(filepath.Join(dir, "pool.json")) },
				"Dir.Read": func() ([]byte, error) { return root.Read("pool.json") },
			} {
				if b, err := ended(t, what, read); err == nil || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %d bytes, %v", what, len(b), err)
				}
			}
		})
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pool.json")
	root, err := safefile.OpenDir(dir)
	require.NoError(t, err)
	defer root.Close()
	if _, err := safefile.Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := root.Read("pool.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := errors.Join(os.WriteFile(path+".target", nil, 0o600),
		os.Symlink(path+".target", path+".link")); err != nil {
		t.Fatal(err)
	}
	if _, err := safefile.Read(path + ".link"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("followed a symbolic link: %v", err)
	}
	for _, want := range []string{"", "{}", strings.Repeat("x", 4<<20)} {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o600))
		if got, err := safefile.Read(path); string(got) != want {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if got, err := root.Read("pool.json"); string(got) != want {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

func TestOpenDisk(t *testing.T) {
	dir := t.TempDir()
	for name, make := range replacements() {
		path := filepath.Join(dir, name)
		require.NoError(t, make(path))
		f, err := ended(t, "OpenDisk", func() (*os.File, error) { return safefile.OpenDisk(path) })
		if opens := name == "endless"; opens != (err == nil) { // OpenDisk accepts it: a sparse image may be as large
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			f.Close()
		}
	}
	if _, err := safefile.OpenDisk(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// A file that another user may have written is refused.
func TestReadPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.json")
	if _, err := safefile.ReadPrivate(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	require.NoError(t, os.WriteFile(path, []byte("{}"), 0o600))
	if got, err := safefile.ReadPrivate(path); string(got) != "{}" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for name, change := range map[string]func() error{
		"mode":  func() error { return os.Chmod(path, 0o640) },
		"owner": func() error { return errors.Join(os.Chmod(path, 0o600), os.Chown(path, nobody, 0)) },
	} {
		require.NoError(t, change())
		if got, err := safefile.ReadPrivate(path); !errors.Is(err, dataset.ErrForbidden) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, make := range replacements() {
		require.NoError(t, errors.Join(os.RemoveAll(path), make(path)))
		if got, err := ended(t, name, func() ([]byte, error) { return safefile.ReadPrivate(path) }); err == nil {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
}

const (
	nobody = 65534
	holds  = "SAFEFILE_TEST_HOLDS" // the path that this program, started by a test, locks
)

func TestMain(m *testing.M) {
	if path := os.Getenv(holds); path != "" {
		if _, err := safefile.Lock(context.Background(), path, time.Minute); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		<-time.After(time.Hour) // not select {}: without cgo, the runtime would report a deadlock and end the program
	}
	goleak.VerifyTestMain(m)
}

// Only one caller at a time has the lock, although its file is created and removed repeatedly.
func TestLockExcludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	inside, total := 0, 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				unlock, err := safefile.Lock(t.Context(), path, time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				if inside++; inside != 1 { // a race, if two have it
					t.Errorf("%d have it", inside)
				}
				time.Sleep(10 * time.Microsecond)
				total++
				inside--
				assert.NoError(t, unlock())
			}
		})
	}
	wg.Wait()
	if _, err := os.Lstat(path); total != 8*50 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%d times, left: %v", total, err)
	}
}

// Only root can open the file, whatever the umask is.
func TestLockIsPrivate(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := safefile.Lock(t.Context(), path, 0)
	require.NoError(t, err)
	if fi, err := os.Lstat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	assert.NoError(t, unlock())
}

// When a lock is released, a file that has replaced the lock file is not removed.
func TestLockThatWasExchanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := safefile.Lock(t.Context(), path, 0)
	require.NoError(t, err)
	if err := errors.Join(os.WriteFile(path+".new", []byte("another"), 0o600),
		os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	assert.NoError(t, unlock())
	if b, err := os.ReadFile(path); err != nil || string(b) != "another" {
		t.Errorf("%q, %v", b, err)
	}
}

// leased creates a file with a lease. An open without O_NONBLOCK waits for the lease: fcntl(2).
func leased(t *testing.T, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	t.Cleanup(func() { f.Close() })
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	return err
}

// A file that another user put at the path is refused without waiting.
func TestLockOfAnotherUser(t *testing.T) {
	for name, c := range map[string]struct {
		make func(path string) error
		want error
		text string
	}{
		"owned": {func(p string) error {
			return errors.Join(os.WriteFile(p, nil, 0o600), os.Chown(p, nobody, 0))
		}, dataset.ErrForbidden, "uid 65534"},
		"leased":   {func(p string) error { return leased(t, p) }, unix.EAGAIN, "unavailable"},
		"readable": {func(p string) error { return os.WriteFile(p, nil, 0o644) }, dataset.ErrForbidden, "mode 0644"},
		"a group's": {func(p string) error {
			return errors.Join(os.WriteFile(p, nil, 0o600), os.Chmod(p, 0o660))
		}, dataset.ErrForbidden, "mode 0660"},
		"fifo":    {func(p string) error { return unix.Mkfifo(p, 0o600) }, dataset.ErrInvalid, "regular"},
		"folder":  {func(p string) error { return os.Mkdir(p, 0o700) }, unix.EISDIR, "directory"},
		"symlink": {func(p string) error { return os.Symlink(p+".target", p) }, unix.ELOOP, "symbolic"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lock")
			require.NoError(t, c.make(path))
			_, err := ended(t, "Lock", func() (func() error, error) {
				return safefile.Lock(context.Background(), path, 0)
			})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) ||
				!strings.Contains(err.Error(), path) {
				t.Errorf("%v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

// When the wait is over, the error names the process that holds the lock. kill -9 releases the lock.
func TestLockNamesItsHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holds+"="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	end := sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	defer end()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatal(line, err)
	}
	who := fmt.Sprintf("process %d holds it", cmd.Process.Pid)
	_, err = ended(t, "Lock", func() (func() error, error) {
		return safefile.Lock(context.Background(), path, 20*time.Millisecond)
	})
	if !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), who) {
		t.Errorf("%v, want %q", err, who)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := safefile.Lock(ctx, path, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that the caller gave up", err)
	}
	end()
	unlock, err := safefile.Lock(t.Context(), path, 0)
	require.NoError(t, err)
	assert.NoError(t, unlock())
}
