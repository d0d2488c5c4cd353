package zfs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/run"
)

// bench is a pool whose commands of zfs a test can cut short.
type bench struct {
	*testing.T
	home string // the filesystem that the pool's directory lies on
	cfg  backends.Config
	pool backends.Pool
	left int  // commands that change something until the crash; -1: no crash
	late bool // the crash comes behind the next command, and not before it
	done []string

	clock clock.Clock
	asked int // commands that change nothing
}

var errCrash = errors.New("the power is gone")

// newBench makes a pool of which all commands run, until crashAfter.
func newBench(t *testing.T) *bench {
	home, mnt := zpool(t, 1<<30)
	b := &bench{T: t, home: home, left: -1, clock: clock.System{}, cfg: backends.Config{Name: "test", Path: filepath.Join(mnt, "pool"), Make: true}}
	b.open()
	return b
}

func (b *bench) open() {
	b.Helper()
	pool, err := zfs.New(run.Func(b.run), b.clock).Open(b.Context(), b.cfg)
	b.ok(err)
	b.pool, b.cfg.ID = pool, pool.ID()
	b.Cleanup(func() { _ = pool.Close() })
}

// run runs what only asks, and so many of the commands that change something.
func (b *bench) run(ctx context.Context, c run.Command) (run.Result, error) {
	if c.Args[0] != "get" && c.Args[0] != "list" && c.Args[0] != "send" {
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
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) create() dataset.Dataset {
	b.Helper()
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Size: 64 * dataset.MiB}
	_, err := b.pool.Create(b.Context(), d)
	b.ok(err)
	b.ok(b.pool.Commit(b.Context(), d.ID))
	return d
}

// in mounts a dataset as the agent does, while do has its root.
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

func (b *bench) reap() {
	b.Helper()
	_, err := b.pool.Reap(b.Context(), func(uuid.UUID) bool { return true })
	b.ok(err)
}

// names are all of the pool's filesystems and snapshots, without the pool's own.
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

// list wants no problems and no strangers, and returns the entries that are ready.
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

// TestCrashAtEachStep cuts each operation short before and behind each of its commands; the pool is
// opened again, and either asked again or reaped. Nothing of it may be left then that
// nobody asked for, and nothing that was acknowledged may be gone. In the short form each
// command has one of the four ends, in turn.
func TestCrashAtEachStep(t *testing.T) {
	for _, op := range []struct {
		name string
		// prepare returns the operation, which can be called again, and what holds when
		// it was done, and when it was not.
		prepare func(b *bench) (do func() error, done, undone func())
	}{
		{"create", crashCreate}, {"snapshot", crashSnapshot}, {"clone", crashClone}, {"clone-head", crashCloneHead},
		{"restore", crashRestore}, {"delete", crashDelete}, {"delete-with-clone", crashDeleteWithClone},
		{"delete-snapshot", crashDeleteSnapshot}, {"delete-clone", crashDeleteClone},
		{"receive", crashReceive}, {"promote", crashPromote}, {"promote-last", crashPromoteLast}, {"promote-again", crashPromoteAgain},
		{"demote", crashDemote}, {"demote-restored", crashDemoteRestored}, {"supersede", crashSupersede},
	} {
		t.Run(op.name, func(t *testing.T) {
			if slices.Contains([]string{"receive", "promote", "promote-last", "promote-again", "demote", "demote-restored"}, op.name) {
				long.Only(t)
			}
			b := newBench(t)
			for at, finished := 0, false; !finished; at++ {
				ends := []string{"again", "reaped", "late again", "late reaped"}
				if !long.Enabled() {
					ends = ends[at%len(ends):][:1]
				}
				for _, then := range ends {
					do, done, undone := op.prepare(b)
					b.left, b.late, b.done = at, strings.HasPrefix(then, "late"), nil
					err := do()
					b.left, b.late = -1, false
					if err == nil {
						finished = true
						done()
						continue
					}
					b.open()
					if strings.HasSuffix(then, "again") {
						if err := do(); err != nil {
							t.Fatalf("after a crash behind %q: %v", b.done, err)
						}
						done()
					}
					b.reap()
					if strings.HasSuffix(then, "reaped") {
						undone()
					}
					b.list()
					if t.Failed() {
						t.Fatalf("after a crash behind %q, then %s; left: %q", b.done, then, b.names())
					}
				}
			}
		})
	}
}

// has wants something of such a name in the pool, or nothing.
func (b *bench) has(want bool, part string) {
	b.Helper()
	names := b.names()
	if slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, part) }) != want {
		b.Errorf("%q in the pool: want %v; it has %q", part, want, names)
	}
}

