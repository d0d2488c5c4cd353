package mount

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// rootPrefix begins the root of what NFS is mounted, where it is known.
const rootPrefix = "inode:"

// RootOf is what stands in Entry.Root for a directory of a share that is mounted, by its
// inode. NFS has "/" in the mount table for whatever is mounted of a share, so that the
// volumes on it could not be told from each other, nor from the share.
func RootOf(inode uint64) string { return rootPrefix + strconv.FormatUint(inode, 10) }

// onShare tells a mount of NFS.
func onShare(e *Entry) bool { return e.FSType == "nfs" || e.FSType == "nfs4" }

// tellShares finds out what of a share each mount is, as seen from a root directory. No server
// is asked, which may be dead. What is covered, or lies within a share, is not looked up: it
// keeps the root "/".
func (m Mounts) tellShares(root string) {
	for _, e := range m {
		if !onShare(e) || m.inShare(e) {
			continue
		}
		var st unix.Statx_t
		const quiet = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
		err := unix.Statx(unix.AT_FDCWD, root+e.Mountpoint, quiet, unix.STATX_INO|unix.STATX_MNT_ID, &st)
		if err == nil && st.Mask&unix.STATX_MNT_ID != 0 && st.Mnt_id == uint64(e.ID) {
			e.Root = RootOf(st.Ino)
		}
	}
}

// Untold tells whether it is not known what of a share a mount is: it may be any part of it.
func Untold(e *Entry) bool { return onShare(e) && !strings.HasPrefix(e.Root, rootPrefix) }

// inShare tells whether a mount point lies within what is mounted of a share: looking it up
// would ask the server.
func (m Mounts) inShare(e *Entry) bool {
	for _, o := range m {
		if onShare(o) && o.Mountpoint != e.Mountpoint && within(e.Mountpoint, o.Mountpoint) {
			return true
		}
	}
	return false
}

// Unsure tells whether a mount of a share, seen elsewhere, may be of any part of it: it is none
// of those that are in m.
func (m Mounts) Unsure(e *Entry) bool {
	if !onShare(e) {
		return false
	}
	for _, o := range m.Of(e.Major, e.Minor) {
		if o.Root == e.Root && strings.HasPrefix(o.Root, rootPrefix) {
			return false
		}
	}
	return true
}
