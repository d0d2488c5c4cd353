package mount

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity distinguishes a filesystem from a later one with the same device number. The kernel reuses the
// number as soon as the filesystem is mounted in no namespace and no process has a file of it open. If a
// field is empty, its value is unknown. The fields are valid until the next boot.
type Identity struct {
	// Type is the filesystem type.
	Type string `json:"type,omitempty"`
	// Sequence identifies the block device. The kernel gives each device a number that no other device
	// gets: diskseq in Documentation/ABI/stable/sysfs-block, since Linux 5.15. It changes when a loop
	// device gets another file, but not when a device mapper device gets another table. For a partition,
	// Sequence is the number of the disk, a space, and the first sector of the partition.
	Sequence string `json:"sequence,omitempty"`
	// Mapping is the UUID of a device mapper device, as LVM and LUKS set it.
	Mapping string `json:"mapping,omitempty"`
	// Source is the dataset of a ZFS mount, as the kernel reports it. It is empty for other filesystems:
	// for most of them, the program that mounts them can choose any source.
	Source string `json:"source,omitempty"`
	// StatMajor and StatMinor are the device number that stat(2) reports for a btrfs. Each of its
	// subvolumes has another one. For other filesystems they are 0.
	StatMajor int `json:"statMajor,omitempty"`
	StatMinor int `json:"statMinor,omitempty"`
	// FSID identifies a btrfs filesystem: see btrfsID.
	FSID uint32 `json:"fsid,omitempty"`
}

// Filesystem types for which Identify records more than the block device.
const (
	btrfs = "btrfs"
	zfs   = "zfs"
)

// Identify returns the filesystem of a mount of this process's mount namespace, with its identity. It does not fail:
// fields that it cannot read stay empty. The caller must check afterwards that the mount still exists. Otherwise the
// identity may be that of another filesystem.
func Identify(e *Entry) Filesystem {
	f := Filesystem{Major: e.Major, Minor: e.Minor, Root: e.Root}
	f.Identity.Type = e.FSType
	f.Identity.Sequence, f.Identity.Mapping = blockDevice(e.Major, e.Minor)
	switch e.FSType {
	case zfs:
		f.Identity.Source = e.Source
	case btrfs:
		f.Identity.identifyBtrfs(e)
	}
	return f
}

// identifyBtrfs sets the fields for a btrfs. It leaves them empty if another mount covers the mount point
// of e.
func (i *Identity) identifyBtrfs(e *Entry) {
	fd, err := unix.Open(e.Mountpoint, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_MNT_ID, &st)
	if err != nil || int(st.Mnt_id) != e.ID {
		return
	}
	i.StatMajor, i.StatMinor = int(st.Dev_major), int(st.Dev_minor)
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) == nil {
		i.FSID = btrfsID(fs)
	}
}

// btrfsID returns the part of f_fsid (statfs(2)) that is the same in all subvolumes of a btrfs: the other
// part contains the number of the subvolume (btrfs_statfs in fs/btrfs/super.c).
func btrfsID(fs unix.Statfs_t) uint32 { return uint32(fs.Fsid.Val[0]) }

// IsBtrfs reports whether fs, a result of statfs(2), describes the btrfs with this identity. If i.FSID is
// unknown, it returns true for any btrfs.
func (i Identity) IsBtrfs(fs unix.Statfs_t) bool {
	return fs.Type == unix.BTRFS_SUPER_MAGIC && (i.FSID == 0 || i.FSID == btrfsID(fs))
}

// blockDevice returns what identifies the block device that has a device number now. Unknown values are
// empty.
func blockDevice(major, minor int) (sequence, mapping string) {
	if major == 0 { // the filesystem has no block device
		return "", ""
	}
	dir := fmt.Sprintf("/sys/dev/block/%d:%d", major, minor)
	attribute := func(name string) string {
		b, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	// The number of a disk with removable media changes with the medium, and some report a change at a reset
	// of their bus, even while mounted (disk_check_events in block/disk-events.c).
	if attribute("removable") == "1" || attribute("../removable") == "1" {
		return "", attribute("dm/uuid")
	}
	if sequence = attribute("diskseq"); sequence != "" {
		return sequence, attribute("dm/uuid")
	}
	// dir is a symbolic link, and the directory of a partition is in that of its disk.
	if disk, start := attribute("../diskseq"), attribute("start"); disk != "" && start != "" {
		return disk + " " + start, ""
	}
	return "", attribute("dm/uuid")
}

// Reused reports whether the device number of the filesystem's block device belongs to another block
// device now. Then the filesystem is mounted nowhere, because a mount keeps its device in use. It returns
// false if too little is known: it is not the opposite of Confirmed.
//
// A device mapper device with the same UUID is the same logical volume or LUKS volume, even if it was
// deactivated meanwhile. A UUID can be set later, but it never changes (dmsetup(8)).
func (f Filesystem) Reused() bool {
	sequence, mapping := blockDevice(f.Major, f.Minor)
	return f.Identity.differs(sequence, mapping)
}

// Confirmed reports whether the device number of the filesystem's block device still belongs to the same
// block device. It returns false if too little is known: it is not the opposite of Reused.
func (f Filesystem) Confirmed() bool {
	sequence, mapping := blockDevice(f.Major, f.Minor)
	return f.Identity.matches(sequence, mapping)
}

// matches reports whether the values are known to be of the same block device.
func (i Identity) matches(sequence, mapping string) bool {
	return i.Sequence != "" && i.Sequence == sequence || i.Mapping != "" && i.Mapping == mapping
}

// differs reports whether the values are known to be of another block device. It is not the opposite of
// matches.
func (i Identity) differs(sequence, mapping string) bool {
	other := func(was, now string) bool { return was != "" && now != "" && was != now }
	return !i.matches(sequence, mapping) && (other(i.Sequence, sequence) || other(i.Mapping, mapping))
}

// MayMatch reports whether e, a mount in any namespace, may be a mount of the filesystem. It does not
// compare Root.
func (f Filesystem) MayMatch(e *Entry) bool {
	i := f.Identity
	return f.Major == e.Major && f.Minor == e.Minor &&
		(i.Type == "" || i.Type == e.FSType) && (i.Source == "" || i.Source == e.Source)
}

// ID returns the ID of the mount whose root is path, or 0 if path is not the root of a mount or cannot be read
// (statx(2), STATX_MNT_ID). The kernel gives the ID of an earlier mount to a new one.
func ID(path string) uint64 {
	var st unix.Statx_t
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	err := unix.Statx(unix.AT_FDCWD, path, flags, unix.STATX_MNT_ID, &st)
	if err != nil || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return 0
	}
	return st.Mnt_id
}
