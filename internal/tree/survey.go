package tree

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// Survey describes a tree before restic stores it, or after restic has restored it. Sockets do not count.
type Survey struct {
	Names int64 // below the root; each hard link counts
	Used  int64 // bytes on the disk of all files, shared blocks too; each hard link has its part
	// Reads is the number of bytes that restic reads: it reads holes, and a file once for each hard link. Longest is
	// the file with most of them, and LongestReads how many.
	Reads, LongestReads int64
	Longest             string
	// Size is the number of bytes that a restore writes: it writes each file once, and holes as far as restic does.
	Size int64
	// Repeated is the size of the extended attributes, and targets of symbolic links, that restic stores again: once
	// for each further hard link. Inodes is how many more inodes a restore needs: restic makes one for each hard link,
	// except of regular files.
	Repeated, Inodes int64
	// Metadata is a sum over the names, so their order does not matter. It covers the path, type, owner, mode, size,
	// time of change and extended attributes of each, as far as restic stores and restores them.
	Metadata Digest
	Flags    Found // files and directories with inode flags: see chattr(1)
	Times    Found // files whose time of change restic cannot restore

	// linked has the inodes with several names and more than rereadXattrs bytes of attributes, by device and number.
	// These attributes are read once: a file can have 60,000 names and 16 MiB of attributes.
	linked map[[2]uint64]surveyedXattrs
}

// Found counts files, and has the path of the first one.
type Found struct {
	Count int64
	First string
}

func (f *Found) add(at *place) {
	if f.Count++; f.Count == 1 {
		f.First = at.String()
	}
}

// Digest is a sum of hashes.
type Digest [sha256.Size / 8]uint64

func (d *Digest) add(entry []byte) {
	hash := sha256.Sum256(entry)
	for i := range d {
		d[i] += binary.BigEndian.Uint64(hash[8*i:])
	}
}

// String returns the digest as hexadecimal digits.
func (d Digest) String() string { return fmt.Sprintf("%016x%016x%016x%016x", d[0], d[1], d[2], d[3]) }

// settableFlags are the inode flags that a user can set and that matter after a restore: s, u, c, S, i, a, d, A, m, j,
// D, T, C and F of chattr(1). The flag P is left out, because project quotas set it, and so are those that filesystems
// set.
const settableFlags = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x400 | 0x4000 | 0x10000 | 0x20000 |
	0x800000 | 0x40000000

// restic restores a time as a number of nanoseconds since 1970, which has 64 bits.
var (
	earliest = time.Unix(0, -1<<63)
	latest   = time.Unix(0, 1<<63-1)
)

// The filesystems of Linux that have 32 bits for a time have none before 1901: what restic restores as an earlier time
// becomes the earliest. The digest leaves these times out.
const earliestRestored = -2_114_380_800_000_000_000 // 1903

// restoredTime returns the time that restic restores, in nanoseconds. restic stores a year from 0 to 9999, as JSON
// requires, and the number of nanoseconds overflows.
func restoredTime(ts unix.Timespec) int64 {
	t := time.Unix(ts.Unix()).UTC()
	t = t.AddDate(max(0, -t.Year())-max(0, t.Year()-9999), 0, 0)
	return t.Unix()*1e9 + int64(t.Nanosecond())
}

// longestTarget is the length of the longest target of a symbolic link in bytes that XFS stores.
const longestTarget = 1023

// longestPath is the length of the longest path in bytes that restic can restore: it writes below another folder, and
// the whole path has at most 4,095 bytes.
const longestPath = 4000

// SurveyTree surveys the tree below dir. It fails with dataset.ErrUnsupported if restic could store a name or an
// attribute, but not restore it, and once Repeated is more than maxRepeated: hard links are quickly made, and each name
// takes up to a millisecond. Safe for concurrent use.
func SurveyTree(ctx context.Context, dir *os.File, maxRepeated int64) (s Survey, err error) {
	hasFlags := true
	s.linked = map[[2]uint64]surveyedXattrs{}
	err = walk(ctx, dir, fewNames, true, func(n *node, at *place) error {
		if n.format() == unix.S_IFSOCK {
			return nil
		}
		s.Names++
		if t := time.Unix(n.st.Mtim.Unix()); t.Before(earliest) || t.After(latest) {
			s.Times.add(at)
		}
		if hasFlags && (n.isDir() || n.format() == unix.S_IFREG) {
			flags, err := n.flags()
			hasFlags = err == nil
			if flags&settableFlags != 0 {
				s.Flags.add(at)
			}
		}
		if err := s.add(n, at); err != nil || s.Repeated <= maxRepeated {
			return err
		}
		return dataset.Errorf(dataset.ErrUnsupported, "restic would store more than %s of attributes and targets of "+
			"links again, once for each hard link (remove attributes or hard links)", dataset.Size(maxRepeated).Human())
	})
	s.Names-- // the root
	return s, err
}

