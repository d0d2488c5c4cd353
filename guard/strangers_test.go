package guard_test

import (
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
	"github.com/droverhq/drover/internal/long"
)

// crowd is the number of descriptors of a typical Kafka or Elasticsearch process, as far as the limit of this test
// allows.
func crowd(t *testing.T) int {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return int(min(limit.Max, 20_000)) - 300
}

const nobody = 65534

// stranger starts a process with the given number of descriptors, user ID and name, and waits until it has them. If a
// file is given the process writes to it, and log is the file in which it records the times.
func stranger(t *testing.T, descriptors, uid int, name, file string, inside ...string) (cmd *exec.Cmd, log string) {
	t.Helper()
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready")
	if file != "" {
		log = filepath.Join(dir, "log")
	}
	args := []string{strconv.Itoa(descriptors), strconv.Itoa(uid), name, file, log, ready}
	if len(inside) > 0 {
		cmd = begin(t, "container", append(append(inside, "stranger"), args...)...)
	} else {
		cmd = begin(t, "stranger", args...)
	}
	await(t, "the stranger is ready", func() bool { _, err := os.Stat(ready); return err == nil }, func() string { return stateOf(t, cmd.Process.Pid) })
	if file != "" {
		wrote(t, log, 0)
	}
	return cmd, log
}

// A process with very many descriptors is a holder like any other. It is stopped before the dataset counts as fenced,
// and killed before a superseded dataset is thawed.
func TestI1ManyDescriptors(t *testing.T) {
	for name, dataset := range map[string]func(*testing.T) guard.Registration{"own": own, "shared": shared} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := dataset(t)
			inside := t.TempDir()
			cmd, log := stranger(t, crowd(t), 0, "kafka", filepath.Join(inside, "file"), r.Paths[0], inside)
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			w.recheckedAfter(t, r.Dataset, e.Fence.At)
			silent(t, log, e)
			if _, err := w.Supersede(t.Context(), r.Dataset, r.Epoch); err != nil {
				t.Fatal(err)
			}
			silent(t, log, e)
			if got := stateOf(t, cmd.Process.Pid); got != "Z" && got != "X" {
				t.Errorf("the holder is in state %s", got)
			}
			if err := w.Release(t.Context(), r.Dataset, r.Epoch); err != nil {
				t.Error(err)
			}
		})
	}
}

// recheckedAfter waits until the guard has checked a fence again.
func (w *guardHost) recheckedAfter(t *testing.T, id uuid.UUID, at time.Duration) {
	t.Helper()
	w.until(t, id, "it was looked at again", func(guard.Entry) bool { return clock.Boottime() > at+1500*time.Millisecond })
}

// Unrelated processes with very many descriptors do not delay a fence. Those that cannot be examined in time are
// stopped, and continue once they were examined. One of them that has the volume open stays stopped.
func TestI1StrangersWithManyDescriptors(t *testing.T) {
	strangers := long.Rounds(8, 200)
	w := newWorld(t)
	r := shared(t)
	n := crowd(t)
	var others []*exec.Cmd
	for range strangers {
		cmd, _ := stranger(t, n, nobody, "stranger", "")
		others = append(others, cmd)
	}
	holder, log := stranger(t, n, nobody, "stranger", filepath.Join(r.Paths[0], "file"))
	_, small := writing(t, "writer", filepath.Join(r.Paths[0], "small"))
	r = w.armed(t, r, ahead)
	e := w.fenced(t, r.Dataset)
	t.Logf("%d strangers with %d descriptors each: fenced %v after the deadline by %s (bound %v)", strangers, n, e.Fence.Overrun, e.Fence.By, e.Bound)
	for i, cmd := range others {
		w.goesOn(t, cmd)
		if i%50 == 49 {
			t.Logf("%d continued %v after the deadline", i+1, clock.Boottime()-e.Deadline)
		}
	}
	t.Logf("all of them continued %v after the deadline", clock.Boottime()-e.Deadline)
	w.recheckedAfter(t, r.Dataset, clock.Boottime())
	e = w.entry(t, r.Dataset)
	silent(t, log, e)
	silent(t, small, e)
	// On a loaded host the processes may need longer to stop than the rung allows. Then the holders are killed, and a
	// later look finds none left.
	killed := slices.ContainsFunc(e.Steps, func(s guard.Step) bool { return s.Act == guard.ActKill })
	if got := stateOf(t, holder.Process.Pid); !killed && got != "T" || got == "S" || e.Breaches != 0 {
		t.Errorf("the holder is in state %s, %d breaches: %+v", got, e.Breaches, e.Steps)
	}
	for _, cmd := range others {
		w.goesOn(t, cmd) // the guard of a parallel test may have stopped it too
		if got := stateOf(t, cmd.Process.Pid); got == "Z" {
			t.Error("a stranger was killed")
		}
	}
	if _, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, clock.Boottime()+time.Minute); err != nil {
		t.Fatal(err)
	}
	if !killed {
		wrote(t, log, e.Fence.At)
	}
}

// goesOn waits until a process is no longer stopped. That takes as long as the examination of all processes that were
// stopped with it.
func (w *guardHost) goesOn(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	for end := time.Now().Add(time.Duration(long.Rounds(1, 4)) * patience); stateOf(t, cmd.Process.Pid) == "T"; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d is stopped still; by this guard: %q", cmd.Process.Pid, w.stopped(t))
		}
	}
}

