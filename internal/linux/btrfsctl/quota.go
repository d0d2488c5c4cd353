package btrfsctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

const (
	iocFSInfo      = 0x8400941F // _IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)
	iocQgroupLimit = 0x8030942B // _IOR(0x94, 43, struct btrfs_ioctl_qgroup_limit_args)

	iocQuotaControl = 0xC0109428 // _IOWR(0x94, 40, struct btrfs_ioctl_quota_ctl_args)
	iocRescan       = 0x4040942C // _IOW(0x94, 44, struct btrfs_ioctl_quota_rescan_args)
	iocRescanWait   = 0x0000942E // _IO(0x94, 46)
	quotaEnable     = 1          // BTRFS_QUOTA_CTL_ENABLE

	limitReferenced = 1 << 0 // BTRFS_QGROUP_LIMIT_MAX_RFER

	sysfs = "/sys/fs/btrfs"
)

// Quota is the mode in which a filesystem counts the usage of its subvolumes.
type Quota string

// The modes of quotas.
const (
	// QuotaNone means that nothing is counted, and limits have no effect.
	QuotaNone Quota = "none"
	// QuotaFull means that each subvolume is charged for all data that it refers to.
	QuotaFull Quota = "full"
	// QuotaSimple means that a subvolume is charged for its own writes, as long as any subvolume refers to the data.
	QuotaSimple Quota = "simple"
)

// limitArgs is struct btrfs_ioctl_qgroup_limit_args.
type limitArgs struct {
	id, flags, referenced, exclusive, reservedReferenced, reservedExclusive uint64
}

// UUID returns the UUID of the filesystem that contains f, as the kernel knows it.
func UUID(f *os.File) (uuid.UUID, error) {
	var args struct { // struct btrfs_ioctl_fs_info_args
		_    [2]uint64
		fsid uuid.UUID
		_    [1024 - 32]byte
	}
	if err := ioctl(f, iocFSInfo, unsafe.Pointer(&args)); err != nil {
		return uuid.Nil, fmt.Errorf("find the filesystem of %s: %w", f.Name(), err)
	}
	return args.fsid, nil
}

// Quotas returns the quota mode of the filesystem of f. settled reports whether its figures are reliable: they are not
// before a rescan has finished. It only reads sysfs.
func Quotas(f *os.File) (mode Quota, settled bool, err error) {
	id, err := UUID(f)
	if err != nil {
		return "", false, err
	}
	dir := filepath.Join(sysfs, id.String(), "qgroups")
	enabled, err := number(filepath.Join(dir, "enabled"))
	if errors.Is(err, fs.ErrNotExist) || (err == nil && enabled == 0) {
		return QuotaNone, true, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("quotas of %s: %w", f.Name(), err)
	}
	mode = QuotaFull
	if text, err := os.ReadFile(filepath.Join(dir, "mode")); err == nil && strings.TrimSpace(string(text)) == "squota" {
		mode = QuotaSimple // kernels before 6.7 have neither the file nor that mode
	}
	wrong, err := number(filepath.Join(dir, "inconsistent"))
	if err != nil {
		return "", false, fmt.Errorf("quotas of %s: %w", f.Name(), err)
	}
	return mode, wrong == 0, nil
}

// EnableQuotas enables full quotas for the whole filesystem of f, and waits until the existing data is counted. They
// stay enabled.
func EnableQuotas(f *os.File) error {
	args := [2]uint64{quotaEnable}
	err := ioctl(f, iocQuotaControl, unsafe.Pointer(&args))
	if err == nil {
		err = ioctl(f, iocRescanWait, nil)
	}
	if err != nil {
		return fmt.Errorf("enable quotas of %s: %w", f.Name(), err)
	}
	return nil
}

// Recount starts a rescan of the full quotas of the filesystem of f, and does not wait for it. It returns nil if a
// rescan is already running.
func Recount(f *os.File) error {
	var args [8]uint64
	if err := ioctl(f, iocRescan, unsafe.Pointer(&args)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("rescan quotas of %s: %w", f.Name(), err)
	}
	return nil
}

// Limit sets the maximum number of bytes, data and metadata, that the subvolume whose root is f may refer to. 0 removes
// the limit. A write beyond the limit fails with EDQUOT. The limit is durable after a commit. Limit fails with
// unix.ENOTCONN if quotas are disabled, and with os.ErrNotExist if they have not counted this subvolume yet.
func Limit(f *os.File, bytes uint64) error {
	args := &limitArgs{flags: limitReferenced, referenced: bytes}
	if bytes == 0 {
		args.referenced = ^uint64(0) // CLEAR_VALUE of fs/btrfs/qgroup.c
	}
	err := ioctl(f, iocQgroupLimit, unsafe.Pointer(args))
	if errors.Is(err, unix.EDQUOT) { // above its limit, a subvolume cannot start a transaction, not even this one
		err = limitFromAbove(f, args)
	}
	if err != nil {
		return fmt.Errorf("limit %s to %d bytes: %w", f.Name(), bytes, err)
	}
	return nil
}

func limitFromAbove(f *os.File, args *limitArgs) (err error) {
	if args.id, err = ID(f); err != nil {
		return err
	}
	fd, err := unix.Openat(int(f.Fd()), "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	parent := os.NewFile(uintptr(fd), f.Name())
	defer parent.Close()
	return ioctl(parent, iocQgroupLimit, unsafe.Pointer(args))
}

// Counted is the usage of a subvolume according to the quotas.
type Counted struct {
	Referenced uint64 // as of the last commit; the meaning depends on the mode
	Limit      uint64 // 0 if there is none
}

// Count returns the usage of the subvolume that contains f. It only reads sysfs. It fails with os.ErrNotExist if
// nothing is counted.
func Count(f *os.File) (c Counted, err error) {
	filesystem, err := UUID(f)
	if err != nil {
		return c, err
	}
	id, err := ID(f)
	if err != nil {
		return c, err
	}
	if c.Referenced, err = number(countOf(filesystem, id, "referenced")); err != nil {
		return c, fmt.Errorf("used space of %s: %w", f.Name(), err)
	}
	flags, err := number(countOf(filesystem, id, "limit_flags"))
	if err == nil && flags&limitReferenced != 0 {
		c.Limit, err = number(countOf(filesystem, id, "max_referenced"))
	}
	if err != nil {
		return c, fmt.Errorf("limit of %s: %w", f.Name(), err)
	}
	return c, nil
}

// countOf returns the path of the sysfs file with one figure of a subvolume.
func countOf(filesystem uuid.UUID, id uint64, name string) string {
	return filepath.Join(sysfs, filesystem.String(), "qgroups", fmt.Sprintf("0_%d", id), name)
}

func number(file string) (uint64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 0, 64)
}

// Profile returns the RAID profile of a mounted filesystem, such as "raid0" or "raid1". A filesystem
// that is being converted has two profiles, and Profile returns both, such as "raid0 and raid1". what is "data",
// "metadata" or "system". Profile only reads sysfs. It returns "unknown" if sysfs does not show the profile.
func Profile(id uuid.UUID, what string) string {
	entries, err := os.ReadDir(filepath.Join(sysfs, id.String(), "allocation", what))
	if err != nil {
		return "unknown"
	}
	var found []string
	for _, e := range entries {
		if e.IsDir() {
			found = append(found, e.Name())
		}
	}
	return strings.Join(found, " and ")
}
