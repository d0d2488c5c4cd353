package tree

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// ReadTar unpacks a tar stream into dir, an open empty directory. It reads pax, GNU and ustar archives, with numeric
// owners, modes, times, SCHILY.xattr attributes, hard links and sparse files. Blocks of zeros become holes. Directories
// that have no entry belong to root and have mode 0755. If several entries have the same name, the last one wins. A
// directory and another kind of entry cannot have the same name.
//
// Errors: dataset.ErrInvalid for an entry whose name or hard link is absolute, contains ".." or leads through a
// symbolic link, for a directory and another kind of entry with the same name, and for an entry that no filesystem
// accepts, such as a name of 300 bytes. dataset.ErrCorrupt for a stream without an end mark or with a damaged header.
// dataset.ErrExists if dir is not empty. dataset.ErrNoSpace if the disk is full. dataset.ErrUnsupported for ACLs in
// text form (tar --acls), for an attribute that the filesystem of dir does not support, for an unknown kind of entry,
// for directories deeper than 2,049 levels, and for files that have more than maxHoles times the bytes of that
// filesystem: their holes would be read as zeros, for years.
//
// It never changes anything outside of dir. After an error dir contains a part of the tree. It reads r to its end. The
// files are durable only with WithSync. Safe for concurrent use with different dirs.
func ReadTar(ctx context.Context, r io.Reader, dir *os.File, opts ...Option) error {
	to, err := openRoot(dir, writable)
	if err != nil {
		return err
	}
	defer to.close()
	if err := requireEmpty(to.dir); err != nil {
		return err
	}
	if err := dropDefaultACL(to.dir); err != nil {
		return err
	}
	src := &endReader{r: r}
	x := &extracting{ctx: ctx, src: src, tar: tar.NewReader(src)}
	x.places = places{root: to.dir, dirs: map[place]*folder{}}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(to.dir.Fd()), &st); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	x.left = maxHoles * max(int64(st.Blocks)*st.Frsize, minHoles)
	defer x.places.close()
	if err := x.all(); err != nil {
		return err
	}
	if err := src.finish(ctx); err != nil {
		return err
	}
	if optionsOf(opts).sync {
		return syncTree(to.dir)
	}
	return nil
}

// The bytes that all files of an archive may have together, with their holes: maxHoles times those of the filesystem,
// which counts as at least minHoles bytes.
const (
	maxHoles = 30
	minHoles = 512 << 20
)

// extracting is one run of ReadTar.
type extracting struct {
	ctx    context.Context
	src    *endReader
	tar    *tar.Reader
	places places
	left   int64 // how many more bytes files may have
	buf    []byte
}

func (x *extracting) all() error {
	for {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		h, err := x.tar.Next()
		if err == io.EOF {
			for _, f := range x.places.dirs {
				if err := x.finishDir(f); err != nil {
					return wrapError("unpack", f, classify(err))
				}
			}
			return nil
		}
		if err != nil {
			return x.src.streamError(err)
		}
		if err := x.entry(h); err != nil {
			return wrapError("unpack", h.Name, classify(err))
		}
	}
}

func (x *extracting) entry(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // a comment on the whole archive, as git writes it
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	m, err := metaOf(h)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return x.dir(name, m)
	}
	if name == "." {
		return dataset.Errorf(dataset.ErrInvalid, "the root of the tree is not a directory")
	}
	dir, base, err := x.places.parent(name)
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(int(dir.Fd()), base, 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("replace an earlier entry of that name: %w", err)
	}
	if h.Typeflag == tar.TypeLink {
		first, err := cleanName(h.Linkname)
		if err != nil {
			return err
		}
		err = linkInto(x.places.root, first, dir, base)
		if errors.Is(err, unix.EPERM) { // the only reason for which link(2) returns it here
			return dataset.Errorf(dataset.ErrInvalid, "is a hard link to a directory: %w", err)
		}
		return archiveError(err)
	}
	if err := x.create(h, dir, base); err != nil {
		return err
	}
	n, err := openNode(dir, base)
	if err != nil {
		return err
	}
	defer n.close()
	return n.replace(m)
}

