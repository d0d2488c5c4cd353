package guard_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// An agent that holds the dataset itself is killed and not stopped: a stopped agent could not ask for the thaw.
func TestAgentHolds(t *testing.T) {
	w := newWorld(t)
	r := shared(t)
	agent := as(t, "agent", guard.SocketPath(w.run), r.Dataset.String(), r.Paths[0])
	agent.Stderr = os.Stderr
	require.NoError(t, agent.Start())
	end(t, agent)
	await(t, "it has ended", func() bool { return stateOf(t, agent.Process.Pid) == "Z" }, func() string { return stateOf(t, agent.Process.Pid) })
	_ = agent.Wait()
	if ws, ok := agent.ProcessState.Sys().(unix.WaitStatus); ok && ws.Signal() != unix.SIGKILL {
		t.Errorf("it ended with %s", agent.ProcessState)
	}
	if e := w.fenced(t, r.Dataset); e.Fence.By != guard.ActStop {
		t.Errorf("%+v", e)
	}
	_, err := w.Thaw(t.Context(), r.Dataset, 1, clock.Boottime()+time.Minute)
	assert.NoError(t, err)
}

// An agent that is stopped between Register and the mount is fenced without a mount. The mount that it makes after it
// continues is frozen, and its Check is refused.
func TestMountAfterTheFence(t *testing.T) {
	w := newWorld(t)
	image := scratch.Image(t, "ext4", scratch.Ext4)
	path := filepath.Join(t.TempDir(), "later")
	require.NoError(t, os.Mkdir(path, 0o700))
	r := guard.Registration{Dataset: uuid.New(), Volume: "late", Epoch: 1, Paths: []string{path}, Own: true, Policy: guard.PolicyKill, Deadline: clock.Boottime() + ahead}
	_, err := w.Register(t.Context(), r)
	require.NoError(t, err)
	w.fenced(t, r.Dataset)
	from := scratch.MountImage(t, "ext4", image)
	require.NoError(t, unix.Mount(from, path, "", unix.MS_BIND, ""))
	t.Cleanup(func() {
		w.kill(t)
		thaw(t, r)
		assert.NoError(t, unix.Unmount(path, unix.MNT_DETACH))
	})
	if _, err := w.Check(t.Context(), r.Dataset, r.Epoch); !isKind(err, "stale") {
		t.Errorf("%v", err)
	}
	e := w.until(t, r.Dataset, "the mount was seen", func(e guard.Entry) bool { return e.Breaches == 1 })
	if e.State != guard.StateFenced || !thaw(t, r) {
		t.Errorf("it is not frozen: %+v", e)
	}
}

// A dataset whose freeze would also freeze something else is refused before anybody writes to it.
func TestNotItsOwn(t *testing.T) {
	w := newWorld(t)
	r := shared(t)
	r.Own = true
	r.Deadline = clock.Boottime() + time.Minute
	_, err := w.Register(t.Context(), r)
	require.NoError(t, err)
	if _, err := w.Check(t.Context(), r.Dataset, r.Epoch); !isKind(err, "invalid") {
		t.Errorf("%v", err)
	}
}

// A user who is not root gets no answer, whatever the mode of the socket.
func TestNotRoot(t *testing.T) {
	w := newWorld(t)
	path := guard.SocketPath(w.run)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	dir := filepath.Join("/tmp", "drover-guard-"+uuid.NewString()[:8])
	require.NoError(t, os.Mkdir(dir, 0o777))
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o666), os.Link(path, filepath.Join(dir, "sock"))))
	if got := asNobody(t, filepath.Join(dir, "sock")); got != "" {
		t.Errorf("nobody was answered: %q", got)
	}
	// Root gets an answer on the same socket, and garbage is cut off.
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("\xff\xff\xff\xff"))
	require.NoError(t, err)
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("%q, %v", b, err)
	}
	_, err = w.Status(t.Context())
	assert.NoError(t, err)
}

// asNobody asks the guard as an unprivileged user, and returns the answer.
func asNobody(t *testing.T, path string) string {
	t.Helper()
	c := make(chan string)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		c <- func() string {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
				return errno.Error()
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err.Error()
			}
			defer unix.Close(fd)
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				return err.Error()
			}
			q := `{"v":1,"op":"status"}`
			// The connection may have been cut off already.
			_, _ = unix.Write(fd, append([]byte{0, 0, 0, byte(len(q))}, q...))
			b := make([]byte, 100)
			n, _ := unix.Read(fd, b)
			return string(b[:max(n, 0)])
		}()
	}()
	return <-c
}

// A hundred datasets whose deadlines pass at once are all fenced within their bounds. All of them are in memory: the
// guard is not responsible for how fast a disk takes what a hundred writers flush.
func TestHundredAtOnce(t *testing.T) {
	memory := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", memory, "tmpfs", 0, ""))
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(memory, unix.MNT_DETACH)) })
	t.Setenv("TMPDIR", memory)
	w := newWorld(t)
	var all []guard.Registration
	for range 50 {
		all = append(all, shared(t))
	}
	for range 50 {
		path := scratch.Mount(t, "ext4", 8<<20)
		all = append(all, guard.Registration{Dataset: uuid.New(), Volume: "own", Epoch: 1, Paths: []string{path}, Own: true, Policy: guard.PolicyKill})
	}
	var logs []string
	for _, r := range all {
		if !r.Own {
			inside := t.TempDir()
			_, log := writing(t, "writer", filepath.Join(inside, "file"), r.Paths[0], inside)
			logs = append(logs, log)
		}
	}
	const soon = 5 * time.Second
	for i := range all {
		w.armed(t, all[i], soon)
		if i%10 < 9 {
			continue
		}
		var feeds []guard.Feed // the feeds that wait for the others, all with the same deadline at last
		deadline := clock.Boottime() + soon
		for _, r := range all[:i+1] {
			feeds = append(feeds, guard.Feed{Dataset: r.Dataset, Epoch: r.Epoch, Deadline: deadline})
		}
		if refused, err := w.Feed(t.Context(), feeds); err != nil || len(refused) > 0 {
			t.Fatal(refused, err)
		}
	}
	late := 0
	for i, r := range all {
		e := w.fenced(t, r.Dataset)
		if e.Fence.Late > 0 {
			late++
		}
		if !r.Own {
			silent(t, logs[i], e)
		}
	}
	if late > 0 {
		t.Errorf("%d of %d were fenced later than their bound", late, len(all))
	}
}
