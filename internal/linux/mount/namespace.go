package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/process"
)

// InNamespace shows a mount on the path target to the programs that do starts, and to no other process. tree is from
// Tree or BindTree, and can be shown once. If it is nil, nothing is mounted on target.
//
// InNamespace calls do on a thread with a new mount namespace. There, the folder of target is empty except for the
// mount and what do writes into it, and nothing else below that folder is mounted. Otherwise the namespace would keep
// the mounts there alive, and the programs would count as their users. All other mounts are as on the host. A mount
// that ends on the host ends in the namespace too, if the host shares its mounts, as systemd arranges. do must start
// the programs from the goroutine that calls it, and must wait until they have ended.
func InNamespace(tree *os.File, target string, do func() error) (err error) {
	process.RunOnThread(func() { err = inNamespace(tree, target, do) })
	return err
}

func inNamespace(tree *os.File, target string, do func() error) error {
	hide := filepath.Dir(target)
	fail := func(step string, err error) error {
		return fmt.Errorf("show a mount in a new namespace: %s: %w", step, err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fail("unshare", err)
	}
	// Nothing that is mounted in the namespace appears outside of it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fail("stop the propagation", err)
	}
	table, err := Table()
	if err != nil {
		return fail("read its mounts", err)
	}
	for _, m := range table.Under(hide) {
		// A mount may have ended since, or with a mount above it.
		err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fail("unmount "+m.Mountpoint, err)
		}
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", hide, "tmpfs", flags, "size=1m,mode=0755"); err != nil {
		return fail("hide "+hide, err)
	}
	if tree == nil {
		return do()
	}
	if err := os.Mkdir(target, 0o755); err != nil {
		return fail("make its directory", err)
	}
	if err := move(int(tree.Fd()), target); err != nil {
		return fail("move_mount", err)
	}
	err = do()
	// The namespace ends with this thread, a moment after InNamespace has returned, or later if a process has entered
	// it. The mount must end before.
	if uerr := unix.Unmount(target, unix.MNT_DETACH); uerr != nil {
		err = errors.Join(err, fail("unmount", uerr))
	}
	return err
}

// UpperDir returns the upper directory of an overlay mount: the kernel stores the writes to the overlay in this
// directory. The path is as the program that mounted the overlay gave it, so it is valid in the mount namespace of that
// program. ok is false if e is not an overlay, if it is read-only, or if the path is relative.
func UpperDir(e *Entry) (path string, ok bool) {
	if e.FSType != "overlay" {
		return "", false
	}
	for option := range strings.SplitSeq(e.VFSOptions, ",") {
		if path, ok = strings.CutPrefix(option, "upperdir="); ok {
			path = unescape(path) // a comma in the path is escaped as well
			return path, strings.HasPrefix(path, "/")
		}
	}
	return "", false
}
