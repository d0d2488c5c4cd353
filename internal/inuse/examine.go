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

	"github.com/droverhq/drover/internal/mount"
)

// Reasons why a process could not be examined; test with errors.Is.
var (
	ErrOutOfTime = errors.New("it has too many descriptors, mappings, threads or mounts to read in time")
	ErrHung      = errors.New("the kernel does not finish the read of its descriptors or memory map")
)

// Examination finds everything that one process holds: the mount namespaces of its threads, their
// descriptors, working and root directories, and its memory map. The time that it takes grows with the
// number of descriptors, mappings, threads and mounts, which any user can raise up to the limits of the
// process and of user namespaces.
type Examination struct {
	Scan  *Scan
	PID   int
	Start uint64 // with PID it identifies the process: proc_pid_stat(5), starttime
	// Budget, if set, limits the work.
	Budget *Budget
	// Pace, if set, is called after each chunk of work. It may rest.
	Pace func()

	done   int // the work so far
	tables int // the bytes of mount tables that were read so far

	// stop asks the examination to end with ErrOutOfTime. progress grows as long as it makes progress;
	// otherwise it waits in the kernel.
	stop     atomic.Bool
	progress atomic.Int64
}

// Findings are the result of an examination.
type Findings struct {
	// Views are the mount tables that the threads of the process see and the host does not.
	Views []*View
	// Files are the files through which it can write without such a mount: files open for writing, open
	// directories, its working and root directory, and shared mappings that are or may become writable.
	Files []File
}

// Advance records progress, so that an examination that rests does not count as hung.
func (x *Examination) Advance() { x.progress.Add(1) }

// Progress returns a number that grows with the progress of the examination.
func (x *Examination) Progress() int64 { return x.progress.Load() }

// chunk is the number of descriptors, or of lines of a memory map, that are read between two checks of stop.
const chunk = 256

// run examines the process. The error is nil if the process was examined completely, or has ended. It is
// ErrOutOfTime if stop was set, and ErrTooMuch or ErrBudget if the budget does not suffice.
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

// threads is what was examined of the resources that the threads of a process can share.
type threads struct {
	files, places sharers
	mapped        bool // the memory map was read
}

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
	if err = unlessEnded(err); err != nil && !x.mustBeTrusted(err) {
		return err
	}
	return x.endChunk(ThreadWork)
}

// mustBeTrusted reports whether err is that the descriptors of a process of root cannot be read because it
// has capabilities that this process lacks. An example is the host's init, if Drover runs with fewer
// capabilities, about which the guard warns when it starts. The mounts of such a process are still read.
func (x *Examination) mustBeTrusted(err error) bool {
	return errors.Is(err, fs.ErrPermission) && RunsAsRoot(x.PID)
}

func unlessEnded(err error) error {
	if err == nil || mount.Ended(err) {
		return nil
	}
	return err
}

// task examines one thread. It does not read again what the thread shares with an earlier thread.
func (x *Examination) task(at string, tid int, files, places *sharers, f *Findings) error {
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

// descriptors examines a descriptor table.
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

// descriptor examines one descriptor, or the working or root directory: a link in the folder dir of the
// thread at. It adds it to f if it is on one of the wanted filesystems and the thread can write through it: a file
// that is open for writing, or any directory.
//
// Most descriptors need only one system call, relative to dir: a path from /proc would take twice the
// time. The link is read only if the filesystem is one of the wanted filesystems.
//
// A descriptor on a detached mount (umount2(2), MNT_DETACH) has a mount ID that is in no table. It is
// recognized by the device of its file.
func (x *Examination) descriptor(dir *os.File, at, name string, f *Findings) error {
	var st unix.Statx_t
	const fields = unix.STATX_MNT_ID | unix.STATX_TYPE
	if err := unix.Statx(int(dir.Fd()), name, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, fields, &st); err != nil {
		// It was closed meanwhile, or its file is gone from a share.
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) {
			return nil
		}
		return x.undescribed(dir, name, f)
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil
	}
	through, attached := x.Scan.find(int(st.Mnt_id))
	if attached && !x.Scan.wanted(through.Major, through.Minor) {
		return nil
	}
	path := filepath.Join(dir.Name(), name)
	var o File
	if attached {
		var err error
		if o, err = placeOf(through, path); err != nil {
			return closed(err)
		}
	} else {
		d := x.Scan.detached(int(st.Dev_major), int(st.Dev_minor), path)
		if d == nil {
			return nil
		}
		o = x.Scan.placeDetached(d, path)
	}
	if kind == unix.S_IFREG {
		if writable, err := forWriting(at, name); err != nil || !writable {
			return closed(err)
		}
	}
	f.Files = append(f.Files, o)
	return nil
}

