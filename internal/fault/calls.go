package fault

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// alwaysChange lists, by number, the system calls that change something on a disk whatever their arguments are. The
// value is the name that Run returns.
var alwaysChange = map[int]string{
	unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync",
	unix.SYS_SYNC_FILE_RANGE: "sync_file_range", unix.SYS_SYNCFS: "syncfs",
	unix.SYS_RENAMEAT: "rename", unix.SYS_RENAMEAT2: "rename", unix.SYS_LINKAT: "link", unix.SYS_SYMLINKAT: "symlink",
	unix.SYS_UNLINKAT: "unlink", unix.SYS_MKDIRAT: "mkdir", unix.SYS_MKNODAT: "mknod",
	unix.SYS_TRUNCATE: "truncate", unix.SYS_FTRUNCATE: "truncate", unix.SYS_FALLOCATE: "fallocate",
	unix.SYS_COPY_FILE_RANGE: "copy", unix.SYS_UTIMENSAT: "utimes",
	unix.SYS_FCHMOD: "chmod", unix.SYS_FCHMODAT: "chmod", unix.SYS_FCHOWN: "chown", unix.SYS_FCHOWNAT: "chown",
	unix.SYS_SETXATTR: "setxattr", unix.SYS_LSETXATTR: "setxattr", unix.SYS_FSETXATTR: "setxattr",
}

// mayChange lists the system calls that change something only with certain arguments.
func mayChange() []int {
	return []int{
		unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_IOCTL,
		unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV,
	}
}

// watched lists the numbers of the calls in alwaysChange, mayChange and legacyCalls. The filter reports them to the
// watcher.
func watched() []int {
	list := mayChange()
	for number := range alwaysChange {
		list = append(list, number)
	}
	for number := range legacyCalls {
		list = append(list, number)
	}
	return list
}

// change returns the name of a call that changes something on a disk, and "" for any other call.
func (c call) change() string {
	number := int(c.number)
	name := alwaysChange[number]
	if name == "" {
		name = legacyCalls[number]
	}
	if name != "" {
		return name
	}
	switch number {
	case unix.SYS_OPENAT:
		return openChange(c.args[2])
	case unix.SYS_OPENAT2:
		return openChange(c.word(c.args[2])) // struct open_how begins with the flags
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV:
		if onDisk(c.path(c.args[0])) {
			return "write"
		}
	case unix.SYS_IOCTL:
		return ioctlChange(uint32(c.args[1]))
	}
	return ""
}

// word reads 64 bits of the thread's memory. It returns 0 if they cannot be read.
func (c call) word(address uint64) uint64 {
	buf := make([]byte, 8)
	local := []unix.Iovec{{Base: &buf[0], Len: 8}}
	if _, err := unix.ProcessVMReadv(int(c.pid), local, []unix.RemoteIovec{{Base: uintptr(address), Len: 8}},
		0); err != nil {
		return 0
	}
	return binary.NativeEndian.Uint64(buf)
}

// openChange returns "create" if a file that is opened with these flags is created or truncated.
func openChange(flags uint64) string {
	if flags&(unix.O_CREAT|unix.O_TRUNC) != 0 {
		return "create"
	}
	return ""
}

// onDisk reports whether a path is a file on a disk, and not a pipe, a device, or in /proc or /sys.
func onDisk(path string) bool {
	for _, prefix := range []string{"/dev/", "/proc/", "/sys/"} {
		if strings.HasPrefix(path, prefix) {
			return false
		}
	}
	return strings.HasPrefix(path, "/")
}

// ioctlChange returns the name of an ioctl(2) request that changes files, subvolumes or loop devices, and "" for any
// other. Requests that enable, rescan or remove quotas do not count as changes.
func ioctlChange(request uint32) string {
	kind, number := request>>8&0xff, request&0xff
	switch {
	case kind == 'X' && number == 32, kind == 'f' && number == 2:
		return "ioctl(set flags)"
	case kind == 'L' && (number == 7 || number == 10):
		return "ioctl(loop)"
	case kind == 0x94:
		return btrfsChanges[number] // linux/btrfs.h; other filesystems have 9 and 13 too
	}
	return ""
}

var btrfsChanges = map[uint32]string{
	8: "ioctl(sync)", 9: "ioctl(clone)", 13: "ioctl(clone range)", 14: "ioctl(create subvolume)",
	15: "ioctl(destroy subvolume)",
	22: "ioctl(wait sync)", 23: "ioctl(snapshot)", 24: "ioctl(create or sync)", 26: "ioctl(subvolume flags)",
	37: "ioctl(set received)",
	43: "ioctl(limit)", 63: "ioctl(destroy subvolume)",
}
