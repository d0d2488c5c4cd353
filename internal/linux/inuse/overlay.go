package inuse

import (
	"path/filepath"
	"strings"
	"sync"

	"github.com/droverhq/drover/internal/linux/mount"
)

// deviceNumber identifies a filesystem in a mount table.
type deviceNumber struct{ major, minor int }

func numberOf(e *mount.Entry) deviceNumber { return deviceNumber{e.Major, e.Minor} }

// FindOverlays finds the overlays whose upper directory is in the tree, in the mount tables that the scan has read so
// far. A process that sees such an overlay can write to the tree without seeing the tree. An example is a container of
// an engine that itself runs in a container and keeps its images on a volume. Call FindOverlays before the first call
// of IsMountedIn or CanWrite.
//
// The path of an upper directory is valid in the mount namespace of the program that mounted the overlay. So the path
// is looked up only in tables that show both the overlay and the tree. There are two exceptions:
//
// First, if the host's table shows the overlay, the path is looked up only in the host's table. A program of the host
// mounted such an overlay for a container, so the path is valid on the host. The container's table can show another
// filesystem at the same path, such as a volume.
//
// Second, the path is not looked up in a table in which the overlay is the root directory, because a program in another
// namespace mounted that overlay.
func (h *TreeUse) FindOverlays(s *Scan) {
	h.overlays = map[deviceNumber]bool{}
	onHost := map[deviceNumber]bool{}
	for _, e := range h.own {
		onHost[numberOf(e)] = true
	}
	h.findOverlaysIn(h.own, s.overlaysOfHost(h.own), func(deviceNumber) bool { return true })
	for _, v := range s.allViews() {
		h.findOverlaysIn(v.Mounts, v.overlays, func(n deviceNumber) bool { return !onHost[n] })
	}
}

// findOverlaysIn adds the overlays in one table. list returns the overlays of the table. mayBeMounter reports whether
// the table may belong to the program that mounted the overlay with that number.
func (h *TreeUse) findOverlaysIn(table mount.Mounts, list func() []overlay, mayBeMounter func(deviceNumber) bool) {
	shown := false
	for _, e := range table {
		shown = shown || h.fsys.MayMatch(e) && within(strings.TrimSuffix(e.Root, "//deleted"), h.fsys.Root)
	}
	if !shown {
		return
	}
	for _, o := range list() {
		if mayBeMounter(o.number) && h.fsys.MayMatch(o.on) && (o.root == "" || within(o.root, h.fsys.Root)) {
			h.overlays[o.number] = true
		}
	}
}

// overlay is an overlay in a mount table.
type overlay struct {
	number deviceNumber
	on     *mount.Entry // the mount that contains its upper directory
	root   string       // the path of its upper directory in that filesystem, or "" if it is unknown
}

// maxDepth is the maximum number of components of the path of an upper directory that is looked up. Engines
// use less than ten. A deeper directory may be in any tree of its filesystem.
const maxDepth = 64

// overlaysIn returns the overlays in a table that are not mounted on the root directory. Any user can make a
// table with thousands of mounts of overlays, so each upper directory is looked up once, and by an index.
func overlaysIn(table mount.Mounts) (list []overlay) {
	type key struct {
		number deviceNumber
		path   string
	}
	found := map[key]bool{}
	var points map[string]*mount.Entry
	for _, e := range table {
		path, ok := mount.UpperDir(e)
		k := key{numberOf(e), path}
		if !ok || e.Mountpoint == "/" || found[k] {
			continue
		}
		found[k] = true
		if points == nil {
			points = make(map[string]*mount.Entry, len(table))
			for _, e := range table {
				points[e.Mountpoint] = e
			}
		}
		if on, root := upperIn(points, path); on != nil {
			list = append(list, overlay{k.number, on, root})
		}
	}
	return list
}

// upperIn returns the mount that contains a path, and the path in the mounted filesystem.
func upperIn(points map[string]*mount.Entry, path string) (on *mount.Entry, root string) {
	path = filepath.Clean(path)
	exact := true
	if parts := strings.SplitN(path, "/", maxDepth+1); len(parts) > maxDepth {
		path, exact = strings.Join(parts[:maxDepth], "/"), false
	}
	for at := path; ; at = filepath.Dir(at) {
		if e := points[at]; e != nil {
			rest := strings.TrimPrefix(path, strings.TrimSuffix(at, "/"))
			if exact {
				root = filepath.Join(e.Root, rest)
			}
			return e, root
		}
		if at == filepath.Dir(at) {
			return nil, ""
		}
	}
}

// copiedOverlay reports whether a mount of an overlay is a copy of a mount of the host: see IsMountedIn.
func (h *TreeUse) copiedOverlay(v *View, e *mount.Entry) bool {
	at, ok := v.index.PlaceOf(e)
	if !ok {
		return false
	}
	if h.index == nil {
		h.index = h.own.Index()
	}
	for _, own := range h.own.Of(e.Major, e.Minor) {
		if place, known := h.index.PlaceOf(own); known && place == at {
			return true
		}
	}
	return false
}

func (s *Scan) overlaysOfHost(own mount.Mounts) func() []overlay {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hostOverlays == nil {
		s.hostOverlays = sync.OnceValue(func() []overlay { return overlaysIn(own) })
	}
	return s.hostOverlays
}

// allViews returns the mount tables of other namespaces that were read so far.
func (s *Scan) allViews() []*View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[:len(s.all):len(s.all)]
}
