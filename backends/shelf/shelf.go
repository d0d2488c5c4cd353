// Package shelf is how backends that keep datasets in a directory of some
// filesystem lay a pool out: a marker with the pool's UUID, one folder for each
// dataset with its record, and an area for each state of a dataset's life.
//
//	pool.json               the marker, written last when a pool is made
//	datasets/<uuid>/        ready datasets
//	incoming/<uuid>/        made, not yet committed; whole once dataset.json is there
//	copies/<uuid>/          snapshots of datasets whose home is elsewhere, where a backend has those
//	deleting/<uuid>[.n]/    on their way out
//	…/<uuid>/dataset.json   the record; what else is in a folder is the backend's
//
// Names that start with "tmp-" are files that a crash may leave. All other names are foreign: they are
// listed, and never touched.
//
// The pool is looked for by its path at every call, and its marker read, so that
// a disk that was unmounted or exchanged is noticed at once and nothing keeps
// one from being unmounted. All directories are root's alone (0700).
package shelf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/claims"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/safefile"
)

const (
	markerName = "pool.json"
	recordName = "dataset.json"

	// Temp starts the names of files and directories that are being made.
	Temp = "tmp-"

	readyArea    = "datasets"
	incomingArea = "incoming"
	deletingArea = "deleting"
	copiesArea   = "copies"
)

// areas are all areas that every pool has, in the order in which a dataset goes through them: a search in
// this order misses no dataset that moves meanwhile.
func areas() []string { return []string{incomingArea, readyArea, deletingArea} }

// areas are those of this pool.
func (s *Shelf) areas() []string {
	if s.copies {
		return []string{incomingArea, copiesArea, readyArea, deletingArea}
	}
	return areas()
}

// marker is what says that a directory is a pool, and which.
type marker struct {
	Format  int       `json:"format"` // of this layout
	Backend string    `json:"backend"`
	ID      uuid.UUID `json:"id"`
	Name    string    `json:"name"` // when it was made
	// Generation is a counter: see backends.Pool.
	Generation uint64 `json:"generation,omitempty"`
	// Folder says that the directory was made with the pool: Clear takes it away.
	Folder bool `json:"folder,omitempty"`
}

const format = 1

// Shelf is an open pool. Safe for concurrent use, as backends.Pool says.
type Shelf struct {
	// Destroy removes a name in a directory with all below it; nil: as a tree of files.
	// It is set before the shelf is used.
	Destroy func(ctx context.Context, dir *os.File, name string) error
	// Outside removes the parts of a deleted dataset outside of its folder, before the folder is removed.
	// It is set before the shelf is used, or not at all.
	Outside func(ctx context.Context, id uuid.UUID) error
	// Own are names beside the areas that are the backend's. It is set before the shelf is used.
	Own []string

	mark   marker
	path   string
	copies bool // it keeps copies too
	claims claims.Claims
	back   claims.Moves // of datasets that become copies
	marker sync.Mutex   // held while it is written anew
}

// Open opens the pool at cfg.Path, or makes it, as backends.Kind says; the
// image of cfg is the caller's business. A pool of another backend, or of a
// later layout, is dataset.ErrExists.
func Open(cfg backends.Config, backend string) (*Shelf, error) {
	if !filepath.IsAbs(cfg.Path) || filepath.Clean(cfg.Path) != cfg.Path {
		return nil, dataset.Errorf(dataset.ErrInvalid, "bad pool path %q: want an absolute path without . and ..",
			cfg.Path)
	}
	s := &Shelf{mark: marker{Format: format, Backend: backend, ID: cfg.ID, Name: cfg.Name}, path: cfg.Path}
	if cfg.Make {
		if err := s.make(); err != nil {
			return nil, fmt.Errorf("make a pool at %s: %w", cfg.Path, err)
		}
	}
	root, m, err := s.read()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if m.Backend != backend || m.Format > format {
		return nil, dataset.Errorf(dataset.ErrExists,
			"%s is a pool of backend %s, format %d (this is %s, format %d)", cfg.Path, m.Backend, m.Format, backend,
			format)
	}
	s.mark.ID = m.ID
	return s, nil
}

// ID returns the pool's UUID, from its marker.
func (s *Shelf) ID() uuid.UUID { return s.mark.ID }

// Path returns the pool's directory.
func (s *Shelf) Path() string { return s.path }

// Generation returns the counter in the pool's marker.
func (s *Shelf) Generation() (uint64, error) {
	root, m, err := s.read()
	if err != nil {
		return 0, err
	}
	return m.Generation, root.Close()
}

// Raise sets that counter, durably.
func (s *Shelf) Raise(generation uint64) error {
	s.marker.Lock()
	defer s.marker.Unlock()
	root, m, err := s.look()
	if err != nil {
		return err
	}
	defer root.Close()
	m.Generation = generation
	return WriteJSON(root, markerName, m, true)
}

