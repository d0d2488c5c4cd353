package shelf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/safefile"
)

// The files of a pool.
const (
	MarkerFile = "pool.json"   // identifies the pool
	RecordFile = "record.json" // the record in the folder of a dataset

	// Temp starts the names of files and directories that are being made.
	Temp = "tmp-"
)

// The areas of a pool.
const (
	Datasets = "datasets"
	Incoming = "incoming"
	Deleting = "deleting"
	Copies   = "copies"
)

// areas returns the areas that every pool has, in the order in which a dataset goes through them. A search in this
// order misses no dataset that moves meanwhile.
func areas() []string { return []string{Incoming, Datasets, Deleting} }

// areas returns the areas of this pool, in the same order.
func (dir *directory) areas() []string {
	if dir.copies {
		return []string{Incoming, Copies, Datasets, Deleting}
	}
	return areas()
}

// marker is the content of pool.json, which identifies a pool.
type marker struct {
	Format  int       `json:"format"` // of this layout
	Backend string    `json:"backend"`
	ID      uuid.UUID `json:"id"`
	Name    string    `json:"name"` // of the pool when it was made
	// Generation is a counter: see backends.Pool.
	Generation uint64 `json:"generation,omitempty"`
	// Layout names the way in which the backend keeps datasets, if it has more than one.
	Layout string `json:"layout,omitempty"`
	// Folder reports that the directory was made together with the pool, so that Clear removes it.
	Folder bool `json:"folder,omitempty"`
	// Overcommit is a policy: see backends.PolicyKeeper.
	Overcommit float64 `json:"overcommit,omitempty"`
}

const format = 1

// directory is the directory of a pool with its marker. The directory is opened by its path for every call, and its
// marker read, so that a disk that was unmounted or exchanged is noticed at once.
type directory struct {
	// BackendNames are names beside the areas that belong to the backend. They are set before the pool is used.
	BackendNames []string
	// Flush makes a folder, everything in it and its last renaming durable. If nil, the areas are flushed that the
	// folder was moved from and to. It is set before the pool is used.
	Flush func(folder safefile.Dir) error

	path     string
	mark     marker                // the expected marker; its generation is not used
	copies   bool                  // the pool keeps copies too
	markerMu sync.Mutex            // held while the marker is rewritten or removed
	verified atomic.Pointer[stamp] // the version of the marker that was read last
}

// prepare checks the pool's marker and reads the pool's ID from it. If make is set, it makes the pool first.
func (dir *directory) prepare(make bool) error {
	if make {
		if err := dir.make(); err != nil {
			return fmt.Errorf("create a pool at %s: %w", dir.path, err)
		}
	}
	root, m, err := dir.open()
	if err != nil {
		return err
	}
	defer root.Close()
	if m.Backend != dir.mark.Backend {
		return dataset.Errorf(dataset.ErrExists, "%s is a pool of backend %s (this is %s)", dir.path, m.Backend,
			dir.mark.Backend)
	}
	dir.mark.ID = m.ID
	return nil
}

// ID returns the pool's UUID, from its marker.
func (dir *directory) ID() uuid.UUID { return dir.mark.ID }

// Path returns the pool's directory.
func (dir *directory) Path() string { return dir.path }

// Generation returns the counter in the pool's marker.
func (dir *directory) Generation() (uint64, error) {
	root, m, err := dir.open()
	if err != nil {
		return 0, err
	}
	return m.Generation, root.Close()
}

// Raise durably sets the counter in the pool's marker.
func (dir *directory) Raise(generation uint64) error {
	return dir.changeMarker(func(m *marker) { m.Generation = generation })
}

// Overcommit returns the policy in the pool's marker: see backends.PolicyKeeper.
func (dir *directory) Overcommit() (float64, error) {
	root, m, err := dir.open()
	if err != nil {
		return 0, err
	}
	return m.Overcommit, root.Close()
}

// KeepOvercommit durably sets the policy in the pool's marker.
func (dir *directory) KeepOvercommit(ratio float64) error {
	return dir.changeMarker(func(m *marker) { m.Overcommit = ratio })
}

// changeMarker durably changes the pool's marker.
func (dir *directory) changeMarker(change func(m *marker)) error {
	dir.markerMu.Lock()
	defer dir.markerMu.Unlock()
	root, m, err := dir.openMarked()
	if err != nil {
		return err
	}
	defer root.Close()
	change(&m)
	return WriteJSON(root, MarkerFile, m, true)
}

// KeepCopies prepares the pool for copies: see backends.Copier. It is called before the pool is used. Idempotent.
func (dir *directory) KeepCopies() error {
	root, err := dir.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(Copies); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	dir.copies = true
	return nil
}

