package guard_test

import (
	"bufio"
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

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A holder that waits in the kernel can be neither stopped nor killed. The fence is not reported as complete, and the
// process is named. A guard that is killed in the middle and restarted continues until the fence is complete.
func TestHolderThatCannotDie(t *testing.T) {
	w := newWorld(t)
	w.step = 100 * time.Millisecond
	w.kill(t)
	w.start(t)
	r := shared(t)
	other := scratch.Mount(t, "ext4", scratch.Ext4)
	blocked := filepath.Join(other, "file")
	require.NoError(t, os.WriteFile(blocked, nil, 0o600))
	sleeper := as(t, "sleeper", filepath.Join(r.Paths[0], "file"), blocked)
	in, err := sleeper.StdinPipe()
	require.NoError(t, err)
	out, err := sleeper.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, sleeper.Start())
	end(t, sleeper)
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	letGo := freezeAs(t, other)
	_, err = in.Write([]byte("x"))
	require.NoError(t, err)
	pid := sleeper.Process.Pid
	await(t, "it waits in the kernel", func() bool { return isBlocked(t, pid) }, func() string { return stateOf(t, pid) })
	r = w.armed(t, r, ahead)
	named := func(e guard.Entry) bool {
		return slices.ContainsFunc(e.Steps, func(s guard.Step) bool {
			return s.Act == guard.ActKill && !s.Done && slices.ContainsFunc(s.Left, func(p hand.Process) bool { return p.PID == pid })
		})
	}
	e := w.until(t, r.Dataset, "the process is named", named)
	if e.State != guard.StateFencing || e.Fence != nil {
		t.Errorf("%+v", e)
	}
	w.kill(t)
	w.start(t)
	if e := w.entry(t, r.Dataset); e.State != guard.StateFencing || !named(e) {
		t.Errorf("after the restart: %+v", e)
	}
	letGo()
	e = w.fenced(t, r.Dataset)
	if e.Fence.Late == 0 || e.Fence.By == guard.ActFreeze {
		t.Errorf("%+v", e.Fence)
	}
}

// A restarted guard knows the last deadline, and fences the datasets whose deadlines passed meanwhile. If the last
// deadline is not known, the earlier one is used.
func TestGuardKilled(t *testing.T) {
	for name, c := range map[string]struct {
		feed   time.Duration
		harm   func(t *testing.T, w *guardHost, id uuid.UUID)
		fenced bool
	}{
		"fed":  {feed: time.Minute},
		"due":  {feed: ahead, fenced: true},
		"lost": {feed: time.Minute, fenced: true, harm: func(t *testing.T, w *guardHost, id uuid.UUID) { w.damage(t, id, nil) }},
		"torn": {feed: time.Minute, fenced: true, harm: func(t *testing.T, w *guardHost, id uuid.UUID) { w.damage(t, id, make([]byte, 20)) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.armed(t, own(t), ahead)
			fed := clock.Boottime() + c.feed
			if refused, err := w.Feed(t.Context(), []guard.Feed{{Dataset: r.Dataset, Epoch: r.Epoch, Deadline: fed}}); err != nil || len(refused) > 0 {
				t.Fatal(refused, err)
			}
			w.kill(t)
			if c.harm != nil {
				c.harm(t, w, r.Dataset)
			}
			await(t, "the first deadline has passed", func() bool {
				return clock.Boottime() > r.Deadline && (!c.fenced || c.harm != nil || clock.Boottime() > fed)
			},
				func() string { return "" })
			w.start(t)
			if !c.fenced {
				if e := w.entry(t, r.Dataset); e.State != guard.StateArmed || e.Deadline != fed {
					t.Errorf("%+v; want a deadline of %v", e, fed)
				}
				return
			}
			if e := w.fenced(t, r.Dataset); e.Fence.Overrun <= 0 {
				t.Errorf("%+v", e.Fence)
			}
		})
	}
}