// add adds a name to the sums.
func (s *Survey) add(n *node, at *place) error {
	path := at.String()
	if len(path) > longestPath {
		return dataset.Errorf(dataset.ErrUnsupported, "its path has %d bytes, and restic restores none with more than "+
			"%d (rename or remove it)", len(path), longestPath)
	}
	links := int64(1)
	if n.mayHaveLinks() {
		links = int64(n.st.Nlink)
	}
	s.Used += n.allocated() / links
	entry := fmt.Appendf(nil, "%q %o %d:%d", path, n.st.Mode, n.st.Uid, n.st.Gid)
	if t := restoredTime(n.st.Mtim); t >= earliestRestored {
		entry = fmt.Appendf(entry, " time %d", t)
	}
	if links > 1 && n.format() != unix.S_IFREG {
		s.Inodes++
	}
	switch n.format() {
	case unix.S_IFREG:
		s.Reads = min(s.Reads, math.MaxInt64-n.st.Size) + n.st.Size // files can have holes of exabytes
		part := (n.st.Size-1)/links + 1
		s.Size = min(s.Size, math.MaxInt64-part) + part
		if n.st.Size > s.LongestReads {
			s.Longest, s.LongestReads = path, n.st.Size
		}
		entry = fmt.Appendf(entry, " size %d", n.st.Size)
	case unix.S_IFCHR, unix.S_IFBLK:
		entry = fmt.Appendf(entry, " device %d", n.st.Rdev)
	case unix.S_IFLNK: // restic does not store their attributes, and no byte of a target that is not UTF-8
		target, err := n.readLink()
		restored := string([]rune(target)) // each such byte becomes a character of three bytes
		if len(restored) > max(len(target), longestTarget) {
			return dataset.Errorf(dataset.ErrUnsupported, "its target is not UTF-8, and restic cannot restore it "+
				"(remove the symbolic link)")
		}
		s.Repeated += int64(len(restored)) - int64(len(restored))/links
		s.Metadata.add(fmt.Appendf(entry, " target %q", restored))
		return err
	}
	id := [2]uint64{n.st.Dev, n.st.Ino}
	x, known := s.linked[id]
	if !known {
		var err error
		if x, err = surveyXattrs(n); err != nil {
			return err
		}
		if links > 1 && x.size > rereadXattrs {
			s.linked[id] = x
		}
	}
	s.Repeated += x.size - x.size/links
	s.Metadata.add(append(entry, x.sum...))
	return nil
}

// rereadXattrs is how many bytes of attributes are read again for each name, so that linked stays small: each of its
// inodes has more than that on the disk.
const rereadXattrs = 16 << 10

// surveyedXattrs are the attributes of an inode: their size, and a hash of those that are restored; "" if there are
// none.
type surveyedXattrs struct {
	size int64
	sum  string
}

func surveyXattrs(n *node) (of surveyedXattrs, err error) {
	attributes, err := readXattrs(n.procPath())
	hash := sha256.New()
	for _, x := range attributes {
		if !utf8.ValidString(x.name) {
			return of, dataset.Errorf(dataset.ErrUnsupported, "the name of its attribute %q is not UTF-8, and restic "+
				"would restore another one (remove it: setfattr --remove)", x.name)
		}
		of.size += int64(len(x.name) + len(x.value))
		if !isOfHost(x.name) {
			_, _ = fmt.Fprintf(hash, " %q=%q", x.name, x.value)
			of.sum = " attributes"
		}
	}
	if of.sum != "" {
		of.sum += hex.EncodeToString(hash.Sum(nil))
	}
	return of, err
}

// flags returns the inode flags of a file or directory. It fails if the filesystem has none.
func (n *node) flags() (uint32, error) {
	fd, err := unix.Open(n.procPath(), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, nil // whoever reads the file reports it
	}
	defer unix.Close(fd)
	return unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
}
