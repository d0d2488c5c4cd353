package loop

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/safefile"
)

// The layouts that a pool can have.
const (
	layoutXFS   = "xfs"
	layoutBtrfs = "btrfs"
)

// identity is the content of pool.json.
type identity struct {
	Format  int       `json:"format"` // of the layout on disk
	Backend string    `json:"backend"`
	ID      uuid.UUID `json:"id"`
	Name    string    `json:"name"` // when it was made
	Layout  string    `json:"layout"`
	// Generation is a counter: see backends.Pool.
	Generation uint64 `json:"generation,omitempty"`
	// Folder says that the directory was made with the pool, so Clear removes it.
	Folder bool `json:"folder,omitempty"`
	// Overcommit is a policy: see backends.PolicyKeeper.
	Overcommit float64 `json:"overcommit,omitempty"`
}

const format = 1

// layoutFor returns the layout that fits the filesystem of path, or an error that says why none does.
func layoutFor(path string, create bool) (string, error) {
	dir := path
	fi, err := os.Lstat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist) && create:
		dir = filepath.Dir(dir)
	case errors.Is(err, os.ErrNotExist):
		return "", dataset.Errorf(dataset.ErrOffline, "%s does not exist: is its disk mounted?", dir)
	case err != nil:
		return "", dataset.Errorf(dataset.ErrOffline, "%w", err)
	case !fi.IsDir():
		return "", dataset.Errorf(dataset.ErrExists, "%s is not a directory (a symbolic link is not accepted)", dir)
	}
	kind, err := fsctl.KindOf(dir)
	if errors.Is(err, os.ErrNotExist) {
		return "", dataset.Errorf(dataset.ErrInvalid, "no such directory: %s (create it first)", dir)
	}
	if err != nil {
		return "", err
	}
	if kind != fsctl.XFS && kind != fsctl.Btrfs {
		return "", unsupportedFilesystem(path, kind, create)
	}
	ok, err := reflink.Supported(dir)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// The pool is too full to test whether its files can share blocks. The test succeeded when the pool was made. A
		// full pool must open, because otherwise nothing in it could be removed.
		if _, isPool := readIdentity(path); isPool == nil {
			ok, err = true, nil
		}
	}
	if err != nil {
		return "", err
	}
	if !ok {
		return "", dataset.Errorf(dataset.ErrUnsupported,
			"%s is on %s without reflinks: backend loop needs XFS created with reflinks (mkfs.xfs -m reflink=1), "+
				"btrfs, or an image file (drover pool create NAME --backend loop --path FILE --image SIZE)", path, kind)
	}
	if kind == fsctl.Btrfs {
		return layoutBtrfs, nil
	}
	return layoutXFS, nil
}

// unsupportedFilesystem returns the error for a filesystem that no pool can be on.
func unsupportedFilesystem(path string, kind fsctl.Kind, create bool) error {
	if !create {
		return dataset.Errorf(dataset.ErrOffline,
			"%s is on %s, which cannot have such a pool: is its disk mounted?", path, kind)
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"%s is on %s, which cannot share blocks between files: backend loop needs XFS with reflinks, btrfs, or "+
			"an image file (drover pool create NAME --backend loop --path FILE --image SIZE)", path, kind)
}

// identify reads the identity of the pool at path. It makes a pool there if cfg demands that.
func identify(path string, cfg backends.Config, layout string) (identity, error) {
	id, err := readIdentity(path)
	switch {
	case err == nil:
		return checkIdentity(id, path, cfg, layout)
	case errors.Is(err, dataset.ErrUnsupported):
		return identity{}, err
	case !errors.Is(err, os.ErrNotExist):
		return identity{}, dataset.Errorf(dataset.ErrCorrupt, "%w", err)
	case !cfg.Make:
		return identity{}, dataset.Errorf(dataset.ErrOffline, "%s contains no pool: is its disk mounted?", path)
	}
	if err := checkEmpty(path); err != nil {
		return identity{}, err
	}
	id = identity{Format: format, Backend: Name, ID: cfg.ID, Name: cfg.Name, Layout: layout}
	if id.ID == uuid.Nil {
		id.ID = uuid.New()
	}
	return id, writeIdentity(path, id)
}

// checkIdentity fails unless an identity matches cfg and the layout.
func checkIdentity(id identity, path string, cfg backends.Config, layout string) (identity, error) {
	var problem string
	kind := dataset.ErrOffline
	switch {
	case id.Backend != Name:
		problem = fmt.Sprintf("a pool of backend %s", id.Backend)
	case cfg.ID != uuid.Nil && id.ID != cfg.ID:
		problem = fmt.Sprintf("another pool, %s (created as %q), instead of %s", id.ID, id.Name, cfg.ID)
	case id.Layout != layout:
		problem = fmt.Sprintf("a pool that was created on %s, on %s", id.Layout, layout)
	default:
		return id, nil
	}
	if cfg.Make && kind == dataset.ErrOffline {
		kind = dataset.ErrExists
	}
	return identity{}, dataset.Errorf(kind, "%s contains %s", path, problem)
}

// readIdentity reads pool.json.
func readIdentity(path string) (identity, error) {
	var id identity
	raw, err := safefile.Read(filepath.Join(path, layout.IdentityFile))
	if err != nil {
		return id, err
	}
	if id, err = decodeIdentity(raw); err != nil {
		return id, fmt.Errorf("%s/%s: %w", path, layout.IdentityFile, err)
	}
	return id, nil
}

// decodeIdentity fails with dataset.ErrUnsupported if the pool has a later format.
func decodeIdentity(raw []byte) (id identity, err error) {
	err = backends.DecodeMarker(raw, Name, format, &id)
	return id, err
}

// checkEmpty fails with ErrExists if path contains any file except those that an interrupted creation of a pool leaves.
func checkEmpty(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != layout.IdentityFile+".tmp" {
			return dataset.Errorf(dataset.ErrExists,
				"%s is not empty (it contains %q) and not a pool: use an empty or a new directory", path, e.Name())
		}
	}
	return nil
}

// writeIdentity makes the pool's directory and, last, its identity.
func writeIdentity(path string, id identity) error {
	err := os.Mkdir(path, 0o700)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	id.Folder = err == nil
	root, err := folder.Open(path)
	if err != nil {
		return err
	}
	defer root.Close()
	return errors.Join(replaceIdentity(root, id), folder.SyncDir(filepath.Dir(path)))
}

// replaceIdentity durably replaces the identity of a pool.
func replaceIdentity(root folder.Dir, id identity) error {
	raw, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	const tmp = layout.IdentityFile + layout.TmpSuffix
	f, err := root.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := root.Rename(tmp, layout.IdentityFile); err != nil {
		return err
	}
	return root.Sync()
}
