//go:build lab

package lvm

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/require"
)

// oneKey has the same data key for all datasets.
type oneKey struct{}

func (oneKey) DataKey(context.Context, dataset.Dataset) ([]byte, error) {
	return bytes.Repeat([]byte("data key"), 8), nil
}

func newSealed(t *testing.T) *bench {
	t.Helper()
	cfg := place(t, "lvm-first")
	cfg.Keys = oneKey{}
	return newBench(t, cfg)
}

// nothingOpen fails if a mapping of the pool exists.
func (b *bench) nothingOpen(when string) {
	b.Helper()
	b.must(b.Pool.(*Pool).dropUnused())
	names, err := dm.List()
	b.must(err)
	if names = slices.DeleteFunc(names, func(n string) bool {
		return !strings.HasSuffix(n, b.Pool.(*Pool).mappingSuffix())
	}); len(names) > 0 {
		b.Errorf("%s there are still %q", when, names)
	}
}

// A volume grows to its full size while it is in use, or else at the next mount. Mappings that a killed process left
// are removed at the next start or with the volume. A volume in use is reported as in use.
func TestEncryptedVolume(t *testing.T) {
	b := newSealed(t)
	d := b.create(little)
	dir := b.mount(d.ID)
	if _, err := b.Stat(t.Context(), d.ID); err != nil {
		t.Error(err)
	}
	if err := b.Delete(t.Context(), d.ID); dataset.KindOf(err) != dataset.ErrInUse ||
		!strings.Contains(err.Error(), dir) {
		t.Errorf("deleted in use: %v", err)
	}
	root, err := os.Open(dir)
	b.must(err)
	resize := b.Pool.(backends.Resizer).Resize
	b.must(resize(t.Context(), d.ID, more, root))
	b.roomFor(dir, more)
	b.must(os.WriteFile(filepath.Join(dir, "file"), []byte("kept"), 0o600))
	b.must(root.Close())
	b.must(mount.Unmount(dir))
	b.nothingOpen("after the unmount")
	b.must(resize(t.Context(), d.ID, more+little, nil))
	b.in(d.ID, func(dir string) { b.roomFor(dir, more+little) })
	if got := b.read(d.ID); got != "kept" {
		t.Errorf("it holds %q", got)
	}

	b.leftOpen(d)
	b.open()
	b.nothingOpen("after a start")
	b.leftOpen(d)
	b.must(b.Delete(t.Context(), d.ID))
	b.nothingOpen("after a delete")

	plain := b.record(little)
	plain.Encryption = nil
	if _, err := b.Create(t.Context(), plain); err != nil {
		t.Fatal(err)
	}
	plain.Encryption = d.Encryption
	b.must(b.WriteRecord(t.Context(), plain, true))
	if _, err := b.Attach(t.Context(), plain.ID, backends.AttachOptions{}); dataset.KindOf(err) != dataset.ErrCorrupt {
		t.Errorf("a volume that nobody encrypted is attached as one that is: %v", err)
	}
	b.must(b.Delete(t.Context(), plain.ID))
}

// A container whose first header is damaged is refused, with the command that repairs it.
func TestFirstHeaderLost(t *testing.T) {
	b := newSealed(t)
	d := b.create(little)
	b.write(d.ID, "kept")
	b.nothingOpen("after the unmount")
	name, err := b.head(d.ID)
	b.must(err)
	p := b.Pool.(*Pool)
	disk, err := os.OpenFile("/dev/mapper/"+p.device(name), os.O_RDWR, 0)
	b.must(err)
	_, err = disk.WriteAt(make([]byte, 4096), 0)
	b.must(errors.Join(err, disk.Sync(), disk.Close()))
	mend := "cryptsetup repair " + disk.Name()
	_, err = b.Attach(t.Context(), d.ID, backends.AttachOptions{})
	if dataset.KindOf(err) != dataset.ErrCorrupt || !strings.Contains(err.Error(), mend) {
		t.Errorf("it says %v", err)
	}
	_, err = (&run.System{}).Run(t.Context(), run.Command{
		Name:    "cryptsetup",
		Args:    strings.Fields(mend)[1:],
		Timeout: time.Minute,
	})
	b.must(err)
	if got := b.read(d.ID); got != "kept" {
		t.Errorf("it holds %q", got)
	}
	b.must(b.Delete(t.Context(), d.ID))
}

