package hand

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/mount"
)

// world records which processes could write to which filesystems at one moment. It is filled in two
// steps: Tool.list lists all processes with their mount namespaces, then Tool.examineAll reads their
// descriptors. It does not change after that and is then safe for concurrent use.
type world struct {
	own    mount.Mounts // of the host: this process's namespace
	mounts *mountTables
	procs  []*process
	// datasets are the datasets whose holders are wanted.
	datasets []uuid.UUID
	// devices are the filesystems of these datasets. Descriptors on other filesystems are ignored.
	devices []device
}

// device identifies a filesystem by its device number in a mount table and by the one that stat(2)
// reports. They differ on btrfs. The latter is zero if it is unknown.
type device struct {
	major, minor         int
	statMajor, statMinor int
}

// process is what a look has found out about a process.
type process struct {
	Process
	size int  // the number of descriptors: processes with few are examined first
	host bool // its first thread is in the host's mount namespace
	// cleared is true for a large process that was shown to hold none of the datasets while it was
	// stopped. clearedAt is the time of its last examination.
	cleared   bool
	clearedAt time.Duration
	gone      bool    // it has ended, or is a thread of the kernel, or a hand
	spared    bool    // it is init, an engine or Drover
	first     *view   // the mount table that its first thread sees, nil for the host's
	views     []*view // the mount tables that its threads see and the host does not
	// opens are the files through which it can write without such a mount: files open for writing,
	// open directories, its working and root directory, and shared writable mappings.
	opens []open
	// unexamined is the error that prevented reading its descriptors or one of its mount tables. Such
	// a process may hold any dataset. hung is true if the kernel does not finish the read.
	unexamined error
	hung       bool
}

// view is a mount table of another namespace. All processes that see the same mounts share it.
type view struct {
	mounts mount.Mounts
	index  mount.Index
}

// open is a file or directory that a process has open: the device number of its filesystem, and its path
// in that filesystem.
type open struct {
	major, minor int
	path         string
	through      seenMount // the mount through which it was opened; zero if that mount is detached
	unplaced     bool      // the exact path is unknown: it is path or below
}

// seenMount is a mount, and the table that contains it. in is nil for the host's table.
type seenMount struct {
	*mount.Entry
	in *view
}

// holders returns the processes that can write to a dataset. Call it after the descriptors were read. It
// does not include processes that could not be examined: see unexamined.
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

// holdersByMounts returns the holders that can be recognized by the mount namespace of their first
// thread. Unlike holders, it can be called before the descriptors were read.
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

// unexamined returns the processes that could not be examined and so may hold a dataset.
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

// filesystem is the filesystem of a dataset. ok is false if it is unknown.
type filesystem struct {
	mount.Filesystem
	ok bool
	// entry is the host's mount of the filesystem, or nil if there is none.
	entry *mount.Entry
}

// filesystem returns the filesystem that the host has mounted on the paths of a dataset. If nothing is
// mounted there, it returns the one that Bind found, because containers may still have it mounted. But if
// the host has mounted a filesystem with that device number elsewhere, the kernel has reused the number
// for another dataset, and the filesystem is unknown.
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

// addDevice adds the filesystem of a dataset to w.devices, so that open files on it are recorded.
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

// holding decides which processes hold one dataset. It checks each mount table once for all processes
// that share it. Not safe for concurrent use.
type holding struct {
	w      *world
	fsys   mount.Filesystem
	places []mount.Place  // the directories on which the host has mounted the dataset
	views  map[*view]bool // the results of in
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

// by reports whether a process can write to the dataset. A file that was opened through an NFS mount
// with an unknown root may be in any part of the share, so it counts: killing one process too many is
// better than having two writers.
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

// in reports whether a mount table contains a writable mount of the dataset that is not a copy of the
// host's mount. Every service with a separate mount namespace gets a copy, and a container that sees the
// whole host has one below some folder. Processes in these namespaces hold the dataset only if they have
// opened a file of it, like processes in the host's namespace.
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

// copied reports whether a mount is a copy of the host's mount. It compares the directories on which they
// are mounted and not the paths, because a container can choose any path for its volume.
func (h *holding) copied(v *view, e *mount.Entry) bool {
	p, ok := v.index.PlaceOf(e)
	return ok && slices.Contains(h.places, p)
}

// untold reports whether a mount may be of any part of an NFS share. It is not if the mount is a copy of
// a mount of the host, which is of the same part.
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

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// place converts a path that a process sees through a mount to the path in the mounted filesystem. If the
// path does not begin with the mount point, the process has another root directory, or the mount was moved
// meanwhile. Then the result is unplaced: it may be any file of the mount.
func place(m seenMount, path string) open {
	path = strings.TrimSuffix(path, " (deleted)")
	o := open{major: m.Major, minor: m.Minor, path: strings.TrimSuffix(m.Root, "//deleted"), through: m}
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(m.Mountpoint, "/"))
	if o.unplaced = !ok; ok {
		o.path = filepath.Join(o.path, rest)
	}
	return o
}
