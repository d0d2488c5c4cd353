package inuse

import (
	"context"

	"github.com/droverhq/drover/internal/linux/mount"
)

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
