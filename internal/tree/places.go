package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// cleanName checks a name from an archive and returns it relative to the root. It returns "." for the root itself.
func cleanName(name string) (string, error) {
	if strings.HasPrefix(name, "/") {
		return "", dataset.Errorf(dataset.ErrInvalid, "%q is absolute: expected a path below the root", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", dataset.Errorf(dataset.ErrInvalid, "%q is outside of the root", name)
		}
		if strings.ContainsRune(part, 0) {
			return "", dataset.Errorf(dataset.ErrInvalid, "%q contains a zero byte", name)
		}
	}
	name = path.Clean(name)
	if strings.Count(name, "/") >= maxDepth {
		return "", dataset.Errorf(dataset.ErrUnsupported, "directories nest deeper than %d", maxDepth)
	}
	return name, nil
}

// places opens and creates directories below a root while an archive is unpacked. It keeps the last one open, because
// the entries of one directory usually follow one another.
type places struct {
	root *os.File
	dirs map[place]*folder
	last *os.File
	name string
	dir  *folder // of last
}

// folder is a directory that an archive has unpacked. Its times are set last, because new entries change them.
type folder struct {
	place
	atime, mtime unix.Timespec
}

func (p *places) close() {
	if p.last != nil {
		_ = p.last.Close()
		p.last = nil
	}
}

// parent returns the open directory that contains name, and the last element of name. It creates missing directories.
func (p *places) parent(name string) (*os.File, string, error) {
	dir, base := path.Split(name)
	if dir == "" {
		return p.root, base, nil
	}
	if err := p.makeDirs(path.Clean(dir)); err != nil {
		return nil, "", err
	}
	return p.last, base, nil
}

// makeDirs creates a directory and its missing parents. It keeps the new directory open, and closes the one that was
// used before.
func (p *places) makeDirs(name string) error {
	if p.last != nil && p.name == name {
		return nil
	}
	at, err := openNode(p.root, ".")
	if err != nil {
		return err
	}
	defer func() { at.close() }()
	omit := unix.Timespec{Nsec: unix.UTIME_OMIT}
	var dir *folder
	var parent *place
	for part := range strings.SplitSeq(name, "/") {
		made := unix.Mkdirat(at.fd, part, 0o700)
		if made != nil && made != unix.EEXIST {
			return made
		}
		fd, err := openAt(at.fd, part, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return archiveError(err)
		}
		at.close()
		at = &node{fd: fd}
		if made == nil {
			if err := at.replace(meta{mode: 0o755, atime: omit, mtime: omit}); err != nil {
				return err
			}
		}
		if dir = p.dirs[place{parent, part}]; dir == nil {
			dir = &folder{place{parent, strings.Clone(part)}, omit, omit}
			p.dirs[dir.place] = dir
		}
		parent = &dir.place
	}
	f, err := at.openDir()
	if err != nil {
		return err
	}
	p.close()
	p.last, p.name, p.dir = f, name, dir
	return nil
}

// archiveError translates an error of openat2 into one about the archive.
func archiveError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ELOOP):
		return dataset.Errorf(dataset.ErrInvalid, "its path contains a symlink: %w", err)
	case errors.Is(err, unix.ENOTDIR):
		return dataset.Errorf(dataset.ErrInvalid, "its path contains something that is not a directory: %w", err)
	case errors.Is(err, unix.ENOENT):
		return dataset.Errorf(dataset.ErrInvalid, "its target comes later or is missing: %w", err)
	}
	return err
}

// classify adds a kind to an error that the content of an entry causes: ErrInvalid for content that no filesystem
// accepts, ErrUnsupported for an attribute that this filesystem does not support. An error that has a kind already
// keeps it.
func classify(err error) error {
	if err == nil || dataset.KindOf(err) != dataset.ErrInternal {
		return err
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case unix.EOPNOTSUPP:
		return dataset.Errorf(dataset.ErrUnsupported, "%w", err)
	case unix.ENOENT, unix.EEXIST, unix.EISDIR, unix.ENOTDIR, unix.ENAMETOOLONG, unix.EINVAL, unix.ELOOP,
		unix.ERANGE, unix.E2BIG, unix.EFBIG, unix.EMLINK, unix.EOVERFLOW:
		return dataset.Errorf(dataset.ErrInvalid, "%w", err)
	}
	return err
}

// endReader records whether its stream has ended: archive/tar accepts a stream that ends between two entries as
// complete.
type endReader struct {
	r     io.Reader
	ended bool
	err   error // error of r other than io.EOF
}

func (e *endReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if n > 0 && err == io.EOF {
		return n, nil
	}
	if err == io.EOF {
		e.ended = true
	} else if err != nil {
		e.err = err
	}
	return n, err
}

// streamError replaces the error that archive/tar returned by the error of the underlying stream, if there is one.
func (e *endReader) streamError(err error) error {
	if e.err != nil {
		return fmt.Errorf("read tar stream: %w", e.err)
	}
	return dataset.Errorf(dataset.ErrCorrupt, "the tar stream is damaged or truncated: %w", err)
}

// finish checks that the end mark was present, and reads the padding after it.
func (e *endReader) finish(ctx context.Context) error {
	if e.ended {
		return dataset.Errorf(dataset.ErrCorrupt, "the tar stream is truncated: it has no end mark")
	}
	buf := make([]byte, bulk)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := e.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return dataset.Errorf(dataset.ErrCorrupt, "the tar stream continues after its end mark")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return e.streamError(err)
		}
	}
}
