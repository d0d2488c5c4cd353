package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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

// OpenPool is the pool of a test, which can be closed and opened again.
type OpenPool struct {
	Checks
	Kind   backends.Kind
	Config backends.Config
	Pool   backends.Pool
	Can    dataset.Capabilities
}

// Open opens the pool. If the pool is open already, it closes it first.
func (f *OpenPool) Open() {
	f.Helper()
	again := f.Pool != nil
	if again {
		f.OK(f.Pool.Close())
	}
	pool, err := f.Kind.Open(f.Ctx, f.Config)
	f.OK(err)
	f.Pool, f.Can = pool, pool.Info().Capabilities
	if !again {
		f.Cleanup(func() { f.OK(f.Pool.Close()) })
	}
}

// NothingLeftBelow fails if something is still mounted below dir, or a loop device still has a file below dir.
func (f *OpenPool) NothingLeftBelow(dir string) {
	table, err := mount.Table()
	f.OK(err)
	for _, m := range table.Under(dir) {
		f.Errorf("left mounted: %s", m.Mountpoint)
	}
	loops, err := loopdev.List()
	f.OK(err)
	for _, l := range loops {
		if strings.HasPrefix(l.Backing, dir+"/") {
			f.Errorf("left attached: %s to %s", l.Path, l.Backing)
		}
	}
}

// Entries returns the entries of a dataset in the list of the pool, without those whose deletion has begun.
func (f *OpenPool) Entries(id uuid.UUID) []backends.Entry {
	f.Helper()
	list, err := f.Pool.List(f.Ctx)
	f.OK(err)
	var found []backends.Entry
	for _, e := range list {
		if e.ID == id && e.State != backends.EntryDeleting {
			found = append(found, e)
		}
	}
	return found
}

// Reap reaps the pool, drops the given datasets, and fails unless it removes exactly want things.
func (f *OpenPool) Reap(want int, drop ...uuid.UUID) {
	f.Helper()
	n, err := f.Pool.Reap(f.Ctx, func(id uuid.UUID) bool { return slices.Contains(drop, id) })
	f.OK(err)
	if n != want {
		f.Errorf("reaping removed %d, want %d", n, want)
	}
}

// Seal makes a new dataset encrypted if the config of the pool has Keys.
func (f *OpenPool) Seal(d *dataset.Dataset) {
	if k, ok := f.Config.Keys.(*Keys); ok {
		sealed := k.Sealed
		d.Encryption = &sealed
	}
}

// FindInPool searches the pool for a text: first the device of the dataset, if it has one, and then the files of the
// pool. It returns the path of the device or file that contains the text, or "" if none does.
func (f *OpenPool) FindInPool(d dataset.Dataset, what string) (found string) {
	f.Helper()
	if device := f.DeviceBelow(d); device != "" {
		has, err := onDevice(device, []byte(what))
		if f.OK(err); has {
			return device
		}
	}
	f.OK(filepath.WalkDir(f.Pool.Info().Path, func(path string, e fs.DirEntry, err error) error {
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

// DeviceBelow returns the device that stores a dataset. If the dataset is encrypted, that is the device below the
// mapping. It returns "" if the dataset is stored in files.
func (f *OpenPool) DeviceBelow(d dataset.Dataset) string {
	f.Helper()
	att, err := f.Pool.Attach(f.Ctx, d.ID, backends.AttachOptions{})
	f.OK(err)
	defer func() { f.OK(att.Release()) }()
	var st unix.Stat_t
	if err := unix.Stat(att.Mount.Source, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	sys := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	device, err := filepath.EvalSymlinks(sys)
	f.OK(err)
	if kind, _ := os.ReadFile(sys + "/dm/uuid"); strings.HasPrefix(string(kind), "CRYPT-") {
		slaves, err := os.ReadDir(sys + "/slaves")
		f.OK(err)
		device = slaves[0].Name()
	}
	if device = filepath.Base(device); strings.HasPrefix(device, "loop") {
		return "" // its file is in the pool
	}
	return "/dev/" + device
}

// HasFiles reports whether the files of the pool have at least the given number of bytes. If not, the data of datasets
// is not stored in files below the path of the pool, and the tests of the backend search the disk instead.
func (f *OpenPool) HasFiles(bytes int64) bool {
	f.Helper()
	var sum int64
	f.OK(filepath.WalkDir(f.Pool.Info().Path, func(_ string, e fs.DirEntry, err error) error {
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

// Sibling returns the config of a pool beside this one, in the same filesystem.
func (f *OpenPool) Sibling(name string) backends.Config {
	cfg := f.Config
	cfg.ID, cfg.Path = uuid.New(), f.Config.Path+"-"+name
	if cfg.Mount != "" {
		cfg.Mount += "-" + name
	}
	return cfg
}

// Filesystems returns the filesystems that datasets can have, or "" if they have no own filesystem.
func (f *OpenPool) Filesystems() []string {
	if !f.Can.OwnFilesystem {
		return []string{""}
	}
	return f.Can.Filesystems
}

// Copier returns the pool as a Copier. It panics if the pool keeps no copies.
func (f *OpenPool) Copier() backends.Copier { return f.Pool.(backends.Copier) }

// CommitJournal forces the journal of the pool's filesystem to the disk. All changed names are durable then, but not
// the bytes of files that were not flushed.
func (f *OpenPool) CommitJournal() {
	f.Helper()
	other, err := os.Create(filepath.Join(filepath.Dir(f.Config.Path), "other"))
	f.OK(err)
	f.OK(other.Sync())
	f.OK(other.Close())
}

// contains searches the allocated blocks of a file.
func contains(path string, what []byte) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	if err := file.Sync(); err != nil {
		return false, err
	}
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		start, err := unix.Seek(int(file.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		n, err := file.ReadAt(buf, start)
		if bytes.Contains(buf[:n], what) {
			return true, nil
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		at = start + int64(n-len(what)+1)
	}
}

// onDevice searches a whole device for bytes.
func onDevice(path string, what []byte) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := file.ReadAt(buf, at)
		if bytes.Contains(buf[:n], what) {
			return true, nil
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		at += int64(n - len(what) + 1)
	}
}
