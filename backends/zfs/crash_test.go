package zfs_test

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// bench is a pool whose zfs commands a test can make fail.
type bench struct {
	*testing.T
	home    string // the filesystem that contains the pool's directory
	cfg     backends.Config
	pool    backends.Pool
	left    int  // number of changing commands until the crash; -1: no crash
	late    bool // the crash comes after the next command, and not before it
	crashed bool
	done    []string

	clock clock.Clock
	asked int // number of commands that change nothing
}

var errCrash = errors.New("the power is gone")

// newBench makes a pool. All its commands run until the test sets left to a number of commands.
func newBench(t *testing.T) *bench {
	home, mnt := zpool(t, 1<<30)
	b := &bench{
		T:     t,
		home:  home,
		left:  -1,
		clock: clock.System{},
		cfg:   backends.Config{Name: "test", Path: filepath.Join(mnt, "pool"), Make: true},
	}
	b.open()
	return b
}

func (b *bench) open() {
	b.Helper()
	pool, err := zfs.New(fakes.Run(b.run), b.clock).Open(b.Context(), b.cfg)
	b.ok(err)
	b.pool, b.cfg.ID = pool, pool.ID()
	b.Cleanup(func() { _ = pool.Close() })
}

// run runs all commands that change nothing, and changing commands until the crash.
func (b *bench) run(ctx context.Context, c run.Command) (run.Result, error) {
	if c.Args[0] != "get" && c.Args[0] != "list" && c.Args[0] != "send" {
		b.crashed = b.crashed || b.left == 0
		if b.left == 0 && b.late {
			b.late = false
			b.done = append(b.done, strings.Join(c.Args, " "))
			_, err := (&run.System{}).Run(ctx, c)
			return run.Result{}, errors.Join(errCrash, err)
		}
		if b.left == 0 {
			return run.Result{}, errCrash
		}
		b.left--
		b.done = append(b.done, strings.Join(c.Args, " "))
	} else {
		b.asked++
	}
	return (&run.System{}).Run(ctx, c)
}

func (b *bench) ok(err error) {
	b.Helper()
	require.NoError(b, err)
}

func (b *bench) create() dataset.Dataset {
	b.Helper()
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Size: 64 * dataset.MiB}
	_, err := b.pool.Create(b.Context(), d)
	b.ok(err)
	b.ok(b.pool.Commit(b.Context(), d.ID))
	return d
}

// in mounts a dataset as the agent does, and calls do with its root.
func (b *bench) in(id uuid.UUID, do func(root *os.Root)) {
	b.Helper()
	dir := b.mount(id)
	root, err := os.OpenRoot(dir)
	b.ok(err)
	do(root)
	b.ok(errors.Join(root.Close(), mount.Unmount(dir)))
}

func (b *bench) mount(id uuid.UUID) (dir string) {
	b.Helper()
	a, err := b.pool.Attach(b.Context(), id, backends.AttachOptions{})
	b.ok(err)
	dir = b.TempDir()
	if a.Mount.FSType == "bind" {
		source, oErr := os.Open(a.Mount.Source)
		b.ok(oErr)
		err = errors.Join(mount.Bind(source, dir, mount.BindFlags{}), source.Close())
	} else {
		err = mount.Mount(dir, mount.Spec{Source: a.Mount.Source, FSType: a.Mount.FSType, Options: a.Mount.Options})
	}
	b.ok(errors.Join(err, a.Release()))
	return dir
}

func (b *bench) write(id uuid.UUID, content string) {
	b.Helper()
	b.in(id, func(root *os.Root) { b.ok(root.WriteFile("file", []byte(content), 0o600)) })
}

func (b *bench) holds(id uuid.UUID, want string) {
	b.Helper()
	b.in(id, func(root *os.Root) {
		if got, err := root.ReadFile("file"); err != nil || string(got) != want {
			b.Errorf("the head holds %q, %v, want %q", got, err, want)
		}
	})
}

func (b *bench) snapshot(id uuid.UUID) dataset.Snapshot {
	b.Helper()
	s := dataset.Snapshot{ID: uuid.New(), Dataset: id}
	b.ok(b.pool.Snapshot(b.Context(), s, nil))
	return s
}

