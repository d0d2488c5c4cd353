package btrfs

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/scratch"
)

const (
	little = 64 * dataset.MiB
	more   = 96 * dataset.MiB
)

// cast is who plays in a scenario: a dataset that holds "new", its snapshot that holds
// "old", and what is to be made.
type cast struct {
	Dataset, Other dataset.Dataset
	Snapshot, Keep dataset.Snapshot
}

func (f *fixture) stage() cast {
	f.Helper()
	c := cast{Dataset: dataset.Dataset{ID: uuid.New(), Size: little}, Other: dataset.Dataset{ID: uuid.New(), Size: more}}
	c.Snapshot = dataset.Snapshot{ID: uuid.New(), Dataset: c.Dataset.ID}
	c.Keep = dataset.Snapshot{ID: uuid.New(), Dataset: c.Dataset.ID}
	_, err := f.Create(f.Context(), c.Dataset)
	f.must(err)
	f.must(f.Pool.Commit(f.Context(), c.Dataset.ID))
	f.write(c.Dataset.ID, "old")
	f.must(f.Snapshot(f.Context(), c.Snapshot, nil))
	f.write(c.Dataset.ID, "new")
	return c
}

type scenario struct {
	name  string
	do    func(ctx context.Context, p backends.Pool, c cast) error
	check func(f *fixture, c cast, done bool)
}

// costly tells of which scenarios the short form tries each step with or without reaping, and
// cuts no power.
func (s scenario) costly() bool {
	return slices.ContainsFunc(copyScenarios(), func(c scenario) bool { return c.name == s.name })
}

// made checks what a create or a clone is to make, with its content; the rest is untouched.
func made(content string) func(f *fixture, c cast, done bool) {
	return func(f *fixture, c cast, done bool) {
		f.Helper()
		_, err := f.Stat(f.Context(), c.Other.ID)
		switch {
		case err == nil:
			if got := f.read(c.Other.ID); got != content {
				f.Errorf("it holds %q, want %q", got, content)
			}
			f.wantLimit(c.Other.ID, more)
		case done || !errors.Is(err, dataset.ErrNotFound):
			f.Error(err)
		}
		f.untouched(c)
	}
}

func (f *fixture) untouched(c cast) {
	f.Helper()
	if got := f.read(c.Dataset.ID); got != "new" {
		f.Errorf("the head holds %q", got)
	}
	f.wantLimit(c.Dataset.ID, little)
	f.holds(c.Dataset.ID, c.Snapshot.ID, "old")
}

func scenarios() []scenario {
	return append(copyScenarios(), []scenario{
		{"create", func(ctx context.Context, p backends.Pool, c cast) error {
			_, err := p.Create(ctx, c.Other)
			return err
		}, made("")},
		{"clone", func(ctx context.Context, p backends.Pool, c cast) error {
			_, err := p.Clone(ctx, c.Other, dataset.Source{Dataset: c.Dataset.ID, Snapshot: c.Snapshot.ID}, nil)
			return err
		}, made("old")},
		{"clone of a head", func(ctx context.Context, p backends.Pool, c cast) error {
			_, err := p.Clone(ctx, c.Other, dataset.Source{Dataset: c.Dataset.ID}, nil)
			return err
		}, made("new")},
		{"snapshot", func(ctx context.Context, p backends.Pool, c cast) error {
			return p.Snapshot(ctx, c.Keep, nil)
		}, func(f *fixture, c cast, done bool) {
			f.untouched(c)
			if done || f.has(c.Dataset.ID, c.Keep.ID) {
				f.holds(c.Dataset.ID, c.Keep.ID, "new")
			}
		}},
		{"delete snapshot", func(ctx context.Context, p backends.Pool, c cast) error {
			return p.DeleteSnapshot(ctx, c.Dataset.ID, c.Snapshot.ID)
		}, func(f *fixture, c cast, done bool) {
			if f.has(c.Dataset.ID, c.Snapshot.ID) {
				if done {
					f.Error("it is there still")
				}
				f.untouched(c)
				return
			}
			f.holds(c.Dataset.ID, c.Snapshot.ID, "absent")
		}},
		{"restore", func(ctx context.Context, p backends.Pool, c cast) error {
			return p.Restore(ctx, c.Dataset.ID, c.Snapshot.ID, c.Keep, nil)
		}, func(f *fixture, c cast, done bool) {
			f.wantLimit(c.Dataset.ID, little)
			switch got := f.read(c.Dataset.ID); {
			case got == "old":
				f.holds(c.Dataset.ID, c.Keep.ID, "new")
			case got != "new" || done:
				f.Errorf("the head holds %q", got)
			default:
				f.holds(c.Dataset.ID, c.Keep.ID, "absent")
			}
			f.holds(c.Dataset.ID, c.Snapshot.ID, "old")
		}},
		{"resize", func(ctx context.Context, p backends.Pool, c cast) error {
			return p.(backends.Resizer).Resize(ctx, c.Dataset.ID, more, nil)
		}, func(f *fixture, c cast, done bool) {
			if got := f.limit(c.Dataset.ID); got != more && (done || got != little) {
				f.Errorf("the limit is %s", got)
			}
			f.holds(c.Dataset.ID, c.Snapshot.ID, "old")
		}},
		{"delete", func(ctx context.Context, p backends.Pool, c cast) error {
			return p.Delete(ctx, c.Dataset.ID)
		}, func(f *fixture, c cast, done bool) {
			_, err := f.Stat(f.Context(), c.Dataset.ID)
			if err == nil && !done {
				f.untouched(c)
			} else if !errors.Is(err, dataset.ErrNotFound) {
				f.Errorf("it is there still: %v", err)
			}
		}},
	}...)
}

