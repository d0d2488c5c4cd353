package tree

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Copy makes dst, an open empty directory, the same tree as src, its own owner,
// mode, times and attributes included. Blocks are shared where the filesystem
// can (a copied file is then as old as the moment of its copy, whole); holes
// stay holes, hard links among the copied files stay hard links. Access times
// of src do not change.
//
// Progress, which may be nil, is told how many bytes of files were copied so
// far, now and then, from the caller's goroutine; holes do not count.
//
// A dst that holds something is dataset.ErrExists, before anything was changed;
// a full disk dataset.ErrNoSpace; what dst's filesystem cannot keep (an
// attribute, an owner) an error that names the file. After an error dst holds a
// part of the tree, to be removed by the caller. Durable only with WithSync.
// Needs root (CAP_SYS_ADMIN) and Linux 5.12. Safe for concurrent use on
// different dst.
func Copy(ctx context.Context, src, dst *os.File, progress func(bytes int64), opts ...Option) error {
	from, err := openRoot(src, readOnly)
	if err != nil {
		return err
	}
	defer from.close()
	to, err := openRoot(dst, writable)
	if err != nil {
		return err
	}
	defer to.close()
	if err := requireEmpty(to.dir); err != nil {
		return err
	}
	c := &copying{ctx: ctx, links: map[inode]string{}, to: to.dir, bytes: copier{progress: progress}}
	if err := c.root(from.dir, to.dir); err != nil {
		return err
	}
	if optionsOf(opts).sync {
		return syncTree(to.dir)
	}
	return nil
}

// syncTree flushes the filesystem of dir. It also fails if earlier writes failed to reach the disk since dir
// was opened (syncfs(2)).
func syncTree(dir *os.File) error {
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("flush the filesystem of %q: %w", dir.Name(), err)
	}
	return nil
}

// copying is one run of Copy.
type copying struct {
	ctx   context.Context
	to    *os.File
	links map[inode]string // where the first name of an inode was copied to
	bytes copier
}

func (c *copying) root(src, dst *os.File) error {
	from, err := openNode(src, ".")
	if err != nil {
		return failed("open", ".", err)
	}
	defer from.close()
	to, err := openNode(dst, ".")
	if err != nil {
		return failed("open", ".", err)
	}
	defer to.close()
	// A default ACL of the destination would be inherited by all that follows.
	if err := to.strip(meta{}); err != nil {
		return failed("copy", ".", err)
	}
	return c.dir(from, src, to, dst, ".")
}

// dir copies the content of an open directory, and then its metadata: its ACL after the entries that would
// inherit it, and its times last.
func (c *copying) dir(from *node, src *os.File, to *node, dst *os.File, name string) error {
	names, err := readNames(src)
	if err != nil {
		return failed("read directory", name, err)
	}
	for _, child := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.entry(src, dst, child, join(name, child)); err != nil {
			return failed("copy", join(name, child), err)
		}
	}
	m, err := from.meta()
	if err != nil {
		return failed("copy", name, err)
	}
	if err := to.apply(m); err != nil {
		return failed("copy", name, err)
	}
	return nil
}

func (c *copying) entry(src, dst *os.File, child, name string) error {
	from, err := openNode(src, child)
	if vanished(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.close()
	if from.linked() {
		if first, ok := c.links[from.inode()]; ok {
			return linkInto(c.to, first, dst, child)
		}
	}
	m, err := from.meta()
	if err != nil {
		return err
	}
	if err := c.create(from, dst, child, name); err != nil {
		return err
	}
	if from.linked() {
		c.links[from.inode()] = name
	}
	if from.isDir() {
		return nil
	}
	to, err := openNode(dst, child)
	if err != nil {
		return err
	}
	defer to.close()
	return to.apply(m)
}

// create makes the inode itself; its metadata comes later.
func (c *copying) create(from *node, dst *os.File, child, name string) error {
	switch from.format() {
	case unix.S_IFREG:
		return c.regular(from, dst, child)
	case unix.S_IFDIR:
		return c.subdir(from, dst, child, name)
	}
	return makeSpecial(dst, child, from.format(), from.st.Rdev, from.readLink)
}

func (c *copying) regular(from *node, dst *os.File, child string) error {
	src, err := from.openFile()
	if err != nil {
		return err
	}
	defer src.Close()
	out, err := createFile(dst, child)
	if err != nil {
		return err
	}
	if err := c.bytes.file(c.ctx, out, src, from.st.Size, from.allocated()); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

func (c *copying) subdir(from *node, dst *os.File, child, name string) error {
	if err := tooDeep(name); err != nil {
		return err
	}
	src, err := from.openDir()
	if err != nil {
		return err
	}
	defer src.Close()
	to, out, err := makeDir(dst, child)
	if err != nil {
		return err
	}
	defer to.close()
	defer out.Close()
	return c.dir(from, src, to, out, name)
}
