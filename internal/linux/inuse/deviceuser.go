package inuse

import (
	"context"

	"github.com/droverhq/drover/internal/linux/mount"
)

// DeviceUser describes a process that uses the filesystem on a block device although this mount namespace has no mount
// of it. Such a process has the filesystem mounted in another mount namespace, or has a file of it open. If it finds no
// such process, it describes a process that could not be examined. It returns "" if every process was examined and none
// uses the device.
func DeviceUser(ctx context.Context, major, minor int) (string, error) {
	whole := mount.Filesystem{Major: major, Minor: minor, Root: "/"}
	others, err := mount.ReadForeign()
	if err != nil {
		return "", err
	}
	unexamined := ""
	for _, h := range others.Holders(whole, "") {
		if h.Unexamined == nil {
			return h.String(), nil
		}
		unexamined = h.String()
	}
	files, err := FindOpenFiles(ctx, []mount.Filesystem{whole})
	if err != nil {
		return "", err
	}
	for _, o := range files.Openers(whole, nil) {
		if o.Unexamined == nil {
			return o.String(), nil
		}
		unexamined = o.String()
	}
	return unexamined, nil
}