// newRestored returns a bench with a dataset that was restored once. Its head has the content "old" of the snapshot s,
// and the snapshot keep has the former content, "new".
func newRestored(t *testing.T) (b *bench, d dataset.Dataset, s, keep dataset.Snapshot) {
	t.Helper()
	b = newBench(t)
	d = b.create()
	b.write(d.ID, "old")
	s = b.snapshot(d.ID)
	b.write(d.ID, "new")
	keep = dataset.Snapshot{ID: uuid.New(), Dataset: d.ID, Kind: dataset.SnapshotRestore}
	b.ok(b.pool.Restore(t.Context(), d.ID, s.ID, keep, nil))
	return b, d, s, keep
}

func (b *bench) reap() {
	b.Helper()
	_, err := b.pool.Reap(b.Context(), func(uuid.UUID) bool { return true })
	b.ok(err)
}

// names returns all filesystems and snapshots below the pool's filesystem.
func (b *bench) names() []string {
	b.Helper()
	top := b.home + "/drover-" + b.cfg.ID.String()
	var names []string
	for _, name := range lines(b.T, "get", "-Hp", "-r", "-o", "name", "type", top) {
		if name != top && name != top+"/deleted" {
			names = append(names, strings.TrimPrefix(name, top+"/"))
		}
	}
	return names
}

// list fails if the list has problems or foreign entries, and returns the ready entries.
func (b *bench) list() (ready []uuid.UUID) {
	b.Helper()
	entries, err := b.pool.List(b.Context())
	b.ok(err)
	for _, e := range entries {
		switch {
		case e.State == backends.EntryForeign:
			b.Errorf("listed: %+v", e)
		case e.State == backends.EntryReady:
			ready = append(ready, e.ID)
			if e.Problem != "" || e.Record == nil {
				b.Errorf("listed: %+v", e)
			}
		}
	}
	return ready
}

// has fails unless the pool has, or lacks, an object with such a name.
func (b *bench) has(want bool, part string) {
	b.Helper()
	names := b.names()
	if slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, part) }) != want {
		b.Errorf("%q in the pool: want %v; it has %q", part, want, names)
	}
}

// C1: each operation is interrupted before and after each of its commands. All later commands fail.
func TestC1CrashAtEachStep(t *testing.T) {
	benches := map[string]*bench{} // by the path of the pool
	crashing.Run(t, variant, func(t *testing.T) (backends.Kind, backends.Config) {
		copies := []string{
			"receive", "promote", "commit_a_copy", "promote_the_last", "promote_another", "demote",
			"demote_what_was_restored",
		}
		if slices.Contains(copies, path.Base(t.Name())) {
			long.Only(t)
		}
		home, mnt := zpool(t, 1<<30)
		cfg := backends.Config{Name: "test", Path: filepath.Join(mnt, "pool")}
		benches[cfg.Path] = &bench{T: t, home: home, left: -1, clock: clock.System{}, cfg: cfg}
		return zfs.New(&run.System{}, clock.System{}), cfg
	}, backendtest.Crashes{
		Crash: func(t backendtest.T, cfg backends.Config, call backendtest.Call, step int) bool {
			t.Helper()
			b := &bench{T: benches[cfg.Path].T, left: -1, clock: clock.System{}, cfg: cfg}
			b.open()
			b.left, b.late = step/2, step%2 == 1
			if !long.Enabled() { // the commands have the four kinds of ends in turn
				b.left, b.late = step, step/2%2 == 1
			}
			err := call.Run(t.Context(), b.pool)
			if err != nil && !b.crashed {
				t.Fatal(err)
			}
			return b.crashed
		},
		CheckReaped: func(_ backendtest.T, p backends.Pool) {
			b := *benches[p.Info().Path]
			b.pool, b.cfg.ID = p, p.ID()
			b.onlyKnownNames()
		},
		Alternate: !long.Enabled(),
	})
}

// onlyKnownNames fails the test if the pool has a filesystem or a snapshot that belongs to nothing in its list. A
// deleted dataset stays as long as it has clones.
func (b *bench) onlyKnownNames() {
	b.Helper()
	entries, err := b.pool.List(b.Context())
	b.ok(err)
	known := map[string]bool{}
	for _, e := range entries {
		known[e.ID.String()] = true
		for _, s := range e.Snapshots {
			known[s.ID.String()] = true
		}
	}
	for _, name := range b.names() {
		if strings.HasPrefix(name, "deleted/") && len(entries) > 0 {
			continue
		}
		for _, id := range uuidPattern.FindAllString(name, -1) {
			if !known[id] {
				b.Errorf("%q is of nothing in the list; the pool has %q", name, b.names())
			}
		}
	}
}

var uuidPattern = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
