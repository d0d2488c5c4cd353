package btrfsctl_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
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
	require.NoError(p, err)
	p.Cleanup(func() { f.Close() })
	return f
}

func (p pool) create(name string) *os.File {
	p.Helper()
	require.NoError(p, btrfsctl.Create(p.open(filepath.Dir(name)), filepath.Base(name)))
	return p.open(name)
}

func (p pool) write(name, data string) {
	p.Helper()
	require.NoError(p, os.WriteFile(filepath.Join(p.path, name), []byte(data), 0o600))
}

func (p pool) read(name string) string {
	p.Helper()
	b, err := os.ReadFile(filepath.Join(p.path, name))
	require.NoError(p, err)
	return string(b)
}

func (p pool) isSubvolume(name string) bool {
	p.Helper()
	ok, err := btrfsctl.IsSubvolume(p.open(name))
	require.NoError(p, err)
	return ok
}

func TestCreateAndDelete(t *testing.T) {
	p := newPool(t)
	p.create("a")
	if !p.isSubvolume("a") {
		t.Error("no subvolume")
	}
	p.write("a/f", "data")
	assert.ErrorIsf(t, btrfsctl.Create(p.dir, "a"), os.ErrExist, "again")
	require.NoError(t, btrfsctl.Delete(p.dir, "a"))
	assert.ErrorIsf(t, btrfsctl.Delete(p.dir, "a"), os.ErrNotExist, "delete again")
	require.NoError(t, os.Mkdir(filepath.Join(p.path, "plain"), 0o700))
	assert.ErrorIsf(t, btrfsctl.Delete(p.dir, "plain"), btrfsctl.ErrNotSubvolume, "delete of a plain directory")
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
	assert.ErrorIsf(t, btrfsctl.Snapshot(p.dir, "rw", src, false), os.ErrExist, "again")
	assert.NoErrorf(t, btrfsctl.Delete(p.dir, "ro"), "delete a read-only one")
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
	assert.ErrorIs(t, btrfsctl.Delete(p.dir, "src"), btrfsctl.ErrNested)
	require.NoError(t, btrfsctl.Snapshot(p.dir, "snap", src, true))
	if p.isSubvolume("snap/inner") {
		t.Error("the stub counts as a subvolume")
	}
	if err := btrfsctl.Snapshot(p.dir, "other", p.open("snap/inner"), true); err == nil {
		t.Error("snapshot of a stub")
	}
	assert.NoErrorf(t, btrfsctl.Delete(p.dir, "snap"), "a stub is in the way")
}

func TestSnapshotOfAPlainDirectory(t *testing.T) {
	p := newPool(t)
	require.NoError(t, os.Mkdir(filepath.Join(p.path, "plain"), 0o700))
	assert.ErrorIs(t, btrfsctl.Snapshot(p.dir, "snap", p.open("plain"), true), btrfsctl.ErrNotSubvolume)
}

// After a commit, a copy of the disk contains the created subvolume. A commit that another program has started does not
// delay it until the next periodic one, after a minute.
func TestCommitMakesDurable(t *testing.T) {
	image := scratch.Image(t, "btrfs", scratch.Btrfs)
	mnt := scratch.MountImage(t, "btrfs", image, "commit=60")
	dir, err := os.Open(mnt)
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, btrfsctl.Create(dir, "made"))
	var id uint64
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), 0x80089418, uintptr(unsafe.Pointer(&id))) // START_SYNC
	if errno != 0 {
		t.Fatal(errno)
	}
	require.NoError(t, btrfsctl.Create(dir, "other"))
	begun := time.Now()
	require.NoError(t, btrfsctl.Commit(dir))
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("the commit took %v", took)
	}
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
	assert.NoErrorf(t, btrfsctl.SetNOCOW(p.open("d/inherits")), "a file in a NOCOW directory")
	p.write("full", "x")
	if err := btrfsctl.SetNOCOW(p.open("full")); err == nil {
		t.Error("set on a file that has bytes")
	}
	p.write("empty", "")
	assert.NoError(t, btrfsctl.SetNOCOW(p.open("empty")))
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

