package mount

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Entry is one line of a mountinfo file (proc_pid_mountinfo(5)), unescaped.
type Entry = mountinfo.Info

// Mounts is a mount table at one moment, in the kernel's order. If several mounts have the same mount
// point, the last one hides the others. It is not changed after it was read, so it is safe for
// concurrent use.
type Mounts []*Entry

// Table reads the mounts of this process's mount namespace. It fails with ErrTooLarge for a table of more than
// maxOwnTable bytes.
func Table() (Mounts, error) {
	m, err := readTable("/proc/thread-self", maxOwnTable, func(int) error { return nil })
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	return m, nil
}

// TableInSteps reads the mounts that a task sees, for a caller that must be able to stop: a user with a user namespace
// can make a table that takes minutes to read. task is the directory of the task in /proc. The root of an NFS mount is
// replaced by what RootOf returns for it. TableInSteps calls step after each system call that reads the table, usually
// some 100 µs apart, with the number of bytes that were read. It also calls step, with 0, before it examines an NFS
// mount. If step fails, TableInSteps fails with the same error. It fails with ErrTooLarge for a table of more than
// MaxTable bytes. Ended reports whether it failed because the task has ended.
func TableInSteps(task string, step func(bytes int) error) (Mounts, error) {
	return readTable(task, MaxTable, step)
}

