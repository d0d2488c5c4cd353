package mount

import (
	"os"
	"path/filepath"
)

// Ways returns all paths by which a directory is reached through the mounts, itself first: a
// tree that is bound elsewhere has several. dir is absolute, without symbolic links.
func (m Mounts) Ways(dir string) []string {
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
		// What was mounted over it hides it.
		if info, err := os.Stat(way); way != dir && err == nil && os.SameFile(info, there) {
			ways = append(ways, way)
		}
	}
	return ways
}

// On returns the mount that a path lies on, or nil where none is seen.
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
