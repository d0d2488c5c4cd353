package loop

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// hosted returns a pool in an image on an ext4 of a size, as on a host without reflinks.
func hosted(t *testing.T, disk, image dataset.Size) (*fixture, backends.Config) {
	t.Helper()
	host := scratch.Mount(t, "ext4", int64(disk))
	cfg := backends.Config{
		Name: "test", Path: filepath.Join(host, "pool.img"), Image: image, Mount: filepath.Join(host, "mnt"),
		Make: true,
	}
	return openHosted(t, cfg), cfg
}

func openHosted(t *testing.T, cfg backends.Config) *fixture {
	t.Helper()
	b, rec := newBackend()
	pool, err := b.Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, pool.Close())
	})
	return &fixture{T: t, Pool: pool.(*Pool), disk: filepath.Dir(cfg.Path), forks: rec}
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

func TestPoolImage(t *testing.T) {
	host := scratch.Mount(t, "ext4", int64(2*dataset.GiB))
	cfg := backends.Config{
		Name:  "test",
		Path:  filepath.Join(host, "pool.img"),
		Image: dataset.GiB,
		Mount: filepath.Join(host, "mnt"),
		Make:  true,
	}
	// An earlier attempt was interrupted.
	require.NoError(t, os.WriteFile(backends.TemporaryImagePath(cfg.Path), make([]byte, 1<<20), 0o600))
	f := openHosted(t, cfg)
	if got := blocks(t, cfg.Path); got < int64(dataset.GiB) {
		t.Errorf("%d bytes are allocated", got)
	}
	d := newDataset(xfs)
	f.create(d)
	f.put(d.ID, "a", strings.Repeat("data", 1<<20))
	f.must(f.Delete(t.Context(), d.ID))
	e := newDataset(xfs)
	f.create(e)
	f.put(e.ID, "a", "kept")
	if got := blocks(t, cfg.Path); got < int64(dataset.GiB) {
		t.Errorf("a deletion left %d bytes allocated", got)
	}
	f.must(f.Pool.Close())
	if e := f.mountedAt(cfg.Mount); e != nil {
		t.Errorf("mounted after Close: %+v", e)
	}
	_, err := f.List(t.Context())
	f.isKind(err, dataset.ErrOffline)

	cfg.Make = false
	cfg.ID = f.ID()
	g := openHosted(t, cfg)
	if got := g.get(e.ID, "a"); got != "kept" {
		t.Errorf("got %q", got)
	}
	// An image in use stays mounted, and the next process finds it mounted.
	_, unmount := g.mounted(e.ID)
	g.must(g.Pool.Close())
	if f.mountedAt(cfg.Mount) == nil {
		t.Error("unmounted under a dataset")
	}
	h := openHosted(t, cfg)
	unmount()
	if got := h.get(e.ID, "a"); got != "kept" {
		t.Errorf("got %q", got)
	}
}

func (f *fixture) mountedAt(path string) *mount.Entry {
	f.Helper()
	table, err := mount.Table()
	f.must(err)
	return table.At(path)
}

// B15: a host disk that fills up takes nothing from the volumes in a preallocated image.
func TestB15HostDiskFull(t *testing.T) {
	f, cfg := hosted(t, 2*dataset.GiB, dataset.GiB)
	d := newDataset(xfs)
	f.create(d)
	root, unmount := f.mounted(d.ID)
	hog, err := os.Create(filepath.Join(f.disk, "hog"))
	f.must(err)
	defer hog.Close()
	for buf := make([]byte, 1<<20); ; {
		if _, err := hog.Write(buf); err != nil {
			require.ErrorIs(t, err, unix.ENOSPC)
			break
		}
	}
	f.must(hog.Sync())
	f.write(filepath.Join(root, "a"), strings.Repeat("x", 100<<20))
	s := f.takeSnapshot(d)
	f.write(filepath.Join(root, "a"), strings.Repeat("y", 100<<20))
	unmount()
	f.must(f.Pool.Close())

	cfg.Make = false
	g := openHosted(t, cfg)
	c := newDataset("")
	c.Size = 0
	g.clone(c, at(s))
	if got := g.get(c.ID, "a"); got != strings.Repeat("x", 100<<20) {
		t.Errorf("the snapshot has %d other bytes", len(got))
	}
	if got := g.get(d.ID, "a"); got != strings.Repeat("y", 100<<20) {
		t.Errorf("the head has %d other bytes", len(got))
	}
}

// An image that lost blocks gets them back. If its disk cannot give them, nothing new begins in the pool.
func TestSparseImage(t *testing.T) {
	f, cfg := hosted(t, 2*dataset.GiB, dataset.GiB)
	f.must(f.Pool.Close())
	hole := func() {
		file, err := os.OpenFile(cfg.Path, os.O_RDWR, 0)
		f.must(err)
		defer file.Close()
		f.must(unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 900<<20, 100<<20))
	}
	hole()
	cfg.Make = false
	g := openHosted(t, cfg)
	if got := blocks(t, cfg.Path); got < int64(dataset.GiB) {
		t.Errorf("%d bytes are allocated", got)
	}
	if note := g.Info().Note; !strings.Contains(note,
		"had lost 100MiB of its blocks, and 100MiB were allocated again") {
		t.Errorf("note %q", note)
	}
	g.must(g.Pool.Close())
	hole()
	hog, err := os.Create(filepath.Join(f.disk, "hog"))
	f.must(err)
	defer hog.Close()
	f.must(unix.Fallocate(int(hog.Fd()), 0, 0, int64(freeOf(t, f.disk)-60*dataset.MiB)))
	h := openHosted(t, cfg)
	_, err = h.Create(t.Context(), newDataset(xfs))
	h.isKind(err, dataset.ErrNoSpace)
	if st := h.Status(t.Context()); !st.Online || !strings.Contains(st.Reason, "not fully allocated") {
		t.Errorf("status %+v", st)
	}
	f.must(os.Remove(hog.Name()))
	f.must(hog.Close())
	_, err = h.Create(t.Context(), newDataset(xfs))
	h.must(err)
}

