package inuse

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/droverhq/drover/internal/mount"
)

// View is a mount table of another namespace. All processes that see the same mounts share it.
type View struct {
	Mounts mount.Mounts
	index  mount.Index
}

// NewView returns the View of a mount table.
func NewView(table mount.Mounts) *View { return &View{table, table.Index()} }

// File is a file or directory that a process has open: the device number of its filesystem, and its path
// in that filesystem.
type File struct {
	major, minor int
	path         string
	through      seenMount // the mount through which it was opened; zero if that mount is detached
	unplaced     bool      // the exact path is unknown: it is path or below
}

// seenMount is a mount, and the table that contains it. in is nil for the host's table.
type seenMount struct {
	*mount.Entry
	in *View
}

// Holding decides which processes hold one directory tree. It checks each mount table once for all
// processes that share it. Not safe for concurrent use.
type Holding struct {
	own    mount.Mounts
	fsys   mount.Filesystem
	places []mount.Place  // the directories on which the host has mounted the tree
	views  map[*View]bool // the results of In
	// overlays are the overlays whose upper directory is in the tree: see FindOverlays.
	overlays map[deviceNumber]bool
}

// NewHolding returns the Holding of the tree fsys. own is the host's mount table, and paths are the paths on
// which the host has mounted the tree.
func NewHolding(own mount.Mounts, fsys mount.Filesystem, paths []string) *Holding {
	h := &Holding{own: own, fsys: fsys, views: map[*View]bool{}}
	for _, path := range paths {
		if p, ok := own.PlaceAt(path); ok {
			h.places = append(h.places, p)
		}
	}
	return h
}

// By reports whether a process can write to the tree.
func (h *Holding) By(f Findings) bool {
	return slices.ContainsFunc(f.Views, h.In) || slices.ContainsFunc(f.Files, h.Includes)
}

// Includes reports whether a file may be in the tree. A file that was opened through an NFS mount with an
// unknown root may be in any part of the share, so it counts: killing one process too many is better than
// having two writers.
func (h *Holding) Includes(f File) bool {
	if f.major != h.fsys.Major || f.minor != h.fsys.Minor || f.through.Entry != nil && !h.fsys.MayBe(f.through.Entry) {
		return false
	}
	return within(f.path, h.fsys.Root) ||
		f.unplaced && within(h.fsys.Root, f.path) ||
		f.through.Entry != nil && h.untold(f.through)
}

// In reports whether a mount table contains a writable mount of the tree that is not a copy of the
// host's mount. Every service with a separate mount namespace gets a copy, and a container that sees the
// whole host has one below some folder. Processes in these namespaces hold the tree only if they have
// opened a file of it, like processes in the host's namespace. A mount of an overlay whose upper directory is
// in the tree counts like a mount of the tree.
func (h *Holding) In(v *View) bool {
	if known, ok := h.views[v]; ok {
		return known
	}
	found := slices.ContainsFunc(v.Mounts, func(e *mount.Entry) bool {
		if h.overlays[numberOf(e)] {
			return !mount.IsReadOnly(e) && !h.copiedOverlay(v, e)
		}
		if !h.fsys.MayBe(e) {
			return false
		}
		root := strings.TrimSuffix(e.Root, "//deleted")
		return (within(root, h.fsys.Root) || h.untold(seenMount{e, v})) && !mount.IsReadOnly(e) && !h.copied(v, e)
	})
	h.views[v] = found
	return found
}

// copied reports whether a mount is a copy of the host's mount. It compares the directories on which they
// are mounted and not the paths, because a container can choose any path for its volume.
func (h *Holding) copied(v *View, e *mount.Entry) bool {
	p, ok := v.index.PlaceOf(e)
	return ok && slices.Contains(h.places, p)
}

// untold reports whether a mount may be of any part of an NFS share. It is not if the mount is a copy of
// a mount of the host, which is of the same part.
func (h *Holding) untold(m seenMount) bool {
	e := m.Entry
	if !h.own.Unsure(e) {
		return false
	}
	if m.in == nil {
		return true
	}
	same := h.own.Of(e.Major, e.Minor)
	at, ok := m.in.index.PlaceOf(e)
	index := h.own.Index()
	return !ok || !slices.ContainsFunc(same, func(own *mount.Entry) bool {
		place, known := index.PlaceOf(own)
		return own.Root == e.Root && known && place == at
	})
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// place converts a path that a process sees through a mount to the path in the mounted filesystem. If the
// path does not begin with the mount point, the process has another root directory, or the mount was moved
// meanwhile. Then the result is unplaced: it may be any file of the mount.
func place(m seenMount, path string) File {
	path = strings.TrimSuffix(path, " (deleted)")
	o := File{major: m.Major, minor: m.Minor, path: strings.TrimSuffix(m.Root, "//deleted"), through: m}
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(m.Mountpoint, "/"))
	if o.unplaced = !ok; ok {
		o.path = filepath.Join(o.path, rest)
	}
	return o
}
