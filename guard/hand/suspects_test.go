package hand

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// sleeper starts a process that does nothing, and ends it with the test.
func sleeper(t *testing.T) Process {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	awaitSleep(t, cmd.Process.Pid)
	p, err := ProcessOf(cmd.Process.Pid)
	require.NoError(t, err)
	return p
}

// awaitSleep waits until a process sleeps. One that has just started is in state D while its program is read from disk,
// and counts as one that cannot be stopped.
func awaitSleep(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		require.NoError(t, err)
		if strings.Contains(string(stat), "(sleep) S ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d does not sleep: %s", pid, stat)
		}
	}
}

func untilHalted(t *testing.T, p Process, want bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); isHalted(p) != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d is stopped: %t", p.PID, !want)
		}
	}
}

// The look that could not examine a process is older than the examination that cleared it. The process is not stopped
// again, and nothing about it stays recorded.
func TestSuspectClearedSinceTheLook(t *testing.T) {
	tool := New(Options{Run: t.TempDir(), Clock: clock.System{}})
	target := Target{Dataset: uuid.New()}
	p := sleeper(t)
	then := tool.Clock.Steady()
	tool.suspects.finish(suspect{Process: p}, []uuid.UUID{target.Dataset}, then)
	acted, err := tool.stopSuspects(target, []*process{{Process: p, unexamined: inuse.ErrOutOfTime}})
	tool.Wait()
	if acted || err != nil || isHalted(p) {
		t.Errorf("acted: %t, %v; stopped: %t", acted, err, isHalted(p))
	}
	if marks, err := tool.marks.of(target.Dataset); len(marks) > 0 || err != nil {
		t.Errorf("%v, %v", marks, err)
	}
	if at, _ := tool.suspects.clearedOf([]uuid.UUID{target.Dataset}, p); at != then {
		t.Error("it was examined once more")
	}
	r := tool.exceptCleared(target, rule{suspectHarmless: func(*processTable, *process) bool { return false }})
	if !r.suspectHarmless(nil, &process{Process: p}) {
		t.Error("a fence waits for it")
	}
}

// Suspects that hold nothing all continue and are cleared. Nothing about them stays recorded.
func TestSuspectsContinue(t *testing.T) {
	tool := New(Options{Run: t.TempDir(), Clock: clock.System{}})
	target := Target{Dataset: uuid.New()}
	var list []*process
	for range 10 {
		list = append(list, &process{Process: sleeper(t), unexamined: inuse.ErrOutOfTime})
	}
	if acted, err := tool.stopSuspects(target, list); !acted || err != nil {
		t.Fatalf("acted: %t, %v", acted, err)
	}
	tool.Wait()
	for _, p := range list {
		untilHalted(t, p.Process, false)
		if !tool.suspects.isCleared(target.Dataset, p.Process) {
			t.Errorf("process %d is not cleared", p.PID)
		}
	}
	if marks, err := tool.marks.of(target.Dataset); len(marks) > 0 || err != nil {
		t.Errorf("%v, %v", marks, err)
	}
}

// debugged attaches to a process as a debugger does: the process does not stop for a signal until the test ends.
func debugged(t *testing.T, p Process) {
	t.Helper()
	runtime.LockOSThread() // ptrace(2): only this thread may detach
	require.NoError(t, unix.PtraceAttach(p.PID))
	_, err := unix.Wait4(p.PID, nil, unix.WALL, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = unix.PtraceDetach(p.PID) // an error means that it was killed
		runtime.UnlockOSThread()
	})
}

// hang starts an examination of a process. The examination hangs until the test ends.
func hang(t *testing.T, tool *Tool, p Process) {
	t.Helper()
	w, err := tool.list(nil)
	require.NoError(t, err)
	begun, end, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	x := w.examinationOf(&process{Process: p})
	x.Pace = sync.OnceFunc(func() { close(begun); <-end })
	go func() {
		defer close(ended)
		_, _ = tool.examiner.Examine(context.Background(), tool.Clock, x, func() {})
	}()
	<-begun
	t.Cleanup(func() { close(end); <-ended })
}

// A process that can neither be examined nor stopped is not killed at once, because a slow disk can block both. It is
// not killed at all where only holders may be killed.
func TestProcessThatHangsIsNotKilledAtOnce(t *testing.T) {
	tool := New(Options{Run: t.TempDir(), Clock: clock.System{}})
	target := Target{Dataset: uuid.New(), Filesystem: mount.Filesystem{Major: 1 << 11, Minor: 1, Root: "/"}}
	p := sleeper(t)
	debugged(t, p)
	hang(t, tool, p)
	for _, act := range []struct {
		name   string
		do     func(context.Context, Target) Outcome
		budget time.Duration
		killed bool
	}{
		{"kill holders", tool.KillHolders, haltTime + haltTime/2, false},
		{"undo", func(ctx context.Context, target Target) Outcome {
			return Outcome{Left: []Process{p}, Done: tool.Undo(ctx, target) != nil}
		}, haltTime, false},
		{"kill, too early", tool.Kill, haltTime / 2, false},
		{"kill", tool.Kill, 10 * haltTime, true},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), act.budget)
		o := act.do(ctx, target)
		cancel()
		if o.Done != act.killed || isHalted(p) != act.killed {
			t.Errorf("%s: done: %t, left: %v; ended: %t", act.name, o.Done, o.Left, isHalted(p))
		}
	}
}

