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

// flattenAt is how deep Remove follows directories before it moves one up: a
// tree can be nested deeper than descriptors can be held.
const flattenAt = 256

// Remove removes name, one element, from the open directory dir, with all that
// is below it, however deep. Mounts below are never entered: a mount point makes it fail. What chattr(1)
// protects is removed all the same. A name that is absent is fine. When ctx ends, or after an error, a part
// of the tree is left; call again. Safe for concurrent use on different names.
func Remove(ctx context.Context, dir *os.File, name string) error {
	r := &removing{ctx: ctx, top: dir, prefix: name}
	for {
		err := r.entry(dir, name, 0)
		if err != nil && !vanished(err) {
			return failed("remove", name, err)
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
	moved  []string // directories moved up, to be removed after
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
	if err := r.content(dir, name, depth); err != nil {
		return err
	}
	return unlink(dir, name, unix.AT_REMOVEDIR)
}

func (r *removing) content(dir *os.File, name string, depth int) error {
	n, err := openNode(dir, name)
	if err != nil {
		return err
	}
	defer n.close()
	sub, err := n.openDir()
	if err != nil {
		return err
	}
	defer sub.Close()
	names, err := readNames(sub)
	if err != nil {
		return err
	}
	for _, child := range names {
		if err := r.entry(sub, child, depth+1); err != nil && !vanished(err) {
			return failed("remove", child, err)
		}
	}
	return nil
}

// unlink is unlinkat(2), also for immutable and append-only inodes: a container that may set such flags
// (CAP_LINUX_IMMUTABLE) is gone, and nobody else clears them. A directory loses its flag before its content
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

// unprotect opens nothing but a file or a directory: only these have flags, and the effect of an open or an
// ioctl of a device depends on the device.
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

// moveUp moves a directory next to the one that is being removed; after a crash it is found there by its
// name, which is the same with a number.
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