func readTable(task string, limit int, step func(bytes int) error) (Mounts, error) {
	f, err := os.Open(task + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := parseTable(stepReader{f, step}, limit)
	if err == nil {
		err = m.resolveShareRoots(task+"/root", step)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// stepReader calls step after each read, and fails with its error.
type stepReader struct {
	io.Reader
	step func(bytes int) error
}

func (r stepReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if stop := r.step(n); stop != nil {
		return 0, stop
	}
	return n, err
}

// At returns the visible mount on target, or nil if target is not a mount point. target is an absolute
// path without symbolic links.
func (m Mounts) At(target string) *Entry {
	for i := len(m) - 1; i >= 0; i-- {
		if m[i].Mountpoint == target {
			return m[i]
		}
	}
	return nil
}

// Under returns the mounts on dir and below it.
func (m Mounts) Under(dir string) Mounts {
	var found Mounts
	for _, e := range m {
		if within(e.Mountpoint, dir) {
			found = append(found, e)
		}
	}
	return found
}

// Of returns the mounts of the filesystem with a device number.
func (m Mounts) Of(major, minor int) Mounts {
	var found Mounts
	for _, e := range m {
		if e.Major == major && e.Minor == minor {
			found = append(found, e)
		}
	}
	return found
}

// From returns the first mount of a source, or nil if there is none.
func (m Mounts) From(source string) *Entry {
	for _, e := range m {
		if e.Source == source {
			return e
		}
	}
	return nil
}

func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// IsReadOnly reports whether a mount has the flag ro, so that nobody can write through it. It does not look at the flag
// of the filesystem: a read-only filesystem can have mounts without the flag.
func IsReadOnly(e *Entry) bool { return slices.Contains(strings.Split(e.Options, ","), "ro") }

// Filesystem identifies a filesystem or a directory tree in it: the device number of the filesystem,
// and the path of the tree's root in that filesystem ("/" for the whole filesystem). Identity is needed
// only if the filesystem may not be mounted any more.
type Filesystem struct {
	Major    int      `json:"major"`
	Minor    int      `json:"minor"`
	Root     string   `json:"root"`
	Identity Identity `json:"identity,omitzero"`
}

// Place identifies a directory by the device number of its filesystem and its path in that filesystem.
// It identifies a mount point independently of the mount namespace.
type Place struct {
	Major, Minor int
	Path         string
}

// Index finds the entries of a mount table by their mount ID.
type Index map[int]*Entry

// Index returns the entries of the table by their mount ID.
func (m Mounts) Index() Index {
	index := make(Index, len(m))
	for _, e := range m {
		index[e.ID] = e
	}
	return index
}

// PlaceOf returns the directory on which an entry is mounted. ok is false if the table does not contain
// the parent mount, for instance because the process has another root directory.
func (x Index) PlaceOf(e *Entry) (p Place, ok bool) {
	parent := x[e.Parent]
	if parent == nil || parent == e {
		return Place{}, false
	}
	return placeIn(parent, e.Mountpoint)
}

// PlaceAt returns the directory on which the mount at path is mounted or, if path is not a mount
// point, the directory at path. ok is false if the table does not show it.
func (m Mounts) PlaceAt(path string) (p Place, ok bool) {
	if e := m.At(path); e != nil {
		return m.Index().PlaceOf(e)
	}
	var around *Entry
	for _, e := range m {
		if within(path, e.Mountpoint) && (around == nil || len(e.Mountpoint) >= len(around.Mountpoint)) {
			around = e
		}
	}
	if around == nil {
		return Place{}, false
	}
	return placeIn(around, path)
}

func placeIn(e *Entry, path string) (p Place, ok bool) {
	if !within(path, e.Mountpoint) {
		return Place{}, false
	}
	rest := strings.TrimPrefix(path, strings.TrimSuffix(e.Mountpoint, "/"))
	return Place{e.Major, e.Minor, filepath.Join(e.Root, rest)}, true
}

// Holder is a process in whose mount namespace a filesystem is mounted, or one that could not be
// examined and may have it mounted.
type Holder struct {
	// PID and Comm identify one process of the namespace.
	PID  int
	Comm string
	// Namespace is the inode of the mount namespace, or 0 if the kernel does not show it.
	Namespace uint64
	// Mountpoint is the path of the mount as the process sees it. It is empty if Unexamined is set.
	Mountpoint string
	// Unexamined is the error that prevented the examination of the process, or nil.
	Unexamined error
}

// String returns a clause for an error message.
func (h Holder) String() string {
	if h.Unexamined != nil {
		return fmt.Sprintf("process %d (%s) may have it mounted and cannot be examined: %v", h.PID, h.Comm,
			h.Unexamined)
	}
	return fmt.Sprintf("process %d (%s) has it mounted at %s in another mount namespace", h.PID, h.Comm, h.Mountpoint)
}

// Foreign contains the mounts of all other mount namespaces, as one call of ReadForeign saw them. It is not changed
// after it was read, so it is safe for concurrent use.
type Foreign struct {
	own        Mounts
	mounts     []foreignMount
	unexamined []Holder
	members    map[uint64][]int // the processes of each mount namespace
}

type foreignMount struct {
	*Entry
	holder Holder
	place  Place
	placed bool // reports whether place is known
}

// Holders returns the processes that have fsys, or a directory of it, mounted in another mount
// namespace: one for each namespace and mount point. After them the result includes every process that could
// not be examined, with Unexamined set.
//
// A namespace that was created while the host had fsys mounted on ownTarget has a copy of that mount.
// Holders does not return copies. It recognizes a copy by the directory on which it is mounted and not
// by its path, because a container can choose any path for its volume. If ownTarget is empty, Holders
// returns copies too.
//
// An NFS mount that matches no mount of the host may be any part of its share, so Holders returns it.
//
// If the device number of fsys belongs to another filesystem now, Holders returns nothing: no process can hold fsys,
// not even one that could not be examined.
func (f *Foreign) Holders(fsys Filesystem, ownTarget string) []Holder {
	if fsys.Reused() {
		return nil
	}
	var holders []Holder
	for _, m := range f.mountsOf(fsys, ownTarget, false) {
		holders = append(holders, m.holder)
	}
	return append(holders, f.unexamined...)
}

// Copies returns the holders of the copies that Holders leaves out. reachable are those whose processes can reach the
// copy. The others cannot, because the mount point is in a directory that only root may enter, and the root of the host
// does not exist in the user namespaces of the processes. Any user can make such a namespace (unshare -Urm).
func (f *Foreign) Copies(fsys Filesystem, ownTarget string) (all, reachable []Holder) {
	if fsys.Reused() {
		return nil, nil
	}
	for _, m := range f.mountsOf(fsys, ownTarget, true) {
		all = append(all, m.holder)
		if f.isReachable(m, ownTarget) {
			reachable = append(reachable, m.holder)
		}
	}
	return all, reachable
}

// mountsOf returns the copies of the host's mount of fsys on ownTarget, or the other mounts of fsys.
func (f *Foreign) mountsOf(fsys Filesystem, ownTarget string, copies bool) (list []foreignMount) {
	isCopy := f.copiesOf(ownTarget)
	for _, m := range f.mounts {
		if !fsys.MayMatch(m.Entry) || isCopy(m) != copies {
			continue
		}
		root := strings.TrimSuffix(m.Root, "//deleted")
		if within(root, fsys.Root) || f.own.IsAmbiguous(m.Entry) {
			list = append(list, m)
		}
	}
	return list
}

// copiesOf returns a function that reports whether a mount is a copy of the host's mount on ownTarget, which can be "".
// The host may have unmounted it since.
func (f *Foreign) copiesOf(ownTarget string) func(foreignMount) bool {
	var hostPlace Place
	known := false
	if ownTarget != "" {
		hostPlace, known = f.own.PlaceAt(ownTarget)
	}
	return func(m foreignMount) bool { return known && m.placed && m.place == hostPlace }
}

// isReachable reports whether a process may be able to reach a copy of the host's mount on ownTarget.
func (f *Foreign) isReachable(m foreignMount, ownTarget string) bool {
	return !isPrivate(filepath.Dir(ownTarget)) || f.hasRoot(m.holder.Namespace)
}

// isPrivate reports whether only root may enter a directory.
func isPrivate(dir string) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil && st.Uid == 0 && st.Mode&0o077 == 0
}

// hasRoot reports whether a process of a mount namespace may be, or may become, the root of the host. It returns true
// if that is unknown.
func (f *Foreign) hasRoot(ns uint64) bool {
	alive := false
	for _, pid := range f.members[ns] {
		at := fmt.Sprintf("/proc/%d", pid)
		b, err := os.ReadFile(at + "/uid_map")
		if Ended(err) {
			continue
		}
		own, ownErr := os.Readlink("/proc/self/ns/user")
		user, userErr := os.Readlink(at + "/ns/user")
		if errors.Join(err, ownErr, userErr) != nil || user == own || mapsRoot(string(b)) {
			return true
		}
		alive = true
	}
	return !alive // a process that it has forked is not in the list
}

// mapsRoot reports whether a uid_map (user_namespaces(7)) contains the user 0 of this process's user namespace.
func mapsRoot(table string) bool {
	for line := range strings.Lines(table) {
		if word := strings.Fields(line); len(word) != 3 || word[1] == "0" {
			return true
		}
	}
	return false
}

// FilesystemAt returns a filesystem that is mounted on path in another mount namespace. A namespace that copied the
// host's mounts keeps such a mount after the host has unmounted the filesystem.
func (f *Foreign) FilesystemAt(path string) (fsys Filesystem, ok bool) {
	for _, m := range f.mounts {
		if m.Mountpoint == path {
			return Filesystem{Major: m.Major, Minor: m.Minor, Root: m.Root}, true
		}
	}
	return Filesystem{}, false
}

// From returns the processes that have a source, or a path below it, mounted in another mount
// namespace. It is for filesystems whose sources are not devices. After them the result includes every
// process that could not be examined, with Unexamined set. It does not include copies of the host's mount on ownTarget
// that nobody can reach: see Copies.
func (f *Foreign) From(source, ownTarget string) []Holder {
	var holders []Holder
	isCopy := f.copiesOf(ownTarget)
	for _, m := range f.mounts {
		if within(m.Source, source) && (!isCopy(m) || f.isReachable(m, ownTarget)) {
			holders = append(holders, m.holder)
		}
	}
	return append(holders, f.unexamined...)
}