// make turns an absent or empty directory into a pool; one that is the pool
// already, or was left half made, is fine.
func (s *Shelf) make() error {
	err := os.Mkdir(s.path, 0o700)
	made := err == nil
	if errors.Is(err, fs.ErrNotExist) {
		return dataset.Errorf(dataset.ErrInvalid, "%s is absent: make it first", filepath.Dir(s.path))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	root, err := openPlain(s.path)
	if err != nil {
		return dataset.Errorf(dataset.ErrExists, "%w", err)
	}
	defer root.Close()
	m, err := readMarker(root)
	if err == nil {
		if s.mark.ID != uuid.Nil && m.ID != s.mark.ID {
			return dataset.Errorf(dataset.ErrExists, "pool %s lies there, not %s", m.ID, s.mark.ID)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return dataset.Errorf(dataset.ErrExists, "something lies there: %w", err)
	}
	if err := vacant(root); err != nil {
		return err
	}
	for _, area := range areas() {
		if err := root.Mkdir(area, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	fresh := s.mark
	fresh.Folder = made
	if fresh.ID == uuid.Nil {
		fresh.ID = uuid.New()
	}
	if err := WriteJSON(root, markerName, fresh, true); err != nil {
		return err
	}
	return syncPath(filepath.Dir(s.path))
}

// vacant fails with dataset.ErrExists unless a pool can be made here: in an
// empty directory, one left by an earlier try, or a filesystem just made.
func vacant(root *os.Root) error {
	names, err := ReadNames(root, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == Temp+markerName {
			continue
		}
		known := name == "lost+found" || slices.Contains(areas(), name)
		if inside, err := ReadNames(root, name); !known || err != nil || len(inside) > 0 {
			return dataset.Errorf(dataset.ErrExists, "it holds %q and is no pool: want an empty directory", name)
		}
	}
	return nil
}

// Enter opens the pool's directory for one call; the caller closes it.
// dataset.ErrOffline: it is absent, or a different directory is in its place.
func (s *Shelf) Enter() (*os.Root, error) {
	root, _, err := s.read()
	return root, err
}

// read opens the directory and reads its marker. Where an ID is expected
// another one is offline.
func (s *Shelf) read() (*os.Root, marker, error) {
	root, m, err := s.look()
	if !errors.Is(err, errNoPool) {
		return root, m, err
	}
	s.marker.Lock() // zfs-fuse has no file of a name for a moment while another takes that name
	defer s.marker.Unlock()
	return s.look()
}

var errNoPool = errors.New("no pool lies there (is its disk mounted?)")

func (s *Shelf) look() (*os.Root, marker, error) {
	root, err := openPlain(s.path)
	if err != nil {
		return nil, marker{}, dataset.Errorf(dataset.ErrOffline, "%s is offline: %w (is its disk mounted?)",
			s.title(), err)
	}
	m, err := readMarker(root)
	if errors.Is(err, fs.ErrNotExist) {
		err = errNoPool
	}
	if err == nil && s.mark.ID != uuid.Nil && m.ID != s.mark.ID {
		err = fmt.Errorf("another pool lies there: %s, not %s", m.ID, s.mark.ID)
	}
	if err != nil {
		_ = root.Close()
		return nil, marker{}, dataset.Errorf(dataset.ErrOffline, "%s is offline: %s: %w", s.title(), s.path, err)
	}
	return root, m, nil
}

// Trim tells the device below the pool which blocks are free: blocks of the pool's own filesystem, and of no
// other that is mounted at its path by now. It cannot be cut short.
func (s *Shelf) Trim() (dataset.Size, error) {
	root, err := s.Enter()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	n, err := fsctl.Trim(dir)
	return dataset.Size(n), err
}

func (s *Shelf) title() string {
	if s.mark.Name == "" {
		return "pool"
	}
	return "pool " + s.mark.Name
}

func readMarker(root *os.Root) (marker, error) {
	var m marker
	data, err := safefile.ReadIn(root, markerName)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil || m.ID == uuid.Nil || m.Backend == "" {
		return m, dataset.Errorf(dataset.ErrCorrupt, "%s is no marker of a pool", markerName)
	}
	return m, nil
}

// openPlain opens a directory that is no symlink.
func openPlain(path string) (*os.Root, error) {
	before, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, fmt.Errorf("%s is no directory", path)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return same(root, before, path)
}

// openSub opens a directory in another that is no symlink.
func openSub(root *os.Root, name string) (*os.Root, error) {
	before, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, fmt.Errorf("%s is no directory", name)
	}
	sub, err := root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return same(sub, before, name)
}

// same returns an opened directory if it is the one that was examined before.
func same(root *os.Root, before fs.FileInfo, path string) (*os.Root, error) {
	after, err := root.Stat(".")
	if err == nil && !os.SameFile(before, after) {
		err = fmt.Errorf("%s was exchanged meanwhile", path)
	}
	if err != nil {
		_ = root.Close()
		return nil, err
	}
	return root, nil
}

// ReadNames returns the names in a directory below root, sorted.
func ReadNames(root *os.Root, dir string) ([]string, error) {
	f, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}