// make turns an absent or empty directory into a pool. It continues after an attempt that was interrupted, and does
// nothing if the directory is the pool already.
func (dir *directory) make() error {
	err := os.Mkdir(dir.path, 0o700)
	created := err == nil
	if errors.Is(err, fs.ErrNotExist) {
		return dataset.Errorf(dataset.ErrInvalid, "no such directory: %s (create it first)", filepath.Dir(dir.path))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	root, err := safefile.OpenDir(dir.path)
	if err != nil {
		return dataset.Errorf(dataset.ErrExists, "%w", err)
	}
	defer root.Close()
	m, err := readMarker(root, dir.mark.Backend)
	if err == nil {
		if dir.mark.ID != uuid.Nil && m.ID != dir.mark.ID {
			return dataset.Errorf(dataset.ErrExists, "it contains pool %s, not %s", m.ID, dir.mark.ID)
		}
		return nil
	}
	if errors.Is(err, dataset.ErrUnsupported) {
		return err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return dataset.Errorf(dataset.ErrExists, "it is not empty: %w", err)
	}
	if err := checkVacant(root); err != nil {
		return err
	}
	for _, area := range areas() {
		if err := root.Mkdir(area); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	newMarker := dir.mark
	newMarker.Folder = created
	if newMarker.ID == uuid.Nil {
		newMarker.ID = uuid.New()
	}
	if err := WriteJSON(root, MarkerFile, newMarker, true); err != nil {
		return err
	}
	return syncPath(filepath.Dir(dir.path))
}

// checkVacant fails with dataset.ErrExists unless a pool can be made in a directory: it is empty, a new filesystem, or
// has only the areas that an earlier attempt made.
func checkVacant(root safefile.Dir) error {
	names, err := root.Names(".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == Temp+MarkerFile {
			continue
		}
		known := name == "lost+found" || slices.Contains(areas(), name)
		if children, err := root.Names(name); !known || err != nil || len(children) > 0 {
			return dataset.Errorf(dataset.ErrExists, "it contains %q and is not a pool: expected an empty "+
				"directory", name)
		}
	}
	return nil
}

// stamp identifies a version of a file.
type stamp struct {
	major, minor uint32
	inode        uint64
	changed      unix.StatxTimestamp
}

// stampOf returns the stamp of the marker in root. On a share it asks the server.
func stampOf(root safefile.Dir) (stamp, error) {
	var st unix.Statx_t
	err := unix.Statx(root.FD(), MarkerFile, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_FORCE_SYNC,
		unix.STATX_INO|unix.STATX_CTIME, &st)
	return stamp{st.Dev_major, st.Dev_minor, st.Ino, st.Ctime}, err
}

// Enter opens the pool's directory for one call. The caller closes the directory. Enter fails with dataset.ErrOffline
// if the directory is absent or is not this pool. It does not read the marker if the marker has not changed since the
// last time: reading it took a noticeable part of a create.
func (dir *directory) Enter() (safefile.Dir, error) {
	root, err := safefile.OpenDir(dir.path)
	if err == nil {
		if current, err := stampOf(root); err == nil {
			if last := dir.verified.Load(); last != nil && *last == current {
				return root, nil
			}
			_ = root.Close()
			if root, _, err = dir.open(); err == nil {
				dir.verified.Store(&current)
			}
			return root, err
		}
		_ = root.Close()
	}
	root, _, err = dir.open()
	return root, err
}

// Within opens the pool's directory, calls do with it and closes it. It returns the errors of Enter.
func (dir *directory) Within(do func(f *os.File) error) error {
	root, err := dir.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	return do(root.File)
}

// syncMove makes the move of a folder between areas durable.
func (dir *directory) syncMove(root, folder safefile.Dir, areas ...string) error {
	if dir.Flush != nil {
		return dir.Flush(folder)
	}
	for _, area := range areas {
		if err := syncArea(root, area); err != nil {
			return err
		}
	}
	return nil
}

// open opens the directory and reads its marker. It fails with dataset.ErrOffline if the marker is absent or has
// another ID than the expected one, and with dataset.ErrUnsupported if the pool has a later format.
func (dir *directory) open() (safefile.Dir, marker, error) {
	root, m, err := dir.openMarked()
	if !errors.Is(err, errNoPool) {
		return root, m, err
	}
	dir.markerMu.Lock() // with zfs-fuse a file that is being replaced is absent for a moment
	defer dir.markerMu.Unlock()
	return dir.openMarked()
}

var errNoPool = errors.New("it contains no pool (is its disk mounted?)")

// openMarked does the work of open once, without a retry.
func (dir *directory) openMarked() (safefile.Dir, marker, error) {
	root, err := safefile.OpenDir(dir.path)
	if err != nil {
		return root, marker{}, dataset.Errorf(dataset.ErrOffline, "%s is offline: %w (is its disk mounted?)",
			dir.title(), err)
	}
	m, err := readMarker(root, dir.mark.Backend)
	if errors.Is(err, dataset.ErrUnsupported) {
		err = fmt.Errorf("%s at %s: %w", dir.title(), dir.path, err)
		return safefile.Dir{}, marker{}, errors.Join(err, root.Close())
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = errNoPool
	}
	if err == nil && dir.mark.ID != uuid.Nil && m.ID != dir.mark.ID {
		err = fmt.Errorf("it contains another pool: %s, not %s", m.ID, dir.mark.ID)
	}
	if err == nil && m.Backend == dir.mark.Backend && m.Layout != dir.mark.Layout {
		err = fmt.Errorf("it contains a pool that was created on %s, not on %s", m.Layout, dir.mark.Layout)
	}
	if err != nil {
		_ = root.Close()
		err = dataset.Errorf(dataset.ErrOffline, "%s is offline: %s: %w", dir.title(), dir.path, err)
		return safefile.Dir{}, marker{}, err
	}
	return root, m, nil
}

// title names the pool in errors.
func (dir *directory) title() string {
	if dir.mark.Name == "" {
		return "pool"
	}
	return "pool " + dir.mark.Name
}

// notFoundError returns the error for a dataset that the pool does not have.
func (dir *directory) notFoundError(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrNotFound, "%s does not contain dataset %s", dir.title(), id)
}