func crashCreate(b *bench) (do func() error, done, undone func()) {
	mode := uint32(0o700)
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Profile: dataset.Profile{Owner: &dataset.Owner{UID: 5, GID: 6, Mode: &mode}}}
	return func() error { _, err := b.pool.Create(b.Context(), d); return err },
		func() {
			b.in(d.ID, func(root *os.Root) {
				info, err := root.Stat(".")
				b.ok(err)
				if st := info.Mode().Perm(); st != 0o700 {
					b.Errorf("the root is %o", st)
				}
			})
		},
		func() { b.has(false, d.ID.String()) }
}

func crashSnapshot(b *bench) (do func() error, done, undone func()) {
	d := b.create()
	b.write(d.ID, "content")
	s := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}
	return func() error { return b.pool.Snapshot(b.Context(), s, nil) },
		func() { b.has(true, s.ID.String()); b.holds(d.ID, "content") },
		func() { b.has(false, s.ID.String()); b.holds(d.ID, "content") }
}

func crashClone(b *bench) (do func() error, done, undone func()) {
	d := b.create()
	b.write(d.ID, "content")
	s := b.snapshot(d.ID)
	c := dataset.Dataset{ID: uuid.New()}
	return func() error {
			_, err := b.pool.Clone(b.Context(), c, dataset.Source{Dataset: d.ID, Snapshot: s.ID}, nil)
			return err
		},
		func() { b.holds(c.ID, "content") },
		func() { b.has(false, c.ID.String()); b.has(true, s.ID.String()); b.holds(d.ID, "content") }
}

func crashCloneHead(b *bench) (do func() error, done, undone func()) {
	d := b.create()
	b.write(d.ID, "content")
	c := dataset.Dataset{ID: uuid.New()}
	return func() error {
			_, err := b.pool.Clone(b.Context(), c, dataset.Source{Dataset: d.ID}, nil)
			return err
		},
		func() { b.holds(c.ID, "content") },
		func() { b.has(false, c.ID.String()); b.holds(d.ID, "content") }
}

// crashRestore also writes between the crash and the second try: that must be kept.
func crashRestore(b *bench) (do func() error, done, undone func()) {
	d := b.create()
	b.write(d.ID, "old")
	s := b.snapshot(d.ID)
	b.write(d.ID, "new")
	keep := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID, Kind: dataset.SnapshotRestore}
	again, want := false, "new"
	return func() error {
			if again {
				want = "later"
				b.write(d.ID, want)
			}
			again = true
			return b.pool.Restore(b.Context(), d.ID, s.ID, keep, nil)
		},
		func() {
			b.holds(d.ID, "old")
			c := dataset.Dataset{ID: uuid.New()}
			_, err := b.pool.Clone(b.Context(), c, dataset.Source{Dataset: d.ID, Snapshot: keep.ID}, nil)
			b.ok(err)
			b.holds(c.ID, want)
		},
		func() { b.has(false, keep.ID.String()); b.holds(d.ID, "new") }
}

func crashDelete(b *bench) (do func() error, done, undone func()) {
	d := b.create()
	b.snapshot(d.ID)
	gone := func() { b.has(false, d.ID.String()) }
	return func() error { return b.pool.Delete(b.Context(), d.ID) }, gone, gone
}

// crashDeleteWithClone: the clone lives on, and with it goes all that is left.
func crashDeleteWithClone(b *bench) (do func() error, done, undone func()) {
	d := b.create()
	b.write(d.ID, "content")
	s := b.snapshot(d.ID)
	c := dataset.Dataset{ID: uuid.New()}
	_, err := b.pool.Clone(b.Context(), c, dataset.Source{Dataset: d.ID, Snapshot: s.ID}, nil)
	b.ok(err)
	b.ok(b.pool.Commit(b.Context(), c.ID))
	gone := func() {
		if slices.Contains(b.list(), d.ID) {
			b.Error("the dataset is listed")
		}
		b.holds(c.ID, "content")
		b.has(true, "deleted/")
		b.ok(b.pool.Delete(b.Context(), c.ID))
		b.has(false, c.ID.String())
		b.has(false, s.ID.String())
		b.has(false, "deleted/")
	}
	return func() error { return b.pool.Delete(b.Context(), d.ID) }, gone, gone
}

func crashDeleteSnapshot(b *bench) (do func() error, done, undone func()) {
	d := b.create()
	s := b.snapshot(d.ID)
	gone := func() { b.has(false, s.ID.String()) }
	return func() error { return b.pool.DeleteSnapshot(b.Context(), d.ID, s.ID) }, func() {}, gone
}

// crashDeleteClone: what a clone of a head began as goes with it.
func crashDeleteClone(b *bench) (do func() error, done, undone func()) {
	d, c := b.create(), dataset.Dataset{ID: uuid.New()}
	_, err := b.pool.Clone(b.Context(), c, dataset.Source{Dataset: d.ID}, nil)
	b.ok(err)
	return func() error { return b.pool.Delete(b.Context(), c.ID) }, func() {}, func() { b.has(false, c.ID.String()); b.list() }
}
