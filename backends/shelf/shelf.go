// Package shelf is a pool in a directory of some filesystem: a marker with the pool's UUID, a folder for each dataset
// with its record, and an area for each state of a dataset's life. All backends keep their records in
// such a pool, and btrfs, dir, loop and nfs also their data.
//
//	pool.json               the marker, written last when a pool is made
//	datasets/<uuid>/        ready datasets
//	incoming/<uuid>/        datasets that are not committed; complete once record.json exists
//	copies/<uuid>/          snapshots of datasets whose home is another pool, if the backend keeps copies
//	deleting/<uuid>[.n]/    datasets whose deletion has begun
//	…/<uuid>/record.json   the record; the other files of a folder belong to the backend
//
// Names that start with "tmp-" are files that a crash may leave. All other names are foreign: they are
// listed, and never touched.
//
// Every call opens the pool by its path and reads its marker. So every call notices if the disk was unmounted or
// exchanged, and no open file prevents an unmount. All directories have mode 0700 and belong to root.
//
// # State
//
// A [Shelf] opens the directory of the pool by its path for each call, so a backend passes no open directory to it. A
// [Folder] is the open folder of a dataset. Its methods read and write the records in it, among them the [Head] and the
// snapshots ([SnapshotRecord]) of a backend that keeps these as trees. An [Exchange] moves datasets between the pools
// of a share. An open Folder holds a claim on its dataset (claims.go), which only excludes Reap. The caller of
// backends.Pool prevents all other concurrent changes of a dataset. A mutex is held while the marker is rewritten or
// removed. The shelf also counts the datasets that became copies (moves). The package keeps no other state in memory.
//
// Where to change what: the marker, the generation and the space of a pool are in directory.go, the search for datasets
// in catalog.go, and the list in list.go. How datasets are made is in creator.go, how they become copies in copier.go,
// and how they are deleted and reaped in remover.go.
package shelf

import (
	"context"
	"os"
	"path/filepath"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/google/uuid"
)

// Shelf is an open pool. It is safe for concurrent use, as described at backends.Pool. The pool of a backend embeds it,
// so that these methods are those of backends.Pool and backends.PolicyKeeper: ID, Generation, Raise, Commit, Delete,
// WriteRecord, Overcommit and KeepOvercommit.
type Shelf struct {
	// The fields up to CheckUnused are set before the pool is used.

	// IsComplete reports whether an incoming folder or a copy is complete. If nil, it is complete if it has its record:
	// the record of a dataset is the last file that is written, and that of a copy the first one.
	IsComplete func(*Folder) (bool, error)
	// Destroy removes names in a directory with everything below them. If nil, each is removed as a tree of files.
	Destroy func(ctx context.Context, dir safefile.Dir, names ...string) error
	// Outside removes the parts of a deleted dataset that are outside its folder, before the folder is removed. It may
	// be nil.
	Outside func(ctx context.Context, id uuid.UUID) error
	// CheckUnused fails if a dataset is in use, or must not be removed for another reason. It may be nil.
	CheckUnused func(ctx context.Context, f *Folder) error

	directory
	claims  claims
	formats formats
	moves   moves // counts datasets that became copies; a search is repeated if the count has changed
}

// Open opens the pool at cfg.Path, or makes it, as described at backends.Kind. It ignores cfg.Image. It fails with
// dataset.ErrExists if the pool belongs to another backend, and with dataset.ErrUnsupported if it has a later format.
func Open(cfg backends.Config, backend string) (*Shelf, error) { return OpenLayout(cfg, backend, "") }

// OpenLayout is Open for a backend that has several layouts. It also fails unless the pool has the given layout.
func OpenLayout(cfg backends.Config, backend, layout string) (*Shelf, error) {
	if !filepath.IsAbs(cfg.Path) || filepath.Clean(cfg.Path) != cfg.Path {
		return nil, dataset.Errorf(dataset.ErrInvalid, "bad pool path %q: expected an absolute path without . and ..",
			cfg.Path)
	}
	s := &Shelf{directory: directory{
		path: cfg.Path,
		mark: marker{Format: format, Backend: backend, ID: cfg.ID, Name: cfg.Name, Layout: layout},
	}}
	if err := s.prepare(cfg.Make); err != nil {
		return nil, err
	}
	return s, nil
}

// Room fails with dataset.ErrNoSpace if the pool is too full to begin something new, and with dataset.ErrOffline if it
// is offline.
func (s *Shelf) Room() error {
	st, err := s.Space()
	if err != nil {
		return err
	}
	return backends.CheckRoom(s.mark.Name, st.Free, st.Size)
}

// CheckSize fails with dataset.ErrUnsupported if a dataset of this size would be larger than the pool.
func (s *Shelf) CheckSize(size dataset.Size) error {
	st, err := s.Space()
	if err == nil && size > st.Size {
		err = dataset.Errorf(dataset.ErrUnsupported, "%s is more than the total size of pool %s (%s)", size,
			s.mark.Name, st.Size.Human())
	}
	return err
}

// Grow implements backends.Resizer for a backend whose Resize does not need the filesystem mounted.
func (s *Shelf) Grow(_ context.Context, id uuid.UUID, _ *os.File) error {
	f, err := s.FindDataset(id)
	if err != nil {
		return err
	}
	return f.Close()
}

// CheckFilesystem fails with dataset.ErrUnsupported if a profile or a mount requests a filesystem or mount options. It
// is for a backend whose datasets have no filesystem of their own.
func CheckFilesystem(backend string, fs dataset.Filesystem) error {
	switch {
	case fs.Type != "":
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend %s creates no filesystem (requested: %s): omit it, or use a pool of backend loop",
			backend, fs.Type)
	case len(fs.Mount) > 0:
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend %s has no mount options for a single volume (requested: %s): omit them, or use a pool "+
				"of backend loop", backend, dataset.FormatChoices(fs.Mount))
	}
	return nil
}