// damage removes or replaces the file of a dataset's last deadline.
func (w *guardHost) damage(t *testing.T, id uuid.UUID, with []byte) {
	t.Helper()
	path := filepath.Join(w.run, "guard", id.String()+".deadline")
	require.NoError(t, os.Remove(path))
	if with != nil {
		require.NoError(t, os.WriteFile(path, with, 0o600))
	}
}

// A guard that is killed when everything is frozen takes over what its predecessor froze, and can thaw it. It can do
// so even if only the flushed records are left.
func TestGuardKilledWhenFenced(t *testing.T) {
	w := newWorld(t)
	r := own(t)
	_, log := writing(t, "writer", filepath.Join(r.Paths[0], "file"))
	r = w.armed(t, r, ahead)
	e := w.fenced(t, r.Dataset)
	for range 3 {
		w.kill(t)
		w.start(t)
	}
	if again := w.fenced(t, r.Dataset); again.Fence.At != e.Fence.At || again.Breaches != 0 {
		t.Errorf("%+v; it was %+v", again, e)
	}
	silent(t, log, e)
	w.kill(t)
	require.NoError(t, os.Remove(filepath.Join(w.run, "guard", r.Dataset.String()+".json")))
	w.start(t)
	_, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, clock.Boottime()+time.Minute)
	require.NoError(t, err)
	wrote(t, log, e.Fence.At)
}

// A filesystem that another program has frozen is not fenced, because that program can thaw it. It is
// fenced once the program has thawed it.
func TestFrozenBySomebodyElse(t *testing.T) {
	w := newWorld(t)
	r := own(t)
	r.Policy = guard.PolicyFreeze
	_, log := writing(t, "writer", filepath.Join(r.Paths[0], "file"))
	letGo := freezeAs(t, r.Paths[0])
	r = w.armed(t, r, ahead)
	t.Cleanup(letGo)
	w.until(t, r.Dataset, "the freeze has failed", func(e guard.Entry) bool {
		return slices.ContainsFunc(e.Steps, func(s guard.Step) bool {
			return s.Act == guard.ActFreeze && !s.Done && strings.Contains(s.Note, "another program has frozen")
		})
	})
	letGo()
	e := w.fenced(t, r.Dataset)
	silent(t, log, e)
}

// A fence that somebody undoes is restored, and that is recorded.
func TestBreach(t *testing.T) {
	w := newWorld(t)
	r := own(t)
	_, log := writing(t, "writer", filepath.Join(r.Paths[0], "file"))
	r = w.armed(t, r, ahead)
	e := w.fenced(t, r.Dataset)
	if !thaw(t, r) {
		t.Fatal("it was not frozen")
	}
	wrote(t, log, e.Fence.At)
	e = w.until(t, r.Dataset, "it is mended", func(e guard.Entry) bool { return e.Breaches == 1 })
	if e.State != guard.StateFenced {
		t.Errorf("%+v", e)
	}
	if !thaw(t, r) {
		t.Error("it was not frozen again")
	}
}

// The holders of a superseded dataset are killed before the dataset is released, and no other process is.
func TestSupersede(t *testing.T) {
	for name, dataset := range map[string]func(*testing.T) guard.Registration{"own": own, "shared": shared} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := dataset(t)
			inside := t.TempDir()
			cmd, _ := writing(t, "writer", filepath.Join(inside, "file"), r.Paths[0], inside)
			inGroup(t, "/sys/fs/cgroup/freezer", "freezer.state", cmd.Process.Pid)
			_, other := writing(t, "writer", filepath.Join(t.TempDir(), "other"))
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			if err := w.Release(t.Context(), r.Dataset, r.Epoch); !isKind(err, "in_use") {
				t.Errorf("released while fenced: %v", err)
			}
			for range 2 {
				_, err := w.Supersede(t.Context(), r.Dataset, r.Epoch)
				require.NoError(t, err)
			}
			if got := stateOf(t, cmd.Process.Pid); got != "Z" && got != "X" {
				t.Errorf("the holder is in state %s", got)
			}
			if thaw(t, r) {
				t.Error("it was frozen still")
			}
			assert.NoError(t, os.WriteFile(filepath.Join(r.Paths[0], "kept aside"), nil, 0o600))
			wrote(t, other, e.Fence.At)
			if _, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, clock.Boottime()+time.Minute); !isKind(err, "stale") {
				t.Errorf("thawed when superseded: %v", err)
			}
			assert.NoError(t, w.Release(t.Context(), r.Dataset, r.Epoch))
		})
	}
}