// Callers of Wait during a commit share the next commit.
func TestCommitsAreShared(t *testing.T) {
	var c btrfsctl.Commits
	var mu sync.Mutex
	count := 0
	begun, go1 := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = c.Wait(func() error { close(begun); <-go1; return nil })
	})
	<-begun
	failed := errors.New("commit failed")
	var joined sync.WaitGroup
	for range 20 {
		joined.Add(1)
		wg.Go(func() {
			joined.Done()
			err := c.Wait(func() error {
				mu.Lock()
				defer mu.Unlock()
				count++
				return failed
			})
			assert.ErrorIs(t, err, failed)
		})
	}
	joined.Wait()
	close(go1)
	wg.Wait()
	if count < 1 || count > 20 {
		t.Errorf("%d commits", count)
	}
	for range 2 {
		_ = c.Wait(func() error { count = 0; return nil })
	}
	if count != 0 {
		t.Error("the next one did not run")
	}
}

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
	assert.ErrorIsf(t, btrfsctl.Delete(p.dir, "src"), btrfsctl.ErrNested, "delete without what is inside")
	require.NoError(t, btrfsctl.DeleteAll(p.dir, "src", nil))
	assert.ErrorIsf(t, btrfsctl.DeleteAll(p.dir, "src", nil), os.ErrNotExist, "again")
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
		assert.ErrorIsf(t, btrfsctl.DeleteAll(p.dir, name, nil), btrfsctl.ErrNotSubvolume, "%s", name)
	}
}

// sent takes a snapshot, and returns its stream. The stream is also written to w, which can be slow.
func (p pool) sent(src *os.File, name string, w io.Writer) []byte {
	p.Helper()
	require.NoError(p, btrfsctl.Snapshot(p.dir, name, src, true))
	var out bytes.Buffer
	require.NoError(p, btrfsctl.Send(p.Context(), p.open(name), nil, true, io.MultiWriter(&out, w)))
	return out.Bytes()
}

// nagging is a writer that sends SIGURG to all threads of the process at each write. The Go runtime sends this signal
// to preempt goroutines.
type nagging struct{}

func (nagging) Write(b []byte) (int, error) {
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return 0, err
	}
	for _, task := range tasks {
		id := 0
		for _, digit := range filepath.Base(task) {
			id = 10*id + int(digit-'0')
		}
		_ = unix.Tgkill(os.Getpid(), id, syscall.SIGURG)
	}
	return len(b), nil
}

// A signal must not make the kernel restart the stream in the middle.
func TestSendIsNotInterrupted(t *testing.T) {
	p := newPool(t)
	src := p.create("src")
	p.write("src/f", string(treetest.Bytes(1, 12<<20)))
	want := p.sent(src, "one", io.Discard)
	for range 5 {
		var got bytes.Buffer
		require.NoError(t, btrfsctl.Send(t.Context(), p.open("one"), nil, true, io.MultiWriter(&got, nagging{})))
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("%d bytes, want %d as before", got.Len(), len(want))
		}
	}
}

func (p pool) quotas(want btrfsctl.Quota) {
	p.Helper()
	if mode, settled, err := btrfsctl.Quotas(p.dir); mode != want || !settled || err != nil {
		p.Errorf("quotas are %s, %v, %v; want %s", mode, settled, err, want)
	}
}

func TestQuotas(t *testing.T) {
	p := newPool(t)
	sub := p.create("sub")
	p.quotas(btrfsctl.QuotaNone)
	assert.ErrorIsf(t, btrfsctl.Limit(sub, 1<<20), unix.ENOTCONN, "a limit without quotas")
	if _, err := btrfsctl.Count(sub); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("counted without quotas: %v", err)
	}
	scratch.Quota(t, p.path, "full")
	p.quotas(btrfsctl.QuotaFull)
	scratch.Run(t, "btrfs", "quota", "disable", p.path)
	p.quotas(btrfsctl.QuotaNone)
	scratch.Quota(t, p.path, "simple")
	p.quotas(btrfsctl.QuotaSimple)
}

func TestLimit(t *testing.T) {
	for _, mode := range []string{"full", "simple"} {
		p := newPool(t)
		scratch.Quota(t, p.path, mode)
		sub := p.create("sub")
		if c, err := btrfsctl.Count(sub); err != nil || c.Limit != 0 {
			t.Errorf("%s: counted %+v, %v", mode, c, err)
		}
		require.NoError(t, btrfsctl.Limit(sub, 32<<20))
		big := make([]byte, 40<<20)
		if err := os.WriteFile(filepath.Join(p.path, "sub/f"), big, 0o600); !errors.Is(err, unix.EDQUOT) {
			t.Errorf("%s: wrote more than the limit: %v", mode, err)
		}
		require.NoError(t, unix.Syncfs(int(sub.Fd())))
		if c, err := btrfsctl.Count(sub); err != nil || c.Limit != 32<<20 || c.Referenced < 30<<20 ||
			c.Referenced > 32<<20 {
			t.Errorf("%s: counted %+v, %v", mode, c, err)
		}
		require.NoError(t, btrfsctl.Limit(sub, 0))
		if c, err := btrfsctl.Count(sub); err != nil || c.Limit != 0 {
			t.Errorf("%s: the limit stays: %+v, %v", mode, c, err)
		}
		assert.NoErrorf(t, os.WriteFile(filepath.Join(p.path, "sub/f"), big, 0o600), "%s", mode)
	}
}

