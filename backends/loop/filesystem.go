package loop

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/reflink"
)

// The layouts that a pool can have.
const (
	layoutXFS   = "xfs"
	layoutBtrfs = "btrfs"
)

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
		if _, absent := os.Lstat(filepath.Join(path, shelf.MarkerFile)); absent == nil {
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
