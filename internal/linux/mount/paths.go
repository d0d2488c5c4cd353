package mount

import (
	"os"
	"path/filepath"
)

// PathsTo returns all paths to a directory through the mounts. Its own path is the first one. A directory has several
// if a tree that contains it is bind mounted. dir is absolute and contains no symbolic links.
func (m Mounts) PathsTo(dir string) []string {
	ways := []string{dir}
	on := m.On(dir)
	there, err := os.Stat(dir)
	if on == nil || err != nil {
		return ways
	}
	rel, err := filepath.Rel(on.Mountpoint, dir)
	if err != nil {
		return ways
	}
	inside := filepath.Join(on.Root, rel)
	for _, e := range m.Of(on.Major, on.Minor) {
		rel, err := filepath.Rel(e.Root, inside)
		if err != nil || !within(inside, e.Root) {
			continue
		}
		way := filepath.Join(e.Mountpoint, rel)
		// Another mount can hide this path.
		if info, err := os.Stat(way); way != dir && err == nil && os.SameFile(info, there) {
			ways = append(ways, way)
		}
	}
	return ways
}

// Place returns the filesystem that contains a path, with the path in that filesystem as the root. path is absolute and
// contains no symbolic links. It returns false if the table shows no mount for it. It reads only the table.
func (m Mounts) Place(path string) (Filesystem, bool) {
	on := m.On(path)
	if on == nil {
		return Filesystem{}, false
	}
	rel, err := filepath.Rel(on.Mountpoint, path)
	if err != nil {
		return Filesystem{}, false
	}
	return Filesystem{Major: on.Major, Minor: on.Minor, Root: filepath.Join(on.Root, rel)}, true
}

// Within reports whether f is the tree other or a part of it.
func (f Filesystem) Within(other Filesystem) bool {
	return f.Major == other.Major && f.Minor == other.Minor && within(f.Root, other.Root)
}

// On returns the mount that contains a path, or nil if none is visible.
func (m Mounts) On(path string) *Entry {
	for at := path; ; at = filepath.Dir(at) {
		if e := m.At(at); e != nil {
			return e
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}
