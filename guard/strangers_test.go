package guard_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// crowd is the number of descriptors of a typical Kafka or Elasticsearch process, as far as the limit of this test
// allows.
func crowd(t *testing.T) int {
	t.Helper()
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
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
			_, err := w.Supersede(t.Context(), r.Dataset, r.Epoch)
			require.NoError(t, err)
			silent(t, log, e)
			if got := stateOf(t, cmd.Process.Pid); got != "Z" && got != "X" {
				t.Errorf("the holder is in state %s", got)
			}
			assert.NoError(t, w.Release(t.Context(), r.Dataset, r.Epoch))
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
	_, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, clock.Boottime()+time.Minute)
	require.NoError(t, err)
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
	require.NoError(t, err)
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
			_, err := w.Supersede(t.Context(), r.Dataset, r.Epoch)
			require.NoError(t, err)
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
			_, err := w.Supersede(t.Context(), r.Dataset, r.Epoch)
			require.NoError(t, err)
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
	require.NoError(t, cmd.Start())
	end(t, cmd)
	wrote(t, log, 0)
	one, other = w.armed(t, one, ahead), w.armed(t, other, ahead)
	w.fenced(t, one.Dataset)
	w.fenced(t, other.Dataset)
	next := clock.Boottime() + time.Minute
	_, err := w.Thaw(t.Context(), other.Dataset, other.Epoch, next)
	require.NoError(t, err)
	w.recheckedAfter(t, one.Dataset, clock.Boottime())
	e := w.entry(t, one.Dataset)
	silent(t, log, e)
	if e.Breaches != 0 || stateOf(t, cmd.Process.Pid) != "T" {
		t.Errorf("the holder is in state %s: %+v", stateOf(t, cmd.Process.Pid), e)
	}
	_, err = w.Thaw(t.Context(), one.Dataset, one.Epoch, next)
	require.NoError(t, err)
	wrote(t, log, e.Fence.At)
}

// Unrelated processes with large mount tables, or with very many mappings, do not delay a fence. Those that cannot be
// examined in time are stopped, and continue once they were examined.
func TestI1StrangersWithMuchToRead(t *testing.T) {
	for name, c := range map[string]struct {
		strangers int
		role, arg string
	}{
		"mount tables": {long.Rounds(8, 20), "mounts", "15"}, // of 5 MiB each
		"mappings":     {long.Rounds(8, 200), "mappings", "64000"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := shared(t)
			var others []*exec.Cmd
			for range c.strangers {
				others = append(others, beginUser(t, c.role, c.arg))
			}
			inside := t.TempDir()
			contained, log := writing(t, "writer", filepath.Join(inside, "file"), r.Paths[0], inside)
			_, onHost := writing(t, "writer", filepath.Join(r.Paths[0], "other"))
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			t.Logf("%d strangers: fenced %v after the deadline by %s (bound %v): %+v", c.strangers, e.Fence.Overrun, e.Fence.By, e.Bound, e.Steps)
			for _, log := range []string{log, onHost} {
				times := written(t, log)
				t.Logf("last write %v after the deadline", times[len(times)-1]-e.Deadline)
				silent(t, log, e)
			}
			if long.Enabled() && e.Fence.Late > 0 {
				t.Errorf("the fence was complete %v after its bound: %+v", e.Fence.Late, e.Steps)
			}
			// See TestI1StrangersWithManyDescriptors.
			killed := slices.ContainsFunc(e.Steps, func(s guard.Step) bool { return s.Act == guard.ActKill })
			if got := stateOf(t, contained.Process.Pid); !killed && got != "T" {
				t.Errorf("the holder is in state %s", got)
			}
			for _, cmd := range others {
				w.goesOn(t, cmd)
			}
			t.Logf("all of them continued %v after the deadline", clock.Boottime()-e.Deadline)
			w.recheckedAfter(t, r.Dataset, clock.Boottime())
			e = w.entry(t, r.Dataset)
			silent(t, log, e)
			silent(t, onHost, e)
			if e.Breaches != 0 {
				t.Errorf("%d breaches: %+v", e.Breaches, e.Steps)
			}
			for _, cmd := range others {
				w.goesOn(t, cmd) // the guard of a parallel test may have stopped it too
				if got := stateOf(t, cmd.Process.Pid); got == "Z" {
					t.Error("a stranger was killed")
				}
			}
		})
	}
}

// playMappings has few descriptors, and the number of mappings that its first argument gives. It writes a line once
// it has them.
func playMappings(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	page := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, n*page, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	for i := 0; i < n; i += 2 { // this splits the mapping
		if err := unix.Mprotect(b[i*page:(i+1)*page], unix.PROT_NONE); err != nil {
			return err
		}
	}
	return idle()
}

