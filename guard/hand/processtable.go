package hand

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

// processTable records the processes that could write to some filesystems at one moment. It is filled in two steps:
// Tool.list lists all processes with their mount namespaces, then Tool.examineAll reads their descriptors. It does
// not change after that and is then safe for concurrent use.
type processTable struct {
	own   mount.Mounts // the mounts of the host, which are those of this process's mount namespace
	scan  *inuse.Scan  // of the filesystems of the datasets
	procs []*process
	// datasets are the datasets whose holders are wanted.
	datasets []uuid.UUID
}

// process has the findings of a look on one process.
type process struct {
	Process
	threads int
	size    int  // the estimated work to examine it; processes with little work are examined first
	host    bool // its first thread is in the host's mount namespace
	unread  bool // the mount table of its first thread is large: list has not read it
	// cleared is true for a process that was shown to hold none of the datasets while it was stopped.
	// clearedAt is the time of its last examination; 0 if it is not cleared.
	cleared   bool
	clearedAt time.Duration
	gone      bool        // it has ended, or is a thread of the kernel, or a hand
	spared    bool        // it is init, an engine or Drover
	first     *inuse.View // the mount table that its first thread sees, nil for the host's
	found     inuse.Findings
	// unexamined is the error that prevented reading its descriptors or one of its mount tables. Such
	// a process may hold any dataset. hung is true if the kernel does not finish the read.
	unexamined error
	hung       bool
}

// holders returns the processes that can write to a dataset. Call it after the descriptors were read. It
// does not include processes that could not be examined: see unexamined.
func (w *processTable) holders(target Target) []Process {
	return w.withUse(target, func(h *inuse.TreeUse, p *process) bool { return !p.gone && h.CanWrite(p.found) })
}

// holdersByMounts returns the holders that can be recognized by the mount namespace of their first
// thread. Unlike holders, it can be called before the descriptors were read.
func (w *processTable) holdersByMounts(target Target) []Process {
	return w.withUse(target, func(h *inuse.TreeUse, p *process) bool {
		return p.first != nil && h.IsMountedIn(p.first)
	})
}

// withUse returns the processes for which uses says that they use the dataset's filesystem.
func (w *processTable) withUse(target Target, uses func(*inuse.TreeUse, *process) bool) (found []Process) {
	fsys := w.filesystem(target)
	if !fsys.ok {
		return nil
	}
	h := w.newHolding(target, fsys.Filesystem)
	for _, p := range w.procs {
		if uses(h, p) {
			found = append(found, p.Process)
		}
	}
	return found
}

// unexamined returns the processes that could not be examined and so may hold a dataset.
func (w *processTable) unexamined(target Target) []*process {
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

// filesystem is the filesystem of a dataset. ok is false if none is known, or if it is mounted nowhere.
type filesystem struct {
	mount.Filesystem
	ok bool
	// entry is the host's mount of the filesystem, or nil if there is none.
	entry *mount.Entry
}

// filesystem returns the filesystem that the host has mounted on the paths of a dataset. If nothing is mounted there,
// it returns the filesystem that Bind found, because containers may still have it mounted. If the kernel has reused
// the device number for another filesystem, the one that Bind found is mounted nowhere: no process can write to it,
// and ok is false.
//
// filesystem reads the identity of the device each time. The reason is that a look finds holders by the device number:
// a process that it found is a holder only if the number still belongs to the dataset after the look.
func (w *processTable) filesystem(target Target) filesystem {
	for _, path := range target.Paths {
		if e := w.own.At(path); e != nil {
			return filesystem{mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: e.Root}, true, e}
		}
	}
	was := target.Filesystem
	if was.Root == "" || was.Reused() {
		return filesystem{}
	}
	for _, e := range w.own.Of(was.Major, was.Minor) {
		if !was.MayMatch(e) {
			return filesystem{}
		}
	}
	return filesystem{was, true, nil}
}

func (w *processTable) newHolding(target Target, fsys mount.Filesystem) *inuse.TreeUse {
	h := inuse.NewTreeUse(w.own, fsys, target.Paths)
	h.FindOverlays(w.scan)
	return h
}
