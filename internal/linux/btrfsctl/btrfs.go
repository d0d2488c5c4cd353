// Package btrfsctl creates, snapshots and destroys btrfs subvolumes, and sends and receives them, with ioctl(2)
// (linux/btrfs.h). It needs neither btrfs-progs nor cgo. The backends that store data on btrfs call it (btrfs, loop,
// trialdir), and so do package reflink and the command drover backend verify. Its functions work on open files, and
// keep no state. [Commits] shares one commit between callers, protected by a mutex.
//
// Where to change what: how subvolumes are made and deleted is in btrfs.go, nested.go and deletion.go, and quotas and
// the RAID profile are read in quota.go. A stream is written in send.go, parsed in command.go, and applied in apply.go.
// The extents of a file are read in extents.go, and the UUIDs of a subvolume in identity.go.
package btrfsctl

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The errors of this package, for errors.Is. Errors for names wrap os.ErrExist and os.ErrNotExist.
var (
	// ErrNested means that the subvolume contains other subvolumes, which must be deleted first.
	ErrNested = errors.New("subvolume contains other subvolumes")
	// ErrNotSubvolume means that a directory is not the root of a subvolume.
	ErrNotSubvolume = errors.New("not a btrfs subvolume")
)

// The request numbers of the ioctls: _IOW(0x94, nr, size) and so on.
const (
	iocSubvolMake  = 0x5000940E // 14, struct btrfs_ioctl_vol_args
	iocSnapDestroy = 0x5000940F // 15
	iocWaitSync    = 0x40089416 // 22, __u64
	iocSnapMakeV2  = 0x50009417 // 23, struct btrfs_ioctl_vol_args_v2
	iocStartSync   = 0x80089418 // 24
	iocSetFlags    = 0x4008941A // 26, __u64

	flagReadOnly = 1 << 1 // BTRFS_SUBVOL_RDONLY
	rootInode    = 256    // BTRFS_FIRST_FREE_OBJECTID
	nameMax      = 255    // BTRFS_NAME_LEN
)

// volArgs is struct btrfs_ioctl_vol_args.
type volArgs struct {
	fd   int64
	name [4088]byte
}

// volArgsV2 is struct btrfs_ioctl_vol_args_v2.
type volArgsV2 struct {
	fd      int64
	transid uint64
	flags   uint64
	unused  [4]uint64
	name    [4040]byte
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > nameMax || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is not a valid subvolume name (1 to %d bytes without a slash)", name, nameMax)
	}
	return nil
}

// Create creates an empty subvolume in dir. It fails with os.ErrExist if the name is taken. The subvolume is durable
// only after Commit.
func Create(dir *os.File, name string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("create subvolume: %w", err)
	}
	args := new(volArgs)
	copy(args.name[:], name)
	if err := ioctl(dir, iocSubvolMake, unsafe.Pointer(args)); err != nil {
		return fmt.Errorf("create subvolume %s/%s: %w", dir.Name(), name, err)
	}
	return nil
}

// Snapshot creates a snapshot of the subvolume whose root directory is src, with a name in dir. The snapshot has the
// state of one moment, even if src is written to. Subvolumes inside src are not included: each becomes an empty
// directory with inode 2. It fails with os.ErrExist if the name is taken. The snapshot is durable only after Commit.
func Snapshot(dir *os.File, name string, src *os.File, readOnly bool) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("snapshot %s: %w", src.Name(), err)
	}
	args := &volArgsV2{fd: int64(src.Fd())}
	if readOnly {
		args.flags = flagReadOnly
	}
	copy(args.name[:], name)
	err := ioctl(dir, iocSnapMakeV2, unsafe.Pointer(args))
	if errors.Is(err, unix.EINVAL) {
		if ok, isErr := IsSubvolume(src); isErr == nil && !ok {
			err = ErrNotSubvolume
		}
	}
	if err != nil {
		return fmt.Errorf("snapshot %s to %s/%s: %w", src.Name(), dir.Name(), name, err)
	}
	return nil
}

// SetReadOnly makes the subvolume whose root directory is dir read-only. Idempotent. The change is durable only after
// Commit.
func SetReadOnly(dir *os.File) error { return setFlags(dir, flagReadOnly) }

