package guard_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// guardHost is a host with a guard, as far as the guard sees it.
type guardHost struct {
	run, root string
	step      time.Duration
	proc      *exec.Cmd
	*guard.Client
}

const (
	// ahead is the time until a deadline that a test lets pass.
	ahead = 300 * time.Millisecond
	// patience bounds each wait for an event that must happen.
	patience = 15 * time.Second
)

// newWorld starts a guard. Its folders are on a filesystem that no test freezes.
func newWorld(t *testing.T) *guardHost {
	t.Helper()
	w := &guardHost{run: t.TempDir(), root: t.TempDir(), step: time.Second}
	w.start(t)
	c, err := guard.NewClient(guard.SocketPath(w.run))
	require.NoError(t, err)
	w.Client = c
	t.Cleanup(func() { w.kill(t) })
	_, err = c.Status(t.Context())
	require.NoError(t, err)
	return w
}

// start starts the guard.
func (w *guardHost) start(t *testing.T) {
	t.Helper()
	w.proc = as(t, "guard", w.run, w.root, w.step.String())
	w.proc.Stderr = os.Stderr
	require.NoError(t, w.proc.Start())
}

// kill kills the guard with SIGKILL and waits for its end.
func (w *guardHost) kill(t *testing.T) {
	t.Helper()
	_ = w.proc.Process.Kill()
	_ = w.proc.Wait()
}

// as returns a command that runs this program in a role.
func as(t *testing.T, r string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), role+"="+r)
	return cmd
}

// begin starts this program in a role, until the test ends.
func begin(t *testing.T, r string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := as(t, r, args...)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	end(t, cmd)
	return cmd
}

func end(t *testing.T, cmd *exec.Cmd) {
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Process.Signal(unix.SIGCONT)
		_ = cmd.Wait()
	})
}

// own is a dataset that has a filesystem to itself.
func own(t *testing.T) guard.Registration {
	t.Helper()
	path := scratch.Mount(t, "xfs", scratch.XFS)
	return guard.Registration{Dataset: uuid.New(), Volume: "db", Epoch: 3, Paths: []string{path}, Own: true, Policy: guard.PolicyKill}
}

// shared is a dataset that is a folder of a filesystem, like the datasets of the dir backend.
func shared(t *testing.T) guard.Registration {
	t.Helper()
	id := uuid.New()
	pool := scratch.Mount(t, "ext4", scratch.Ext4)
	source, path := filepath.Join(pool, "datasets", id.String()), filepath.Join(t.TempDir(), id.String())
	for _, dir := range []string{source, path} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	require.NoError(t, unix.Mount(source, path, "", unix.MS_BIND, ""))
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(path, unix.MNT_DETACH)) })
	return guard.Registration{Dataset: id, Volume: "dir", Epoch: 3, Paths: []string{path}, Policy: guard.PolicyKill}
}

// armed registers and checks a dataset whose deadline is this far ahead.
func (w *guardHost) armed(t *testing.T, r guard.Registration, ahead time.Duration) guard.Registration {
	t.Helper()
	t.Cleanup(func() { // Before the end of the processes that wait for it.
		w.kill(t)
		thaw(t, r)
	})
	r.Deadline = clock.Boottime() + ahead
	_, err := w.Register(t.Context(), r)
	require.NoError(t, err)
	_, err = w.Check(t.Context(), r.Dataset, r.Epoch)
	require.NoError(t, err)
	return r
}

// thaw thaws the filesystem of a dataset, like a program that knows nothing of guards. It reports whether the
// filesystem was frozen.
func thaw(t *testing.T, r guard.Registration) bool {
	t.Helper()
	if !r.Own {
		return false
	}
	dir, err := os.Open(r.Paths[0])
	require.NoError(t, err)
	defer dir.Close()
	err = fsctl.Thaw(dir)
	if err != nil && !errors.Is(err, fsctl.ErrNotFrozen) {
		t.Fatal(err)
	}
	return err == nil
}

// freezeAs freezes a filesystem, like a program that knows nothing of guards and holds nothing of the filesystem
// afterwards. Another process does it: this process is the agent of its datasets, and a guard that saw it hold one
// would kill it.
func freezeAs(t *testing.T, path string) (thaw func()) {
	t.Helper()
	do := func(act string) error { return runContinued(as(t, "freezer", act, path)) }
	require.NoError(t, do("freeze"))
	done := false
	thaw = func() {
		if !done {
			done = true
			assert.NoError(t, do("thaw"))
		}
	}
	t.Cleanup(thaw)
	return thaw
}

