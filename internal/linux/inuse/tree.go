package inuse

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/droverhq/drover/internal/linux/mount"
)

// View is the mount table of a mount namespace that differs from the host's. All processes that see the same mounts
// share it, so it must not be changed.
type View struct {
	Mounts   mount.Mounts
	index    mount.Index
	overlays func() []overlay // the result of overlaysIn
}

// NewView returns the View of a mount table.
func NewView(table mount.Mounts) *View {
	return &View{table, table.Index(), sync.OnceValue(func() []overlay { return overlaysIn(table) })}
}

// File is a file or directory that a process has open or mapped: the device number of its filesystem, and
// its path in that filesystem.
type File struct {
	major, minor int
	path         string
	through      seenMount // the mount through which it was opened; zero if that mount is detached
	readOnly     bool      // it is open or mapped only for reading
	unplaced     bool      // the exact path is unknown: the file is at path or below it
	// removed and name can be set only if unplaced is set. removed reports that the file has no name any more. name is
	// one of the several names of the file.
	removed bool
	name    string
}

// seenMount is a mount, and the table that contains it. in is nil for the host's table.
type seenMount struct {
	*mount.Entry
	in *View
}

// TreeUse decides which processes hold one directory tree. It checks each mount table once for all
// processes that share it. Not safe for concurrent use.
type TreeUse struct {
	own    mount.Mounts
	fsys   mount.Filesystem
	places []mount.Place  // the directories on which the host has mounted the tree
	views  map[*View]bool // the results of IsMountedIn
	// overlays are the overlays whose upper directory is in the tree: see FindOverlays.
	overlays map[deviceNumber]bool
	index    mount.Index // of own, once copiedOverlay needs it
}

// NewTreeUse returns the TreeUse of the tree fsys. own is the host's mount table, and paths are the paths on
// which the host has mounted the tree.
func NewTreeUse(own mount.Mounts, fsys mount.Filesystem, paths []string) *TreeUse {
	h := &TreeUse{own: own, fsys: fsys, views: map[*View]bool{}}
	for _, path := range paths {
		if p, ok := own.PlaceAt(path); ok {
			h.places = append(h.places, p)
		}
	}
	return h
}

// CanWrite reports whether the findings of a process show that it can write to the tree.
func (h *TreeUse) CanWrite(f Findings) bool {
	return slices.ContainsFunc(f.Views, h.IsMountedIn) || slices.ContainsFunc(f.Files, h.Includes)
}

// Includes reports whether a file may be in the tree. A file that was opened through an NFS mount with an unknown root
// may be in any part of the share. It counts, because stopping one process too many is better than having two writers.
func (h *TreeUse) Includes(f File) bool {
	if f.major != h.fsys.Major || f.minor != h.fsys.Minor ||
		f.through.Entry != nil && !h.fsys.MayMatch(f.through.Entry) {
		return false
	}
	return within(f.path, h.fsys.Root) ||
		f.unplaced && within(h.fsys.Root, f.path) ||
		f.through.Entry != nil && h.hasUnknownRoot(f.through)
}

// IsMountedIn reports whether a mount table contains a writable mount of the tree that is not a copy of the host's
// mount. A mount of an overlay whose upper directory is in the tree counts like a mount of the tree.
//
// Copies do not count because every service with a separate mount namespace has one, and a container that sees all
// files of the host has one below one of its folders. The processes in these namespaces hold the tree only if they have
// opened a file in it, like processes in the host's namespace.
func (h *TreeUse) IsMountedIn(v *View) bool {
	if cached, ok := h.views[v]; ok {
		return cached
	}
	found := slices.ContainsFunc(v.Mounts, func(e *mount.Entry) bool {
		if h.overlays[numberOf(e)] {
			return !mount.IsReadOnly(e) && !h.copiedOverlay(v, e)
		}
		if !h.fsys.MayMatch(e) {
			return false
		}
		root := strings.TrimSuffix(e.Root, "//deleted")
		return (within(root, h.fsys.Root) || h.hasUnknownRoot(seenMount{e, v})) && !mount.IsReadOnly(e) &&
			!h.isCopy(v, e)
	})
	h.views[v] = found
	return found
}

// isCopy reports whether a mount is a copy of the host's mount. It compares the directories on which they
// are mounted and not the paths, because a container can choose any path for its volume.
func (h *TreeUse) isCopy(v *View, e *mount.Entry) bool {
	p, ok := v.index.PlaceOf(e)
	return ok && slices.Contains(h.places, p)
}

// hasUnknownRoot reports whether m is an NFS mount that may show any part of its share. It returns false
// if m is a copy of a mount of the host: the copy shows the same part.
func (h *TreeUse) hasUnknownRoot(m seenMount) bool {
	e := m.Entry
	if !h.own.IsAmbiguous(e) {
		return false
	}
	if m.in == nil {
		return true
	}
	same := h.own.Of(e.Major, e.Minor)
	at, ok := m.in.index.PlaceOf(e)
	index := h.own.Index()
	return !ok || !slices.ContainsFunc(same, func(own *mount.Entry) bool {
		place, found := index.PlaceOf(own)
		return own.Root == e.Root && found && place == at
	})
}

func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// place converts a path that a process sees through a mount to the path in the mounted filesystem. If the
// path does not begin with the mount point, the process has another root directory, or the mount was
// moved meanwhile. Then the result is unplaced: the file may be anywhere below the root of the mount.
func place(m seenMount, path string) File {
	path = strings.TrimSuffix(path, " (deleted)")
	o := File{major: m.Major, minor: m.Minor, path: strings.TrimSuffix(m.Root, "//deleted"), through: m}
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(m.Mountpoint, "/"))
	ok = ok && (rest == "" || rest[0] == '/')
	if o.unplaced = !ok; ok {
		o.path = filepath.Join(o.path, rest)
	}
	return o
}
