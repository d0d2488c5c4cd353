package fsctl

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNoProjects means that the kernel has no project quotas for this kind of filesystem.
var ErrNoProjects = errors.New("the kernel does not support project quotas")

// ErrNoQuota means that project quotas are not enabled on the filesystem. ProjectQuota and LimitProject fail with it.
var ErrNoQuota = errors.New("the filesystem has no project quotas")

const flagProjectInherit = 0x00000200 // FS_XFLAG_PROJINHERIT, linux/fs.h

// Project returns the project ID of a file or directory, or 0 if it has none. inherited reports whether new files in it
// get the same project. It fails with ENOTTY or EOPNOTSUPP if the filesystem has no projects.
func Project(f *os.File) (id uint32, inherited bool, err error) {
	var x fsxattr
	if err := ioctl(f, fsIocGetXattr, unsafe.Pointer(&x)); err != nil {
		return 0, false, fmt.Errorf("read the project of %s: %w", f.Name(), err)
	}
	return x.project, x.flags&flagProjectInherit != 0, nil
}

// SetProject assigns a directory to a project. All files and other inodes that are created in it later inherit the
// project. Idempotent.
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
	Used      uint64 // bytes, including those that are not written out yet
	Limit     uint64 // bytes, or 0 for no limit
	Files     uint64
	hasLimits bool
}

// IsUnused reports whether a project has no data and no limits.
func (q Quota) IsUnused() bool { return q.Used == 0 && q.Files == 0 && !q.hasLimits }

// dqblk is struct if_dqblk of linux/quota.h.
type dqblk struct {
	hard, soft, space, fileHard, fileSoft, files, blockTime, fileTime uint64
	valid                                                             uint32
	_                                                                 uint32
}

const (
	quotaBlock  = 1024 // QIF_DQBLKSIZE, the unit of hard and soft limits
	limitsValid = 1    // QIF_BLIMITS

	quotaFormat = 0x800004 // Q_GETFMT
	quotaGet    = 0x800007 // Q_GETQUOTA
	quotaSet    = 0x800008 // Q_SETQUOTA
	quotaState  = 0x5808   // Q_XGETQSTATV
	projects    = 2        // PRJQUOTA
	projectHeld = 1 << 5   // FS_QUOTA_PDQ_ENFD
)

// ProjectQuota returns the quota of a project on the filesystem of dir. It returns the zero value if the filesystem
// does not know the project.
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
		hasLimits: b.hard != 0 || b.soft != 0 || b.fileHard != 0 || b.fileSoft != 0,
	}, nil
}

// LimitProject sets the maximum number of bytes of a project, rounded up to a multiple of 1 KiB. 0 removes the limit.
// Idempotent.
func LimitProject(dir *os.File, id uint32, bytes uint64) error {
	b := dqblk{hard: (bytes + quotaBlock - 1) / quotaBlock, valid: limitsValid}
	if err := quotactl(dir, quotaSet, id, unsafe.Pointer(&b)); err != nil {
		return fmt.Errorf("limit project %d to %d bytes: %w", id, bytes, err)
	}
	return nil
}

// EnforcesProjects reports whether the filesystem of dir enforces the limits of projects. It returns false if the
// filesystem only counts their usage. It fails with ErrNoProjects if XFS or ext4 cannot have project quotas on this
// kernel.
func EnforcesProjects(dir *os.File) (bool, error) {
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
		return false, fmt.Errorf("check whether project quotas are on: %w", err)
	}
	return state.flags&projectHeld != 0, nil
}

// hasProjects fails with ErrNoProjects if the kernel has no project quotas for the filesystem of dir. If the quotas are
// only disabled, the kernel returns ESRCH (do_quotactl in fs/quota/quota.c).
func hasProjects(dir *os.File) error {
	var format uint32
	err := quotactl(dir, quotaFormat, 0, unsafe.Pointer(&format))
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return ErrNoProjects
	}
	return nil
}

// quotactl is quotactl_fd(2). Unlike quotactl(2), it does not need the path of the device.
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
