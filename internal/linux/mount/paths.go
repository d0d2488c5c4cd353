package mount

import (
	"os"
	"path/filepath"
	"strings"
)

// PathsTo returns all paths to a directory through the mounts. dir itself is the first one. A directory has several
// paths if a tree that contains it is bind mounted. dir is absolute and contains no symbolic links.
func (m Mounts) PathsTo(dir string) []string {
	paths := []string{dir}
	entry := m.On(dir)
	dirInfo, err := os.Stat(dir)
	if entry == nil || err != nil {
		return paths
	}
	rel, err := filepath.Rel(entry.Mountpoint, dir)
	if err != nil {
		return paths
	}
	pathInFS := filepath.Join(entry.Root, rel)
	for _, e := range m.Of(entry.Major, entry.Minor) {
		rel, err := filepath.Rel(e.Root, pathInFS)
		if err != nil || !within(pathInFS, e.Root) {
			continue
		}
		path := filepath.Join(e.Mountpoint, rel)
		// Another mount can hide this path.
		if info, err := os.Stat(path); path != dir && err == nil && os.SameFile(info, dirInfo) {
			paths = append(paths, path)
		}
	}
	return paths
}

// Place returns the directory tree at a path: the filesystem that contains the path, with the path in that filesystem
// as the root. Unlike PlaceAt, it does not return the directory below a mount at the path. path is absolute and
// contains no symbolic links. It returns false if the table shows no mount for it. It reads only the table.
func (m Mounts) Place(path string) (Filesystem, bool) {
	entry := m.On(path)
	if entry == nil {
		return Filesystem{}, false
	}
	rel, err := filepath.Rel(entry.Mountpoint, path)
	if err != nil {
		return Filesystem{}, false
	}
	return Filesystem{Major: entry.Major, Minor: entry.Minor, Root: filepath.Join(entry.Root, rel)}, true
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

// Compresses reports whether the filesystem that contains a path can compress the data of new files: ZFS, or btrfs that
// is mounted with compression. It does not look at properties of single files or directories. If the path or the mount
// table cannot be read, it returns false.
func Compresses(path string) bool {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	table, err := Table()
	if err != nil {
		return false
	}
	e := table.On(path)
	return e != nil && (e.FSType == "zfs" || e.FSType == "btrfs" && strings.Contains(","+e.VFSOptions, ",compress"))
}
