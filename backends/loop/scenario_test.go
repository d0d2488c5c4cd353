package loop

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
)

// scenario is one operation on a dataset whose file a has "two" in the head and "one" in the snapshot.
type scenario struct {
	name string
	// do runs the operation. It is repeated after an interruption and after success.
	do    func(ctx context.Context, p *Pool, c cast) error
	grows bool
	// check checks the pool after the operation was interrupted or has succeeded.
	check func(f *fixture, c cast, done bool)
}

// cast is the datasets and snapshots of a scenario.
type cast struct {
	Dataset  dataset.Dataset
	Snapshot dataset.Snapshot
	Other    dataset.Dataset  // the dataset to make
	Keep     dataset.Snapshot // the snapshot to take
}

const larger = testSize + 64*dataset.MiB

func scenarios() []scenario {
	return slices.Concat(copyScenarios(), []scenario{
		{"write after a snapshot for another node", func(ctx context.Context, p *Pool, c cast) error {
			c.Keep.Kind = dataset.SnapshotTransfer
			if err := p.Snapshot(ctx, c.Keep, nil); err != nil {
				return err
			}
			att, err := p.Attach(ctx, c.Dataset.ID, backends.AttachOptions{})
			if err != nil {
				return err
			}
			return att.Release()
		}, false, checkWritten},
		{"create", func(ctx context.Context, p *Pool, c cast) error {
			_, err := p.Create(ctx, c.Other)
			return err
		}, false, func(f *fixture, c cast, done bool) { f.isWhole(c.Other.ID, "", done) }},
		{"clone", func(ctx context.Context, p *Pool, c cast) error {
			_, err := p.Clone(ctx, c.Other, at(c.Snapshot), nil)
			return err
		}, false, func(f *fixture, c cast, done bool) { f.isWhole(c.Other.ID, "one", done) }},
		{"clone a larger one", func(ctx context.Context, p *Pool, c cast) error {
			c.Other.Size = larger
			_, err := p.Clone(ctx, c.Other, head0(c.Dataset), nil)
			return err
		}, true, func(f *fixture, c cast, done bool) {
			f.isWhole(c.Other.ID, "two", done)
			if done {
				f.hasSize(c.Other.ID, larger)
			}
		}},
		{"commit", func(ctx context.Context, p *Pool, c cast) error {
			_, err := p.Create(ctx, c.Other)
			return errors.Join(err, p.Commit(ctx, c.Other.ID), p.WriteRecord(ctx, c.Other, true))
		}, false, func(f *fixture, c cast, done bool) { f.isWhole(c.Other.ID, "", done) }},
		{"snapshot", func(ctx context.Context, p *Pool, c cast) error {
			return p.Snapshot(ctx, c.Keep, nil)
		}, false, func(f *fixture, c cast, done bool) { f.hasSnapshot(c.Keep, "two", done) }},
		{"snapshot-delete", func(ctx context.Context, p *Pool, c cast) error {
			return p.DeleteSnapshot(ctx, c.Dataset.ID, c.Snapshot.ID)
		}, false, func(f *fixture, c cast, done bool) {
			f.isWhole(c.Dataset.ID, "two", true)
			if done {
				f.lacksSnapshot(c.Snapshot)
			}
		}},
		{"restore", func(ctx context.Context, p *Pool, c cast) error {
			return p.Restore(ctx, c.Dataset.ID, c.Snapshot.ID, c.Keep, nil)
		}, false, checkRestore},
		{"resize", func(ctx context.Context, p *Pool, c cast) error {
			return p.Resize(ctx, c.Dataset.ID, larger, nil)
		}, true, func(f *fixture, c cast, done bool) {
			f.isWhole(c.Dataset.ID, "two", true)
			if done {
				f.hasSize(c.Dataset.ID, larger)
			}
		}},
		rewriteScenario(),
		{"delete", func(ctx context.Context, p *Pool, c cast) error {
			return p.Delete(ctx, c.Dataset.ID)
		}, false, func(f *fixture, c cast, done bool) {
			if done {
				_, err := f.Stat(f.Context(), c.Dataset.ID)
				f.isKind(err, dataset.ErrNotFound)
				return
			}
			f.isWhole(c.Dataset.ID, "two", false)
		}},
	})
}

func checkRestore(f *fixture, c cast, done bool) {
	f.Helper()
	got := f.get(c.Dataset.ID, "a")
	if got != "one" && (got != "two" || done) {
		f.Errorf("the head has %q", got)
	}
	f.hasSnapshot(c.Keep, "two", done || got == "one")
	f.hasSnapshot(c.Snapshot, "one", true)
}

