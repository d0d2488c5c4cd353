package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
)

// flattenAt is the depth at which Remove moves a directory up instead of descending further: a tree can be deeper than
// the number of descriptors that a process can have.
const flattenAt = 256

// Remove removes name, a single element, from the open directory dir, with everything below it, at any depth. It never
// enters mounts: if there is a mount point below, it fails. It also removes what chattr(1) protects. It returns nil if
// name does not exist. Safe for concurrent use with different names.
//
// If ctx ends, or after an error, a part of the tree remains: call Remove again. Very deep directories are moved to
// dir, with the names name.1001, name.1002 and so on. They can remain too, and need a call of Remove with their names.
func Remove(ctx context.Context, dir *os.File, name string) error {
	r := &removing{ctx: ctx, top: dir, prefix: name}
	for {
		err := r.entry(dir, name, 0)
		if err != nil && !isVanished(err) {
			return wrapError("remove", name, err)
		}
		if len(r.moved) == 0 {
			return nil
		}
		name, r.moved = r.moved[0], r.moved[1:]
	}
}

// removing is one run of Remove.
type removing struct {
	ctx    context.Context
	top    *os.File
	prefix string
	count  int
	moved  []string // directories that were moved up, to be removed afterwards
}

func (r *removing) entry(dir *os.File, name string, depth int) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	err := unlink(dir, name, 0)
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	err = unlink(dir, name, unix.AT_REMOVEDIR)
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if depth >= flattenAt {
		return r.moveUp(dir, name)
	}
	for {
		some, err := r.content(dir, name, depth)
		if err != nil {
			return err
		}
		// Some filesystems skip names if others are removed while the directory is read.
		err = unlink(dir, name, unix.AT_REMOVEDIR)
		if !some || (!errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST)) {
			return err
		}
	}
}

// content removes everything in a directory, and reports whether it removed anything.
func (r *removing) content(dir *os.File, name string, depth int) (some bool, err error) {
	n, err := openNode(dir, name)
	if err != nil {
		return false, err
	}
	defer n.close()
	sub, err := n.openDir()
	if err != nil {
		return false, err
	}
	defer sub.Close()
	for child, err := range names(sub, fewNames) {
		if err != nil {
			return false, err
		}
		if err = r.entry(sub, child, depth+1); err != nil && !isVanished(err) {
			return false, wrapError("remove", child, err)
		}
		some = some || err == nil
	}
	return some, nil
}

// unlink is unlinkat(2), but it also removes immutable and append-only inodes. A container with CAP_LINUX_IMMUTABLE can
// set these flags, and they remain when the container is removed. The flag of a directory is cleared before its content
// is removed.
func unlink(dir *os.File, name string, flags int) error {
	err := unix.Unlinkat(int(dir.Fd()), name, flags)
	if err != unix.EPERM {
		return err
	}
	if cErr := unprotect(dir, name); cErr != nil {
		return fmt.Errorf("%w (its flags were not cleared: %v)", err, cErr)
	}
	return unix.Unlinkat(int(dir.Fd()), name, flags)
}

// unprotect clears the flags for immutable and append-only. It opens only files and directories, because only they have
// flags, and opening a device can have an effect.
func unprotect(dir *os.File, name string) error {
	n, err := openNode(dir, name)
	if err != nil {
		return err
	}
	defer n.close()
	var f *os.File
	switch n.format() {
	case unix.S_IFREG:
		f, err = n.openFile()
	case unix.S_IFDIR:
		f, err = n.openDir()
	default:
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return fsctl.Unprotect(f)
}

// moveUp moves a directory next to the one that is being removed. The new name is the name of the directory that is
// being removed, with a number, so that a caller finds it after a crash.
func (r *removing) moveUp(dir *os.File, name string) error {
	for {
		r.count++
		up := r.prefix + "." + strconv.Itoa(1000+r.count)
		err := unix.Renameat2(int(dir.Fd()), name, int(r.top.Fd()), up, unix.RENAME_NOREPLACE)
		if err == unix.EEXIST {
			continue
		}
		if err == nil {
			r.moved = append(r.moved, up)
		}
		return err
	}
}