// undescribed examines a descriptor whose filesystem does not describe the file. A FUSE filesystem
// refuses that to other users than its own, root included (fuse_allow_current_process), and one that has
// shut down answers EIO. Neither says anything about the process: anybody can have such a descriptor, and
// can give it to others. The kernel knows the mount without the filesystem. The descriptor counts if that
// is one of those asked for, or if not even the device is known.
func (x *Examination) undescribed(dir *os.File, name string, f *Findings) error {
	path := filepath.Join(dir.Name(), name)
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return closed(&os.PathError{Op: "open", Path: path, Err: err})
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
		if !x.Scan.wanted(through.Major, through.Minor) {
			return nil
		}
		o, err := placeOf(through, path)
		if err != nil {
			return closed(err)
		}
		f.Files = append(f.Files, o)
		return nil
	}
	major, minor, err := deviceOf(fd, path)
	if err != nil {
		return err
	}
	if d := x.Scan.detached(major, minor, path); d != nil {
		f.Files = append(f.Files, x.Scan.placeDetached(d, path))
	}
	return nil
}

// deviceOf returns the device number of a file whose filesystem does not describe it.
func deviceOf(fd int, path string) (major, minor int, err error) {
	var st unix.Statx_t
	// With no field asked for, FUSE tells the device.
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st)
	if err == nil {
		return int(st.Dev_major), int(st.Dev_minor), nil
	}
	// An XFS that has shut down does not. Its f_fsid is its device number (xfs_fs_statfs in fs/xfs/xfs_super.c).
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.XFS_SUPER_MAGIC {
		dev := uint64(uint32(fs.Fsid.Val[0]))
		return int(unix.Major(dev)), int(unix.Minor(dev)), nil
	}
	return 0, 0, &os.PathError{Op: "statx", Path: path, Err: err}
}

// placeOf is place for a link of /proc. The kernel does not show a path that is longer than a page: what
// is open there may be anywhere on its mount.
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

// closed returns nil for the error of a descriptor that was closed meanwhile, and any other error.
func closed(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// forWriting reports whether a file is open for writing: proc_pid_fdinfo(5).
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

// Field returns the text after a name in a file of "name: text" lines.
func Field(b []byte, name string) string {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return string(bytes.TrimSpace(rest))
		}
	}
	return ""
}

// sharers are threads that use different instances of a resource that kcmp(2) compares.
type sharers []int

// Resources that kcmp(2) compares: linux/kcmp.h.
const (
	kcmpFiles = 2
	kcmpFS    = 3
)

// maxSharers is the maximum length of a sharers. If the threads of a process use more instances of the
// resource, further threads are examined without a comparison among them.
const maxSharers = 16

// isNew reports whether a thread must be examined, because it shares the resource with none of s or the
// comparison failed. It adds such a thread to s.
func (s *sharers) isNew(tid, kind int) bool {
	for _, other := range *s {
		if equal, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(other), uintptr(tid), uintptr(kind), 0, 0, 0); errno == 0 && equal == 0 {
			return false
		}
	}
	if len(*s) < maxSharers {
		*s = append(*s, tid)
	}
	return true
}
