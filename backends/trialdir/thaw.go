package trialdir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Thaw thaws what a process that was killed has left frozen below path, in a corner or of one:
// such a filesystem lasts without a mount, and so does a thread that waits to write to it, which
// no signal ends. Idempotent: where nothing is frozen it does nothing.
func Thaw(path string) error {
	loops, err := attached(path)
	for _, l := range loops {
		err = errors.Join(err, thaw(l.Path))
	}
	return err
}

func thaw(device string) error {
	disk, err := os.Open(device)
	if err != nil {
		return absentIsFine(err)
	}
	defer disk.Close()
	kind, _, err := fsctl.Superblock(disk)
	if err != nil || kind == "" {
		return nil // it has gone, or never was mounted
	}
	spec := mount.Spec{Source: device, FSType: kind}
	if kind == string(fsctl.XFS) {
		spec.Options = []string{"nouuid"}
	}
	root, err := mount.Detached(spec) // the same filesystem, if it is in use or frozen
	if err != nil {
		return nil // not this one: a filesystem that is in use or frozen is mounted once more
	}
	defer root.Close()
	if err := fsctl.Thaw(root); !errors.Is(err, fsctl.ErrNotFrozen) {
		return err
	}
	return nil
}

// attached returns the loop devices that have a file below path.
func attached(path string) (found []loopdev.Info, err error) {
	loops, err := loopdev.List()
	for _, l := range loops {
		if within(l.Backing, path) {
			found = append(found, l)
		}
	}
	return found, err
}

// within reports whether the file of a loop device is below path. The kernel tells its name from
// where the mount began that it was opened by, once that has gone with the mounts of who was
// killed: so what lies in a corner is known by that one's name.
func within(file, path string) bool {
	if strings.HasPrefix(file, path+"/") {
		return true
	}
	for at := path; at != filepath.Dir(at); at = filepath.Dir(at) {
		if named(filepath.Base(at)) {
			return strings.Contains(file, strings.TrimPrefix(path, filepath.Dir(at))+"/")
		}
	}
	return false
}
