package zfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
)

// A device has a mark while zpool(8) makes a zpool of it. The mark shows that Drover started zpool(8). The partitions
// that zpool(8) makes on a whole disk do not show that. If a device has only the mark and zpool(8)'s table of empty
// partitions, an interrupted attempt left it.
//
// The mark is where neither a partition table nor ZFS ever writes: after the first labels of a device, and before the
// first partition of a disk.
const (
	markAt    = 640 << 10
	markText  = "drover is making a zpool here\n"
	tableSize = 24 << 10 // the size of a GPT at each end of the device, with sectors of 4 KiB
)

// markDevice marks empty devices before zpool(8) makes a zpool of them. Idempotent.
func markDevice(devices []string) error {
	for _, device := range devices {
		if err := withDevice(device, func(f *os.File) error { return putMark(f, []byte(markText)) }); err != nil {
			return err
		}
	}
	return nil
}

// unmarkDevice removes the mark. Idempotent.
func unmarkDevice(devices []string) error {
	for _, device := range devices {
		err := withDevice(device, func(f *os.File) error {
			if isMarked, err := marked(f); err != nil || !isMarked {
				return err
			}
			return putMark(f, make([]byte, len(markText)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func withDevice(device string, do func(*os.File) error) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(do(f), f.Close()); err != nil {
		return fmt.Errorf("mark device %s: %w", device, err)
	}
	return nil
}

func putMark(f *os.File, text []byte) error {
	if _, err := f.WriteAt(text, markAt); err != nil {
		return err
	}
	return f.Sync()
}

func marked(f *os.File) (bool, error) {
	buf := make([]byte, len(markText))
	if _, err := f.ReadAt(buf, markAt); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return string(buf) == markText, nil
}

// reclaimDevice empties a block device on which an attempt to make a zpool was interrupted, and returns true. If the
// device has no mark, has other content, or is in use, Reclaim changes nothing and returns false.
func reclaimDevice(device string) (done bool, err error) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return false, nil //nolint:nilerr // the caller reports why the device is not empty
	}
	defer f.Close()
	if isMarked, err := marked(f); err != nil || !isMarked {
		return false, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	if isZpoolTable, err := hasZpoolTable(f, size); err != nil || !isZpoolTable {
		return false, err
	}
	if empty, err := fsctl.Zeros(otherContent{f, size}, size); err != nil || !empty {
		return false, err
	}
	for _, at := range []int64{0, size - tableSize} {
		if _, err := f.WriteAt(make([]byte, tableSize), at); err != nil {
			return false, err
		}
	}
	err = errors.Join(f.Sync(), forgetPartitions(f))
	if err == nil {
		err = putMark(f, make([]byte, len(markText)))
	}
	return err == nil, err
}

// otherContent reads a device on which an attempt was interrupted. The mark and both partition tables read as zeros.
type otherContent struct {
	device io.ReaderAt
	size   int64
}

// ReadAt implements io.ReaderAt.
func (o otherContent) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.device.ReadAt(p, off)
	for _, ownRange := range [][2]int64{{0, tableSize}, {markAt, markAt + int64(len(markText))},
		{o.size - tableSize, o.size}} {
		if from, to := max(ownRange[0], off), min(ownRange[1], off+int64(n)); from < to {
			clear(p[from-off : to-off])
		}
	}
	return n, err
}

// forgetPartitions makes the kernel read the empty partition table. It repeats the request for a moment, because
// another program may have a partition open.
func forgetPartitions(f *os.File) error {
	for tries := 0; ; tries++ {
		_, err := unix.IoctlRetInt(int(f.Fd()), unix.BLKRRPART)
		switch {
		case errors.Is(err, unix.EINVAL): // a device that cannot have partitions
			return nil
		case !errors.Is(err, unix.EBUSY) || tries == busyTries:
			return err
		}
		<-time.After(busyPause)
	}
}
