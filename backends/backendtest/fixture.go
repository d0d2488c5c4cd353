package backendtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// fixture is one test with a pool of its own.
type fixture struct {
	T
	ctx     context.Context
	factory func() (backends.Kind, backends.Config)
	kind    backends.Kind
	cfg     backends.Config
	pool    backends.Pool
	can     dataset.Capabilities
	count   int // of mount points
	without []string
}

func newFixture(t T, factory func() (backends.Kind, backends.Config), without ...string) *fixture {
	f := &fixture{T: t, ctx: t.Context(), factory: factory, without: without}
	before, goroutines := openFiles(t), runtime.NumGoroutine()
	t.Cleanup(func() { // the first to be registered, the last to run
		ended(t, goroutines)
		for target, n := range openFiles(t) {
			if n > before[target] {
				t.Errorf("left open: %s", target)
			}
		}
		f.nothingLeftBelow(ground(f.cfg))
	})
	f.kind, f.cfg = factory()
	f.cfg.Make = true
	if f.cfg.ID == uuid.Nil {
		f.cfg.ID = uuid.New()
	}
	if err := f.kind.Available(f.ctx); err != nil {
		t.Fatalf("this host cannot run the backend: %v", err)
	}
	f.open()
	return f
}

// open opens the pool, once more if it is open.
func (f *fixture) open() {
	f.Helper()
	again := f.pool != nil
	if again {
		f.ok(f.pool.Close())
	}
	pool, err := f.kind.Open(f.ctx, f.cfg)
	f.ok(err)
	f.pool, f.can = pool, pool.Info().Capabilities
	if !again {
		f.Cleanup(func() { f.ok(f.pool.Close()) })
	}
}

// other returns the same test on another pool, new and empty.
func (f *fixture) other() *fixture {
	f.Helper()
	o := *f
	o.pool = nil
	f.Cleanup(func() { f.nothingLeftBelow(ground(o.cfg)) }) // before the factory's, to run after it
	o.kind, o.cfg = f.factory()
	o.cfg.Make, o.cfg.ID = true, uuid.New()
	o.open()
	return &o
}

// openFiles counts the open files of this process by their kind. Files that the runtime opens at its first
// wait do not count.
func openFiles(t T) map[string]int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(target, "anon_inode:") && !strings.HasPrefix(target, "/proc/") {
			count[target]++
		}
	}
	return count
}

// ended wants no more goroutines than there were, after a moment for those that end.
func ended(t T, before int) {
	t.Helper()
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("left running: %d goroutines, of all these:\n%s", runtime.NumGoroutine()-before,
		buf[:runtime.Stack(buf, true)])
}

// nothingLeftBelow fails if mounts or loop devices on the test's files are left.
func (f *fixture) nothingLeftBelow(dir string) {
	table, err := mount.Table()
	f.ok(err)
	for _, m := range table.Under(dir) {
		f.Errorf("left mounted: %s", m.Mountpoint)
	}
	loops, err := loopdev.List()
	f.ok(err)
	for _, l := range loops {
		if strings.HasPrefix(l.Backing, dir+"/") {
			f.Errorf("left attached: %s to %s", l.Path, l.Backing)
		}
	}
}

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// same wants two values to be equal, as they are written in JSON too.
func (f *fixture) same(what string, have, want any) {
	f.Helper()
	if reflect.DeepEqual(have, want) {
		return
	}
	one, err := json.Marshal(have)
	two, wErr := json.Marshal(want)
	f.ok(errors.Join(err, wErr))
	f.Errorf("%s: have %s (%T), want %s", what, one, have, two)
}

// twice calls something twice, and wants it to succeed both times.
func (f *fixture) twice(call func() error) {
	f.Helper()
	f.ok(call())
	if err := call(); err != nil {
		f.Fatalf("again: %v", err)
	}
}