func isKind(err error, code string) bool { return err != nil && dataset.KindOf(err).Code == code }

// playFUSE mounts a FUSE filesystem that answers no request and belongs to user nobody, and opens its root as its
// first descriptor. args are the folder, a user ID, a file to which it writes (may be empty), and its log, or a file
// that shows that it is ready.
func playFUSE(args []string) error {
	dir, file, log := args[0], args[2], args[3]
	uid, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", dev, nobody, nobody)
	if err := unix.Mount("fuse", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return err
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Dup2(root, 0); err != nil { // like sudo command < ~/sshfs/file
		return err
	}
	if file != "" {
		return playWriter(file, log)
	}
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		return err
	}
	if err := unix.Setuid(uid); err != nil {
		return err
	}
	time.Sleep(time.Hour)
	return nil
}

// fuseRoot returns a folder on which a FUSE filesystem can be mounted until the test ends.
func fuseRoot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
	return dir
}

// A descriptor of a filesystem that does not describe its files to root hides none of the other descriptors.
func TestI1BesideFUSE(t *testing.T) {
	for name, dataset := range map[string]func(*testing.T) guard.Registration{"own": own, "shared": shared} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := dataset(t)
			log := filepath.Join(t.TempDir(), "log")
			cmd := begin(t, "fuse", fuseRoot(t), "0", filepath.Join(r.Paths[0], "file"), log)
			wrote(t, log, 0)
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			w.recheckedAfter(t, r.Dataset, e.Fence.At)
			silent(t, log, e)
			_, err := w.Supersede(t.Context(), r.Dataset, r.Epoch)
			require.NoError(t, err)
			await(t, "the writer is killed", func() bool { s := stateOf(t, cmd.Process.Pid); return s == "Z" || s == "X" },
				func() string { return stateOf(t, cmd.Process.Pid) })
		})
	}
}

// Some filesystems do not describe their files to root, like a FUSE filesystem of another user or one that has shut
// down. A process that has such a file open is neither stopped nor killed for it, and does not keep a dataset from
// being superseded.
func TestI1UndescribedBystanders(t *testing.T) {
	newDisk := func(t *testing.T) string { return scratch.Mount(t, "xfs", scratch.XFS) }
	for name, start := range map[string]func(t *testing.T) *exec.Cmd{
		"a user with a FUSE": func(t *testing.T) *exec.Cmd {
			ready := filepath.Join(t.TempDir(), "ready")
			cmd := begin(t, "fuse", fuseRoot(t), strconv.Itoa(nobody), "", ready)
			await(t, "it is ready", func() bool { _, err := os.Stat(ready); return err == nil }, func() string { return "" })
			return cmd
		},
		"a process in a dead disk": func(t *testing.T) *exec.Cmd {
			disk := newDisk(t)
			cmd := exec.Command("sleep", "1000")
			cmd.Dir = disk
			require.NoError(t, cmd.Start())
			end(t, cmd)
			scratch.ShutDown(t, disk)
			return cmd
		},
		"the agent with a dead pool": func(t *testing.T) *exec.Cmd {
			disk := newDisk(t)
			dir, err := os.Open(disk) // opened by this process, which registers the dataset
			require.NoError(t, err)
			t.Cleanup(func() { _ = dir.Close() })
			scratch.ShutDown(t, disk)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			bystander := start(t)
			w := newWorld(t)
			r := shared(t)
			_, log := writing(t, "writer", filepath.Join(r.Paths[0], "file"))
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			w.recheckedAfter(t, r.Dataset, e.Fence.At)
			silent(t, log, e)
			if e.Fence.By != guard.ActStop {
				t.Errorf("fenced by %s", e.Fence.By)
			}
			_, err := w.Supersede(t.Context(), r.Dataset, r.Epoch)
			assert.NoError(t, err)
			if bystander != nil {
				w.goesOn(t, bystander)
			}
		})
	}
}