// leftOpen opens the container of a dataset and leaves it open, like a process that was killed right after.
func (b *bench) leftOpen(d dataset.Dataset) {
	b.Helper()
	name, err := b.head(d.ID)
	b.must(err)
	p := b.Pool.(*Pool)
	dev, err := dm.Find(p.device(name))
	b.must(err)
	key, _ := oneKey{}.DataKey(b.Context(), d)
	open := run.Command{
		Name:    "cryptsetup",
		Args:    []string{"open", "--type", "luks2", "--key-file=-", dev.Node(), p.mapping(name)},
		Stdin:   bytes.NewReader(key),
		Env:     []string{"DM_DISABLE_UDEV=1"},
		Timeout: time.Minute,
	}
	_, err = (&run.System{}).Run(b.Context(), open)
	b.must(err)
}

// without makes a test find every program except one.
func without(t *testing.T, program string) {
	t.Helper()
	dir := t.TempDir()
	for _, from := range filepath.SplitList(os.Getenv("PATH")) {
		names, err := os.ReadDir(from)
		if err != nil {
			continue
		}
		for _, n := range names {
			if err := os.Symlink(filepath.Join(from, n.Name()), filepath.Join(dir, n.Name())); err != nil &&
				!errors.Is(err, fs.ErrExist) {
				t.Fatal(err)
			}
		}
	}
	require.NoError(t, os.Remove(filepath.Join(dir, program)))
	t.Setenv("PATH", dir)
}

// If cryptsetup was uninstalled, the pool reports that, and everything else works. Mappings that were left open are
// removed.
func TestWithoutCryptsetup(t *testing.T) {
	b := newSealed(t)
	d := b.create(little)
	b.write(d.ID, "kept")
	b.leftOpen(d)
	path := os.Getenv("PATH")
	without(t, "cryptsetup")
	b.open()
	b.nothingOpen("after a start")
	if b.Info().Capabilities.Encryption {
		t.Error("it says that it encrypts")
	}
	refused := func(err error) {
		t.Helper()
		if dataset.KindOf(err) != dataset.ErrUnsupported ||
			!strings.Contains(err.Error(), "apt-get install cryptsetup-bin") {
			t.Errorf("got %v", err)
		}
	}
	_, err := b.Attach(t.Context(), d.ID, backends.AttachOptions{})
	refused(err)
	refused(b.Pool.(backends.Resizer).Resize(t.Context(), d.ID, more, nil))
	if !b.sizeIs(d.ID, little) {
		t.Error("it has another size")
	}
	other := b.record(little)
	_, err = b.Create(t.Context(), other)
	refused(err)
	if _, err := b.Stat(t.Context(), other.ID); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Errorf("what was refused is there: %v", err)
	}
	s := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}
	b.must(b.Snapshot(t.Context(), s, nil))
	_, err = b.Clone(t.Context(), other, dataset.Source{Dataset: d.ID, Snapshot: s.ID}, nil)
	b.must(err)
	plain := dataset.Dataset{ID: uuid.New(), Size: little}
	_, err = b.Create(t.Context(), plain)
	b.must(err)
	b.must(b.Commit(t.Context(), plain.ID))
	b.write(plain.ID, "plain")
	b.must(b.Commit(t.Context(), other.ID))
	t.Setenv("PATH", path)
	if got := b.read(other.ID) + b.read(d.ID); got != "keptkept" {
		t.Errorf("with cryptsetup they hold %q", got)
	}
	for _, id := range []uuid.UUID{other.ID, plain.ID, d.ID} {
		b.must(b.Delete(t.Context(), id))
	}
}

// roomFor fails unless an empty volume has the size free, within 3 % and the rest of an extent.
func (b *bench) roomFor(dir string, size dataset.Size) {
	b.Helper()
	var st unix.Statfs_t
	b.must(unix.Statfs(dir, &st))
	if free := dataset.Size(st.Bavail) * dataset.Size(st.Bsize); free < size*97/100 ||
		free > size*103/100+b.Pool.(*Pool).extent {
		b.Errorf("%s are free in a volume of %s", free.Human(), size)
	}
}
