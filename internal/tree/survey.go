package tree

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Survey counts the names in a tree. It also counts those that restic does not store, or stores only in part.
type Survey struct {
	Names int64 // names below the root, without sockets; each hard link counts
	Flags Found // files and directories with inode flags: see chattr(1)
	Times Found // files whose time of change restic cannot restore
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

// SurveyTree surveys the tree below dir. Safe for concurrent use.
func SurveyTree(ctx context.Context, dir *os.File) (s Survey, err error) {
	hasFlags := true
	err = walk(ctx, dir, fewNames, func(n *node, at *place) error {
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
		return nil
	})
	s.Names-- // the root
	return s, err
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