// has tells whether a dataset has a snapshot.
func (f *fixture) has(ds, snapshot uuid.UUID) bool {
	f.Helper()
	e, err := f.Stat(f.Context(), ds)
	f.must(err)
	for _, s := range e.Snapshots {
		if s.ID == snapshot {
			return true
		}
	}
	return false
}

// stepsOf returns how many steps a scenario has.
func (f *fixture) stepsOf(s scenario) (n int) {
	f.Helper()
	c := f.stage()
	b := &Backend{step: func(string) { n++ }}
	pool, err := b.Open(f.Context(), backends.Config{Path: f.path()})
	f.must(err)
	f.must(s.do(f.Context(), pool, c))
	f.must(f.Delete(f.Context(), c.Dataset.ID))
	f.must(f.Delete(f.Context(), c.Other.ID))
	if n == 0 {
		f.Fatal("no steps")
	}
	return n
}

// orders is what the test's child process is to do.
type orders struct {
	Path string
	Name string // of the scenario
	Step int    // at which it kills itself
	Cast cast
}

const ordersVariable = "DROVER_BTRFS_TEST_ORDERS"

func obey(raw string) error {
	var o orders
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		return err
	}
	n := 0
	b := &Backend{step: func(string) {
		if n == o.Step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		n++
	}}
	pool, err := b.Open(context.Background(), backends.Config{Path: o.Path})
	if err != nil {
		return err
	}
	for _, s := range scenarios() {
		if s.name == o.Name {
			return s.do(context.Background(), pool, o.Cast)
		}
	}
	return errors.New("no such scenario")
}

func TestMain(m *testing.M) {
	if raw := os.Getenv(ordersVariable); raw != "" {
		if err := obey(raw); err != nil {
			panic(err)
		}
		return
	}
	os.Exit(scratch.Main(m))
}

// killed runs a scenario in another process, which is killed at a step.
func (f *fixture) killed(s scenario, c cast, step int) {
	f.Helper()
	raw, err := json.Marshal(orders{Path: f.path(), Name: s.name, Step: step, Cast: c})
	f.must(err)
	exe, err := os.Executable()
	f.must(err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), ordersVariable+"="+string(raw))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		f.Fatalf("step %d: the process ended with %v: %s", step, err, out)
	}
}

// C1: kill -9 at every step of every operation leaves the one or the other, and doing it
// again ends as if nothing had been; so does reaping before.
func TestC1KilledAtEveryStep(t *testing.T) {
	disk := newFixture(t).disk
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			f := fixtureAt(t, disk)
			for step := range f.stepsOf(s) {
				for _, reaped := range []bool{false, true} {
					if s.costly() && reaped == (step%2 == 0) && !long.Enabled() {
						continue
					}
					c := f.stage()
					f.killed(s, c, step)
					f.reopen()
					s.check(f, c, false)
					if reaped {
						f.settled()
						s.check(f, c, false)
					}
					f.must(s.do(t.Context(), f.Pool, c))
					s.check(f, c, true)
					f.must(s.do(t.Context(), f.Pool, c))
					s.check(f, c, true)
					f.must(f.Delete(t.Context(), c.Dataset.ID))
					f.must(f.Delete(t.Context(), c.Other.ID))
					f.settled()
				}
			}
		})
	}
}

// I2: a power cut at every step leaves the one or the other; what was acknowledged is
// there. The disk is copied as it is, whatever memory knows better.
func TestI2PowerCutAtEveryStep(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			if s.costly() {
				long.Only(t)
			}
			image := scratch.Image(t, "btrfs", 1<<30)
			f := fixtureAt(t, scratch.MountImage(t, "btrfs", image))
			scratch.Quota(t, f.disk, "full")
			f.reopen()
			c := f.stage()
			scratch.Run(t, "sync", "-f", f.disk)
			var copies []string
			keep := func(string) {
				to := filepath.Join(t.TempDir(), "copy")
				scratch.Copy(t, image, to)
				copies = append(copies, to)
			}
			f.backend.step = keep
			f.reopen()
			f.must(s.do(t.Context(), f.Pool, c))
			keep("")
			for i, image := range copies {
				done := i == len(copies)-1
				t.Logf("cut %d of %d", i+1, len(copies))
				g := fixtureAt(t, scratch.MountImage(t, "btrfs", image))
				s.check(g, c, done)
				g.must(s.do(t.Context(), g.Pool, c))
				s.check(g, c, true)
				g.must(g.Delete(t.Context(), c.Dataset.ID))
				g.must(g.Delete(t.Context(), c.Other.ID))
				g.settled()
			}
		})
	}
}

// A head is on the disk before the record that says that it is there: nothing in between
// has it written by accident.
func TestHeadIsCommittedBeforeItsRecord(t *testing.T) {
	image := scratch.Image(t, "btrfs", 1<<30)
	f := fixtureAt(t, scratch.MountImage(t, "btrfs", image))
	scratch.Run(t, "sync", "-f", f.disk)
	copied := filepath.Join(t.TempDir(), "copy")
	f.backend.step = func(step string) {
		if step == "btrfs.make.settled" {
			scratch.Copy(t, image, copied)
		}
	}
	f.reopen()
	d := dataset.Dataset{ID: uuid.New(), Profile: dataset.Profile{Owner: &dataset.Owner{UID: 70, GID: 71}}}
	_, err := f.Create(t.Context(), d)
	f.must(err)
	info, err := os.Stat(filepath.Join(scratch.MountImage(t, "btrfs", copied), "pool", "incoming", d.ID.String(), "head"))
	f.must(err)
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 70 || st.Gid != 71 || st.Ino != 256 {
		t.Errorf("on the disk it is %d, of %d:%d", st.Ino, st.Uid, st.Gid)
	}
}
