package inuse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
)

// Reasons why a process could not be examined. ErrTooMuch and ErrBudget are further ones. Test them with
// errors.Is.
var (
	// ErrOutOfTime is returned if the examination was asked to stop before it was complete.
	ErrOutOfTime = errors.New("it has too many descriptors, mappings, threads or mounts to read in time")
	// ErrHung is returned if the examination makes no progress because it waits in the kernel.
	ErrHung = errors.New("the kernel does not finish reading its descriptors or memory map")
)

// Examination finds everything that one process holds: the mount namespaces of its threads, their
// descriptors, working and root directories, and its memory map. Set Scan, PID and Start, and pass it to
// Examiner.Examine once.
//
// An examination takes longer the more descriptors, mappings, threads and mounts the process has. Any
// user can have many of them, up to the limits of the process and of user namespaces.
type Examination struct {
	Scan  *Scan
	PID   int
	Start uint64 // with PID it identifies the process: proc_pid_stat(5), starttime
	// Budget limits the work. It may be nil.
	Budget *Budget
	// Pace is called after each chunk of work, and may pause the examination. It may be nil.
	Pace func()

	done   int // the work so far, in the units of ThreadWork
	tables int // the bytes of mount tables that were read so far

	// stop asks the examination to end with ErrOutOfTime. progress is incremented after each chunk of work. While it
	// does not change, the examination waits in the kernel.
	stop     atomic.Bool
	progress atomic.Int64
}

// Findings are the result of an examination.
type Findings struct {
	// Views are the mount tables of the threads that are in another mount namespace than the host's.
	Views []*View
	// Files are files and directories on wanted filesystems that the process holds: files open for writing, open
	// directories, its working and root directories, and shared mappings that are or may become writable. The process
	// can write through them even if it does not see a mount of the filesystem.
	Files []File
}

// Advance records progress. Call it while Pace pauses the examination. Otherwise the examination counts as hung. Safe
// for concurrent use.
func (x *Examination) Advance() { x.progress.Add(1) }

// Progress returns a number that grows with the progress of the examination. Safe for concurrent use.
func (x *Examination) Progress() int64 { return x.progress.Load() }

// chunk is the number of descriptors, or of lines of a memory map, that are read between two checks of stop.
const chunk = 256

// run examines the process. The error is nil if the process was examined completely or has ended. It is
// ErrOutOfTime if stop was set, ErrTooMuch or ErrBudget if the budget does not suffice, and errTables if
// the mount tables need too much memory. Any other error means that /proc cannot be read. If it fails,
// the findings are empty.
func (x *Examination) run() (f Findings, err error) {
	dir, err := os.Open(filepath.Join("/proc", strconv.Itoa(x.PID), "task"))
	if err != nil {
		return f, unlessEnded(err)
	}
	defer dir.Close()
	var t threads
	for {
		names, err := dir.Readdirnames(chunk)
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil {
			return Findings{}, unlessEnded(err)
		}
		for _, name := range names {
			if err := x.thread(filepath.Join(dir.Name(), name), &t, &f); err != nil {
				return Findings{}, err
			}
		}
	}
}

// threads records which of the resources that the threads of a process can share have been examined.
type threads struct {
	files, places representatives
	mapped        bool // the memory map was read
}

// thread examines the thread with the directory at, and the memory map unless it was already read for an earlier
// thread. It returns nil if the thread has ended.
func (x *Examination) thread(at string, t *threads, f *Findings) error {
	tid, err := strconv.Atoi(filepath.Base(at))
	if err != nil {
		return err
	}
	err = x.task(at, tid, &t.files, &t.places, f)
	// All threads share their memory; the first one may be a zombie that has none.
	if err == nil && !t.mapped {
		t.mapped, err = x.mappings(at, f)
	}
	// The descriptors of a process of root with capabilities that this process lacks cannot be read, for example those
	// of the host's init, if Drover runs with fewer capabilities. The guard warns of that when it starts. The mounts of
	// such a process are read nevertheless.
	if err = unlessEnded(err); err != nil && !(errors.Is(err, fs.ErrPermission) && RunsAsRoot(x.PID)) {
		return err
	}
	return x.endChunk(ThreadWork)
}

