package fault

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// changing are the calls that change something on a disk, whatever their arguments are.
var changing = map[int]string{
	unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync",
	unix.SYS_SYNC_FILE_RANGE: "sync_file_range", unix.SYS_SYNCFS: "syncfs",
	unix.SYS_RENAMEAT: "rename", unix.SYS_RENAMEAT2: "rename", unix.SYS_LINKAT: "link", unix.SYS_SYMLINKAT: "symlink",
	unix.SYS_UNLINKAT: "unlink", unix.SYS_MKDIRAT: "mkdir", unix.SYS_MKNODAT: "mknod",
	unix.SYS_TRUNCATE: "truncate", unix.SYS_FTRUNCATE: "truncate", unix.SYS_FALLOCATE: "fallocate",
	unix.SYS_COPY_FILE_RANGE: "copy", unix.SYS_UTIMENSAT: "utimes",
	unix.SYS_FCHMOD: "chmod", unix.SYS_FCHMODAT: "chmod", unix.SYS_FCHOWN: "chown", unix.SYS_FCHOWNAT: "chown",
	unix.SYS_SETXATTR: "setxattr", unix.SYS_LSETXATTR: "setxattr", unix.SYS_FSETXATTR: "setxattr",
}

// others are calls that change something with some arguments only.
func others() []int {
	return []int{
		unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_IOCTL,
		unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV,
	}
}

// watched are the numbers of all of them.
func watched() []int {
	list := others()
	for number := range changing {
		list = append(list, number)
	}
	for number := range older {
		list = append(list, number)
	}
	return list
}

// changes names what a call changes on a disk; "": nothing.
func (c call) changes() string {
	number := int(c.number)
	name := changing[number]
	if name == "" {
		name = older[number]
	}
	if name != "" {
		return name
	}
	switch number {
	case unix.SYS_OPENAT:
		return creates(c.args[2])
	case unix.SYS_OPENAT2:
		return creates(c.word(c.args[2])) // struct open_how begins with the flags
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV:
		if onDisk(c.path(c.args[0])) {
			return "write"
		}
	case unix.SYS_IOCTL:
		return control(uint32(c.args[1]))
	}
	return ""
}

// word reads 64 bits of the thread's memory; 0 where nothing can be read.
func (c call) word(address uint64) uint64 {
	buf := make([]byte, 8)
	local := []unix.Iovec{{Base: &buf[0], Len: 8}}
	if _, err := unix.ProcessVMReadv(int(c.pid), local, []unix.RemoteIovec{{Base: uintptr(address), Len: 8}}, 0); err != nil {
		return 0
	}
	return binary.NativeEndian.Uint64(buf)
}

func creates(flags uint64) string {
	if flags&(unix.O_CREAT|unix.O_TRUNC) != 0 {
		return "create"
	}
	return ""
}

// onDisk tells whether a path is that of a file, rather than of a pipe, a device or what the kernel shows.
func onDisk(path string) bool {
	for _, prefix := range []string{"/dev/", "/proc/", "/sys/"} {
		if strings.HasPrefix(path, prefix) {
			return false
		}
	}
	return strings.HasPrefix(path, "/")
}

// control names a request of ioctl(2) that changes something; "": it does not.
func control(request uint32) string {
	kind, number := request>>8&0xff, request&0xff
	switch {
	case kind == 'X' && number == 32, kind == 'f' && number == 2:
		return "ioctl(set flags)"
	case kind == 'L' && (number == 7 || number == 10):
		return "ioctl(loop)"
	case kind == 0x94:
		return btrfsControl[number] // linux/btrfs.h; 9 and 13 are of all filesystems
	}
	return ""
}

var btrfsControl = map[uint32]string{
	8: "ioctl(sync)", 9: "ioctl(clone)", 13: "ioctl(clone range)", 14: "ioctl(create subvolume)", 15: "ioctl(destroy subvolume)",
	22: "ioctl(wait sync)", 23: "ioctl(snapshot)", 24: "ioctl(create or sync)", 26: "ioctl(subvolume flags)", 37: "ioctl(set received)",
	43: "ioctl(limit)", 63: "ioctl(destroy subvolume)",
}