func setFlags(dir *os.File, flags uint64) error {
	if err := ioctl(dir, iocSetFlags, unsafe.Pointer(&flags)); err != nil {
		return fmt.Errorf("set flags %#x of subvolume %s: %w", flags, dir.Name(), err)
	}
	return nil
}

// Delete destroys the subvolume name in dir, read-only or not, with its content. It fails with os.ErrNotExist if there
// is none, with ErrNotSubvolume if the name is not a subvolume, and with ErrNested if it contains subvolumes. The name
// disappears at once, and durably after Commit. The kernel frees the space later.
func Delete(dir *os.File, name string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("delete subvolume: %w", err)
	}
	args := new(volArgs)
	copy(args.name[:], name)
	err := ioctl(dir, iocSnapDestroy, unsafe.Pointer(args))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOTEMPTY):
		err = ErrNested
	case errors.Is(err, unix.EINVAL):
		err = ErrNotSubvolume
	}
	return fmt.Errorf("delete subvolume %s/%s: %w", dir.Name(), name, err)
}

// IsSubvolume reports whether dir is the root directory of a subvolume. It returns false for the empty directory that a
// snapshot has instead of a nested subvolume.
func IsSubvolume(dir *os.File) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return false, fmt.Errorf("check whether %s is a subvolume: %w", dir.Name(), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return false, fmt.Errorf("check whether %s is a subvolume: %w", dir.Name(), err)
	}
	return uint32(fs.Type) == unix.BTRFS_SUPER_MAGIC && st.Ino == rootInode, nil
}

const nocow = 0x00800000 // FS_NOCOW_FL, linux/fs.h

// SetNOCOW sets the flag NOCOW on an empty file, or on a directory for the files that are created in it later. Such
// files are overwritten in place and have no checksums. It fails for a file with content, because btrfs ignores the
// flag there. Idempotent.
func SetNOCOW(f *os.File) error {
	fd := int(f.Fd())
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return fmt.Errorf("flags of %s: %w", f.Name(), err)
	}
	if flags&nocow != 0 {
		return nil
	}
	if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|nocow)); err != nil {
		return fmt.Errorf("set NOCOW on %s: %w", f.Name(), err)
	}
	if flags, err = unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS); err != nil {
		return fmt.Errorf("flags of %s: %w", f.Name(), err)
	}
	if flags&nocow == 0 {
		return fmt.Errorf("set NOCOW on %s: btrfs ignored it, as it does for files that contain data", f.Name())
	}
	return nil
}

// Commits shares commits of a filesystem between callers. All callers that call Wait while a commit runs share the next
// commit. The zero value is ready for use.
type Commits struct {
	mu      sync.Mutex
	waiting *round
	running sync.Mutex
}

type round struct {
	done chan struct{}
	err  error
}

// Wait returns once a commit has run that began after the call.
func (c *Commits) Wait(commit func() error) error {
	c.mu.Lock()
	if r := c.waiting; r != nil {
		c.mu.Unlock()
		<-r.done
		return r.err
	}
	r := &round{done: make(chan struct{})}
	c.waiting = r
	c.mu.Unlock()

	c.running.Lock()
	c.mu.Lock()
	c.waiting = nil
	c.mu.Unlock()
	r.err = commit()
	c.running.Unlock()
	close(r.done)
	return r.err
}

// Commit writes the running transaction of the filesystem of dir. Unlike btrfs's sync it does not write out
// the dirty pages of all other files.
//
// START_SYNC wakes the thread of the kernel that commits. A thread that is committing misses that, and START_SYNC then
// lasts until the next periodic commit, after 30 seconds (btrfs_commit_transaction_async, seen with Linux 6.18). So
// Commit first waits for the commit that runs, and one filesystem needs one Commits for its callers.
func Commit(dir *os.File) error {
	var running, next uint64
	for _, call := range []struct {
		request     uintptr
		transaction *uint64
	}{{iocWaitSync, &running}, {iocStartSync, &next}, {iocWaitSync, &next}} {
		if err := ioctl(dir, call.request, unsafe.Pointer(call.transaction)); err != nil {
			return fmt.Errorf("commit the filesystem of %s: %w", dir.Name(), err)
		}
	}
	return nil
}