// unlessEnded returns nil if err means that the task has ended, and err otherwise.
func unlessEnded(err error) error {
	if err == nil || mount.Ended(err) {
		return nil
	}
	return err
}

// task examines one thread. It skips the resources that the thread shares with an earlier thread.
func (x *Examination) task(at string, tid int, files, places *representatives, f *Findings) error {
	v, err := x.Scan.TableOf(at, x.endTableChunk)
	if err != nil {
		return err
	}
	if v != nil && (len(f.Views) == 0 || f.Views[len(f.Views)-1] != v) {
		f.Views = append(f.Views, v)
	}
	if places.isNew(tid, kcmpFS) {
		dir, err := os.Open(at)
		if err != nil {
			return err
		}
		defer dir.Close()
		for _, name := range []string{"cwd", "root"} {
			if err := x.descriptor(dir, at, name, f); err != nil {
				return err
			}
		}
	}
	if files.isNew(tid, kcmpFiles) {
		return x.descriptors(at, f)
	}
	return nil
}

func (x *Examination) descriptors(at string, f *Findings) error {
	dir, err := os.Open(at + "/fd")
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(chunk)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := x.descriptor(dir, at, name, f); err != nil {
				return err
			}
		}
		if err := x.endChunk(len(names)); err != nil {
			return err
		}
	}
}

// descriptor examines one link in the folder dir of the task at: a descriptor, or its working or root directory. It
// adds the file to f if the file is on a wanted filesystem and the task can write through it: a file that is open for
// writing, or any directory. It fails if it cannot determine that.
//
// Most descriptors need only one system call, relative to dir: a path from /proc would take twice the
// time. The link is read only if the filesystem is a wanted one.
//
// A descriptor on a detached mount (umount2(2), MNT_DETACH) has a mount ID that is in no table. Such a
// file is recognized by its device number.
func (x *Examination) descriptor(dir *os.File, at, name string, f *Findings) error {
	var st unix.Statx_t
	const fields = unix.STATX_MNT_ID | unix.STATX_TYPE
	if err := unix.Statx(int(dir.Fd()), name, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, fields, &st); err != nil {
		// The descriptor was closed meanwhile, or the file was removed from a share.
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) {
			return nil
		}
		return x.examineWithoutStat(dir, name, f)
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil
	}
	through, attached := x.Scan.find(int(st.Mnt_id))
	if attached && !x.Scan.isWanted(through.Major, through.Minor) {
		return nil
	}
	path := filepath.Join(dir.Name(), name)
	var o File
	if attached {
		var err error
		if o, err = placeOf(through, path); err != nil {
			return unlessClosed(err)
		}
	} else {
		d := x.Scan.detached(int(st.Dev_major), int(st.Dev_minor), path)
		if d == nil {
			return nil
		}
		var still bool
		o, still = x.Scan.placeDetached(d, path)
		if err := x.endChunk(detachedWork); err != nil || !still {
			return err
		}
	}
	if kind == unix.S_IFDIR && !attached && x.isView(path) {
		return nil
	}
	if kind == unix.S_IFREG {
		writable, err := forWriting(at, name)
		if err != nil || !writable && !x.Scan.readers {
			return unlessClosed(err)
		}
		o.readOnly = !writable
	}
	f.Files = append(f.Files, o)
	return nil
}

// isView reports whether a directory on a detached mount is one that the agent keeps open to learn about write errors
// (mount.View): the mount is read-only, and the process belongs to root on the host. Nobody can write through such a
// directory. A process of a container could hold one as well, and make the mount writable later.
func (x *Examination) isView(path string) bool {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil || st.Flags&unix.ST_RDONLY == 0 || !RunsAsRoot(x.PID) {
		return false
	}
	view, err := x.Scan.TableOf(filepath.Join("/proc", strconv.Itoa(x.PID)), func(int) error { return nil })
	return err == nil && view == nil
}

