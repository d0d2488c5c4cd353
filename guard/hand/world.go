package hand

import (
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/mount"
)

// world is which process could write where, at one moment. It is filled in two steps: take lists
// all processes and reads their mount namespaces, then examine reads their descriptors.
type world struct {
	own    mount.Mounts // of the host: this process's namespace
	mounts *mountTables
	procs  []*process
	// devices are the filesystems of the datasets that somebody asked for: only descriptors
	// on these are kept.
	devices []device
}

// device is a filesystem by its device numbers: those in a mount table, and those that stat(2)
// reports, which differ on btrfs. The latter are zero when they are not known.
type device struct {
	major, minor         int
	statMajor, statMinor int
}

// process is what was seen of one.
type process struct {
	Process
	size   int     // descriptors, to examine the small ones first
	host   bool    // its first thread is in the host's mount namespace
	gone   bool    // it has ended, or is a thread of the kernel, or a hand
	spared bool    // it is init, an engine or Drover
	first  *view   // the mount table that its first thread sees, nil for the host's
	views  []*view // the mount tables that its threads see and the host does not
	// opens are what it holds in any other way: open files that it can write to, open
	// directories, its working and root directory, shared writable mappings.
	opens []open
	// unexamined is why its descriptors, or one of its mount tables, could not be read. Such a
	// process is a possible holder of everything. hung: the kernel keeps the read waiting.
	unexamined error
	hung       bool
}

// view is a mount table of another namespace. It is shared by all processes that see the same.
type view struct {
	mounts mount.Mounts
	index  mount.Index
}

// open is a file or directory that a process holds, by its place in its filesystem.
type open struct {
	major, minor int
	path         string
	through      seenMount // the mount that it is seen through; the zero value when that is detached
	unplaced     bool      // only that it is below path is known
}

// seenMount is a mount and the table that shows it, nil for the host's.
type seenMount struct {
	*mount.Entry
	in *view
}

// holders returns the processes that are known to be able to write to a dataset.
func (w *world) holders(target Target) []Process {
	fsys := w.filesystem(target)
	if !fsys.ok {
		return nil
	}
	h := w.newHolding(target, fsys.Filesystem)
	var found []Process
	for _, p := range w.procs {
		if !p.gone && h.by(p) {
			found = append(found, p.Process)
		}
	}
	return found
}

// holdersByMounts returns those holders that the mount namespace of their first thread shows. Unlike
// holders it can be called before the descriptors were read.
func (w *world) holdersByMounts(target Target) []Process {
	fsys := w.filesystem(target)
	if !fsys.ok {
		return nil
	}
	h := w.newHolding(target, fsys.Filesystem)
	var found []Process
	for _, p := range w.procs {
		if p.first != nil && h.in(p.first) {
			found = append(found, p.Process)
		}
	}
	return found
}

// unexamined returns the processes that may hold a dataset because they could not be examined.
func (w *world) unexamined(target Target) []*process {
	if !w.filesystem(target).ok {
		return nil
	}
	var found []*process
	for _, p := range w.procs {
		if p.unexamined != nil && !p.gone {
			found = append(found, p)
		}
	}
	return found
}

// filesystem is where a dataset's bytes are now.
type filesystem struct {
	mount.Filesystem
	ok bool
	// entry is the host's mount of it, nil when there is none.
	entry *mount.Entry
}

// filesystem finds the dataset's filesystem on the host's paths. When nothing is mounted there, it
// is the one that Bind saw: containers may still have it mounted. Device numbers are used again:
// one that the host has mounted in another place belongs to another dataset now.
func (w *world) filesystem(target Target) filesystem {
	for _, path := range target.Paths {
		if e := w.own.At(path); e != nil {
			return filesystem{mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: e.Root}, true, e}
		}
	}
	was := target.Filesystem
	if was.Root == "" || target.Own && len(w.own.Of(was.Major, was.Minor)) > 0 {
		return filesystem{}
	}
	return filesystem{was, true, nil}
}

