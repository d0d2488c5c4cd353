package shelf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/steps"
)

// Clear removes the marker and the areas of an empty pool: see backends.Clearer. It also removes the directory of the
// pool, if the directory was made together with the pool and nothing is mounted on it. It removes only the marker and
// empty directories.
func (dir *directory) Clear() error {
	dir.markerMu.Lock()
	defer dir.markerMu.Unlock()
	root, m, err := dir.openMarked()
	if err != nil {
		return err
	}
	defer root.Close()
	names, err := dir.emptyPoolNames(root)
	if err != nil {
		return err
	}
	// The order matters for a crash: the area of copies and the names of the backend are removed first, then the
	// marker, then the areas that every pool has. Without the marker, make accepts a directory that has only empty
	// areas.
	order := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(areas(), name) })
	order = append(append(order, Temp+MarkerFile, MarkerFile), areas()...)
	for _, name := range order {
		remove := root.Rmdir
		if name == MarkerFile || name == Temp+MarkerFile {
			remove = root.Remove
		}
		err := remove(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil { // something was put into it meanwhile
			return errors.Join(dataset.Errorf(dataset.ErrConflict, "%s: %w", filepath.Join(dir.path, name), err),
				dir.restore(root, m))
		}
		steps.At("shelf.clear." + name)
	}
	if m.Folder {
		if err := os.Remove(dir.path); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return syncPath(filepath.Dir(dir.path))
}

// emptyPoolNames returns the names in an empty pool, except for its marker. It fails with dataset.ErrConflict if the
// pool is not empty.
func (dir *directory) emptyPoolNames(root safefile.Dir) ([]string, error) {
	names, err := root.Names(".")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range names {
		if name == MarkerFile || name == Temp+MarkerFile {
			continue
		}
		known := name == Copies || slices.Contains(areas(), name) || slices.Contains(dir.BackendNames, name)
		children, err := root.Names(name)
		switch {
		case known && err == nil && len(children) == 0:
			found = append(found, name)
		case name == "lost+found" && err == nil && len(children) == 0: // belongs to the filesystem
		case known && err == nil:
			name = filepath.Join(name, children[0])
			fallthrough
		default:
			return nil, dataset.Errorf(dataset.ErrConflict, "%s contains %q: it is not removed", dir.title(),
				filepath.Join(dir.path, name))
		}
	}
	return found, nil
}

// restore undoes a Clear that failed.
func (dir *directory) restore(root safefile.Dir, m marker) error {
	for _, area := range dir.areas() {
		if err := root.Mkdir(area); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return WriteJSON(root, MarkerFile, m, true)
}
