package loop

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
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

// A virtual machine that is running may have an XFS in a file as its disk. The file is not written to, not even by
// replaying its log.
func TestImageOfOthersIsLeftAlone(t *testing.T) {
	image := scratch.Image(t, xfs, int64(dataset.GiB))
	theirs := t.TempDir()
	scratch.Run(t, "mount", "-o", "loop", image, theirs)
	require.NoError(t, os.WriteFile(filepath.Join(theirs, "file"), []byte("theirs"), 0o600))
	scratch.Run(t, "umount", theirs)
	before, sum := blocks(t, image), checksum(t, image)
	b, _ := newBackend()
	f, mnt := &fixture{T: t}, filepath.Join(t.TempDir(), "mnt")
	for _, id := range []uuid.UUID{uuid.Nil, uuid.New()} { // of drover.yaml, and of drover pool create
		_, err := b.Open(t.Context(), backends.Config{
			ID:    id,
			Name:  "test",
			Path:  image,
			Image: dataset.GiB,
			Mount: mnt,
			Make:  true,
		})
		f.isKind(err, dataset.ErrExists)
		if e := f.mountedAt(mnt); e != nil {
			t.Errorf("left mounted: %+v", e)
		}
	}
	if after := blocks(t, image); after != before {
		t.Errorf("%d bytes were allocated, now %d", before, after)
	}
	if !bytes.Equal(checksum(t, image), sum) {
		t.Error("it was written to")
	}
}

func TestImageInUseIsLeftAlone(t *testing.T) {
	image := scratch.Image(t, xfs, int64(dataset.GiB))
	scratch.MountImage(t, xfs, image)
	b, _ := newBackend()
	for _, id := range []uuid.UUID{uuid.Nil, uuid.New()} {
		_, err := b.Open(t.Context(), backends.Config{
			ID: id, Name: "test", Path: image, Image: dataset.GiB, Mount: filepath.Join(t.TempDir(), "mnt"), Make: true,
		})
		(&fixture{T: t}).isKind(err, dataset.ErrInUse)
	}
}

func checksum(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	require.NoError(t, err)
	return h.Sum(nil)
}

// A foreign mount in the place of the pool's image stays mounted.
func TestMountOfOthersIsLeftAlone(t *testing.T) {
	cfg := imageConfig(t)
	first := openHosted(t, cfg)
	first.must(first.Pool.Close())
	cfg.ID, cfg.Make = first.ID(), false
	first.must(unix.Mount("none", cfg.Mount, "tmpfs", 0, ""))
	b, _ := newBackend()
	_, err := b.Open(t.Context(), cfg)
	first.isKind(err, dataset.ErrOffline)
	if first.mountedAt(cfg.Mount) == nil {
		t.Fatal("it was unmounted")
	}
	first.must(unix.Unmount(cfg.Mount, 0))
}
