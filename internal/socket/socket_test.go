package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) {
	if os.Getenv("SOCKET_TEST_CHILD") != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
}

func listen(t *testing.T, path, group string) *Listener {
	t.Helper()
	l, err := Listen(t.Context(), path, group)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func TestFileOfASocket(t *testing.T) {
	old := syscall.Umask(0) // whatever the umask is
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "run", "drover", "d.sock")
	l := listen(t, path, "no-such-group")
	check := func(gid uint32) {
		t.Helper()
		fi, err := os.Lstat(path)
		require.NoError(t, err)
		st := fi.Sys().(*syscall.Stat_t)
		if fi.Mode() != os.ModeSocket|0o660 || st.Uid != 0 || st.Gid != gid {
			t.Errorf("%s %d:%d, want 0660 0:%d", fi.Mode(), st.Uid, st.Gid, gid)
		}
	}
	check(0)
	raw, err := l.SyscallConn()
	require.NoError(t, err)
	err = raw.Control(func(fd uintptr) {
		var st unix.Stat_t
		// The kernel creates the file with the mode of the socket (unix_bind). Listen opens it to others later.
		if err := unix.Fstat(int(fd), &st); err != nil || st.Mode&0o777 != 0o600 {
			t.Errorf("the file had mode %o at first, %v, want 0600", st.Mode&0o777, err)
		}
	})
	assert.NoError(t, err)
	assert.NoError(t, l.Close())
	assert.NoErrorf(t, l.Close(), "again")
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("the file is still there:", err)
	}
	g, err := user.LookupGroup("daemon")
	require.NoError(t, err)
	gid, _ := strconv.Atoi(g.Gid)
	listen(t, path, "daemon")
	check(uint32(gid))
}

// TestB13StaleSocket: a socket file that a killed process left is replaced.
func TestB13StaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	dead.SetUnlinkOnClose(false)
	dead.Close()
	listen(t, path, "")
	answers(t, path)
}

func answers(t *testing.T, path string) {
	t.Helper()
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	c.Close()
}

// TestB13SecondDrover: a second drover names the running one, and takes nothing from it.
func TestB13SecondDrover(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.sock")
	listen(t, path, "")
	_, err := Listen(t.Context(), path, "")
	want := fmt.Sprintf("another drover (pid %d) serves %s", os.Getpid(), path)
	if dataset.KindOf(err) != dataset.ErrInUse || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	answers(t, path)
}

// If several processes start at once at a stale socket file, one of them serves, and the errors of the others say so.
func TestB13ManyAtOnce(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "d.sock")
		dead, _ := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		dead.SetUnlinkOnClose(false)
		dead.Close()
		var wg sync.WaitGroup
		var mu sync.Mutex
		var serving []*Listener
		for range 8 {
			wg.Go(func() {
				l, err := Listen(t.Context(), path, "")
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					serving = append(serving, l)
				} else if dataset.KindOf(err) != dataset.ErrInUse {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(serving) != 1 {
			t.Fatalf("%d serve", len(serving))
		}
		answers(t, path)
		serving[0].Close()
	}
}

// Close does not remove the socket file of a successor.
func TestCloseLeavesASuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.sock")
	first := listen(t, path, "")
	require.NoError(t, os.Remove(path))
	listen(t, path, "")
	assert.NoError(t, first.Close())
	answers(t, path)
}

func TestCloseAfterTheFolderWent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	l := listen(t, filepath.Join(dir, "d.sock"), "")
	require.NoError(t, os.RemoveAll(dir))
	assert.NoError(t, l.Close())
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("precious"), 0o600))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(filepath.Join(dir, "nowhere"), link))
	datagram := filepath.Join(dir, "datagram")
	d, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: datagram, Net: "unixgram"})
	require.NoError(t, err)
	defer d.Close()
	for path, kind := range map[string]*dataset.Kind{
		"drover.sock": dataset.ErrInvalid,
		file:          dataset.ErrInvalid,
		link:          dataset.ErrInvalid,
		dir:           dataset.ErrInvalid,
		datagram:      dataset.ErrInUse,
		filepath.Join(dir, strings.Repeat("x", 90)): dataset.ErrInvalid,
		filepath.Join(file, "d.sock"):               dataset.ErrInternal,
	} {
		if _, err := Listen(t.Context(), path, ""); err == nil || dataset.KindOf(err) != kind {
			t.Errorf("%s: %v", path, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Error(err, b)
	}
}

// child acts as a drover that systemd started. It serves one connection on each socket that it knows, and reports how
// the sockets were passed.
func child() int {
	// systemd sets it between fork and exec
	if err := os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())); err != nil {
		fmt.Println(err)
	}
	h := FromSystemd()
	if v, ok := os.LookupEnv("LISTEN_FDS"); ok {
		fmt.Println("environment keeps LISTEN_FDS", v)
	}
	for _, want := range strings.Split(os.Getenv("SOCKET_TEST_CHILD"), ",") {
		name, path, _ := strings.Cut(want, "=")
		l, err := h.Take(name, path)
		if err != nil || l == nil {
			fmt.Println(name, err)
			continue
		}
		fmt.Println(name, "serves", l.Addr())
		c, err := l.Accept()
		if err != nil {
			fmt.Println(name, err)
			continue
		}
		fmt.Fprintln(c, name)
		c.Close()
		l.Close()
	}
	return 0
}

func TestHandedOver(t *testing.T) {
	dir := t.TempDir()
	var files []*os.File
	for _, name := range []string{"a", "b", "c"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		require.NoError(t, err)
		defer l.Close()
		f, err := l.File()
		require.NoError(t, err)
		defer f.Close()
		files = append(files, f)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	accepted := os.NewFile(uintptr(pair[0]), "pair")
	defer accepted.Close()
	defer unix.Close(pair[1])

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	files = append(files, accepted)
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), "LISTEN_FDS=4", "LISTEN_FDNAMES=plugin:unit:unit:pair",
		"SOCKET_TEST_CHILD=plugin=/elsewhere,api="+filepath.Join(dir, "b")+",none=/none,pair=/x")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	for i, name := range []string{"plugin", "api"} { // in the order in which the child accepts
		c, err := net.Dial("unix", filepath.Join(dir, string(rune('a'+i))))
		require.NoError(t, err)
		defer c.Close()
		if got, err := io.ReadAll(c); string(got) != name+"\n" {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	said, _ := io.ReadAll(out)
	assert.NoError(t, cmd.Wait())
	want := "plugin serves " + filepath.Join(dir, "a") + "\napi serves " + filepath.Join(dir, "b") + "\nnone <nil>\n" +
		"pair socket pair of systemd is not a listening unix socket (expected ListenStream=/x and no Accept=)\n"
	if string(said) != want {
		t.Errorf("got:\n%swant:\n%s", said, want)
	}
	for _, name := range []string{"a", "b"} { // the files belong to systemd and stay
		_, err := os.Lstat(filepath.Join(dir, name))
		assert.NoError(t, err)
	}
}

func TestNothingHandedOver(t *testing.T) {
	h := FromSystemd()
	if l, err := h.Take("plugin", "/x"); l != nil || err != nil {
		t.Error(l, err)
	}
}
