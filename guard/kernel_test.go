package guard_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
)

// A writer that had its file open before is stopped by the freeze, and continues after the thaw: no write is lost,
// and none happens in between.
func TestFreezeAndThaw(t *testing.T) {
	w := newWorld(t)
	r := own(t)
	_, log := writing(t, "writer", filepath.Join(r.Paths[0], "file"))
	r = w.armed(t, r, ahead)
	e := w.fenced(t, r.Dataset)
	if e.Fence.By != guard.ActFreeze || e.Fence.Epoch != r.Epoch || e.Fence.At < r.Deadline {
		t.Errorf("%+v", e.Fence)
	}
	w.until(t, r.Dataset, "it was looked at again", func(e guard.Entry) bool { return clock.Boottime() > e.Fence.At+1500*time.Millisecond })
	e = w.entry(t, r.Dataset)
	silent(t, log, e)
	if e.Breaches != 0 {
		t.Errorf("a fence that held has %d breaches: %+v", e.Breaches, e.Steps)
	}
	next := clock.Boottime() + time.Hour - time.Minute
	if _, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, next); err != nil {
		t.Fatal(err)
	}
	wrote(t, log, e.Fence.At)
	if e = w.entry(t, r.Dataset); e.State != guard.StateArmed || e.Deadline != next {
		t.Errorf("%+v", e)
	}
	if err := w.Release(t.Context(), r.Dataset, r.Epoch); err != nil {
		t.Fatal(err)
	}
}

// The feeder may be killed or stopped at any moment: the last flush of a writer is before the deadline plus the time
// of the ladder.
func TestFeederFails(t *testing.T) {
	for name, sig := range map[string]unix.Signal{"killed": unix.SIGKILL, "stopped": unix.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := own(t)
			_, log := writing(t, "writer", filepath.Join(r.Paths[0], "file"))
			r = w.armed(t, r, ahead)
			feeder := begin(t, "feeder", guard.SocketPath(w.run), r.Dataset.String(), "3", ahead.String())
			w.until(t, r.Dataset, "it is fed", func(e guard.Entry) bool { return e.Deadline > r.Deadline+ahead })
			wrote(t, log, r.Deadline) // later than the deadline with which it was registered
			if err := feeder.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			e := w.fenced(t, r.Dataset)
			if e.Fence.At < e.Deadline || e.Deadline <= r.Deadline {
				t.Errorf("registered until %v, fed until %v, fenced at %v", r.Deadline, e.Deadline, e.Fence.At)
			}
			silent(t, log, e)
		})
	}
}

// A folder of a filesystem that others use is fenced by stopping its holders, wherever they are. The other processes
// continue to write.
func TestSharedFilesystem(t *testing.T) {
	in := map[string]func(t *testing.T, pid int) func() string{
		"no group": func(*testing.T, int) func() string { return nil },
		"v1": func(t *testing.T, pid int) func() string {
			return inGroup(t, "/sys/fs/cgroup/freezer", "freezer.self_freezing", pid)
		},
		"v2": func(t *testing.T, pid int) func() string {
			return inGroup(t, "/sys/fs/cgroup/unified", "cgroup.freeze", pid)
		},
		// A control group that also has another process is not frozen.
		"mixed": func(t *testing.T, pid int) func() string {
			other := exec.Command("sleep", "1000")
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			end(t, other)
			frozen := inGroup(t, "/sys/fs/cgroup/freezer", "freezer.self_freezing", pid, other.Process.Pid)
			return func() string {
				if frozen() == "1" || stateOf(t, other.Process.Pid) == "T" {
					t.Error("a process that holds nothing was stopped")
				}
				return ""
			}
		},
	}
	for name, put := range in {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := shared(t)
			inside := t.TempDir()
			cmd, log := writing(t, "writer", filepath.Join(inside, "file"), r.Paths[0], inside)
			frozen := put(t, cmd.Process.Pid)
			pool := filepath.Dir(filepath.Dir(backing(t, r)))
			_, other := writing(t, "writer", filepath.Join(pool, "other"))
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			if e.Fence.By != guard.ActStop {
				t.Errorf("%+v", e)
			}
			if frozen != nil {
				if got := frozen(); got != "" && got != "1" {
					t.Errorf("its group is not frozen: %q", got)
				}
			}
			wrote(t, other, e.Fence.At+1500*time.Millisecond)
			e = w.entry(t, r.Dataset)
			silent(t, log, e)
			if e.Breaches != 0 {
				t.Errorf("%+v", e)
			}
			if _, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, clock.Boottime()+time.Minute); err != nil {
				t.Fatal(err)
			}
			wrote(t, log, e.Fence.At)
			if frozen != nil {
				if got := frozen(); got != "" && got != "0" {
					t.Errorf("its group is frozen: %q", got)
				}
			}
			if err := os.WriteFile(filepath.Join(r.Paths[0], "new"), nil, 0o600); err != nil {
				t.Errorf("the host's mount after the thaw: %v", err)
			}
		})
	}
}

