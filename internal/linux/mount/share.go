package mount

import (
	"errors"
	"slices"
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

// resolveShareRoots replaces the root of each NFS mount by RootOf its directory. root is the root directory of the
// process that sees the mounts. It sends no request to a server or a daemon, because the server or the daemon may be
// dead. A mount keeps the root "/" in three cases: another mount covers it, its mount point is inside another share, or
// its mount point is inside a filesystem with a daemon that the kernel would have to ask. resolveShareRoots compares
// each NFS mount with all others, so it calls step for each NFS mount, and returns the error of step.
func (m Mounts) resolveShareRoots(root string, step func(bytes int) error) error {
	for _, e := range m {
		if !OnShare(e) {
			continue
		}
		if err := step(0); err != nil {
			return err
		}
		stat := statMountPoint
		switch {
		case m.isInside(e, OnShare):
			continue
		case m.isInside(e, isRemote):
			stat = statKnownMountPoint
		}
		st, err := stat(root, e.Mountpoint)
		if err == nil && st.Mask&unix.STATX_MNT_ID != 0 && st.Mnt_id == uint64(e.ID) {
			e.Root = RootOf(st.Ino)
		}
	}
	return nil
}

const (
	statFlags  = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	rootFields = unix.STATX_INO | unix.STATX_MNT_ID
)

func statMountPoint(root, path string) (st unix.Statx_t, err error) {
	err = unix.Statx(unix.AT_FDCWD, root+path, statFlags, rootFields, &st)
	return st, err
}

// statKnownMountPoint is like statMountPoint, but uses only what the kernel has in memory. It fails if the
// kernel would have to ask a server or a daemon.
func statKnownMountPoint(root, path string) (st unix.Statx_t, err error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return st, err
	}
	defer unix.Close(dir)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: resolveCached | unix.RESOLVE_NO_SYMLINKS}
	fd := -1
	for range cachedTries {
		if fd, err = unix.Openat2(dir, "."+path, &how); !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	err = unix.Statx(fd, "", statFlags|unix.AT_EMPTY_PATH, rootFields, &st)
	return st, err
}

const (
	// resolveCached is RESOLVE_CACHED of openat2(2).
	resolveCached = 0x20
	// cachedTries is how often a lookup in memory is tried: it also fails if anything is renamed meanwhile.
	cachedTries = 3
)

// HasUnknownRoot reports whether a mount is of NFS and its directory in the share is unknown, so that it may be
// any part of the share.
func HasUnknownRoot(e *Entry) bool { return OnShare(e) && !strings.HasPrefix(e.Root, rootPrefix) }

// isRemote reports whether the kernel asks a server or a daemon to look up a name in a filesystem.
func isRemote(e *Entry) bool {
	kind, _, _ := strings.Cut(e.FSType, ".") // such as fuse.sshfs
	return OnShare(e) || slices.Contains([]string{"fuse", "fuseblk", "cifs", "smb3", "ceph", "afs", "lustre"}, kind)
}

// isInside reports whether a mount point is inside another mount for which accept returns true.
func (m Mounts) isInside(e *Entry, accept func(*Entry) bool) bool {
	for _, o := range m {
		if accept(o) && o.Mountpoint != e.Mountpoint && within(e.Mountpoint, o.Mountpoint) {
			return true
		}
	}
	return false
}

// IsAmbiguous reports whether e, a mount in another mount namespace, is of NFS and may be any part of its share. If m
// has a mount of the same directory, e is a mount of that directory, and not ambiguous.
func (m Mounts) IsAmbiguous(e *Entry) bool {
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