// isCopyError returns the error for a copy where a head is needed.
func (dir *directory) isCopyError(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrConflict, "%s has a copy of dataset %s, without a head", dir.title(), id)
}

// readMarker reads the marker of a pool. It fails with dataset.ErrUnsupported if the pool is of the backend and has a
// later format, and with dataset.ErrCorrupt if the file is no marker.
func readMarker(root safefile.Dir, backend string) (marker, error) {
	var m marker
	data, err := root.Read(MarkerFile)
	if err != nil {
		return m, err
	}
	err = backends.DecodeMarker(data, backend, format, &m)
	if errors.Is(err, dataset.ErrUnsupported) {
		return m, err
	}
	if err != nil || m.ID == uuid.Nil || m.Backend == "" {
		return m, dataset.Errorf(dataset.ErrCorrupt, "%s is not the marker of a pool", MarkerFile)
	}
	return m, nil
}

// Trim discards the free blocks of the pool's filesystem, but never those of another filesystem that was mounted over
// its path. It cannot be interrupted.
func (dir *directory) Trim() (size dataset.Size, err error) {
	err = dir.Within(func(f *os.File) error {
		n, err := fsctl.Trim(f)
		size = dataset.Size(n)
		return err
	})
	return size, err
}

// Status returns the size and the free space of the filesystem below the pool,
// and how many deletions are pending.
func (dir *directory) Status() dataset.PoolStatus {
	st := dataset.PoolStatus{ID: dir.ID()}
	root, err := dir.Enter()
	if err != nil {
		st.Reason = err.Error()
		return st
	}
	defer root.Close()
	var free, size int64
	deleting, err := root.Open(Deleting)
	if err == nil {
		defer deleting.Close()
		free, size, err = fsctl.SpaceOf(deleting)
	}
	if err != nil {
		st.Reason = err.Error()
		return st
	}
	names, err := deleting.Readdirnames(-1)
	if err != nil {
		st.Reason = err.Error()
		return st
	}
	st.Online, st.Leftovers = true, len(names)
	st.Size, st.Free = dataset.Size(size), dataset.Size(free)
	return st
}

// Space returns the same as Status, but fails with dataset.ErrOffline if the pool is offline.
func (dir *directory) Space() (dataset.PoolStatus, error) {
	st := dir.Status()
	if !st.Online {
		return st, dataset.Errorf(dataset.ErrOffline, "%s", st.Reason)
	}
	return st, nil
}

// removeTemporary removes the temporary file that an interrupted write of the marker leaves. It returns the number of
// removed files.
func (dir *directory) removeTemporary(root safefile.Dir) (int, error) {
	dir.markerMu.Lock()
	defer dir.markerMu.Unlock()
	if _, err := root.Lstat(Temp + MarkerFile); err != nil {
		return 0, nil
	}
	return 1, root.Remove(Temp + MarkerFile)
}
