package shelf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// Clear takes away the marker and the areas of a pool that holds nothing, and its directory if
// that was made with it and is no mount: see backends.Clearer. Only the marker and empty directories are removed.
func (s *Shelf) Clear() error {
	s.marker.Lock()
	defer s.marker.Unlock()
	root, m, err := s.look()
	if err != nil {
		return err
	}
	defer root.Close()
	own, err := s.bare(root)
	if err != nil {
		return err
	}
	// The marker goes before the areas that make wants empty, and after those that it does not know.
	order := slices.DeleteFunc(slices.Clone(own), func(name string) bool { return slices.Contains(areas(), name) })
	order = append(append(order, Temp+markerName, markerName), areas()...)
	for _, name := range order {
		err := root.Remove(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil { // something came into it
			return errors.Join(dataset.Errorf(dataset.ErrConflict, "%s: %w", filepath.Join(s.path, name), err),
				s.restore(root, m))
		}
		steps.At("shelf.clear." + name)
	}
	if m.Folder {
		if err := os.Remove(s.path); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return syncPath(filepath.Dir(s.path))
}

// bare returns the names in an empty pool, except for its marker: ErrConflict if the pool is not empty.
func (s *Shelf) bare(root *os.Root) ([]string, error) {
	names, err := ReadNames(root, ".")
	if err != nil {
		return nil, err
	}
	var own []string
	for _, name := range names {
		if name == markerName || name == Temp+markerName {
			continue
		}
		known := name == copiesArea || slices.Contains(areas(), name) || slices.Contains(s.Own, name)
		inside, err := ReadNames(root, name)
		switch {
		case known && err == nil && len(inside) == 0:
			own = append(own, name)
		case name == "lost+found" && err == nil && len(inside) == 0: // the filesystem's
		case known && err == nil:
			name = filepath.Join(name, inside[0])
			fallthrough
		default:
			return nil, dataset.Errorf(dataset.ErrConflict, "%s holds %q: it is not removed", s.title(),
				filepath.Join(s.path, name))
		}
	}
	return own, nil
}

// restore undoes what of a Clear was done.
func (s *Shelf) restore(root *os.Root, m marker) error {
	for _, area := range s.areas() {
		if err := root.Mkdir(area, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return WriteJSON(root, markerName, m, true)
}
