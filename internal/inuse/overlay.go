package inuse

import (
	"strings"

	"github.com/droverhq/drover/internal/mount"
)

// deviceNumber identifies a filesystem in a mount table.
type deviceNumber struct{ major, minor int }

func numberOf(e *mount.Entry) deviceNumber { return deviceNumber{e.Major, e.Minor} }

// FindOverlays finds the overlays whose upper directory is in the tree, in the mount tables that the scan
// has read so far. A process that sees such an overlay can write to the tree without seeing the tree. An
// example is a container of an engine that itself runs in a container and keeps its images on a volume.
// Call FindOverlays before the first call of In or By.
//
// The path of an upper directory is valid in the mount namespace of the program that mounted the overlay.
// So the path is looked up only in tables that show both the overlay and the tree. There are two
// exceptions. If the host shows the overlay, only the host's table counts: the upper directory of a
// container of the host is on the host, and the container may have a volume mounted at the same path. If
// the overlay is the root directory in a table, that table does not count: a program in another namespace
// mounted the overlay.
func (h *Holding) FindOverlays(s *Scan) {
	h.overlays = map[deviceNumber]bool{}
	onHost := map[deviceNumber]bool{}
	for _, e := range h.own {
		onHost[numberOf(e)] = true
	}
	h.findOverlaysIn(h.own, func(*mount.Entry) bool { return true })
	for _, v := range s.allViews() {
		h.findOverlaysIn(v.Mounts, func(e *mount.Entry) bool { return !onHost[numberOf(e)] })
	}
}

// findOverlaysIn adds the overlays in one table. mayBeMounter reports whether the table may be that of
// the program that mounted an overlay.
func (h *Holding) findOverlaysIn(table mount.Mounts, mayBeMounter func(*mount.Entry) bool) {
	shown := false
	for _, e := range table {
		shown = shown || h.fsys.MayBe(e) && within(strings.TrimSuffix(e.Root, "//deleted"), h.fsys.Root)
	}
	if !shown {
		return
	}
	for _, e := range table {
		path, ok := mount.UpperDir(e)
		if !ok || e.Mountpoint == "/" || !mayBeMounter(e) {
			continue
		}
		if on := table.On(path); on != nil && h.fsys.MayBe(on) {
			upper, ok := table.Place(path)
			h.overlays[numberOf(e)] = h.overlays[numberOf(e)] || ok && within(upper.Root, h.fsys.Root)
		}
	}
}

// copiedOverlay reports whether a mount of an overlay is a copy of a mount of the host: see In.
func (h *Holding) copiedOverlay(v *View, e *mount.Entry) bool {
	at, ok := v.index.PlaceOf(e)
	if !ok {
		return false
	}
	index := h.own.Index()
	for _, own := range h.own.Of(e.Major, e.Minor) {
		if place, known := index.PlaceOf(own); known && place == at {
			return true
		}
	}
	return false
}

// allViews returns the mount tables of other namespaces that were read so far.
func (s *Scan) allViews() []*View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[:len(s.all):len(s.all)]
}