// fails wants an error of one of some kinds, in one line.
func (f *fixture) fails(err error, kinds ...*dataset.Kind) {
	f.Helper()
	if err == nil {
		f.Fatalf("succeeded, want a %s error", kinds[0].Code)
	}
	for _, k := range kinds {
		if errors.Is(err, k) {
			if strings.ContainsAny(err.Error(), "\n\r") {
				f.Errorf("several lines: %q", err)
			}
			return
		}
	}
	f.Fatalf("got %v (kind %s), want a %s error", err, dataset.KindOf(err).Code, kinds[0].Code)
}

// record returns the record of a new dataset of the pool.
func (f *fixture) record() dataset.Dataset {
	id := uuid.New()
	d := dataset.Dataset{
		ID: id, Volume: "db-" + id.String()[:8], Spelling: "db@gold", State: dataset.StateReady,
		Profile: dataset.Profile{
			Name:     "gold",
			Revision: "0123456789ab",
			Quiesce:  dataset.QuiesceNone,
			OnDelete: dataset.OnDelete{Mode: dataset.DeletePurge},
		},
		Labels: map[string]string{"odd\n\"label": "välue"},
		Home:   uuid.New(), Pool: f.pool.ID(), Epoch: 3, Request: uuid.New(),
		Created: time.Date(2026, 11, 20, 7, 42, 0, 123456789, time.UTC),
	}
	f.seal(&d)
	return d
}

// snapshot returns the record of a new snapshot of a dataset.
func (f *fixture) snapshot(d dataset.Dataset) dataset.Snapshot {
	return dataset.Snapshot{
		ID: uuid.New(), Dataset: d.ID, Volume: d.Volume, Name: "before", Kind: dataset.SnapshotManual,
		Size: d.Size, Profile: d.Profile, Epoch: d.Epoch, Created: d.Created, Request: uuid.New(),
	}
}

// create makes a ready dataset.
func (f *fixture) create() dataset.Dataset {
	f.Helper()
	d := f.record()
	size, err := f.pool.Create(f.ctx, d)
	f.ok(err)
	d.Size = size
	f.ok(f.pool.Commit(f.ctx, d.ID))
	return d
}

// take takes a snapshot.
func (f *fixture) take(d dataset.Dataset) dataset.Snapshot {
	f.Helper()
	s := f.snapshot(d)
	f.ok(f.pool.Snapshot(f.ctx, s, nil))
	return s
}

// clone makes a ready clone.
func (f *fixture) clone(src dataset.Source) dataset.Dataset {
	f.Helper()
	d := f.record()
	size, err := f.pool.Clone(f.ctx, d, src, nil)
	f.ok(err)
	d.Size = size
	f.ok(f.pool.Commit(f.ctx, d.ID))
	return d
}

// entries returns the entries of a dataset in the list, except for bytes of it that are still being removed.
func (f *fixture) entries(id uuid.UUID) []backends.Entry {
	f.Helper()
	list, err := f.pool.List(f.ctx)
	f.ok(err)
	var found []backends.Entry
	for _, e := range list {
		if e.ID == id && e.State != backends.EntryDeleting {
			found = append(found, e)
		}
	}
	return found
}

// absent fails if any part of a dataset is visible.
func (f *fixture) absent(id uuid.UUID) {
	f.Helper()
	_, err := f.pool.Stat(f.ctx, id)
	f.fails(err, dataset.ErrNotFound)
	if e := f.entries(id); len(e) > 0 {
		f.Errorf("the list has %+v", e)
	}
}

// hasSnapshots wants exactly these snapshots of a dataset, with their records.
func (f *fixture) hasSnapshots(id uuid.UUID, want ...dataset.Snapshot) {
	f.Helper()
	e, err := f.pool.Stat(f.ctx, id)
	f.ok(err)
	if e.Problem != "" {
		f.Errorf("problem: %s", e.Problem)
	}
	have := map[uuid.UUID]dataset.Snapshot{}
	for _, s := range e.Snapshots {
		have[s.ID] = s
	}
	wanted := map[uuid.UUID]dataset.Snapshot{}
	for _, s := range want {
		wanted[s.ID] = s
	}
	f.same("the snapshots", have, wanted)
	if len(e.Snapshots) != len(want) {
		f.Errorf("%d snapshots, want %d", len(e.Snapshots), len(want))
	}
}