// examineWithoutStat examines a descriptor for which statx(2) failed because the filesystem does not describe the file.
// By default, a FUSE filesystem describes its files only to the user who mounted it, and not even to root
// (fuse_allow_current_process). A filesystem that has shut down answers EIO. Such an error must not count as a use of
// the tree: any user can have such a descriptor, and can pass it to other processes.
//
// The kernel knows the mount of the descriptor without the filesystem. The file counts if that mount is a mount of a
// wanted filesystem. A file on a detached mount counts if its device number is that of a wanted filesystem.
// examineWithoutStat fails if the device number is unknown too.
func (x *Examination) examineWithoutStat(dir *os.File, name string, f *Findings) error {
	path := filepath.Join(dir.Name(), name)
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return unlessClosed(&os.PathError{Op: "open", Path: path, Err: err})
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return err
	}
	id, err := strconv.Atoi(Field(info, "mnt_id:"))
	if err != nil {
		return err
	}
	if through, attached := x.Scan.find(id); attached {
		if !x.Scan.isWanted(through.Major, through.Minor) {
			return nil
		}
		o, err := placeOf(through, path)
		if err != nil {
			return unlessClosed(err)
		}
		f.Files = append(f.Files, o)
		return nil
	}
	major, minor, err := deviceOf(fd, path)
	if err != nil {
		return err
	}
	if d := x.Scan.detached(major, minor, path); d != nil {
		if o, still := x.Scan.placeDetached(d, path); still {
			f.Files = append(f.Files, o)
		}
		return x.endChunk(detachedWork)
	}
	return nil
}

// deviceOf returns the device number of a file whose filesystem does not describe it.
func deviceOf(fd int, path string) (major, minor int, err error) {
	var st unix.Statx_t
	// FUSE reports the device number if no field is requested.
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st)
	if err == nil {
		return int(st.Dev_major), int(st.Dev_minor), nil
	}
	// An XFS that has shut down does not report it. But its f_fsid is its device number (xfs_fs_statfs in
	// fs/xfs/xfs_super.c).
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.XFS_SUPER_MAGIC {
		dev := uint64(uint32(fs.Fsid.Val[0]))
		return int(unix.Major(dev)), int(unix.Minor(dev)), nil
	}
	return 0, 0, &os.PathError{Op: "statx", Path: path, Err: err}
}

// placeOf reads a link of /proc and converts it with place. The kernel does not show a path that is
// longer than a page: such a file may be anywhere in its filesystem.
func placeOf(through seenMount, path string) (File, error) {
	link, err := os.Readlink(path)
	if errors.Is(err, unix.ENAMETOOLONG) {
		return File{major: through.Major, minor: through.Minor, path: "/", unplaced: true}, nil
	}
	if err != nil {
		return File{}, err
	}
	return place(through, link), nil
}

// unlessClosed returns nil if err means that the descriptor was closed meanwhile, and err otherwise.
func unlessClosed(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// forWriting reports whether the descriptor fd of the task at is open for writing: proc_pid_fdinfo(5).
func forWriting(at, fd string) (bool, error) {
	info, err := os.ReadFile(filepath.Join(at, "fdinfo", fd))
	if err != nil {
		return false, err
	}
	flags, err := strconv.ParseUint(Field(info, "flags:"), 8, 32)
	if err != nil {
		return false, err
	}
	return flags&unix.O_ACCMODE != unix.O_RDONLY && flags&unix.O_PATH == 0, nil
}

// Field returns the text after name in a file of "name: text" lines, or "" if there is no such line. name
// includes the colon.
func Field(b []byte, name string) string {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return string(bytes.TrimSpace(rest))
		}
	}
	return ""
}

// representatives are threads that use different instances of a resource that kcmp(2) compares: one
// thread for each instance.
type representatives []int

// Resources that kcmp(2) compares: linux/kcmp.h.
const (
	kcmpFiles = 2
	kcmpFS    = 3
)

// maxRepresentatives is the maximum length of representatives. If a process uses more instances of the
// resource, its further threads are compared only with these, so that an instance may be examined more
// than once.
const maxRepresentatives = 16

// isNew reports whether a thread must be examined, because it shares the resource with none of s or
// because the comparison failed. It adds such a thread to s, up to maxRepresentatives.
func (s *representatives) isNew(tid, kind int) bool {
	for _, other := range *s {
		if equal, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(other), uintptr(tid), uintptr(kind), 0, 0,
			0); errno == 0 && equal == 0 {
			return false
		}
	}
	if len(*s) < maxRepresentatives {
		*s = append(*s, tid)
	}
	return true
}
