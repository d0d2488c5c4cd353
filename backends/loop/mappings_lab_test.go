//go:build lab

package loop

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// oneKey has one data key for every encrypted dataset.
type oneKey struct{}

func (oneKey) DataKey(context.Context, dataset.Dataset) ([]byte, error) {
	return bytes.Repeat([]byte("data key"), 8), nil
}

// keys returns the keys of the fixture's pool, or nil if it has none.
func (f *fixture) keys() backends.Keys {
	if f.Pool.keys != nil {
		return oneKey{}
	}
	return nil
}

// reopen returns the pool as a new process finds it.
func (f *fixture) reopen(disk string) *fixture {
	f.Helper()
	b, rec := newBackend()
	pool, err := b.Open(f.Context(), backends.Config{
		ID:   f.ID(),
		Name: "test",
		Path: filepath.Join(disk, "pool"),
		Keys: f.keys(),
	})
	f.must(err)
	return &fixture{T: f.T, Pool: pool.(*Pool), disk: disk, forks: rec}
}

// encrypted returns a pool whose datasets are encrypted.
func encrypted(t *testing.T, runner run.Runner) *fixture {
	t.Helper()
	disk := scratch.Mount(t, "xfs", 1<<30)
	b := New(runner)
	b.tuning.Every, b.tuning.Lag, b.tuning.Part = testEvery, testEvery, testPart
	pool, err := b.Open(t.Context(), backends.Config{
		Name: "test",
		Path: filepath.Join(disk, "pool"),
		Make: true,
		Keys: oneKey{},
	})
	require.NoError(t, err)
	return &fixture{T: t, Pool: pool.(*Pool), disk: disk, forks: &fakes.Recorder{Next: runner}}
}

// nothingOpen checks that the pool has no mapping and no loop device.
func (f *fixture) nothingOpen(when string) {
	f.Helper()
	names, err := dm.List()
	f.must(err)
	if names = slices.DeleteFunc(names, func(n string) bool {
		return !strings.HasSuffix(n, f.mappings())
	}); len(names) > 0 {
		f.Errorf("%s there are still %q", when, names)
	}
	devices, err := loopdev.List()
	f.must(err)
	for _, d := range devices {
		if strings.HasPrefix(d.Backing, f.Shelf.Path()+"/") {
			f.Errorf("%s %s still holds %s", when, d.Path, d.Backing)
		}
	}
}

// C1 for the steps that differ in an encrypted dataset. No mapping and no device is left either.
func TestC1Encrypted(t *testing.T) {
	var f fixture
	c := crashes(&f, 0)
	c.Turn = nil // there is one filesystem
	c.Only = []string{"create", "clone a larger one", "resize", "delete"}
	settled := c.CheckReaped
	c.CheckReaped = func(t backendtest.T, p backends.Pool) {
		settled(t, p)
		f := &fixture{T: f.T, Pool: p.(*Pool)}
		f.must(f.dropAllUnused())
		f.nothingOpen("after reaping")
	}
	crashing.Run(t, "xfs", func(t *testing.T) (backends.Kind, backends.Config) {
		f.T = t
		b, _ := newBackend()
		disk := scratch.Mount(t, "xfs", 1<<30)
		return b, backends.Config{Name: "test", Path: filepath.Join(disk, "pool"), Keys: backendtest.NewKeys()}
	}, c)
}

