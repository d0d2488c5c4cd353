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
// # Parts
//
// A [Shelf] consists of these parts. The exported methods of a part open the directory of the pool by its path. So a
// backend passes no open directory to them.
//
//	directory   the directory of the pool: marker, generation, space, Clear
//	catalog     finds and lists datasets, and keeps the claims on them
//	creator     makes datasets
//	copier      makes copies, and turns datasets into copies and back
//	remover     deletes datasets, and reaps
//
// A [Folder] is the open folder of a dataset. Its methods read and write the records in it, among them the [Head] and
// the snapshots ([SnapshotRecord]) of a backend that keeps these as trees. An [Exchange] moves datasets between the
// pools of a share. An open Folder holds a claim on its dataset (claims.go), which only excludes Reap.
// The caller of backends.Pool prevents all other concurrent changes of a dataset. A mutex is held while the marker is
// rewritten or removed. The catalog also counts the datasets that became copies (moves). The package keeps no
// other state in memory.
package shelf

import (
	"path/filepath"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Shelf is an open pool. It is safe for concurrent use, as described at backends.Pool.
type Shelf struct {
	directory
	*catalog
	*creator
	*copier
	*remover
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
	dir := &s.directory
	s.catalog = &catalog{dir: dir}
	s.remover = &remover{dir: dir, catalog: s.catalog}
	s.creator = &creator{dir: dir, catalog: s.catalog, remover: s.remover}
	s.copier = &copier{dir: dir, catalog: s.catalog}
	return s, nil
}
