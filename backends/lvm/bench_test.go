//go:build lab

package lvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/lab/inside"
	"github.com/droverhq/drover/test/require"
)

const (
	little = 64 * dataset.MiB
	more   = 96 * dataset.MiB
)

// bench is a pool whose operations a test can interrupt.
type bench struct {
	*testing.T
	backends.Pool
	backend *Backend
	cfg     backends.Config
	left    int // steps until the crash; -1: none
}

// crash is the value of the panic in a step.
type crash struct{ step string }

// do runs a command and returns its output.
func do(t testing.TB, name string, args ...string) string {
	t.Helper()
	res, err := (&run.System{}).Run(context.Background(), run.Command{Name: name, Args: args, Timeout: 2 * time.Minute})
	require.NoError(t, err)
	return string(res.Stdout)
}

// lvmDo runs lvm as the backend does.
func lvmDo(t testing.TB, command string, args ...string) string {
	t.Helper()
	return do(t, program, append(append([]string{command}, settings()...), args...)...)
}

// dropped removes a volume group when a test ends, with the files that it leaves if no udev runs.
func dropped(t testing.TB, vg string) {
	t.Cleanup(func() {
		if _, _, err := newTool(&run.System{}).readGroup(context.Background(), vg); err == nil {
			lvmDo(t, "vgremove", "--force", "--yes", vg)
		}
		for _, left := range []string{"", "-full", "-link"} {
			assert.NoError(t, os.RemoveAll("/dev/"+vg+left))
		}
	})
}

// place returns the configuration of a new pool on empty disks. The volume group is removed when the test ends.
func place(t testing.TB, disks ...string) backends.Config {
	t.Helper()
	cfg := backends.Config{
		Name:  "test",
		Path:  "/dev/test-" + disks[0],
		Mount: filepath.Join(t.TempDir(), "mnt"),
		Make:  true,
	}
	for _, disk := range disks {
		cfg.Devices = append(cfg.Devices, inside.Disk(t, disk))
	}
	dropped(t, filepath.Base(cfg.Path))
	return cfg
}

func newBench(t *testing.T, cfg backends.Config) *bench {
	t.Helper()
	b := &bench{T: t, cfg: cfg, left: -1}
	b.backend = New(&run.System{})
	b.backend.step = func(step string) {
		if b.left == 0 {
			panic(crash{step})
		}
		b.left--
	}
	b.open()
	b.Cleanup(func() { b.must(b.Close()) })
	return b
}

// open opens the pool again, without the state of the earlier Pool.
func (b *bench) open() {
	b.Helper()
	pool, err := b.backend.Open(b.Context(), b.cfg)
	b.must(err)
	b.Pool = pool
}

func (b *bench) must(err error) {
	b.Helper()
	require.NoError(b, err)
}

// cut makes an operation crash at a step, and reports whether it reached the step.
func (b *bench) cut(at int, do func() error) (cut bool, err error) {
	b.left = at
	defer func() {
		b.left = -1
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
			cut = true
		}
	}()
	return false, do()
}

// in mounts a dataset, calls do, and unmounts the dataset.
func (b *bench) in(id uuid.UUID, do func(dir string)) {
	b.Helper()
	dir := b.mount(id)
	defer func() { b.must(mount.Unmount(dir)) }()
	do(dir)
}

func (b *bench) mount(id uuid.UUID) string {
	b.Helper()
	a, err := b.Attach(b.Context(), id, backends.AttachOptions{})
	b.must(err)
	dir := filepath.Join(b.TempDir(), "mnt")
	b.must(os.Mkdir(dir, 0o700))
	err = mount.Mount(dir, mount.Spec{Source: a.Mount.Source, FSType: a.Mount.FSType, Options: a.Mount.Options})
	b.must(errors.Join(err, a.Release()))
	if a.Mount.Grow {
		root, err := os.Open(dir)
		b.must(err)
		b.must(errors.Join(b.Pool.(backends.Resizer).Grow(b.Context(), id, root), root.Close()))
	}
	return dir
}

func (b *bench) write(id uuid.UUID, content string) {
	b.Helper()
	b.in(id, func(dir string) { b.must(os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o600)) })
}