// A mapping that cryptsetup made before it failed or was killed is removed at once. Mappings that a killed process
// left are removed by the next start, or together with their datasets.
func TestMappingsThatWereLeft(t *testing.T) {
	var fails func(name string) error // after an open
	programs := &run.System{}
	f := encrypted(t, fakes.Run(func(ctx context.Context, c run.Command) (run.Result, error) {
		res, err := programs.Run(ctx, c)
		if err == nil && fails != nil && slices.Contains(c.Args, "open") {
			err = fails(c.Args[len(c.Args)-1])
		}
		return res, err
	}))
	var link string
	for what, how := range map[string]func(name string) error{
		"cryptsetup was killed": func(string) error { return errors.New("killed") },
		"its device is another": func(name string) error {
			m, _, err := dm.Lookup(name)
			if err == nil {
				link = m.Node()
				err = errors.Join(os.Remove(link), os.Symlink("/nowhere", link))
			}
			return err
		},
	} {
		fails = how
		d := f.newDataset(xfs)
		if _, err := f.Create(t.Context(), d); err == nil {
			t.Errorf("%s: made", what)
		}
		f.nothingOpen(what + ":")
		f.absentAt(shelf.Incoming, d)
	}
	f.must(os.Remove(link)) // before the number belongs to another mapping

	// left makes the remains of a process that is killed while cryptsetup runs.
	fails = nil
	left := func() dataset.Dataset {
		d := f.newDataset(xfs)
		dir := filepath.Join(f.Shelf.Path(), shelf.Incoming, d.ID.String())
		f.must(os.Mkdir(dir, 0o700))
		image := filepath.Join(dir, f.layout.Image(nextItem))
		f.must(os.WriteFile(image, nil, 0o600))
		f.must(os.Truncate(image, int64(testSize)))
		dev, err := loopdev.Attach(t.Context(), image, loopdev.Options{BlockSize: sector})
		f.must(err)
		defer dev.Close()
		key, err := oneKey{}.DataKey(t.Context(), d)
		f.must(err)
		f.must(crypt.New(programs).Format(t.Context(), dev.Path, uuid.New(), key))
		open := run.Command{
			Name: "cryptsetup",
			Args: []string{
				"open", "--type", "luks2", "--key-file=-", dev.Path, "drover-" + d.ID.String() + f.mappings(),
			},
			Stdin:   bytes.NewReader(key),
			Env:     []string{"DM_DISABLE_UDEV=1"},
			Timeout: time.Minute,
		}
		_, err = programs.Run(t.Context(), open)
		f.must(err)
		if _, there, err := dm.Lookup("drover-" + d.ID.String() + f.mappings()); err != nil || !there {
			t.Fatalf("nothing is left: %v", err)
		}
		return d
	}
	d := left()
	_, err := f.Reap(t.Context(), func(uuid.UUID) bool { return false })
	f.must(err)
	f.nothingOpen("after a reap")
	f.absentAt(shelf.Incoming, d)
	left()
	other := encrypted(t, programs)
	if names, err := dm.List(); err != nil || len(names) == 0 {
		t.Errorf("the start of another pool let go of it: %v", err)
	}
	f.must(other.Close())
	g := f.reopen(f.disk)
	g.nothingOpen("after a start")
}

// A container whose first header is damaged is refused by mounts and clones, with the command that repairs it. It is
// not changed until somebody runs that command.
func TestFirstHeaderLost(t *testing.T) {
	f := encrypted(t, &run.System{})
	d := f.newDataset(xfs)
	f.create(d)
	dir := f.folderOf(d.ID).Dir
	defer dir.Close()
	path := dir.Path(f.layout.Image(headItem))
	image, err := os.OpenFile(path, os.O_RDWR, 0)
	f.must(err)
	defer image.Close()
	_, err = image.WriteAt(make([]byte, 4096), 0)
	f.must(err)
	mend := "cryptsetup repair " + path
	attaches := func() error {
		att, err := f.Attach(t.Context(), d.ID, backends.AttachOptions{})
		if err == nil {
			err = att.Release()
		}
		return err
	}
	clone := d
	clone.ID = uuid.New()
	_, err = f.Clone(t.Context(), clone, head0(d), nil)
	for _, err := range []error{attaches(), f.Resize(t.Context(), d.ID, larger, nil), err} {
		f.isKind(err, dataset.ErrCorrupt)
		if !strings.Contains(err.Error(), mend) {
			t.Errorf("it says %v", err)
		}
	}
	if info, err := image.Stat(); err != nil || info.Size() > int64(d.Size)+int64(d.Size)/2 {
		t.Errorf("its image is %d bytes long: %v", info.Size(), err)
	}
	_, err = (&run.System{}).Run(t.Context(), run.Command{
		Name:    "cryptsetup",
		Args:    strings.Fields(mend)[1:],
		Timeout: time.Minute,
	})
	f.must(err)
	f.must(attaches())
}

func (f *fixture) absentAt(place string, d dataset.Dataset) {
	f.Helper()
	if _, err := os.Stat(filepath.Join(f.Shelf.Path(), place, d.ID.String())); !errors.Is(err, os.ErrNotExist) {
		f.Errorf("it lies in %s: %v", place, err)
	}
}

// mappings returns the suffix of the names of all mappings of the pool.
func (f *fixture) mappings() string { return "-" + f.ID().String()[:8] }
