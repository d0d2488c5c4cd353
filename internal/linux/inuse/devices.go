package inuse

import (
	"cmp"
	"context"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
)

// device identifies a filesystem by its device number in a mount table and by the one that stat(2)
// reports. They differ on btrfs.
type device struct {
	major, minor         int
	statMajor, statMinor int
	// anyBtrfs is true if the numbers that stat(2) reports are unknown and the filesystem may be a btrfs.
	anyBtrfs bool
	// identity is empty if AddTree got the host's mount of the tree. The device numbers are sufficient then, because no
	// other filesystem has these numbers while the host has the tree mounted.
	identity mount.Identity
}

// AddTree adds a directory tree to those that the scan looks for: open files on its filesystem are recorded. e is the
// host's mount of the tree. e must be nil if the host has not mounted the tree, or if the scan looks for several
// subvolumes of a btrfs. Call AddTree before the first examination.
func (s *Scan) AddTree(fsys mount.Filesystem, e *mount.Entry) {
	d := device{major: fsys.Major, minor: fsys.Minor, statMajor: fsys.Major, statMinor: fsys.Minor}
	switch {
	case e == nil:
		d.identity = fsys.Identity
		if fsys.Major == 0 && (d.identity.Type == "" || d.identity.Type == btrfs) {
			d.anyBtrfs = d.identity.StatMinor == 0
			d.statMajor, d.statMinor = cmp.Or(d.identity.StatMajor, fsys.Major),
				cmp.Or(d.identity.StatMinor, fsys.Minor)
		}
	case e.FSType == btrfs:
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, e.Mountpoint, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT,
			unix.STATX_TYPE, &st)
		if d.anyBtrfs = err != nil; err == nil {
			d.statMajor, d.statMinor = int(st.Dev_major), int(st.Dev_minor)
		}
	}
	s.trees = append(s.trees, NewTreeUse(s.own, fsys, nil))
	if !slices.Contains(s.devices, d) {
		s.devices = append(s.devices, d)
	}
}

// isWanted reports whether a filesystem is one of those that AddTree has added.
func (s *Scan) isWanted(major, minor int) bool {
	return slices.ContainsFunc(s.devices, func(d device) bool { return d.major == major && d.minor == minor })
}

// detached returns the wanted filesystem that may contain a file on a detached mount, or nil if none
// does. major and minor are the numbers that stat(2) reports for the file, and path is its link in /proc.
//
// If the stat(2) numbers of a wanted btrfs are unknown, detached returns that btrfs for every file on it. If its
// identity is unknown too, detached returns it for every file on any btrfs.
func (s *Scan) detached(major, minor int, path string) *device {
	for i, d := range s.devices {
		same := d.statMajor == major && d.statMinor == minor
		if same && d.identity.FSID == 0 || (same || d.anyBtrfs) && d.mayContain(path) {
			return &s.devices[i]
		}
	}
	return nil
}

// mayContain reports whether the file at path may be on the btrfs d. The number alone is not enough,
// because the kernel reuses the numbers of subvolumes.
func (d device) mayContain(path string) bool {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	return err != nil || d.identity.IsBtrfs(st)
}

// FindUser returns a process that uses the filesystem on a block device, although this mount namespace has no mount of
// it. Such a process has the filesystem mounted in another mount namespace, or has a file of it open. If it finds no
// such process, it returns a process that could not be examined.
//
// ownTarget is the path on which Drover mounts the filesystem. A copy of that mount in another namespace is no use by
// itself: see mount.Foreign.Holders. If there is no user, copies are the holders of such copies. They keep the
// filesystem alive, so the caller must shut it down before it changes or replaces its image (fsctl.Fence). If user and
// copies are both nil, every process was examined and none uses the device.
func FindUser(ctx context.Context, major, minor int, ownTarget string) (user *User, copies []mount.Holder, err error) {
	whole := mount.Filesystem{Major: major, Minor: minor, Root: "/"}
	others, err := mount.ReadForeign()
	if err != nil {
		return nil, nil, err
	}
	for _, h := range others.Holders(whole, ownTarget) {
		if user = MountUser(h); h.Unexamined == nil {
			return user, nil, nil
		}
	}
	files, err := FindOpenFiles(ctx, []mount.Filesystem{whole})
	if err != nil {
		return nil, nil, err
	}
	for _, o := range files.Openers(whole, nil) {
		if user = FileUser(o); o.Unexamined == nil {
			return user, nil, nil
		}
	}
	if user == nil {
		copies, _ = others.Copies(whole, ownTarget)
	}
	return user, copies, nil
}
