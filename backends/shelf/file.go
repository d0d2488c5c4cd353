package shelf

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// WriteJSON replaces a file below root with v as JSON, mode 0600. The replacement is atomic: after a power cut the file
// has the old or the new content. It is durable when WriteJSON returns only if sync is set.
func WriteJSON(root safefile.Dir, name string, v any, sync bool) error {
	data, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	f, err := root.OpenFile(Temp+name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(append(data, '\n')); err != nil {
		return err
	}
	if err := flushData(f, sync); err != nil {
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

// ReadJSON reads a file that WriteJSON wrote.
func ReadJSON(root safefile.Dir, name string, v any) error {
	data, err := root.Read(name)
	if err != nil {
		return err
	}
	return dataset.DecodeFormat(bytes.TrimSpace(data), name, dataset.RecordFormat, v)
}

// flushData writes a file's bytes to the disk before its new name can reach the disk. If sync is not set, it only waits
// for the writes on ext4 and XFS (sync_file_range(2)). That is sufficient there, and cheaper, because it flushes
// neither the journal nor the disk's cache: these two filesystems make the written bytes part of the file before the
// wait ends, and flush the disk's cache before they commit the name. On other filesystems flushData flushes the file.
// btrfs, for example, makes the bytes part of the file later, so without a flush a power cut could leave an empty file.
func flushData(f *os.File, sync bool) error {
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
func SyncDir(root safefile.Dir) error {
	return syncOpen(root.File)
}

// syncPath is SyncDir for a path.
func syncPath(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return syncOpen(f)
}

// syncOpen flushes a directory. Filesystems that cannot flush a directory (FUSE, CIFS) return EINVAL (fsync(2)). Their
// servers decide when names become durable.
func syncOpen(f *os.File) error {
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}

// syncArea makes the names in an area durable.
func syncArea(root safefile.Dir, area string) error {
	sub, err := root.Sub(area)
	if err != nil {
		return err
	}
	defer sub.Close()
	return SyncDir(sub)
}