// A file that a process opens after its descriptors were read is not seen. So the examination waits until the process
// has stopped, but not forever.
func TestSuspectIsExaminedOnceItHasStopped(t *testing.T) {
	tool := New(Options{Run: t.TempDir(), Clock: clock.System{}})
	p := sleeper(t)
	now := tool.Clock.Steady()
	if !tool.waitForHalt([]suspect{{Process: p, queued: now}}) {
		t.Error("it is examined while it runs")
	}
	if tool.waitForHalt([]suspect{{Process: p, queued: now - haltTime}}) {
		t.Error("one that cannot be stopped is never examined")
	}
	require.NoError(t, signal(p, unix.SIGSTOP))
	untilHalted(t, p, true)
	if tool.waitForHalt([]suspect{{Process: p, queued: tool.Clock.Steady()}}) {
		t.Error("it has stopped, and is not examined")
	}
}

// descriptors opens this many more descriptors in this process until the test ends.
func descriptors(tb testing.TB, n int) {
	tb.Helper()
	f, err := os.CreateTemp(tb.TempDir(), "")
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = f.Close() })
	for range n {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		require.NoError(tb, err)
		tb.Cleanup(func() { _ = unix.Close(fd) })
	}
}

// A large process that was cleared is left alone for some time. Then a look examines it again, because it may have
// opened the volume since.
func TestClearedAreExaminedAgain(t *testing.T) {
	descriptors(t, smallWork)
	tool := New(Options{Run: t.TempDir(), Clock: clock.System{}})
	own, err := ProcessOf(os.Getpid())
	require.NoError(t, err)
	target := Target{Dataset: uuid.New()}
	for name, c := range map[string]struct {
		ago  time.Duration
		want bool
	}{
		"just now":      {-time.Hour, false},
		"some time ago": {examineAgain, true},
	} {
		t.Run(name, func(t *testing.T) {
			began := tool.Clock.Steady()
			tool.suspects.finish(suspect{Process: own}, []uuid.UUID{target.Dataset}, began-c.ago)
			w, err := tool.list(map[uuid.UUID]Target{target.Dataset: target})
			require.NoError(t, err)
			tool.examineAll(w, time.Minute)
			for _, p := range w.procs {
				if p.PID != own.PID {
					continue
				}
				if examined := p.unexamined == nil; examined != c.want || !examined && !errors.Is(p.unexamined, inuse.ErrOutOfTime) {
					t.Errorf("examined: %t, %v", examined, p.unexamined)
				}
			}
			if at, _ := tool.suspects.clearedOf(w.datasets, own); (at >= began) != (c.want || c.ago <= 0) {
				t.Errorf("last examined %v before this look", began-at)
			}
		})
	}
}

// The examination of suspects leaves the processor to a look that is under way.
func TestExaminationYieldsToLooks(t *testing.T) {
	tool := New(Options{Clock: clock.System{}})
	for _, looking := range []bool{false, true} {
		tool.looks.looking.Store(looking)
		x := &inuse.Examination{}
		p := &pacer{tool, x, tool.Clock.Steady() - workTime}
		p.rest()
		if got := x.Progress() > 0; got != looking {
			t.Errorf("a look is under way: %t; it waited for it: %t", looking, got)
		}
	}
}

// The result of an examination is valid for the fence for which it began, and not for the next fence of the dataset.
func TestClearedEndsWithItsFence(t *testing.T) {
	var s suspects
	target, p := Target{Dataset: uuid.New()}, Process{PID: 4711, Start: 1}
	s.add(target, p, time.Second)
	list, _ := s.take(nil)
	s.forget(target.Dataset) // the fence has been undone
	s.finish(list[0], []uuid.UUID{target.Dataset}, 2*time.Second)
	if s.isCleared(target.Dataset, p) {
		t.Error("it is cleared for the next fence")
	}

	s.add(target, p, 3*time.Second) // the next fence
	s.finish(list[0], []uuid.UUID{target.Dataset}, 4*time.Second)
	if s.isCleared(target.Dataset, p) || !s.has(p) {
		t.Error("an examination for the fence before has settled it")
	}
	again, _ := s.take(map[processKey]time.Duration{p.key(): list[0].queued})
	if len(again) != 1 {
		t.Fatal("it is not examined for the next fence")
	}
	s.finish(again[0], []uuid.UUID{target.Dataset}, 5*time.Second)
	if !s.isCleared(target.Dataset, p) || s.has(p) {
		t.Error("an examination for this fence has not settled it")
	}
}