func (b *bench) read(id uuid.UUID) (content string) {
	b.Helper()
	b.in(id, func(dir string) {
		raw, err := os.ReadFile(filepath.Join(dir, "file"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			b.Fatal(err)
		}
		content = string(raw)
	})
	return content
}

// snapshotHolds fails unless a clone of a snapshot has the content. With "absent", it fails if the snapshot exists.
func (b *bench) snapshotHolds(ds, snapshot uuid.UUID, want string) {
	b.Helper()
	c := b.record(0)
	_, err := b.Clone(b.Context(), c, dataset.Source{Dataset: ds, Snapshot: snapshot}, nil)
	got := "absent"
	if dataset.KindOf(err) != dataset.ErrNotFound {
		b.must(err)
		got = b.read(c.ID)
		b.must(b.Delete(b.Context(), c.ID))
	}
	if got != want {
		b.Errorf("snapshot %s holds %q, want %q", snapshot, got, want)
	}
}

// record returns the record of a new dataset. The dataset is encrypted if the pool has keys.
func (b *bench) record(size dataset.Size) dataset.Dataset {
	d := dataset.Dataset{ID: uuid.New(), Size: size}
	if b.cfg.Keys != nil {
		d.Encryption = &dataset.Encryption{
			ID:      uuid.MustParse("8a6b5a0e-5d0f-4c55-9c4f-0f2f5a1f7d11"),
			KeyID:   "00000000",
			Wrapped: []byte("wrapped"),
		}
	}
	return d
}

func (b *bench) create(size dataset.Size) dataset.Dataset {
	b.Helper()
	d := b.record(size)
	_, err := b.Create(b.Context(), d)
	b.must(err)
	b.must(b.Commit(b.Context(), d.ID))
	return d
}

// volumes returns the names of Drover's volumes of datasets, and of all other volumes in its thin pool.
func (b *bench) volumes() (names []string) {
	b.Helper()
	all, err := newTool(&run.System{}).volumes(b.Context(), filepath.Base(b.cfg.Path))
	b.must(err)
	for name, v := range all {
		if v.Pool == poolName || volumeName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// settled reaps, and fails unless every remaining volume is a head or a snapshot.
func (b *bench) settled() {
	b.Helper()
	_, err := b.Reap(b.Context(), func(uuid.UUID) bool { return true })
	b.must(err)
	n, err := b.Reap(b.Context(), func(uuid.UUID) bool { return true })
	b.must(err)
	if n != 0 {
		b.Errorf("reaped %d things more", n)
	}
	list, err := b.List(b.Context())
	b.must(err)
	want := 0
	for _, e := range list {
		if e.Problem != "" || e.State != backends.EntryReady && e.State != backends.EntryIncoming {
			b.Errorf("the list has %+v", e)
		}
		want += 1 + len(e.Snapshots)
	}
	if have := b.volumes(); len(have) != want {
		b.Errorf("there are %d volumes, and %d on record: %q", len(have), want, have)
	}
}

// sizeIs reports whether the head of a dataset has a size.
func (b *bench) sizeIs(id uuid.UUID, want dataset.Size) bool {
	b.Helper()
	p := b.Pool.(*Pool)
	f, err := p.Shelf.FindDataset(id)
	b.must(err)
	defer f.Close()
	_, l, err := headLink(f)
	b.must(err)
	device, err := p.sizeOf(b.Context(), l.Volume)
	b.must(err)
	return l.Size == want && device >= p.volumeFor(l.Filesystem, want, 0)
}

func (b *bench) head(id uuid.UUID) (string, error) {
	f, err := b.Pool.(*Pool).Shelf.FindDataset(id)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return headOf(f)
}

// cast has the datasets and snapshots of a scenario: a dataset with the content "new", its snapshot with the content
// "old", and those that the operation makes.
type cast struct {
	ds, other      dataset.Dataset
	snapshot, keep dataset.Snapshot
}

func (b *bench) stage() cast {
	b.Helper()
	c := cast{ds: b.create(little), other: b.record(more)}
	c.snapshot = dataset.Snapshot{ID: uuid.New(), Dataset: c.ds.ID}
	c.keep = dataset.Snapshot{ID: uuid.New(), Dataset: c.ds.ID}
	b.write(c.ds.ID, "old")
	b.must(b.Snapshot(b.Context(), c.snapshot, nil))
	b.write(c.ds.ID, "new")
	return c
}
