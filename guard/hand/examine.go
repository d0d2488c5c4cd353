package hand

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

var (
	errOutOfTime = errors.New("it has too many descriptors to read in time")
	errHung      = errors.New("the kernel does not finish the read of its descriptors or memory map")
)

// examination finds everything that one process holds: the mount namespaces of its threads, their
// descriptors, working and root directories, and its memory map. The time that it takes grows with the
// number of descriptors, which any user can raise up to the limit of the process.
type examination struct {
	w *world
	p *process

	// stop asks the examination to end with errOutOfTime. progress grows as long as it makes progress;
	// otherwise it waits in the kernel.
	stop     atomic.Bool
	progress atomic.Int64
	// pace, if set, is called after each chunk of work. It may rest.
	pace func()
}

// findings are the result of an examination. They replace process.views and process.opens.
type findings struct {
	views []*view
	opens []open
}

// chunk is the number of descriptors that are read between two checks of stop.
const chunk = 256

// endChunk is called after each chunk of work. It fails if the examination must stop.
func (x *examination) endChunk() error {
	x.progress.Add(1)
	if x.pace != nil {
		x.pace()
	}
	if x.stop.Load() {
		return errOutOfTime
	}
	return nil
}

// run examines the process. The error is nil if the process was examined completely, or has ended. It is
// errOutOfTime if stop was set.
func (x *examination) run() (f findings, err error) {
	dir := procDir(x.p.PID) + "/task"
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return f, unlessEnded(err)
	}
	x.progress.Add(1)
	var files, places sharers
	mapped := false
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return f, err
		}
		at := filepath.Join(dir, task.Name())
		err = x.task(at, tid, &files, &places, &f)
		// All threads share their memory; the first one may be a zombie that has none.
		if err == nil && !mapped {
			mapped, err = x.mappings(at, &f)
		}
		if err = unlessEnded(err); err != nil && !x.mustBeTrusted(err) {
			return findings{}, err
		}
		if err := x.endChunk(); err != nil {
			return findings{}, err
		}
	}
	return f, nil
}

// mustBeTrusted reports whether err is that the descriptors of a process of root cannot be read because it
// has capabilities that this process lacks. An example is the host's init, if Drover runs with fewer
// capabilities, about which the guard warns when it starts. The mounts of such a process are still read.
func (x *examination) mustBeTrusted(err error) bool {
	return errors.Is(err, fs.ErrPermission) && byRoot(x.p.PID)
}

func unlessEnded(err error) error {
	if err == nil || mount.Ended(err) {
		return nil
	}
	return err
}

// task examines one thread. It does not read again what the thread shares with an earlier thread.
func (x *examination) task(at string, tid int, files, places *sharers, f *findings) error {
	v, err := x.w.mounts.of(at)
	if err != nil {
		return err
	}
	if v != nil && (len(f.views) == 0 || f.views[len(f.views)-1] != v) {
		f.views = append(f.views, v)
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
func (x *examination) descriptors(at string, f *findings) error {
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
		if err := x.endChunk(); err != nil {
			return err
		}
	}
}

// descriptor examines one descriptor, or the working or root directory: a link in the folder dir of the
// thread at. It adds it to f if it is on one of w.devices and the thread can write through it: a file
// that is open for writing, or any directory.
//
// Most descriptors need only one system call, relative to dir: a path from /proc would take twice the
// time. The link is read only if the filesystem is one of w.devices.
//
// A descriptor on a detached mount (umount2(2), MNT_DETACH) has a mount ID that is in no table. It is
// recognized by the device of its file, and its path is unknown.
func (x *examination) descriptor(dir *os.File, at, name string, f *findings) error {
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
	through, attached := x.w.mounts.find(int(st.Mnt_id))
	if attached && !x.w.wanted(through.Major, through.Minor) {
		return nil
	}
	path := filepath.Join(dir.Name(), name)
	var o open
	if attached {
		var err error
		if o, err = placeOf(through, path); err != nil {
			return closed(err)
		}
	} else {
		d := x.w.detached(int(st.Dev_major), int(st.Dev_minor), path)
		if d == nil {
			return nil
		}
		o = open{major: d.major, minor: d.minor, path: "/", unplaced: true}
	}
	if kind == unix.S_IFREG {
		if writable, err := forWriting(at, name); err != nil || !writable {
			return closed(err)
		}
	}
	f.opens = append(f.opens, o)
	return nil
}

// undescribed examines a descriptor whose filesystem does not describe the file. A FUSE filesystem
// refuses that to other users than its own, root included (fuse_allow_current_process), and one that has
// shut down answers EIO. Neither says anything about the process: anybody can have such a descriptor, and
// can give it to others. The kernel knows the mount without the filesystem. The descriptor counts if that
// is one of those asked for, or if not even the device is known.
func (x *examination) undescribed(dir *os.File, name string, f *findings) error {
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
	id, err := strconv.Atoi(field(info, "mnt_id:"))
	if err != nil {
		return err
	}
	if through, attached := x.w.mounts.find(id); attached {
		if !x.w.wanted(through.Major, through.Minor) {
			return nil
		}
		o, err := placeOf(through, path)
		if err != nil {
			return closed(err)
		}
		f.opens = append(f.opens, o)
		return nil
	}
	// With no field asked for, FUSE tells the device.
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return &os.PathError{Op: "statx", Path: path, Err: err}
	}
	if d := x.w.detached(int(st.Dev_major), int(st.Dev_minor), path); d != nil {
		f.opens = append(f.opens, open{major: d.major, minor: d.minor, path: "/", unplaced: true})
	}
	return nil
}

// placeOf is place for a link of /proc. The kernel does not show a path that is longer than a page: what
// is open there may be anywhere on its mount.
func placeOf(through seenMount, path string) (open, error) {
	link, err := os.Readlink(path)
	if errors.Is(err, unix.ENAMETOOLONG) {
		return open{major: through.Major, minor: through.Minor, path: "/", unplaced: true}, nil
	}
	if err != nil {
		return open{}, err
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
	flags, err := strconv.ParseUint(field(info, "flags:"), 8, 32)
	if err != nil {
		return false, err
	}
	return flags&unix.O_ACCMODE != unix.O_RDONLY && flags&unix.O_PATH == 0, nil
}

// wanted reports whether a filesystem is one of w.devices.
func (w *world) wanted(major, minor int) bool {
	for _, d := range w.devices {
		if d.major == major && d.minor == minor {
			return true
		}
	}
	return false
}

// detached returns the filesystem in w.devices that may contain a file on a detached mount, or nil if none
// may. The device number that stat(2) reports is not always known for btrfs. Then every file on any btrfs
// counts.
func (w *world) detached(major, minor int, path string) *device {
	for i, d := range w.devices {
		if d.statMajor == major && d.statMinor == minor {
			return &w.devices[i]
		}
		if d.statMajor == 0 && d.statMinor == 0 && d.major == 0 {
			var st unix.Statfs_t
			if err := unix.Statfs(path, &st); err != nil || st.Type == unix.BTRFS_SUPER_MAGIC {
				return &w.devices[i]
			}
		}
	}
	return nil
}

// field returns the text after a name in a file of "name: text" lines.
func field(b []byte, name string) string {
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
