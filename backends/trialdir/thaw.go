package trialdir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
)

// Thaw thaws the frozen filesystems on loop devices whose files are below path. path is a sandbox or a folder in one. A
// killed process can leave such a filesystem frozen. The filesystem stays frozen without a mount, and no signal ends a
// thread that waits to write to it. Idempotent: if no filesystem is frozen, Thaw returns nil.
func Thaw(path string) error {
	loops, err := devicesBelow(path)
	for _, l := range loops {
		err = errors.Join(err, thaw(l.Path))
	}
	return err
}

func thaw(device string) error {
	disk, err := os.Open(device)
	if err != nil {
		return safefile.AbsentIsFine(err)
	}
	defer disk.Close()
	kind, _, err := fsctl.Superblock(disk)
	if err != nil || kind == "" {
		return nil // the device was detached, or never had a filesystem
	}
	spec := mount.Spec{Source: device, FSType: kind}
	if kind == string(fsctl.XFS) {
		spec.Options = []string{"nouuid"}
	}
	root, err := mount.Detached(spec) // mounts the existing instance of the filesystem if it is in use or frozen
	if err != nil {
		return nil // the filesystem is not frozen, because a frozen one can always be mounted again
	}
	defer root.Close()
	if err := fsctl.Thaw(root); !errors.Is(err, fsctl.ErrNotFrozen) {
		return err
	}
	return nil
}

// devicesBelow returns the loop devices that have a file below path.
func devicesBelow(path string) (found []loopdev.Info, err error) {
	loops, err := loopdev.List()
	for _, l := range loops {
		if isBelow(l.Backing, path) {
			found = append(found, l)
		}
	}
	return found, err
}

// isBelow reports whether file, the backing file of a loop device, is below path. If the mounts of a killed process no
// longer exist, the kernel shows the path of the file relative to the mount through which the file was opened. So
// isBelow also accepts every path that contains the name of the sandbox followed by the rest of path.
func isBelow(file, path string) bool {
	if strings.HasPrefix(file, path+"/") {
		return true
	}
	for at := path; at != filepath.Dir(at); at = filepath.Dir(at) {
		if hasSandboxName(filepath.Base(at)) {
			return strings.Contains(file, strings.TrimPrefix(path, filepath.Dir(at))+"/")
		}
	}
	return false
}
