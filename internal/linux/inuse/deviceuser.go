package inuse

import (
	"context"

	"github.com/droverhq/drover/internal/linux/mount"
)

// FindUser returns a process that uses the filesystem on a block device although this mount namespace has no mount of
// it. Such a process has the filesystem mounted in another mount namespace, or has a file of it open. If it finds no
// such process, it returns a process that could not be examined. It returns nil if every process was examined and none
// uses the device.
func FindUser(ctx context.Context, major, minor int) (*User, error) {
	whole := mount.Filesystem{Major: major, Minor: minor, Root: "/"}
	others, err := mount.ReadForeign()
	if err != nil {
		return nil, err
	}
	var unexamined *User
	for _, h := range others.Holders(whole, "") {
		if h.Unexamined == nil {
			return MountUser(h), nil
		}
		unexamined = MountUser(h)
	}
	files, err := FindOpenFiles(ctx, []mount.Filesystem{whole})
	if err != nil {
		return nil, err
	}
	for _, o := range files.Openers(whole, nil) {
		if o.Unexamined == nil {
			return FileUser(o), nil
		}
		unexamined = FileUser(o)
	}
	return unexamined, nil
}
