package guard_test

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/scratch"
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
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sleeper := as(t, "sleeper", filepath.Join(r.Paths[0], "file"), blocked)
	in, err := sleeper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := sleeper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	end(t, sleeper)
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	letGo := freezeAs(t, other)
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
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
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if with != nil {
		if err := os.WriteFile(path, with, 0o600); err != nil {
			t.Fatal(err)
		}
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
	if err := os.Remove(filepath.Join(w.run, "guard", r.Dataset.String()+".json")); err != nil {
		t.Fatal(err)
	}
	w.start(t)
	if _, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, clock.Boottime()+time.Minute); err != nil {
		t.Fatal(err)
	}
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
				if _, err := w.Supersede(t.Context(), r.Dataset, r.Epoch); err != nil {
					t.Fatal(err)
				}
			}
			if got := stateOf(t, cmd.Process.Pid); got != "Z" && got != "X" {
				t.Errorf("the holder is in state %s", got)
			}
			if thaw(t, r) {
				t.Error("it was frozen still")
			}
			if err := os.WriteFile(filepath.Join(r.Paths[0], "kept aside"), nil, 0o600); err != nil {
				t.Error(err)
			}
			wrote(t, other, e.Fence.At)
			if _, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, clock.Boottime()+time.Minute); !isKind(err, "stale") {
				t.Errorf("thawed when superseded: %v", err)
			}
			if err := w.Release(t.Context(), r.Dataset, r.Epoch); err != nil {
				t.Error(err)
			}
		})
	}
}

func isKind(err error, code string) bool { return err != nil && dataset.KindOf(err).Code == code }