// isWhole checks that a dataset can be mounted and read. Unless must is set, it may be absent.
func (f *fixture) isWhole(id uuid.UUID, want string, must bool) {
	f.Helper()
	e, err := f.Stat(f.Context(), id)
	if errors.Is(err, dataset.ErrNotFound) && !must {
		return
	}
	f.must(err)
	if e.Record == nil || e.Record.ID != id || e.Problem != "" {
		f.Errorf("entry %+v", e)
	}
	if got := f.get(id, "a"); got != want {
		f.Errorf("dataset has %q instead of %q", got, want)
	}
	f.put(id, "b", "can be written")
}

// hasSnapshot checks that a snapshot is whole. Unless must is set, it may be absent.
func (f *fixture) hasSnapshot(s dataset.Snapshot, want string, must bool) {
	f.Helper()
	e, err := f.Stat(f.Context(), s.Dataset)
	f.must(err)
	i := slices.IndexFunc(e.Snapshots, func(o dataset.Snapshot) bool { return o.ID == s.ID })
	if i < 0 {
		if must {
			f.Errorf("snapshot %s is absent", s.ID)
		}
		return
	}
	if e.Snapshots[i].Kind != s.Kind || e.Problem != "" {
		f.Errorf("entry %+v", e)
	}
	d := f.newDataset("")
	d.Size = 0
	f.clone(d, at(s))
	if got := f.get(d.ID, "a"); got != want {
		f.Errorf("snapshot has %q instead of %q", got, want)
	}
	f.must(f.Delete(f.Context(), d.ID))
}

// hasSize checks the size of a dataset's image and of the filesystem in it.
func (f *fixture) hasSize(id uuid.UUID, want dataset.Size) {
	f.Helper()
	root, unmount := f.mounted(id)
	defer unmount()
	var st syscall.Statfs_t
	f.must(syscall.Statfs(root, &st))
	if got := dataset.Size(st.Bavail) * dataset.Size(st.Bsize); got < want*97/100 || got > want*103/100 {
		f.Errorf("%s are free in a filesystem for %s", got.Human(), want)
	}
	dir, err := f.home.open()
	f.must(err)
	defer dir.Close()
	sub, _, err := f.catalog.find(dir, id)
	f.must(err)
	defer sub.Close()
	if has, err := f.images.SizeOf(sub, layout.Head); err != nil || has.Image != has.ImageFor(want) {
		f.Errorf("image %+v (%v) instead of one of %d bytes", has, err, has.ImageFor(want))
	}
}

// stage makes the cast on a pool.
func (f *fixture) stage(fs string) cast {
	f.Helper()
	d := f.newDataset(fs)
	f.create(d)
	f.put(d.ID, "a", "one")
	c := cast{Dataset: d, Snapshot: f.takeSnapshot(d), Other: f.newDataset(fs), Keep: newSnapshot(d)}
	f.put(d.ID, "a", "two")
	c.Keep.Kind = dataset.SnapshotRestore
	return c
}

// reopen returns the pool as a new process finds it.
func (f *fixture) reopen(disk string) *fixture {
	f.Helper()
	b, rec := newBackend()
	pool, err := b.Open(f.Context(), backends.Config{ID: f.ID(), Name: "test", Path: filepath.Join(disk, "pool"), Keys: f.keys()})
	f.must(err)
	return &fixture{T: f.T, Pool: pool.(*Pool), disk: disk, forks: rec}
}

// settled checks that an operation left no remains.
func (f *fixture) settled() {
	f.Helper()
	_, err := f.Reap(f.Context(), func(uuid.UUID) bool { return false })
	f.must(err)
	for _, e := range f.entries() {
		if e.Problem != "" || e.State == backends.EntryForeign || e.State == backends.EntryDeleting {
			f.Errorf("left over: %+v", e)
		}
	}
	for _, glob := range []string{"*/*/next*", "*/*/part*", "*/*/tmp-*", "templates/*.tmp", "deleting/*"} {
		if left, _ := filepath.Glob(filepath.Join(f.home.path, glob)); len(left) > 0 {
			f.Errorf("left over: %v", left)
		}
	}
}

// stepsOf returns the number of steps of an operation.
func (f *fixture) stepsOf(s scenario, c cast) int {
	f.Helper()
	n := 0
	f.backend.step = func(string) { n++ }
	defer func() { f.backend.step = func(string) {} }()
	f.must(s.do(f.Context(), f.Pool, c))
	return n
}

// orders is the task of the test's child process.
type orders struct {
	ID   uuid.UUID
	Path string
	Name string // of the scenario
	Step int    // the step at which the process kills itself
	Cast cast

	Encrypted bool
}