// apart starts a process in its own mount namespace, with two to the power of doublings more mounts than
// the host, and returns its PID.
func apart(t *testing.T, doublings string) int {
	t.Helper()
	const script = `mount -t tmpfs -o size=64k none /mnt && mkdir /mnt/directory || exit
		i=0; while [ $i -lt "$0" ]; do mount --rbind /mnt /mnt/directory || exit; i=$((i+1)); done
		echo ready; exec cat`
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script, doublings)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	_, err = out.Read(make([]byte, 1))
	require.NoError(t, err)
	return cmd.Process.Pid
}

// seen looks at all processes, with this much time for large ones, and returns what it found about the given PIDs.
func seen(t *testing.T, within time.Duration, pids ...int) (found []*process) {
	t.Helper()
	tool := New(Options{Run: t.TempDir(), Clock: clock.System{}})
	w, err := tool.list(nil)
	require.NoError(t, err)
	tool.examineAll(w, within)
	for _, pid := range pids {
		for _, p := range w.procs {
			if p.PID == pid {
				found = append(found, p)
			}
		}
	}
	if len(found) != len(pids) {
		t.Fatalf("%d of %d processes were seen", len(found), len(pids))
	}
	return found
}

// A large mount table delays no list of all processes. Its process is examined if there is time for it, and
// is a possible holder otherwise.
func TestLargeMountTable(t *testing.T) {
	large, small := apart(t, "11"), apart(t, "1")
	for within, examined := range map[time.Duration]bool{0: false, time.Minute: true} {
		p := seen(t, within, large, small)
		if p[0].first != nil || !p[0].isLarge() {
			t.Error("the list has read the large table")
		}
		if got := p[0].unexamined == nil; got != examined || !examined && !errors.Is(p[0].unexamined, inuse.ErrOutOfTime) {
			t.Errorf("within %v: %v", within, p[0].unexamined)
		}
		if examined && (len(p[0].found.Views) == 0 || len(p[0].found.Views[0].Mounts) < 2048) {
			t.Error("the large table was not read")
		}
		if p[1].first == nil || p[1].unexamined != nil {
			t.Errorf("the small table was not read: %v", p[1].unexamined)
		}
	}
}

// A process with few descriptors and very many mappings is large: it is not examined while a fence waits.
func TestManyMappings(t *testing.T) {
	const n = 60_000
	page := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, n*page, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Munmap(b) })
	for i := 0; i < n; i += 2 { // this splits the mapping
		require.NoError(t, unix.Mprotect(b[i*page:(i+1)*page], unix.PROT_NONE))
	}
	for within, examined := range map[time.Duration]bool{0: false, time.Minute: true} {
		p := seen(t, within, os.Getpid())
		if got := p[0].unexamined == nil; got != examined || !examined && !errors.Is(p[0].unexamined, inuse.ErrOutOfTime) {
			t.Errorf("within %v: %v", within, p[0].unexamined)
		}
	}
}

// The limit of every group is recorded while it is lifted. It is restored, except for values that
// another program has set meanwhile. Limits of other devices stay.
func TestLimitsAreLiftedAndComeBack(t *testing.T) {
	h := iolimit.Hierarchy{Version: iolimit.V2, Dir: t.TempDir()}
	dev, other := iolimit.Device{Major: 7, Minor: 5}, iolimit.Device{Major: 8}
	mine, theirs := iolimit.Limits{WriteBPS: 5 << 20}, iolimit.Limits{ReadBPS: 9, WriteIOPS: 7}
	for g, rule := range map[string]string{
		"system.slice":        "7:5 rbps=max wbps=5242880 riops=max wiops=max\n",
		"user.slice/app":      "7:5 rbps=9 wbps=max riops=max wiops=7\n",
		"machine.slice/other": "8:0 rbps=1 wbps=max riops=max wiops=max\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Join(h.Dir, g), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(h.Dir, g, "io.max"), []byte(rule), 0o600))
	}
	want := func(when string, all map[string]iolimit.Limits) {
		t.Helper()
		got, err := h.LimitsOn(dev)
		if diff := cmp.Diff(all, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", when, err, diff)
		}
	}
	tool, id := New(Options{Run: t.TempDir()}), uuid.New()
	l, err := liftDevice(tool.marks, id, h, dev)
	require.NoError(t, err)
	want("lifted", map[string]iolimit.Limits{})
	if marks, err := tool.marks.of(id); err != nil || len(marks) != 2 || marks[0].kind != markLimit {
		t.Errorf("%v, %v", marks, err)
	}
	require.NoError(t, h.Set("/user.slice/app", dev, iolimit.Limits{ReadBPS: 4}))
	assert.NoError(t, l.restore(tool.marks, id))
	theirs.ReadBPS = 4
	want("again", map[string]iolimit.Limits{"/system.slice": mine, "/user.slice/app": theirs})
	if marks, err := tool.marks.of(id); err != nil || len(marks) != 0 {
		t.Errorf("%v, %v", marks, err)
	}
	if got, err := h.Get("/machine.slice/other", other); err != nil || got.ReadBPS != 1 {
		t.Errorf("another device: %+v, %v", got, err)
	}
}