func freeOf(t *testing.T, path string) dataset.Size {
	t.Helper()
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(path, &st))
	return dataset.Size(st.Bavail) * dataset.Size(st.Bsize)
}

func TestImageThatCannotBe(t *testing.T) {
	host := scratch.Mount(t, "ext4", int64(dataset.GiB))
	b, _ := newBackend()
	f := &fixture{T: t}
	cfg := backends.Config{
		Name:  "test",
		Path:  filepath.Join(host, "pool.img"),
		Mount: filepath.Join(host, "mnt"),
		Image: dataset.GiB,
		Make:  true,
	}
	open := func(change func(*backends.Config), kind *dataset.Kind) {
		t.Helper()
		c := cfg
		change(&c)
		_, err := b.Open(t.Context(), c)
		f.isKind(err, kind)
		if left, _ := filepath.Glob(backends.TemporaryImagePath(filepath.Join(host, "*"))); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	}
	open(func(*backends.Config) {}, dataset.ErrNoSpace)
	open(func(c *backends.Config) { c.Image = 100 * dataset.MiB }, dataset.ErrUnsupported)
	open(func(c *backends.Config) { c.Make = false }, dataset.ErrOffline)
	open(func(c *backends.Config) { c.Mount = "" }, dataset.ErrInvalid)
	if _, err := os.Stat(cfg.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the image is there: %v", err)
	}
	for name, content := range map[string]string{
		"text":    "precious",
		"zeros":   strings.Repeat("\x00", 1<<20),
		"nothing": "",
	} {
		path := filepath.Join(host, name)
		f.write(path, content)
		open(func(c *backends.Config) { c.Path = path }, dataset.ErrExists)
		if b, err := os.ReadFile(path); err != nil || string(b) != content {
			t.Errorf("%s was changed: %v", name, err)
		}
	}
	require.NoError(t, os.Symlink(filepath.Join(host, "text"), cfg.Path))
	open(func(*backends.Config) {}, dataset.ErrExists)
}

func TestUnsuitablePlaces(t *testing.T) {
	plain := scratch.Image(t, "", int64(512*dataset.MiB))
	scratch.Run(t, "mkfs.xfs", "-q", "-s", "size=4096", "-m", "reflink=0", plain)
	b, _ := newBackend()
	f := &fixture{T: t}
	for name, disk := range map[string]string{
		"ext4":                scratch.Mount(t, "ext4", scratch.Ext4),
		"without reflinks":    scratch.MountImage(t, "xfs", plain),
		"/proc":               "/proc",
		"without such parent": filepath.Join(t.TempDir(), "missing"),
	} {
		path := filepath.Join(disk, "pool")
		_, err := b.Open(t.Context(), backends.Config{Name: "test", Path: path, Make: true})
		if name == "without such parent" {
			if err == nil {
				t.Error("a pool without a parent")
			}
			continue
		}
		f.isKind(err, dataset.ErrUnsupported)
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the directory was made (%v)", name, err)
		}
		_, err = b.Open(t.Context(), backends.Config{Name: "test", Path: path, ID: uuid.New()})
		f.isKind(err, dataset.ErrOffline)
	}
}

// B15: a pool that fills up under its volumes gives them I/O errors. The documented remedy (make room, unmount,
// mount) finds everything that was synced before.
func TestB15PoolFull(t *testing.T) {
	onAll(t, func(f *fixture, d dataset.Dataset) {
		f.create(d)
		root, unmount := f.mounted(d.ID)
		f.write(filepath.Join(root, "before"), strings.Repeat("b", 10<<20))
		hog, err := os.Create(filepath.Join(f.disk, "hog"))
		f.must(err)
		defer hog.Close()
		f.must(allocate(hog, int64(freeOf(f.T, f.disk)-40*dataset.MiB)))
		f.must(hog.Sync())
		failed := false
		for i := 0; i < 200 && !failed; i++ {
			failed = f.tryWrite(filepath.Join(root, "more"), int64(i)<<20) != nil
		}
		if !failed {
			f.Error("200 MiB fit into 40")
		}
		unmount()
		f.must(hog.Truncate(0))
		f.must(hog.Sync())
		if got := f.get(d.ID, "before"); got != strings.Repeat("b", 10<<20) {
			f.Errorf("what was synced is %d other bytes", len(got))
		}
		f.put(d.ID, "after", "it goes on")
	})
}

// tryWrite writes a MiB at an offset and flushes it.
func (f *fixture) tryWrite(path string, off int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteAt([]byte(strings.Repeat("m", 1<<20)), off)
	return errors.Join(err, file.Sync(), file.Close())
}
