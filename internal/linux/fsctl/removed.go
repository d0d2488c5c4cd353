package fsctl

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