// runContinued runs a command and continues its process each time that it is stopped. The guard takes a process with
// an open file of a dataset for a holder, and may stop it before it has done its work. Then nobody would thaw the
// filesystem.
func runContinued(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			return err
		case <-time.After(10 * time.Millisecond):
			_ = cmd.Process.Signal(unix.SIGCONT)
		}
	}
}

// entry returns what the guard knows of a dataset.
func (w *guardHost) entry(t *testing.T, id uuid.UUID) guard.Entry {
	t.Helper()
	s, err := w.Status(context.WithoutCancel(t.Context()))
	require.NoError(t, err)
	i := slices.IndexFunc(s.Datasets, func(e guard.Entry) bool { return e.Dataset == id })
	if i < 0 {
		t.Fatalf("the guard does not know dataset %s", id)
	}
	return s.Datasets[i]
}

// until waits until an entry satisfies a condition.
func (w *guardHost) until(t *testing.T, id uuid.UUID, what string, so func(guard.Entry) bool) guard.Entry {
	t.Helper()
	var e guard.Entry
	await(t, what, func() bool { e = w.entry(t, id); return so(e) }, func() string { return fmt.Sprintf("%+v", e) })
	return e
}

func (w *guardHost) fenced(t *testing.T, id uuid.UUID) guard.Entry {
	t.Helper()
	return w.until(t, id, "it is fenced", func(e guard.Entry) bool { return e.State == guard.StateFenced })
}

func await(t *testing.T, what string, so func() bool, is func() string) {
	t.Helper()
	for end := time.Now().Add(patience); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s; now: %s", what, is())
		}
	}
}

// written returns the times at which a writer wrote, from its log.
func written(t *testing.T, log string) (times []time.Duration) {
	t.Helper()
	f, err := os.Open(log)
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		n, err := strconv.ParseInt(s.Text(), 10, 64)
		if err != nil {
			continue // the line is still being written
		}
		times = append(times, time.Duration(n))
	}
	return times
}

// writing starts a writer and waits until it writes.
func writing(t *testing.T, r, file string, inside ...string) (cmd *exec.Cmd, log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "log")
	if len(inside) > 0 {
		cmd = begin(t, "container", append(inside, r, file, log)...)
	} else {
		cmd = begin(t, r, file, log)
	}
	wrote(t, log, 0)
	return cmd, log
}

// wrote waits until a writer has written after a moment.
func wrote(t *testing.T, log string, after time.Duration) {
	t.Helper()
	await(t, "somebody has written", func() bool {
		times := written(t, log)
		return len(times) > 0 && times[len(times)-1] > after
	}, func() string { return fmt.Sprint(len(written(t, log))) })
}

// silent checks that a writer has written nothing after a fence.
func silent(t *testing.T, log string, e guard.Entry) {
	t.Helper()
	times := written(t, log)
	last := times[len(times)-1]
	if last > e.Fence.At {
		t.Errorf("it was fenced at %v, and written to %v later", e.Fence.At, last-e.Fence.At)
	}
	if e.Fence.Overrun != e.Fence.At-e.Deadline {
		t.Errorf("fenced at %v, deadline %v: overrun %v", e.Fence.At, e.Deadline, e.Fence.Overrun)
	}
	if last > e.Deadline+e.Bound && e.Fence.Late == 0 {
		t.Errorf("written to %v after the deadline, bound %v, and not told as late", last-e.Deadline, e.Bound)
	}
}

// isBlocked reports whether a thread of a process waits in the kernel, and cannot be killed. /proc/PID/stat has the state
// of the first thread only, and the runtime of Go chooses the thread that writes.
func isBlocked(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	require.NoError(t, err)
	return slices.ContainsFunc(threads, func(dir string) bool {
		id, err := strconv.Atoi(filepath.Base(dir))
		return err == nil && stateOf(t, id) == "D"
	})
}

// stateOf returns the state of a process or thread: a letter of proc_pid_stat(5), or "gone".
func stateOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "gone"
	}
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))[0]
}
