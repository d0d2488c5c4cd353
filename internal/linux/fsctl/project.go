package fsctl

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNoProjects means that the kernel has no project quotas for that filesystem, however it is
// mounted: it was built without them, or is older than Linux 5.14.
var ErrNoProjects = errors.New("the kernel has no project quotas")

// ErrNoQuota means that the filesystem counts no projects, or does no more.
var ErrNoQuota = errors.New("the filesystem has no project quotas")

const flagProjectInherit = 0x00000200 // FS_XFLAG_PROJINHERIT, linux/fs.h

// Project returns the project of a file or directory, 0 for none, and whether new files in it inherit the
// project. A filesystem without projects gives ENOTTY or EOPNOTSUPP.
func Project(f *os.File) (id uint32, inherited bool, err error) {
	var x fsxattr
	if err := ioctl(f, fsIocGetXattr, unsafe.Pointer(&x)); err != nil {
		return 0, false, fmt.Errorf("read the project of %s: %w", f.Name(), err)
	}
	return x.project, x.flags&flagProjectInherit != 0, nil
}

// SetProject puts a directory into a project, and all files that are made in it from now on: of any kind, and
// without opening them. It is idempotent.
func SetProject(dir *os.File, id uint32) error {
	var x fsxattr
	if err := ioctl(dir, fsIocGetXattr, unsafe.Pointer(&x)); err != nil {
		return fmt.Errorf("read the project of %s: %w", dir.Name(), err)
	}
	x.project = id
	x.flags |= flagProjectInherit
	if err := ioctl(dir, fsIocSetXattr, unsafe.Pointer(&x)); err != nil {
		return fmt.Errorf("put %s into project %d: %w", dir.Name(), id, err)
	}
	return nil
}

// Quota is the usage and the limits of a project in a filesystem.
type Quota struct {
	Used  uint64 // bytes, with those that are on their way to the disk
	Limit uint64 // bytes; 0: none
	Files uint64
	named bool
}

// Free reports whether a project is empty and has no limits.
func (q Quota) Free() bool { return q.Used == 0 && q.Files == 0 && !q.named }

// dqblk is struct if_dqblk of linux/quota.h.
type dqblk struct {
	hard, soft, space, fileHard, fileSoft, files, blockTime, fileTime uint64
	valid                                                             uint32
	_                                                                 uint32
}

const (
	quotaBlock  = 1024 // QIF_DQBLKSIZE: of hard and soft
	limitsValid = 1    // QIF_BLIMITS

	quotaFormat = 0x800004 // Q_GETFMT
	quotaGet    = 0x800007 // Q_GETQUOTA
	quotaSet    = 0x800008 // Q_SETQUOTA
	quotaState  = 0x5808   // Q_XGETQSTATV
	projects    = 2        // PRJQUOTA
	projectHeld = 1 << 5   // FS_QUOTA_PDQ_ENFD
)

// ProjectQuota returns the quota of a project on the filesystem of dir: the zero one where
// it knows of none.
func ProjectQuota(dir *os.File, id uint32) (Quota, error) {
	var b dqblk
	err := quotactl(dir, quotaGet, id, unsafe.Pointer(&b))
	if errors.Is(err, unix.ENOENT) {
		return Quota{}, nil
	}
	if err != nil {
		return Quota{}, fmt.Errorf("read the quota of project %d: %w", id, err)
	}
	return Quota{
		Used: b.space, Limit: b.hard * quotaBlock, Files: b.files,
		named: b.hard != 0 || b.soft != 0 || b.fileHard != 0 || b.fileSoft != 0,
	}, nil
}

// LimitProject has a project hold at most so many bytes, rounded up to whole KiB; 0: as many
// as there are. It is idempotent.
func LimitProject(dir *os.File, id uint32, bytes uint64) error {
	b := dqblk{hard: (bytes + quotaBlock - 1) / quotaBlock, valid: limitsValid}
	if err := quotactl(dir, quotaSet, id, unsafe.Pointer(&b)); err != nil {
		return fmt.Errorf("limit project %d to %d bytes: %w", id, bytes, err)
	}
	return nil
}

// HoldsProjects tells whether the filesystem of dir holds projects to their limits, rather
// than count at most. ErrNoProjects, of XFS and ext4.
func HoldsProjects(dir *os.File) (bool, error) {
	state := struct { // struct fs_quota_statv of linux/dqblk_xfs.h
		version int8
		_       uint8
		flags   uint16
		_       [19]uint64
	}{version: 1}
	err := quotactl(dir, quotaState, 0, unsafe.Pointer(&state))
	if errors.Is(err, ErrNoQuota) {
		return false, hasProjects(dir)
	}
	if err != nil {
		return false, fmt.Errorf("find out whether project quotas are on: %w", err)
	}
	return state.flags&projectHeld != 0, nil
}

// hasProjects fails with ErrNoProjects where the kernel has no project quotas for the filesystem of
// dir. Of those that are off it says ESRCH: do_quotactl of fs/quota/quota.c looks for them first.
func hasProjects(dir *os.File) error {
	var format uint32
	err := quotactl(dir, quotaFormat, 0, unsafe.Pointer(&format))
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return ErrNoProjects
	}
	return nil
}

// quotactl is quotactl_fd(2), of Linux 5.14: it needs no device to be found.
func quotactl(dir *os.File, command int, id uint32, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, dir.Fd(), uintptr(command<<8|projects), uintptr(id),
		uintptr(arg), 0, 0)
	switch errno {
	case 0:
		return nil
	case unix.ENOSYS, unix.EINVAL, unix.ESRCH, unix.EOPNOTSUPP, unix.ENOTTY:
		return fmt.Errorf("%w: %w", ErrNoQuota, errno)
	}
	return errno
}
