package mount

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// rootPrefix is the prefix of Entry.Root for an NFS mount whose directory in the share is known.
const rootPrefix = "inode:"

// RootOf returns the Entry.Root of an NFS mount of the directory with that inode. The kernel's mount
// table shows the root "/" for every NFS mount, so it does not distinguish the volumes of a share from
// each other or from the whole share.
func RootOf(inode uint64) string { return rootPrefix + strconv.FormatUint(inode, 10) }

// OnShare reports whether a mount is of NFS.
func OnShare(e *Entry) bool { return e.FSType == "nfs" || e.FSType == "nfs4" }

// resolveShareRoots replaces the root of each NFS mount by RootOf its directory. root is the root
// directory of the process that sees the mounts. It asks no server, because the server may be dead. A
// mount that is covered by another one, or whose mount point is inside a share, keeps the root "/". For each
// mount of NFS it compares all others, so it calls step for each, and fails with its error.
func (m Mounts) resolveShareRoots(root string, step func(bytes int) error) error {
	for _, e := range m {
		if !OnShare(e) {
			continue
		}
		if err := step(0); err != nil {
			return err
		}
		if m.inShare(e) {
			continue
		}
		var st unix.Statx_t
		const quiet = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
		err := unix.Statx(unix.AT_FDCWD, root+e.Mountpoint, quiet, unix.STATX_INO|unix.STATX_MNT_ID, &st)
		if err == nil && st.Mask&unix.STATX_MNT_ID != 0 && st.Mnt_id == uint64(e.ID) {
			e.Root = RootOf(st.Ino)
		}
	}
	return nil
}

// Untold reports whether a mount is of NFS and its directory in the share is unknown, so that it may be
// any part of the share.
func Untold(e *Entry) bool { return OnShare(e) && !strings.HasPrefix(e.Root, rootPrefix) }

// inShare reports whether a mount point is inside another NFS mount. To look it up, the kernel would ask
// the server.
func (m Mounts) inShare(e *Entry) bool {
	for _, o := range m {
		if OnShare(o) && o.Mountpoint != e.Mountpoint && within(e.Mountpoint, o.Mountpoint) {
			return true
		}
	}
	return false
}

// Unsure reports whether e, a mount in another mount namespace, is of NFS and may be any part of its
// share. If m has a mount of the same directory, e is a mount of that directory.
func (m Mounts) Unsure(e *Entry) bool {
	if !OnShare(e) {
		return false
	}
	for _, o := range m.Of(e.Major, e.Minor) {
		if o.Root == e.Root && strings.HasPrefix(o.Root, rootPrefix) {
			return false
		}
	}
	return true
}
