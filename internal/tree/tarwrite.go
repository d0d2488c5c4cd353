package tree

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// WriteTar writes the tree below dir to w in the pax format. Names begin with "./", and the root itself comes first. It
// stores numeric owners, modification times in nanoseconds, attributes and ACLs as SCHILY.xattr records, hard links,
// and holes in GNU's sparse format 1.0. "tar --xattrs --xattrs-include='*' --numeric-owner -xp" restores all of it.
// Access times are not stored. Repeated runs over an unchanged tree write the same bytes.
//
// Tar has no sockets. WriteTar leaves them out and reports them to WithSkipped, except with ForReadTar: a socket is
// useless without the process that has bound it. It fails with dataset.ErrConflict if a file becomes shorter while it
// is read, and with dataset.ErrUnsupported if the attributes and names of an entry need more than 1 MiB. After an error
// the stream has no end mark, so ReadTar refuses it. Safe for concurrent use.
func WriteTar(ctx context.Context, dir *os.File, w io.Writer, opts ...Option) error {
	buf := bufio.NewWriterSize(w, bulk)
	t := &archiving{ctx: ctx, w: buf, links: map[inode]*place{}, options: optionsOf(opts)}
	if err := walk(ctx, dir, allNames, true, t.entry); err != nil {
		return err
	}
	if _, err := buf.Write(make([]byte, 2*tarBlock)); err != nil {
		return err
	}
	return buf.Flush()
}

// archiving is one run of WriteTar.
type archiving struct {
	options
	ctx   context.Context
	w     *bufio.Writer
	links map[inode]*place // the first name of each inode that has several
}

func (t *archiving) entry(n *node, at *place) error {
	h := &tarHeader{name: "./" + at.String(), records: map[string]string{}}
	if n.mayHaveLinks() {
		if first, ok := t.links[n.inode()]; ok {
			h.kind, h.link = '1', "./"+first.String()
			h.meta.mtime = n.st.Mtim
			return h.writeTo(t.w)
		}
	}
	var err error
	if h.meta, err = n.meta(); err != nil {
		return err
	}
	if n.mayHaveLinks() && (t.forReadTar || n.format() != unix.S_IFSOCK) {
		t.links[n.inode()] = at
	}
	switch n.format() {
	case unix.S_IFREG:
		h.kind = '0'
		return t.file(n, h)
	case unix.S_IFDIR:
		h.kind = '5'
		h.name += "/"
		if at == nil {
			h.name = "./"
		}
	case unix.S_IFLNK:
		h.kind = '2'
		if h.link, err = n.readLink(); err != nil {
			return err
		}
	case unix.S_IFIFO:
		h.kind = '6'
	case unix.S_IFCHR:
		h.kind, h.major, h.minor = '3', unix.Major(n.st.Rdev), unix.Minor(n.st.Rdev)
	case unix.S_IFBLK:
		h.kind, h.major, h.minor = '4', unix.Major(n.st.Rdev), unix.Minor(n.st.Rdev)
	case unix.S_IFSOCK:
		if !t.forReadTar {
			t.skipped(at.String())
			return nil
		}
		h.kind, h.records[paxSocket] = '6', "1"
	default:
		return dataset.Errorf(dataset.ErrUnsupported, "tar does not support a %s", kindName(n))
	}
	return h.writeTo(t.w)
}

func (t *archiving) file(n *node, h *tarHeader) error {
	f, err := n.openFile()
	if err != nil {
		return err
	}
	defer f.Close()
	data, allData, err := extents(f, n.st.Size)
	if err != nil {
		return err
	}
	data = coalesce(data)
	if allData {
		h.size = n.st.Size
		data = []extent{{0, h.size}}
		if err := h.writeTo(t.w); err != nil {
			return err
		}
	} else if err := t.sparse(h, data, n.st.Size); err != nil {
		return err
	}
	for _, e := range data {
		if err := t.bytes(f, e); err != nil {
			return err
		}
	}
	_, err = t.w.Write(make([]byte, padding(h.size)))
	return err
}

// extents returns the ranges of a file with data. allData reports whether the file has no holes.
func extents(f *os.File, size int64) (data []extent, allData bool, err error) {
	for off := int64(0); ; {
		e, ok, err := nextData(f, off, size)
		if err != nil {
			return nil, false, err
		}
		if !ok {
			allData = size == 0 || (len(data) == 1 && data[0] == extent{0, size})
			return data, allData, nil
		}
		data = append(data, e)
		off = e.end
	}
}

// maxRanges is the maximum number of ranges in the map of a sparse file: archive/tar reads at most 1 MiB.
const maxRanges = 20_000

// coalesce joins ranges across the smallest holes until there are at most maxRanges. The zeros in between are written,
// and become holes again when they are read.
func coalesce(data []extent) []extent {
	for gap := int64(block); len(data) > maxRanges; gap *= 2 {
		joined := data[:1:1]
		for _, e := range data[1:] {
			if last := &joined[len(joined)-1]; e.off-last.end <= gap {
				last.end = e.end
			} else {
				joined = append(joined, e)
			}
		}
		data = joined
	}
	return data
}

// sparse writes the header of a file with holes, and the map before its data: the number of ranges, then the offset and
// length of each. The last range marks the end (GNU tar's manual, "PAX Format, Version 1.0").
func (t *archiving) sparse(h *tarHeader, data []extent, size int64) error {
	if t.forReadTar {
		return t.ranges(h, data, size)
	}
	ranges := slices.Clone(data)
	if len(data) == 0 || data[len(data)-1].end < size {
		ranges = append(ranges, extent{size, size})
	}
	sparse := fmt.Appendf(nil, "%d\n", len(ranges))
	h.size = 0
	for _, e := range ranges {
		sparse = fmt.Appendf(sparse, "%d\n%d\n", e.off, e.end-e.off)
		h.size += e.end - e.off
	}
	sparse = append(sparse, make([]byte, padding(int64(len(sparse))))...)
	h.size += int64(len(sparse))
	h.records["GNU.sparse.major"] = "1"
	h.records["GNU.sparse.minor"] = "0"
	h.records["GNU.sparse.name"] = h.name
	h.records["GNU.sparse.realsize"] = fmt.Sprint(size)
	dir, base := path.Split(h.name)
	h.name = dir + "GNUSparseFile.0/" + base
	if err := h.writeTo(t.w); err != nil {
		return err
	}
	_, err := t.w.Write(sparse)
	return err
}

func (t *archiving) bytes(f *os.File, e extent) error {
	for off := e.off; off < e.end; {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		n, err := io.Copy(t.w, io.NewSectionReader(f, off, min(chunk, e.end-off)))
		if err != nil {
			return err
		}
		if n == 0 {
			return dataset.Errorf(dataset.ErrConflict,
				"truncated while it was read (export a snapshot, or stop the program that writes)")
		}
		off += n
	}
	return nil
}