// The snapshot of a subvolume gets the size limit of that subvolume.
func TestCloneHasItsSourcesLimit(t *testing.T) {
	p := newPool(t)
	scratch.Quota(t, p.path, "full")
	sub := p.create("sub")
	require.NoError(t, btrfsctl.Limit(sub, 32<<20))
	require.NoError(t, btrfsctl.Snapshot(p.dir, "clone", sub, false))
	if c, err := btrfsctl.Count(p.open("clone")); err != nil || c.Limit != 32<<20 {
		t.Errorf("counted %+v, %v", c, err)
	}
}

// No path of a stream leads out of the subvolume that is received: neither by "..", nor through a symbolic link
// or a mount. A change of a symbolic link changes the link, not its target.
func TestI6ForgedPaths(t *testing.T) {
	p := newPool(t)
	owner := func(path string) uint32 {
		t.Helper()
		info, err := os.Lstat(path)
		require.NoError(t, err)
		return info.Sys().(*syscall.Stat_t).Uid
	}
	made := command(3, named("f"))
	folder := command(4, named("d"))
	link := func(to string) []byte { return command(8, named("l"), attribute(17, []byte(to))) }
	mine := func(name string) []byte {
		return command(19, named(name), attribute(6, uint64(7)), attribute(7, uint64(7)))
	}
	for what, c := range map[string]struct {
		in    func(dir string) [][]byte
		fails bool
	}{
		"a name above":     {func(string) [][]byte { return [][]byte{command(3, named("../made"))} }, true},
		"the folder above": {func(string) [][]byte { return [][]byte{mine("..")} }, true},
		"a new name above": {
			func(string) [][]byte { return [][]byte{made, command(9, named("f"), attribute(16, []byte("../made")))} },
			true,
		},
		"a second name from above": {
			func(string) [][]byte { return [][]byte{command(10, named("made"), attribute(17, []byte("../victim")))} },
			true,
		},
		"through a link": {
			func(dir string) [][]byte { return [][]byte{link(dir), command(3, named("l/made"))} }, true,
		},
		"through a link inside": {
			func(string) [][]byte { return [][]byte{folder, link("d"), command(3, named("l/made"))} }, true,
		},
		"through a link on the way": {func(string) [][]byte {
			return [][]byte{folder, command(4, named("d/e")), link("d"), command(3, named("l/e/made"))}
		}, true},
		"through a mount":           {func(string) [][]byte { return [][]byte{command(3, named("mount/made"))} }, true},
		"the owner of a link":       {func(string) [][]byte { return [][]byte{link("../victim"), mine("l")} }, false},
		"the owner of what is here": {func(string) [][]byte { return [][]byte{made, mine("f")} }, false},
	} {
		t.Run(what, func(t *testing.T) {
			top := filepath.Join(p.path, filepath.Base(t.Name()))
			if err := errors.Join(os.Mkdir(top, 0o700),
				os.WriteFile(filepath.Join(top, "victim"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			dir := p.create(filepath.Join(filepath.Base(t.Name()), "dir"))
			mounted := filepath.Join(dir.Name(), "mount")
			require.NoError(t, errors.Join(os.Mkdir(mounted, 0o700), unix.Mount("none", mounted, "tmpfs", 0, "")))
			t.Cleanup(func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) })
			err := btrfsctl.Apply(t.Context(), stream(c.in(top)...), dir, nil)
			if c.fails != errors.Is(err, btrfsctl.ErrStream) || !c.fails && err != nil {
				t.Errorf("it ends with %v", err)
			}
			var found []string
			for _, pattern := range []string{"made", "dir/made", "dir/*/made", "dir/*/*/made"} {
				at, err := filepath.Glob(filepath.Join(top, pattern))
				require.NoError(t, err)
				found = append(found, at...)
			}
			if len(found) > 0 || owner(top) != 0 || owner(filepath.Join(top, "victim")) != 0 {
				t.Errorf("something else was changed: %v", found)
			}
		})
	}
}