// stopped returns the processes that the guard has recorded as stopped.
func (w *guardHost) stopped(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.run, "guard", "*.undo"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		all = append(all, strings.Split(strings.TrimSpace(string(b)), "\n")...)
	}
	return all
}

// A guard that is killed while unrelated processes are stopped leaves none of them stopped, and the next guard finds
// the holder among them.
func TestI1GuardKilledWhileStrangersAreStopped(t *testing.T) {
	w := newWorld(t)
	r := shared(t)
	n := crowd(t)
	var others []*exec.Cmd
	for range 8 {
		cmd, _ := stranger(t, n, nobody, "stranger", "")
		others = append(others, cmd)
	}
	_, log := stranger(t, n, nobody, "stranger", filepath.Join(r.Paths[0], "file"))
	r = w.armed(t, r, ahead)
	first := w.fenced(t, r.Dataset)
	w.kill(t)
	w.start(t)
	w.recheckedAfter(t, r.Dataset, clock.Boottime())
	for _, cmd := range others {
		w.goesOn(t, cmd)
	}
	e := w.fenced(t, r.Dataset) // on a busy host the next guard needs more than one step
	if times := written(t, log); times[len(times)-1] > first.Fence.At {
		t.Errorf("written to after the fence: %+v", e)
	}
}

// The name of a process does not protect it, because any process can choose its name.
func TestI1NamesProtectNobody(t *testing.T) {
	for _, name := range []string{"drover-hand", "drover", "dockerd"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := shared(t)
			cmd, log := stranger(t, 0, nobody, name, filepath.Join(r.Paths[0], "file"))
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			silent(t, log, e)
			if e.Fence.By != guard.ActStop || stateOf(t, cmd.Process.Pid) != "T" {
				t.Errorf("state %s, %+v", stateOf(t, cmd.Process.Pid), e)
			}
			if _, err := w.Supersede(t.Context(), r.Dataset, r.Epoch); err != nil {
				t.Fatal(err)
			}
			if got := stateOf(t, cmd.Process.Pid); got != "Z" && got != "X" {
				t.Errorf("the holder is in state %s", got)
			}
		})
	}
}

// A process that hides how it has the volume open is found all the same.
func TestI1HiddenHolders(t *testing.T) {
	deep := func(t *testing.T, r guard.Registration, log string) *exec.Cmd {
		inside := t.TempDir()
		return begin(t, "container", r.Paths[0], inside, "deep", inside, t.TempDir(), log)
	}
	for name, start := range map[string]func(t *testing.T, r guard.Registration, log string) *exec.Cmd{
		"through a detached mount": func(t *testing.T, r guard.Registration, log string) *exec.Cmd {
			return begin(t, "lazy", r.Paths[0], t.TempDir(), log)
		},
		"in a thread with descriptors of its own": func(t *testing.T, r guard.Registration, log string) *exec.Cmd {
			return begin(t, "thread", filepath.Join(r.Paths[0], "file"), log)
		},
		"behind a long line of its mount table": deep,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := shared(t)
			log := filepath.Join(t.TempDir(), "log")
			cmd := start(t, r, log)
			wrote(t, log, 0)
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			w.recheckedAfter(t, r.Dataset, e.Fence.At)
			silent(t, log, e)
			if e.Fence.By != guard.ActStop || stateOf(t, cmd.Process.Pid) != "T" {
				t.Errorf("the holder is in state %s: %+v", stateOf(t, cmd.Process.Pid), e)
			}
			if _, err := w.Supersede(t.Context(), r.Dataset, r.Epoch); err != nil {
				t.Fatal(err)
			}
			if got := stateOf(t, cmd.Process.Pid); got != "Z" && got != "X" {
				t.Errorf("the holder is in state %s", got)
			}
		})
	}
}

// A process that holds two volumes stays stopped while one of them is fenced.
func TestI1HolderOfTwo(t *testing.T) {
	w := newWorld(t)
	one, other := shared(t), shared(t)
	log := filepath.Join(t.TempDir(), "log")
	cmd := as(t, "writer", filepath.Join(one.Paths[0], "file"), log)
	cmd.Dir = other.Paths[0]
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end(t, cmd)
	wrote(t, log, 0)
	one, other = w.armed(t, one, ahead), w.armed(t, other, ahead)
	w.fenced(t, one.Dataset)
	w.fenced(t, other.Dataset)
	next := clock.Boottime() + time.Minute
	if _, err := w.Thaw(t.Context(), other.Dataset, other.Epoch, next); err != nil {
		t.Fatal(err)
	}
	w.recheckedAfter(t, one.Dataset, clock.Boottime())
	e := w.entry(t, one.Dataset)
	silent(t, log, e)
	if e.Breaches != 0 || stateOf(t, cmd.Process.Pid) != "T" {
		t.Errorf("the holder is in state %s: %+v", stateOf(t, cmd.Process.Pid), e)
	}
	if _, err := w.Thaw(t.Context(), one.Dataset, one.Epoch, next); err != nil {
		t.Fatal(err)
	}
	wrote(t, log, e.Fence.At)
}
