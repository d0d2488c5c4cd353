package shelf

import (
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// WriteJSON replaces a file below root with v as JSON, mode 0600. Atomic, after
// a power cut too: it is then the old or the new one. Durable when it returns
// only if sync is set.
func WriteJSON(root *os.Root, name string, v any, sync bool) error {
	data, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	f, err := root.OpenFile(Temp+name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(append(data, '\n')); err != nil {
		return err
	}
	if err := settle(f, sync); err != nil {
		return err
	}
	if err := root.Rename(Temp+name, name); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	return SyncDir(root)
}

// settle brings a file's bytes to the disk, so that its name does not get there
// before. Without sync ext4 and XFS need no more than the wait for the writing
// (sync_file_range(2)), which forces no journal and no cache out: they make the written bytes part of the
// file before that ends, and flush the disk's cache before they commit the name. Others do not: btrfs does it
// some time after, and leaves an empty file.
func settle(f *os.File, sync bool) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return err
	}
	if fs := uint32(st.Type); sync || (fs != unix.EXT4_SUPER_MAGIC && fs != unix.XFS_SUPER_MAGIC) {
		return f.Sync()
	}
	const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return unix.SyncFileRange(int(f.Fd()), 0, 0, wait)
}

// SyncDir makes the names in a directory durable.
func SyncDir(root *os.Root) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return syncOpen(f)
}

func syncPath(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return syncOpen(f)
}

// syncOpen flushes a directory. Filesystems without that (FUSE, CIFS) answer
// EINVAL: their servers keep names as they see fit (fsync(2)).
func syncOpen(f *os.File) error {
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}