// mounted is a dataset mounted by the suite.
type mounted struct {
	f    *fixture
	path string
	root *os.File
}

// mount mounts a dataset as the agent does.
func (f *fixture) mount(id uuid.UUID) *mounted {
	f.Helper()
	return f.mountWith(id, backends.AttachOptions{})
}

func (f *fixture) mountWith(id uuid.UUID, opts backends.AttachOptions) *mounted {
	f.Helper()
	a, err := f.pool.Attach(f.ctx, id, opts)
	f.ok(err)
	m := f.mountOf(a)
	if a.Mount.Grow && !opts.ReadOnly {
		f.ok(f.pool.(backends.Resizer).Grow(f.ctx, id, m.root))
	}
	return m
}

// mountOf mounts an attachment, and releases it.
func (f *fixture) mountOf(a backends.Attachment) *mounted {
	f.Helper()
	f.count++
	m := &mounted{f: f, path: filepath.Join(f.TempDir(), fmt.Sprint("mnt", f.count))}
	err := errors.Join(os.Mkdir(m.path, 0o700), mountOn(a.Mount, m.path))
	if rErr := a.Release(); rErr != nil {
		f.Errorf("release: %v", rErr)
	}
	f.ok(err)
	f.Cleanup(m.unmount)
	m.root, err = os.Open(m.path)
	f.ok(err)
	return m
}

func mountOn(m backends.Mount, target string) error {
	if m.FSType != "bind" {
		options := m.Options
		if m.Flags.NoDev {
			options = append(options[:len(options):len(options)], "nodev")
		}
		return mount.Mount(target, mount.Spec{
			Source:   m.Source,
			FSType:   m.FSType,
			Options:  options,
			ReadOnly: m.Flags.ReadOnly,
		})
	}
	src, err := os.Open(m.Source)
	if err != nil {
		return err
	}
	defer src.Close()
	return mount.Bind(src, target, mount.BindFlags{ReadOnly: m.Flags.ReadOnly, NoDev: m.Flags.NoDev})
}

// unmount unmounts; again is fine.
func (m *mounted) unmount() {
	m.f.Helper()
	if m.path == "" {
		return
	}
	if m.root != nil {
		_ = m.root.Close()
	}
	if err := mount.Unmount(m.path); err != nil {
		m.f.Errorf("unmount: %v", err)
	}
	m.path = ""
}

func (m *mounted) in(name string) string { return filepath.Join(m.path, name) }

// write puts a file with that content into a dataset that is not mounted.
func (f *fixture) write(id uuid.UUID, name, content string) {
	f.Helper()
	m := f.mount(id)
	defer m.unmount()
	f.ok(os.WriteFile(m.in(name), []byte(content), 0o644))
}

// holds fails unless a file in a dataset that is not mounted has that content; "" means no file.
func (f *fixture) holds(id uuid.UUID, name, content string) {
	f.Helper()
	m := f.mount(id)
	defer m.unmount()
	b, err := os.ReadFile(m.in(name))
	if content == "" && errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil || string(b) != content {
		f.Fatalf("%s holds %q (%v), want %q", name, b, err, content)
	}
}

// equal wants two trees to be equal.
func (f *fixture) equal(a, b *os.File) {
	f.Helper()
	found, err := tree.Compare(f.ctx, a, b)
	f.ok(err)
	found = slices.DeleteFunc(found, func(d tree.Difference) bool {
		return d.What == "modification time" && slices.Contains(f.without, treetest.Times)
	})
	for _, d := range found[:min(len(found), 20)] {
		f.Errorf("differs: %s", d)
	}
	if len(found) > 0 {
		f.FailNow()
	}
}

// plain makes a plain directory, and opens it.
func (f *fixture) plain() *os.File {
	f.Helper()
	dir, err := os.Open(f.TempDir())
	f.ok(err)
	f.Cleanup(func() { f.ok(dir.Close()) })
	return dir
}