const ordersVariable = "DROVER_LOOP_TEST_ORDERS"

func obey(raw string) {
	var o orders
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		panic(err)
	}
	n := 0
	b := New(&run.System{})
	b.tuning.Every, b.tuning.Lag, b.tuning.Part = testEvery, testEvery, testPart
	b.step = func(string) {
		if n == o.Step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		n++
	}
	cfg := backends.Config{ID: o.ID, Path: o.Path}
	if o.Encrypted {
		cfg.Keys = oneKey{}
	}
	pool, err := b.Open(context.Background(), cfg)
	if err != nil {
		panic(err)
	}
	for _, s := range scenarios() {
		if s.name == o.Name {
			if err := s.do(context.Background(), pool.(*Pool), o.Cast); err != nil {
				panic(err)
			}
		}
	}
}

func TestMain(m *testing.M) {
	if raw := os.Getenv(ordersVariable); raw != "" {
		obey(raw)
		return
	}
	os.Exit(scratch.Main(m))
}

// killed runs a scenario in another process, which is killed at a step.
func (f *fixture) killed(s scenario, c cast, step int) {
	f.Helper()
	raw, err := json.Marshal(orders{ID: f.ID(), Path: f.home.path, Name: s.name, Step: step, Cast: c, Encrypted: f.containers.HasKeys()})
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

// C1: kill -9 at every step of every operation leaves the state before or after it, and repeating the operation ends
// as if nothing had happened.
func TestC1KilledAtEveryStep(t *testing.T) {
	onPools(t, func(f *fixture) {
		for _, s := range scenarios() {
			filesystems := []string{xfs}
			if s.grows {
				filesystems = append(filesystems, ext4) // a different code path
			}
			for _, fs := range filesystems {
				f.Run(s.name+"/"+fs, func(t *testing.T) {
					f := &fixture{T: t, Pool: f.Pool, disk: f.disk, forks: f.forks}
					f.killedAtEveryStep(s, fs)
				})
			}
		}
	})
}

func (f *fixture) killedAtEveryStep(s scenario, fs string) {
	f.Helper()
	steps := f.stepsOf(s, f.stage(fs))
	if steps == 0 {
		f.Fatal("no steps")
	}
	for step := range steps {
		c := f.stage(fs)
		f.killed(s, c, step)
		g := f.reopen(f.disk)
		s.check(g, c, false)
		f.must(s.do(f.Context(), g.Pool, c))
		s.check(g, c, true)
		f.must(s.do(f.Context(), g.Pool, c))
		g.settled()
		for _, id := range []uuid.UUID{c.Dataset.ID, c.Other.ID} {
			f.must(g.Delete(f.Context(), id))
		}
	}
}

// I2: a power cut at every step leaves the state before or after the operation, and everything that was acknowledged
// is there. The disk is copied without the memory of the kernel.
func TestI2PowerCutAtEveryStep(t *testing.T) {
	for _, fstype := range []string{"xfs", "btrfs"} {
		for _, s := range scenarios() {
			t.Run(fstype+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				disk := scratch.Image(t, fstype, 1<<30)
				f := fixtureAt(t, scratch.MountImage(t, fstype, disk))
				f.backend.tuning.Ahead = false
				c := f.stage(xfs)
				scratch.Run(t, "sync", "-f", f.disk)
				var copies []string
				keep := func(step string) {
					if step == "loop.receive.flushed" {
						// Another file causes the journal to be written, and with it all names.
						f.write(filepath.Join(f.disk, "other"), step)
					}
					to := filepath.Join(t.TempDir(), "copy")
					scratch.Copy(t, disk, to)
					copies = append(copies, to)
				}
				f.backend.step = keep
				f.must(s.do(t.Context(), f.Pool, c))
				keep("done")
				for i, image := range copies {
					done := i == len(copies)-1
					t.Logf("cut %d of %d", i+1, len(copies))
					g := f.reopen(scratch.MountImage(t, fstype, image, copyOptions(fstype)...))
					s.check(g, c, done)
					f.must(s.do(t.Context(), g.Pool, c))
					s.check(g, c, true)
					g.settled()
				}
			})
		}
	}
}

func copyOptions(fstype string) []string {
	if fstype == "xfs" {
		return []string{"nouuid"}
	}
	return nil
}

// The name of each step says which operation it belongs to.
func TestStepNames(t *testing.T) {
	f := newFixture(t, "xfs")
	f.backend.step = func(name string) {
		if !strings.HasPrefix(name, "loop.") || strings.Count(name, ".") != 2 {
			t.Errorf("step %q", name)
		}
	}
	f.stage(xfs)
}
