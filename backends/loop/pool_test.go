package loop

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// The filesystems that an image can hold.
const (
	ext4 = mkfs.Ext4
	xfs  = mkfs.XFS
)

// fixture is a pool on its own filesystem, for one test.
type fixture struct {
	*testing.T
	*Pool
	disk  string // mount point of the pool's filesystem
	forks *fakes.Recorder
}

func newBackend() (*Backend, *fakes.Recorder) {
	rec := &fakes.Recorder{Next: &run.System{}}
	b := New(rec)
	b.tuning.Every, b.tuning.Lag, b.tuning.Part = testEvery, testEvery, testPart // as many on every disk
	return b, rec
}

// testEvery makes several checkpoints in a small stream.
const testEvery = 512 << 10

// testPart makes a base be shared in many parts.
const testPart = 1 << 20

func newFixture(t *testing.T, fstype string) *fixture {
	t.Helper()
	const size = 1 << 30
	return fixtureAt(t, scratch.Mount(t, fstype, size))
}

func fixtureAt(t *testing.T, disk string) *fixture {
	t.Helper()
	b, rec := newBackend()
	pool, err := b.Open(t.Context(), backends.Config{Name: "test", Path: filepath.Join(disk, "pool"), Make: true})
	require.NoError(t, err)
	return &fixture{T: t, Pool: pool.(*Pool), disk: disk, forks: rec}
}

// onPools runs a test on each kind of pool.
func onPools(t *testing.T, test func(f *fixture)) {
	for _, fstype := range []string{"xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			test(newFixture(t, fstype))
		})
	}
}

// onAll runs a test on each kind of pool with each filesystem in the images.
func onAll(t *testing.T, test func(f *fixture, d dataset.Dataset)) {
	for _, fs := range []string{xfs, ext4} {
		t.Run(fs, func(t *testing.T) {
			onPools(t, func(f *fixture) { test(f, newDataset(fs)) })
		})
	}
}

const testSize = 320 * dataset.MiB

func newDataset(fs string) dataset.Dataset {
	return dataset.Dataset{
		ID: uuid.New(), Volume: "db", State: dataset.StateReady, Size: testSize,
		Profile: dataset.Profile{Name: "gold", Filesystem: dataset.Filesystem{Type: fs}},
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func newSnapshot(d dataset.Dataset) dataset.Snapshot {
	return dataset.Snapshot{
		ID:      uuid.New(),
		Dataset: d.ID,
		Kind:    dataset.SnapshotManual,
		Size:    d.Size,
		Created: d.Created,
	}
}

// must ends the test on an error.
func (f *fixture) must(err error) {
	f.Helper()
	require.NoError(f, err)
}

// isKind reports an error of another kind, or no error.
func (f *fixture) isKind(err error, kind *dataset.Kind) {
	f.Helper()
	if !errors.Is(err, kind) || bytes.ContainsRune([]byte(err.Error()), '\n') {
		f.Errorf("got %q, want one line of kind %q", err, kind.Code)
	}
}

func (f *fixture) create(d dataset.Dataset) {
	f.Helper()
	size, err := f.Create(f.Context(), d)
	f.must(err)
	if size != d.Size {
		f.Errorf("created with %s instead of %s", size, d.Size)
	}
	f.must(f.Commit(f.Context(), d.ID))
}

func (f *fixture) clone(d dataset.Dataset, src dataset.Source) {
	f.Helper()
	_, err := f.Clone(f.Context(), d, src, nil)
	f.must(err)
}

func (f *fixture) takeSnapshot(d dataset.Dataset) dataset.Snapshot {
	f.Helper()
	s := newSnapshot(d)
	f.must(f.Snapshot(f.Context(), s, nil))
	return s
}

// mounted mounts a dataset, as the agent does, until the test or unmount ends it.
func (f *fixture) mounted(id uuid.UUID) (root string, unmount func()) {
	f.Helper()
	att, err := f.Attach(f.Context(), id, backends.AttachOptions{})
	f.must(err)
	root = f.TempDir()
	m := att.Mount
	err = mount.Mount(root, mount.Spec{
		Source:   m.Source,
		FSType:   m.FSType,
		Options:  m.Options,
		ReadOnly: m.Flags.ReadOnly,
	})
	f.must(errors.Join(err, att.Release()))
	done := false
	unmount = func() {
		if done {
			return
		}
		done = true
		assert.NoError(f, mount.Unmount(root))
	}
	f.Cleanup(unmount)
	return root, unmount
}

// put writes a file into a dataset and makes it durable.
func (f *fixture) put(id uuid.UUID, name, data string) {
	f.Helper()
	root, unmount := f.mounted(id)
	defer unmount()
	f.write(filepath.Join(root, name), data)
}

func (f *fixture) write(path, data string) {
	f.Helper()
	file, err := os.Create(path)
	f.must(err)
	_, err = file.WriteString(data)
	f.must(errors.Join(err, file.Sync(), file.Close()))
}

// get reads a file of a dataset. It returns "" if there is no such file.
func (f *fixture) get(id uuid.UUID, name string) string {
	f.Helper()
	root, unmount := f.mounted(id)
	defer unmount()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.Fatal(err)
	}
	return string(b)
}

// entries lists the pool by ID. Foreign entries are under the nil UUID.
func (f *fixture) entries() map[uuid.UUID]backends.Entry {
	f.Helper()
	list, err := f.List(f.Context())
	f.must(err)
	m := make(map[uuid.UUID]backends.Entry)
	for _, e := range list {
		m[e.ID] = e
	}
	return m
}

func head0(d dataset.Dataset) dataset.Source { return dataset.Source{Dataset: d.ID} }

func at(s dataset.Snapshot) dataset.Source {
	return dataset.Source{Dataset: s.Dataset, Snapshot: s.ID}
}

// allocate makes a file take a number of bytes of its disk.
func allocate(f *os.File, size int64) error { return unix.Fallocate(int(f.Fd()), 0, 0, size) }
