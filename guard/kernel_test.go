package guard_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
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
	_, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, next)
	require.NoError(t, err)
	wrote(t, log, e.Fence.At)
	if e = w.entry(t, r.Dataset); e.State != guard.StateArmed || e.Deadline != next {
		t.Errorf("%+v", e)
	}
	require.NoError(t, w.Release(t.Context(), r.Dataset, r.Epoch))
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
			require.NoError(t, feeder.Process.Signal(sig))
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
			require.NoError(t, other.Start())
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
			_, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, clock.Boottime()+time.Minute)
			require.NoError(t, err)
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
	require.NoError(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() {
		for _, f := range []struct{ name, word string }{{"freezer.state", "THAWED"}, {"cgroup.freeze", "0"}} {
			_ = os.WriteFile(filepath.Join(dir, f.name), []byte(f.word), 0)
		}
		for _, pid := range pids {
			_ = os.WriteFile(filepath.Join(hierarchy, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		}
		assert.NoError(t, os.Remove(dir))
	})
	for _, pid := range pids {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0))
	}
	return func() string {
		b, err := os.ReadFile(filepath.Join(dir, file))
		assert.NoError(t, err)
		return strings.TrimSpace(string(b))
	}
}

// backing is the folder that a shared dataset's mount shows.
func backing(t *testing.T, r guard.Registration) string {
	t.Helper()
	table, err := mount.Table()
	require.NoError(t, err)
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
	_, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, clock.Boottime()+time.Minute)
	require.NoError(t, err)
	wrote(t, copied, e.Fence.At)
}

// engine starts a writer that has the name of a container engine.
func engine(t *testing.T, file string) (*exec.Cmd, string) {
	t.Helper()
	link := filepath.Join(t.TempDir(), "dockerd")
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, link))
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(link, file, log)
	cmd.Env = append(os.Environ(), role+"=writer")
	require.NoError(t, cmd.Start())
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
	require.NoError(t, <-began)
	return func() { close(stop); <-done }
}

// playEngine is an engine in a container that keeps its images on a volume. It mounts an overlay whose upper
// directory is on the volume, and starts a container that sees only the overlay. base is an empty folder
// outside of the volume.
func playEngine(source, base, log string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	volume, lower, merged := filepath.Join(base, "volume"), filepath.Join(base, "lower"), filepath.Join(base, "merged")
	for _, dir := range []string{volume, lower, merged, source + "/upper", source + "/work"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if err := unix.Mount(source, volume, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, volume, volume)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return err
	}
	inner := exec.Command("/proc/self/exe", source, volume, filepath.Join(merged, "file"), log)
	inner.Env = append(os.Environ(), role+"=inner")
	inner.Stderr = os.Stderr
	inner.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return inner.Run()
}

// playInner writes to a file in a mount namespace without the volume.
func playInner(source, volume, file, log string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	for _, at := range []string{volume, source} {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			return err
		}
	}
	// Other threads are still in the namespace of the engine: exec(2) ends them.
	if err := os.Setenv(role, "writer"); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", append(os.Args[:1:1], file, log), os.Environ())
}

// A container of an engine on a volume writes to the volume, though its namespace shows only an overlay.
func TestI1ThroughAnOverlay(t *testing.T) {
	w := newWorld(t)
	r := shared(t)
	log := filepath.Join(t.TempDir(), "log")
	begin(t, "engine", r.Paths[0], t.TempDir(), log)
	wrote(t, log, 0)
	r = w.armed(t, r, ahead)
	e := w.fenced(t, r.Dataset)
	w.recheckedAfter(t, r.Dataset, e.Fence.At)
	silent(t, log, e)
}

// playLater maps a file that it has opened for writing (mode rw) or reading (ro), shared and read-only, and
// closes it. As soon as the file named by start exists, it makes the mapping writable and writes.
func playLater(mode, file, logFile, start string) error {
	flags := os.O_RDWR
	if mode == "ro" {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(file, flags, 0)
	if err != nil {
		return err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	writable := false
	for {
		if _, err := os.Stat(start); err == nil && !writable {
			if err := unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE); err != nil {
				return err
			}
			writable = true
		}
		if writable {
			b[0]++
		}
		if _, err := fmt.Fprintln(log, int64(clock.Boottime())); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// A process can make a shared mapping writable at any time, if it had opened the file for writing. One that
// had opened the file for reading cannot, and is not stopped.
func TestI1MappingsThatBecomeWritable(t *testing.T) {
	for mode, want := range map[string]string{"rw": "T", "ro": ""} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t)
			r := shared(t)
			file, log, start := filepath.Join(r.Paths[0], "file"), filepath.Join(t.TempDir(), "log"), filepath.Join(t.TempDir(), "start")
			require.NoError(t, os.WriteFile(file, make([]byte, os.Getpagesize()), 0o600))
			cmd := begin(t, "later", mode, file, log, start)
			wrote(t, log, 0)
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			if mode == "rw" {
				require.NoError(t, os.WriteFile(start, nil, 0o600))
				w.recheckedAfter(t, r.Dataset, e.Fence.At)
				silent(t, log, e)
			} else {
				wrote(t, log, e.Fence.At)
			}
			if state := stateOf(t, cmd.Process.Pid); want != "" && state != want || want == "" && (state == "T" || state == "Z") {
				t.Errorf("the process is in state %s: %+v", state, e.Steps)
			}
		})
	}
}