// If a host has so many more processes than at the registration that a fence can take longer than the other nodes
// wait for it, a feed extends the deadline by that much less.
func TestFeedRenewsTheBound(t *testing.T) {
	const few, many = 200, 20_000
	before, after := 3*time.Second, 3*8500*time.Millisecond // for three rungs
	for name, c := range map[string]struct {
		most, want time.Duration
	}{
		"as was known at the registration": {0, time.Minute - (after - before)},
		"as long as a slower fence":        {after - time.Second, time.Minute - time.Second},
		"as long as the fence may take":    {after, time.Minute},
		"longer":                           {after + time.Minute, time.Minute},
		"too short for any other deadline": {time.Millisecond, time.Minute - after + time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.processes.Store(few)
			r := b.registered(t, guard.PolicyKill, 10*time.Second)
			b.processes.Store(many)
			feed := guard.Feed{Dataset: r.Dataset, Epoch: r.Epoch, Deadline: b.clock.Boottime() + time.Minute, MaxFenceTime: c.most}
			if refused := b.Feed([]guard.Feed{feed}); len(refused) > 0 {
				t.Fatal(refused)
			}
			e := b.entry(r.Dataset)
			if e.Bound != after || e.Deadline-b.clock.Boottime() != c.want {
				t.Errorf("bound %v, %v ahead, want %v and %v", e.Bound, e.Deadline-b.clock.Boottime(), after, c.want)
			}
			// A deadline that would already have passed changes nothing: the previous feed stays valid.
			feed.Deadline, feed.MaxFenceTime = b.clock.Boottime()+time.Second, time.Millisecond
			if refused := b.Feed([]guard.Feed{feed}); len(refused) > 0 || b.entry(r.Dataset).Deadline != e.Deadline {
				t.Errorf("%v: %v", refused, b.entry(r.Dataset).Deadline)
			}
			// The bound shrinks again, so deadlines are not shortened for longer than needed.
			b.processes.Store(few)
			if err := b.feed(r, r.Epoch, 2*time.Minute); err != nil || b.entry(r.Dataset).Bound != before {
				t.Errorf("%v, bound %v, want %v", err, b.entry(r.Dataset).Bound, before)
			}
		})
	}
}

// If all holders are stopped and only other processes appear that have to be examined, the holders are not
// killed.
func TestContainedHoldersAreNotKilled(t *testing.T) {
	b := newBench(t)
	b.hand.fails = map[guard.Act]bool{guard.ActFreeze: true, guard.ActStop: true, guard.ActKill: true}
	b.hand.contained = true
	r := b.registered(t, guard.PolicyKill, time.Second)
	b.clock.advance(time.Second, false)
	await(t, "the ladder was climbed again", func() bool {
		b.clock.advance(time.Second, false)
		return len(b.hand.acts()) >= 6
	}, func() string { return "" })
	if got := b.hand.acts()[:6]; !slices.Equal(got, []guard.Act{guard.ActFreeze, guard.ActStop, guard.ActStop, guard.ActFreeze, guard.ActStop, guard.ActStop}) {
		t.Errorf("it did %v", got)
	}
	if e := b.entry(r.Dataset); e.State != guard.StateFencing {
		t.Errorf("it is %s", e.State)
	}
}
