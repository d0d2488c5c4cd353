package fsctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

const iocFSInfo = 0x8400941F // _IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)

// Space returns the bytes that are available on the filesystem of path to users other than root, and its size without
// the blocks that are reserved for root. (size - free) / size is the Use% of df: the used bytes divided by the sum of
// the used and the available ones. ext4 reserves 5 % by default, and images of virtual machines can have much larger
// reserves.
//
// XFS can report too little for a moment. Before it checks whether a clone has enough space, it subtracts the length of
// each extent or hole from the free blocks, and then adds it again (xfs_dec_freecounter). statfs(2) meanwhile returns
// too small a value, down to 32 blocks below zero, for up to 0.2 ms. It happened in 35 of 500 clones of a file of 10
// GiB on a filesystem of 2 GiB (Linux 6.18). So if Space reads a small value, it repeats the read for some
// milliseconds, and returns the largest value. Concurrent writes do not fail for this reason, because XFS retries them:
// there was no failure in 134,000 writes beside 248,000 clones.
//
// Errors are those of the system, with the path. Safe for concurrent use.
func Space(path string) (free, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	return SpaceOf(f)
}

// SpaceOf is like Space for the filesystem of an open file or directory.
func SpaceOf(f *os.File) (free, size int64, err error) {
	return readSteady(func(st *unix.Statfs_t) (err error) {
		*st, err = Statfs(f)
		return err
	}, func() { <-time.After(time.Millisecond) })
}

// Used returns the bytes that the filesystem of f has in use, including those that are not written to its device yet,
// also on btrfs. Concurrent writes can be counted twice for a moment.
func Used(f *os.File) (int64, error) {
	st, err := Statfs(f)
	return int64(st.Blocks-st.Bfree) * st.Frsize, err //nolint:gosec // no filesystem has 2^63 bytes
}

// Statfs is statfs(2). On btrfs it also counts the data that is promised to writers, or written, and that statfs(2)
// counts only after the next commit, up to 30 s later: bytes_may_use and bytes_reserved of struct btrfs_space_info.
// Data moves from the first to the second figure, and from there to statfs(2), so in this order nothing is missed.
// Removed data that a commit still has to free (bytes_pinned) counts as free: before btrfs refuses a write, it commits.
func Statfs(f *os.File) (st unix.Statfs_t, err error) {
	fail := func(err error) (unix.Statfs_t, error) { return st, fmt.Errorf("space of %s: %w", f.Name(), err) }
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return fail(err)
	}
	if st.Type != unix.BTRFS_SUPER_MAGIC {
		return st, nil
	}
	var info [1024]byte // struct btrfs_ioctl_fs_info_args
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), iocFSInfo, uintptr(unsafe.Pointer(&info)))
	if errno != 0 {
		return fail(errno)
	}
	dir := filepath.Join("/sys/fs/btrfs", uuid.UUID(info[16:32]).String(), "allocation")
	kind := "data"
	if _, err := os.Lstat(filepath.Join(dir, kind)); err != nil {
		kind = "mixed" // with the metadata in the same blocks
	}
	var pending uint64
	for _, name := range []string{"bytes_may_use", "bytes_reserved"} {
		text, err := os.ReadFile(filepath.Join(dir, kind, name))
		if err != nil {
			return fail(err)
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return fail(err)
		}
		pending += n
	}
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return fail(err)
	}
	blocks := pending / uint64(st.Frsize)
	st.Bfree -= min(blocks, st.Bfree)
	st.Bavail -= min(blocks, st.Bavail)
	return st, nil
}

// readSteady repeats a read until it shows so much free space that the error of a concurrent clone (see Space) does not
// matter.
func readSteady(read func(*unix.Statfs_t) error, wait func()) (free, size int64, err error) {
	const reads, enough = 10, 16 // enough is a sixteenth of the size
	for n := range reads {
		if n > 0 {
			wait()
		}
		var st unix.Statfs_t
		if err := read(&st); err != nil {
			return 0, 0, err
		}
		used := int64(st.Blocks-st.Bfree) * st.Frsize //nolint:gosec // no filesystem has 2^63 bytes
		if available := int64(st.Bavail) * st.Frsize; n == 0 || available > free {
			free = max(available, 0)
			size = used + free
		}
		if free >= size/enough {
			break
		}
	}
	return free, size, nil
}

// eofBlocks is struct xfs_fs_eofblocks of xfs_fs.h.
type eofBlocks struct {
	version, flags    uint32
	uid, gid, prid, _ uint32
	minimumSize       uint64
	_                 [12]uint64
}

const (
	freeEOFBlocks    = 0x8080583a // XFS_IOC_FREE_EOFBLOCKS
	eofBlocksVersion = 1
	eofBlocksSync    = 1
)

// FreeRemoved waits until the filesystem that is mounted at path has freed the blocks of removed files. XFS frees them
// in the background (inodegc), so that statfs(2) counts them for a moment. Other filesystems free
// them in unlink(2), and FreeRemoved does nothing. Before an unmount FreeRemoved costs no extra time, because XFS then
// has to do the same work. On XFS it also frees the blocks that are allocated in advance after the end of files.
func FreeRemoved(path string) error {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	arg := eofBlocks{version: eofBlocksVersion, flags: eofBlocksSync}
	err = ioctl(dir, freeEOFBlocks, unsafe.Pointer(&arg))
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}