// playPrivate mounts a block device with an ext4 that only its mount namespace shows, and plays another role
// in it.
func playPrivate(device, target string, args []string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	if err := unix.Mount(device, target, "ext4", 0, ""); err != nil {
		return err
	}
	if err := os.Setenv("DROVER_GUARD_TEST_ROLE", args[0]); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", append(os.Args[:1:1], args[1:]...), os.Environ())
}

// attachTo attaches an image to a loop device as soon as the kernel has released that device.
func attachTo(t *testing.T, number int, image string) (device string) {
	t.Helper()
	device = "/dev/loop" + strconv.Itoa(number)
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()
	dev, err := os.OpenFile(device, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = dev.Close() })
	cfg := unix.LoopConfig{Fd: uint32(file.Fd())}
	cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	await(t, device+" is attached to another image", func() bool {
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		return !errors.Is(err, unix.EBUSY)
	}, func() string { return err.Error() })
	require.NoError(t, err)
	return device
}

// thawOf thaws a filesystem that a process has mounted, if it is frozen.
func thawOf(pid int, path string) {
	roots, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/root", pid)) // the pattern is valid
	for _, root := range roots {
		if dir, err := os.Open(filepath.Join(root, path)); err == nil {
			_ = fsctl.Thaw(dir)
			_ = dir.Close()
		}
	}
}

// unmounted unmounts a dataset on the host.
func unmounted(t *testing.T, r guard.Registration) {
	t.Helper()
	require.NoError(t, unix.Unmount(r.Paths[0], 0))
}

// The kernel gives the number of a released loop device to the next one. A process that has the next one
// mounted does not hold the dataset.
func TestReusedDeviceNumber(t *testing.T) {
	w := newWorld(t)
	r := own(t)
	table, err := mount.Table()
	require.NoError(t, err)
	number := table.At(r.Paths[0]).Minor
	image, inside := scratch.Image(t, "ext4", scratch.Ext4), t.TempDir()
	r = w.armed(t, r, time.Second)
	unmounted(t, r)
	device := attachTo(t, number, image)
	log := filepath.Join(t.TempDir(), "log")
	cmd := begin(t, "private", device, inside, "writer", filepath.Join(inside, "file"), log)
	t.Cleanup(func() { // Before the end of a process that waits for a filesystem that was frozen by mistake.
		w.kill(t)
		thawOf(cmd.Process.Pid, inside)
	})
	wrote(t, log, 0)
	e := w.fenced(t, r.Dataset)
	w.recheckedAfter(t, r.Dataset, clock.Boottime())
	wrote(t, log, clock.Boottime())
	if state := stateOf(t, cmd.Process.Pid); state == "T" || state == "Z" {
		t.Errorf("a process that has another filesystem mounted is in state %s: %+v", state, e.Steps)
	}
}

// If the host has unmounted a dataset, a process can still have a file of it open through a mount that is in no mount
// table.
func TestI1DetachedAfterUnmount(t *testing.T) {
	w := newWorld(t)
	r := own(t)
	log := filepath.Join(t.TempDir(), "log")
	cmd := begin(t, "lazy", r.Paths[0], t.TempDir(), log)
	wrote(t, log, 0)
	r = w.armed(t, r, ahead)
	unmounted(t, r)
	e := w.fenced(t, r.Dataset)
	w.recheckedAfter(t, r.Dataset, e.Fence.At)
	silent(t, log, e)
	if state := stateOf(t, cmd.Process.Pid); state != "T" && state != "Z" { // killed, if the host is busy
		t.Errorf("the holder is in state %s: %+v", state, e.Steps)
	}
}

// Root has mounted the filesystem of a dataset in a second place, and Drover's own mount is gone. The writers
// in a container are fenced all the same, and continue after a thaw.
func TestI1MountedElsewhere(t *testing.T) {
	for name, part := range map[string]string{"all of it": "", "a part of it": "part"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := own(t)
			inside, other, log := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "log")
			source := filepath.Join(r.Paths[0], part)
			require.NoError(t, os.MkdirAll(source, 0o700))
			cmd := begin(t, "container", source, inside, "writer", filepath.Join(inside, "file"), log)
			wrote(t, log, 0)
			r = w.armed(t, r, time.Second)
			require.NoError(t, unix.Mount(source, other, "", unix.MS_BIND, ""))
			t.Cleanup(func() {
				w.kill(t)
				thawOf(os.Getpid(), other)
				assert.NoError(t, unix.Unmount(other, unix.MNT_DETACH))
			})
			unmounted(t, r)
			e := w.fenced(t, r.Dataset)
			w.recheckedAfter(t, r.Dataset, e.Fence.At)
			silent(t, log, e)
			if e.Fence.By != guard.ActFreeze {
				t.Errorf("%+v", e)
			}
			_, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, clock.Boottime()+time.Minute)
			require.NoError(t, err)
			wrote(t, log, clock.Boottime())
			if state := stateOf(t, cmd.Process.Pid); state == "T" {
				t.Error("the writer is still stopped")
			}
		})
	}
}
