package backendtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
)

// openPool is the pool of a test, which can be closed and opened again.
type openPool struct {
	checks
	kind backends.Kind
	cfg  backends.Config
	pool backends.Pool
	can  dataset.Capabilities
}

// open opens the pool. If the pool is open already, it closes it first.
func (f *openPool) open() {
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

// nothingLeftBelow fails if mounts or loop devices on the test's files are left.
func (f *openPool) nothingLeftBelow(dir string) {
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

// entries returns the entries of a dataset in the list, except for bytes of it that are still being removed.
func (f *openPool) entries(id uuid.UUID) []backends.Entry {
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

// reap reaps the pool, drops the given datasets, and fails unless it removes so many things.
func (f *openPool) reap(want int, drop ...uuid.UUID) {
	f.Helper()
	n, err := f.pool.Reap(f.ctx, func(id uuid.UUID) bool { return slices.Contains(drop, id) })
	f.ok(err)
	if n != want {
		f.Errorf("reaping removed %d, want %d", n, want)
	}
}

// seal makes a new dataset encrypted if the factory's pools have keys.
func (f *openPool) seal(d *dataset.Dataset) {
	if k, ok := f.cfg.Keys.(*Keys); ok {
		sealed := k.sealed
		d.Encryption = &sealed
	}
}

// inPool returns a file of the pool that contains a text, or the device of a dataset.
func (f *openPool) inPool(d dataset.Dataset, what string) (found string) {
	f.Helper()
	if device := f.below(d); device != "" {
		has, err := onDevice(device, []byte(what))
		if f.ok(err); has {
			return device
		}
	}
	f.ok(filepath.WalkDir(f.pool.Info().Path, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || found != "" {
			return err
		}
		has, err := contains(path, []byte(what))
		if has {
			found = path
		}
		return err
	}))
	return found
}

// below returns the device of a dataset in the pool, below its mapping if it has one; none if the dataset is in files.
func (f *openPool) below(d dataset.Dataset) string {
	f.Helper()
	att, err := f.pool.Attach(f.ctx, d.ID, backends.AttachOptions{})
	f.ok(err)
	defer func() { f.ok(att.Release()) }()
	var st unix.Stat_t
	if err := unix.Stat(att.Mount.Source, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	sys := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	device, err := filepath.EvalSymlinks(sys)
	f.ok(err)
	if kind, _ := os.ReadFile(sys + "/dm/uuid"); strings.HasPrefix(string(kind), "CRYPT-") {
		slaves, err := os.ReadDir(sys + "/slaves")
		f.ok(err)
		device = slaves[0].Name()
	}
	if device = filepath.Base(device); strings.HasPrefix(device, "loop") {
		return "" // of a file of the pool
	}
	return "/dev/" + device
}

// hasFiles reports whether the files of the pool have so many bytes: otherwise the data of datasets is in
// none of them, and tests of the backend search the disk.
func (f *openPool) hasFiles(bytes int64) bool {
	f.Helper()
	var sum int64
	f.ok(filepath.WalkDir(f.pool.Info().Path, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	}))
	return sum >= bytes
}

// sibling returns the config of a pool beside this one, in the same filesystem.
func (f *openPool) sibling(name string) backends.Config {
	cfg := f.cfg
	cfg.ID, cfg.Path = uuid.New(), f.cfg.Path+"-"+name
	if cfg.Mount != "" {
		cfg.Mount += "-" + name
	}
	return cfg
}

// kinds returns the filesystems that datasets can have, or "" if they have no own filesystem.
func (f *openPool) kinds() []string {
	if !f.can.OwnFilesystem {
		return []string{""}
	}
	return f.can.Filesystems
}

func (f *openPool) copier() backends.Copier { return f.pool.(backends.Copier) }

// commitJournal forces the journal of the pool's filesystem to the disk. All changed names are durable then, but not
// the bytes of files that were not flushed.
func (f *openPool) commitJournal() {
	f.Helper()
	other, err := os.Create(filepath.Join(filepath.Dir(f.cfg.Path), "other"))
	f.ok(err)
	f.ok(other.Sync())
	f.ok(other.Close())
}