// dir sets everything but the times at once, because the attributes of an entry can have a megabyte.
func (x *extracting) dir(name string, m meta) error {
	if err := x.places.makeDirs(name); err != nil {
		return err
	}
	x.places.dir.atime, x.places.dir.mtime = m.atime, m.mtime
	n, err := openNode(x.places.last, ".")
	if err != nil {
		return err
	}
	defer n.close()
	return n.replace(m)
}

func (x *extracting) create(h *tar.Header, dir *os.File, base string) error {
	target := func() (string, error) { return h.Linkname, nil }
	rdev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		f, err := createFile(dir, base)
		if err != nil {
			return err
		}
		content := x.content
		if size, ok := h.PAXRecords[paxSparse]; ok {
			content = func(f *os.File, stored int64) error { return x.ranges(f, stored, size) }
		}
		if err := content(f, h.Size); err != nil {
			_ = f.Close()
			return err
		}
		return f.Close()
	case tar.TypeSymlink:
		return makeSpecial(dir, base, unix.S_IFLNK, 0, target)
	case tar.TypeFifo:
		if h.PAXRecords[paxSocket] != "" {
			return makeSpecial(dir, base, unix.S_IFSOCK, 0, target)
		}
		return makeSpecial(dir, base, unix.S_IFIFO, 0, target)
	case tar.TypeChar:
		return makeSpecial(dir, base, unix.S_IFCHR, rdev, target)
	case tar.TypeBlock:
		return makeSpecial(dir, base, unix.S_IFBLK, rdev, target)
	}
	return dataset.Errorf(dataset.ErrUnsupported, "unknown kind of tar entry %q", h.Typeflag)
}

// content writes the content of the current entry, without blocks of zeros.
func (x *extracting) content(f *os.File, size int64) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	return x.writeRange(f, 0, size)
}

// writeRange writes the next bytes of the current entry to a range of a file.
func (x *extracting) writeRange(f *os.File, off, size int64) error {
	if x.left -= min(size, x.left+1); x.left < 0 {
		return dataset.Errorf(dataset.ErrUnsupported, "with this file, the files of the archive have more than %d "+
			"times the size of the filesystem (create it without large holes, or use a larger volume)", maxHoles)
	}
	if x.buf == nil {
		x.buf = make([]byte, bulk)
	}
	for size += off; off < size; {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(x.tar, x.buf[:min(bulk, size-off)])
		if err != nil {
			return x.src.streamError(err)
		}
		if err := writeNonZero(f, x.buf[:n], off); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

var zeros = make([]byte, block)

// writeNonZero writes the blocks that are not all zero.
func writeNonZero(f io.WriterAt, buf []byte, off int64) error {
	start := -1
	for i := 0; i <= len(buf); i += block {
		b := buf[i:min(i+block, len(buf))]
		zero := bytes.Equal(b, zeros[:len(b)])
		switch {
		case !zero && start < 0:
			start = i
		case zero && start >= 0:
			if _, err := f.WriteAt(buf[start:i], off+int64(start)); err != nil {
				return err
			}
			start = -1
		}
	}
	if start < 0 {
		return nil
	}
	_, err := f.WriteAt(buf[start:], off+int64(start))
	return err
}

func (x *extracting) finishDir(f *folder) error {
	n, err := openPath(x.places.root, f.String())
	if err != nil {
		return err
	}
	defer n.close()
	return n.setTimes(meta{atime: f.atime, mtime: f.mtime})
}

func metaOf(h *tar.Header) (meta, error) {
	atime := unix.Timespec{Nsec: unix.UTIME_OMIT}
	if !h.AccessTime.IsZero() {
		atime = timespec(h.AccessTime)
	}
	m := meta{uid: h.Uid, gid: h.Gid, mode: uint32(h.Mode) & 0o7777, atime: atime, mtime: timespec(h.ModTime)}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
		return m, dataset.Errorf(dataset.ErrInvalid, "bad owner %d:%d", h.Uid, h.Gid)
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, paxXattr); ok {
			m.xattrs = append(m.xattrs, xattr{paxUnescape.Replace(name), []byte(value)})
		}
		if strings.HasPrefix(key, paxACL) {
			return m, dataset.Errorf(dataset.ErrUnsupported,
				"has a POSIX ACL in text (create the archive with --xattrs --xattrs-include='*' instead of --acls)")
		}
	}
	slices.SortFunc(m.xattrs, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return m, nil
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}