// inGroup puts processes into a new control group, and returns a function that reads a file of the group.
func inGroup(t *testing.T, hierarchy, file string, pids ...int) func() string {
	t.Helper()
	dir := filepath.Join(hierarchy, "drover-guard-test-"+uuid.NewString())
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, f := range []struct{ name, word string }{{"freezer.state", "THAWED"}, {"cgroup.freeze", "0"}} {
			_ = os.WriteFile(filepath.Join(dir, f.name), []byte(f.word), 0)
		}
		for _, pid := range pids {
			_ = os.WriteFile(filepath.Join(hierarchy, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	for _, pid := range pids {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	return func() string {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(b))
	}
}

// backing is the folder that a shared dataset's mount shows.
func backing(t *testing.T, r guard.Registration) string {
	t.Helper()
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	e := table.At(r.Paths[0])
	for _, m := range table.Of(e.Major, e.Minor) {
		if m.Root == "/" {
			return filepath.Join(m.Mountpoint, e.Root)
		}
	}
	t.Fatalf("no pool below %s", r.Paths[0])
	return ""
}

// A process in the host's namespace that holds a file, or has only mapped it, is stopped. The engine is stopped and
// not killed, even if other holders are killed.
func TestHoldersOfTheHost(t *testing.T) {
	w := newWorld(t)
	r := shared(t)
	file := func(name string) string { return filepath.Join(r.Paths[0], name) }
	writer, log := writing(t, "writer", file("written"))
	_, mapped := writing(t, "mapper", file("mapped"))
	_, through := writing(t, "writer", filepath.Join(backing(t, r), "through the pool"))
	engine, copied := engine(t, file("copied"))
	release := traced(t, writer.Process.Pid) // cannot be stopped
	r = w.armed(t, r, ahead)
	e := w.fenced(t, r.Dataset)
	release()
	if e.Fence.By != guard.ActKill {
		t.Errorf("%+v", e)
	}
	for _, l := range []string{log, mapped, through, copied} {
		silent(t, l, e)
	}
	await(t, "the writer is dead", func() bool { s := stateOf(t, writer.Process.Pid); return s == "Z" || s == "gone" },
		func() string { return stateOf(t, writer.Process.Pid) })
	if got := stateOf(t, engine.Process.Pid); got != "T" {
		t.Errorf("the engine is in state %s", got)
	}
	if _, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, clock.Boottime()+time.Minute); err != nil {
		t.Fatal(err)
	}
	wrote(t, copied, e.Fence.At)
}

// engine starts a writer that has the name of a container engine.
func engine(t *testing.T, file string) (*exec.Cmd, string) {
	t.Helper()
	link := filepath.Join(t.TempDir(), "dockerd")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(link, file, log)
	cmd.Env = append(os.Environ(), role+"=writer")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end(t, cmd)
	wrote(t, log, 0)
	return cmd, log
}

// traced attaches a debugger to a process. The debugger continues the process whenever it stops.
func traced(t *testing.T, pid int) (release func()) {
	t.Helper()
	began, stop, done := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.PtraceSeize(pid); err != nil {
			began <- err
			return
		}
		began <- nil
		for {
			select {
			case <-stop:
				_ = unix.PtraceDetach(pid)
				return
			default:
			}
			var ws unix.WaitStatus
			got, err := unix.Wait4(pid, &ws, unix.WNOHANG|unix.WALL, nil)
			if err == nil && got == pid && ws.Stopped() {
				_ = unix.PtraceCont(pid, 0)
			}
			if err == nil && got == pid && (ws.Signaled() || ws.Exited()) {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if err := <-began; err != nil {
		t.Fatal(err)
	}
	return func() { close(stop); <-done }
}