// addDevice has descriptors on the filesystem of a dataset kept.
func (w *world) addDevice(target Target) {
	fsys := w.filesystem(target)
	if !fsys.ok {
		return
	}
	d := device{major: fsys.Major, minor: fsys.Minor, statMajor: fsys.Major, statMinor: fsys.Minor}
	if e := fsys.entry; e == nil || e.FSType == btrfs {
		d.statMajor, d.statMinor = 0, 0
		var st unix.Statx_t
		if e != nil && unix.Statx(unix.AT_FDCWD, e.Mountpoint, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st) == nil {
			d.statMajor, d.statMinor = int(st.Dev_major), int(st.Dev_minor)
		}
	}
	if !slices.Contains(w.devices, d) {
		w.devices = append(w.devices, d)
	}
}

// holding answers which processes hold one dataset. A mount table is judged once for all that see
// it.
type holding struct {
	w      *world
	fsys   mount.Filesystem
	places []mount.Place // where the host has it mounted
	views  map[*view]bool
}

func (w *world) newHolding(target Target, fsys mount.Filesystem) *holding {
	h := &holding{w: w, fsys: fsys, views: map[*view]bool{}}
	for _, path := range target.Paths {
		if p, ok := w.own.PlaceAt(path); ok {
			h.places = append(h.places, p)
		}
	}
	return h
}

// by reports whether a process can write to the dataset. What it has of an NFS share may be of any
// part of the share when its root is not known, and counts: to kill one process too many is better
// than to have two writers.
func (h *holding) by(p *process) bool {
	if slices.ContainsFunc(p.views, h.in) {
		return true
	}
	return slices.ContainsFunc(p.opens, func(o open) bool {
		if o.major != h.fsys.Major || o.minor != h.fsys.Minor {
			return false
		}
		return within(o.path, h.fsys.Root) || o.unplaced && within(h.fsys.Root, o.path) || o.through.Entry != nil && h.w.untold(o.through)
	})
}

// in reports whether a mount table has the dataset mounted writable, other than as a copy of the
// host's mount. Every service with a mount namespace of its own gets such a copy, and a container
// that sees the whole host has it below a folder. Processes there hold what they have opened, as
// the processes of the host do.
func (h *holding) in(v *view) bool {
	if known, ok := h.views[v]; ok {
		return known
	}
	found := false
	for _, e := range v.mounts.Of(h.fsys.Major, h.fsys.Minor) {
		root := strings.TrimSuffix(e.Root, "//deleted")
		if (within(root, h.fsys.Root) || h.w.untold(seenMount{e, v})) && !readOnly(e) && !h.copied(v, e) {
			found = true
			break
		}
	}
	h.views[v] = found
	return found
}

// copied tells a copy of the host's mount by the directory on which it is mounted. Its path tells
// nothing: a container can choose any path for its volume.
func (h *holding) copied(v *view, e *mount.Entry) bool {
	p, ok := v.index.PlaceOf(e)
	return ok && slices.Contains(h.places, p)
}

// untold reports whether a mount may be of any part of an NFS share. A copy of one of the host's
// mounts is of the same part as that.
func (w *world) untold(m seenMount) bool {
	e := m.Entry
	if !w.own.Unsure(e) {
		return false
	}
	if m.in == nil {
		return true
	}
	same := w.own.Of(e.Major, e.Minor)
	at, ok := m.in.index.PlaceOf(e)
	index := w.own.Index()
	return !ok || !slices.ContainsFunc(same, func(own *mount.Entry) bool {
		place, known := index.PlaceOf(own)
		return own.Root == e.Root && known && place == at
	})
}

func readOnly(e *mount.Entry) bool {
	return slices.Contains(strings.Split(e.Options, ","), "ro")
}

func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// place finds where in its filesystem a path is that is seen through a mount. A path that does not
// begin with the mount point is that of a process with another root directory, or the mount was
// moved meanwhile: it may be any file of what is mounted.
func place(m seenMount, path string) open {
	path = strings.TrimSuffix(path, " (deleted)")
	o := open{major: m.Major, minor: m.Minor, path: strings.TrimSuffix(m.Root, "//deleted"), through: m}
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(m.Mountpoint, "/"))
	if o.unplaced = !ok; ok {
		o.path = filepath.Join(o.path, rest)
	}
	return o
}
