package tree

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Copy copies the tree src to dst, an open empty directory, including the owner, mode, times and attributes of src
// itself. If the filesystem can share blocks between files, Copy shares them. The copy of each file is then its state
// at one moment. Holes remain holes, and hard links between copied files remain hard links. Access times of src do not
// change.
//
// progress, which may be nil, is called from time to time by the caller's goroutine, with the number of bytes of files
// that were copied so far, without holes.
//
// Copy fails with dataset.ErrExists if dst is not empty, before it changes anything. It fails with dataset.ErrNoSpace
// if the disk is full, and with an error that names the file if the filesystem of dst cannot store something, such as
// an attribute or an owner. After an error dst contains a part of the tree, which the caller must remove. The copy is
// durable only with WithSync. Needs root (CAP_SYS_ADMIN). Safe for concurrent use with different dst.
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
	c := &copying{ctx: ctx, links: map[inode]*place{}, to: to.dir, bytes: copier{progress: progress}}
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
	links map[inode]*place // the first copied name of each inode that has several
	bytes copier
}

func (c *copying) root(src, dst *os.File) error {
	from, err := openNode(src, ".")
	if err != nil {
		return wrapError("open", ".", err)
	}
	defer from.close()
	to, err := openNode(dst, ".")
	if err != nil {
		return wrapError("open", ".", err)
	}
	defer to.close()
	// Everything that is created in dst would inherit its default ACL.
	if err := to.strip(meta{}); err != nil {
		return wrapError("copy", ".", err)
	}
	return c.dir(from, src, to, dst, nil)
}

// dir copies the content of an open directory and then its metadata. The ACL comes after the entries, which would
// inherit it, and the times come last.
func (c *copying) dir(from *node, src *os.File, to *node, dst *os.File, at *place) error {
	l := &opening{File: src}
	for name, err := range names(src, allNames) {
		if err != nil {
			return wrapError("read directory", at, err)
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
		child := &place{at, name}
		c.bytes.add(0)
		if err := c.entry(l, dst, child); err != nil {
			return wrapError("copy", child, err)
		}
	}
	if err := l.checkGone(at); err != nil {
		return err
	}
	m, err := from.meta()
	if err != nil {
		return wrapError("copy", at, err)
	}
	if err := c.apply(to, m); err != nil {
		return wrapError("copy", at, err)
	}
	return nil
}

// apply sets the metadata of an inode, whose attributes count as copied bytes.
func (c *copying) apply(to *node, m meta) error {
	for _, x := range m.xattrs {
		c.bytes.add(int64(len(x.value)))
	}
	return to.apply(m)
}

func (c *copying) entry(src *opening, dst *os.File, at *place) error {
	from, err := src.open(at.name)
	if isVanished(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.close()
	if from.mayHaveLinks() {
		if first, ok := c.links[from.inode()]; ok {
			return linkInto(c.to, first.String(), dst, at.name)
		}
	}
	m, err := from.meta()
	if err != nil {
		return err
	}
	if err := c.create(from, dst, at); err != nil {
		return err
	}
	if from.mayHaveLinks() {
		c.links[from.inode()] = at
	}
	if from.isDir() {
		return nil
	}
	to, err := openNode(dst, at.name)
	if err != nil {
		return err
	}
	defer to.close()
	return c.apply(to, m)
}

// create creates the inode. Its metadata is set later.
func (c *copying) create(from *node, dst *os.File, at *place) error {
	switch from.format() {
	case unix.S_IFREG:
		return c.regular(from, dst, at.name)
	case unix.S_IFDIR:
		return c.subdir(from, dst, at)
	}
	return makeSpecial(dst, at.name, from.format(), from.st.Rdev, from.readLink)
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

func (c *copying) subdir(from *node, dst *os.File, at *place) error {
	if err := at.tooDeep(); err != nil {
		return err
	}
	src, err := from.openDir()
	if err != nil {
		return err
	}
	defer src.Close()
	to, out, err := makeDir(dst, at.name)
	if err != nil {
		return err
	}
	defer to.close()
	defer out.Close()
	return c.dir(from, src, to, out, at)
}