// playMounts has two to the power of its first argument lines in its mount table, in its own mount namespace. It
// writes a line once it has them.
func playMounts(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	const top = "/mnt"
	if err := unix.Mount("none", top, "tmpfs", 0, "size=64k"); err != nil {
		return err
	}
	dir := top + "/" + "xxxxxxxxxxxx"
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for range n { // each bind doubles the number of mounts
		if err := unix.Mount(top, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
	}
	return idle()
}

// idle writes a line, and returns when the standard input ends.
func idle() error {
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// beginUser starts this program in a role as another user, with a user and a mount namespace, and waits
// until it has written a line.
func beginUser(t *testing.T, r string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := as(t, r, args...)
	cmd.Stderr = os.Stderr
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids,
		Credential: &syscall.Credential{NoSetGroups: true}}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	end(t, cmd)
	t.Cleanup(func() { _ = in.Close() })
	_, err = out.Read(make([]byte, 1))
	require.NoError(t, err)
	return cmd
}

// limits returns the hierarchy with which this host limits devices, a new group, and the device at a path. The limits
// of the device are removed after the test.
func limits(t *testing.T, path string) (h iolimit.Hierarchy, group string, dev iolimit.Device) {
	t.Helper()
	table, err := mount.Table()
	require.NoError(t, err)
	h, err = iolimit.Detect(table)
	require.NoError(t, err)
	group = filepath.Join(iolimit.Root, "drover-guard-test-"+uuid.NewString())
	require.NoError(t, os.Mkdir(filepath.Join(h.Dir, group), 0o755))
	t.Cleanup(func() { assert.NoError(t, os.Remove(filepath.Join(h.Dir, group))) })
	dev, _, err = iolimit.DeviceOf(path)
	require.NoError(t, err)
	return h, group, dev
}

// A freeze does not wait for a rate limit of the device, whoever set it. After the freeze the limit is as before.
func TestFreezeLiftsLimits(t *testing.T) {
	r := own(t)
	tool := hand.New(hand.Options{Run: t.TempDir(), Root: t.TempDir(), Clock: clock.System{}})
	target := hand.Target{Dataset: r.Dataset, Paths: r.Paths, Own: true}
	h, group, dev := limits(t, r.Paths[0])
	slow, theirs := iolimit.Limits{WriteBPS: 1 << 20}, iolimit.Limits{ReadIOPS: 70, WriteIOPS: 10}
	t.Cleanup(func() { // the kernel writes dirty data for its root group
		assert.NoError(t, h.Clear(iolimit.Root, dev))
	})
	require.NoError(t, os.WriteFile(filepath.Join(r.Paths[0], "file"), make([]byte, 60<<20), 0o600))
	for g, l := range map[string]iolimit.Limits{iolimit.Root: slow, group: theirs} {
		require.NoError(t, h.Set(g, dev, l))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // with the limit it would take a minute
	defer cancel()
	if o := tool.Freeze(ctx, target); !o.Done || o.Note != "" {
		t.Errorf("%+v", o)
	}
	same := func(when string) {
		t.Helper()
		for g, want := range map[string]iolimit.Limits{iolimit.Root: slow, group: theirs} {
			if got, err := h.Get(g, dev); err != nil || got != want {
				t.Errorf("%s, group %s: %+v, %v, want %+v", when, g, got, err, want)
			}
		}
	}
	same("frozen")
	assert.NoError(t, tool.Undo(t.Context(), target))
	same("thawed")
	tool.Wait()
}

// Limits that a hand lifted, and that it did not restore before it ended, are restored by another hand. They are not
// restored on a device that belongs to another dataset by now.
func TestUndoGivesLimitsBack(t *testing.T) {
	r := own(t)
	tool := hand.New(hand.Options{Run: t.TempDir(), Root: t.TempDir(), Clock: clock.System{}})
	target := hand.Target{Dataset: r.Dataset, Paths: r.Paths, Own: true}
	h, group, dev := limits(t, r.Paths[0])
	was, since := iolimit.Limits{ReadIOPS: 70, WriteBPS: 1 << 20}, iolimit.Limits{WriteBPS: 2 << 20}
	for _, c := range []struct {
		paths []string
		want  iolimit.Limits
	}{{r.Paths, iolimit.Limits{ReadIOPS: 70, WriteBPS: 2 << 20}}, {[]string{"/proc"}, since}} {
		b, err := json.Marshal(map[string]any{"device": dev, "group": group, "limits": was})
		if err == nil {
			err = os.WriteFile(filepath.Join(tool.Run, r.Dataset.String()+".undo"), append([]byte("limit "), append(b, '\n')...), 0o600)
		}
		if err == nil {
			err = h.Set(group, dev, since)
		}
		target.Paths = c.paths
		require.NoError(t, err)
		assert.NoError(t, tool.Undo(t.Context(), target))
		if got, err := h.Get(group, dev); err != nil || got != c.want {
			t.Errorf("%+v, %v, want %+v", got, err, c.want)
		}
	}
	assert.NoError(t, h.Clear(group, dev))
}
