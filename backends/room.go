package backends

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// NoSpace adds the kind dataset.ErrNoSpace to an error that wraps ENOSPC or EDQUOT. It returns all other errors
// unchanged. A filesystem without free inodes returns ENOSPC too.
func NoSpace(err error) error {
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
	if !full || errors.Is(err, dataset.ErrNoSpace) {
		return err
	}
	return dataset.Errorf(dataset.ErrNoSpace, "%w", err)
}

// Reserve returns the bytes of a filesystem that must stay free for existing data: a twentieth of its size, but at most
// 2 GiB, and at least 32 MiB. If 32 MiB are more than half of the size, it is half of the size.
func Reserve(size dataset.Size) dataset.Size {
	return min(max(size/20, min(32*dataset.MiB, size/2)), 2*dataset.GiB)
}

// DefaultSize returns the size of a dataset that requests no size. st is the current status of its pool. On a pool that
// is smaller than the backend's default size, it is the size of the pool in whole MiB.
func DefaultSize(info Info, st dataset.PoolStatus) dataset.Size {
	if info.DefaultSize > 0 && st.Online && st.Size >= dataset.MiB && st.Size < info.DefaultSize {
		return st.Size / dataset.MiB * dataset.MiB
	}
	return info.DefaultSize
}

// CheckRoom returns dataset.ErrNoSpace if a pool is so full that existing datasets could fail soon.
func CheckRoom(pool string, free, size dataset.Size) error {
	reserve := Reserve(size)
	if free >= reserve {
		return nil
	}
	return dataset.Errorf(dataset.ErrNoSpace,
		"pool %s is nearly full: %s free of %s, %s are reserved for its existing "+
			"volumes", pool, free.Human(), size.Human(),
		reserve.Human())
}

// CheckRoomFor is CheckRoom for a transfer in progress. written is the number of bytes that the transfer has written,
// and remaining the number that it will still write. The pool's status may not count the written bytes yet. If the
// space seems too small, CheckRoomFor calls settle, which makes the pool count them, and checks again.
func CheckRoomFor(pool string, status func() dataset.PoolStatus, written, remaining int64, settle func() error) error {
	left := func(less int64) error {
		st := status()
		if !st.Online {
			return dataset.Errorf(dataset.ErrOffline, "%s", st.Reason)
		}
		return CheckRoom(pool, max(st.Free-dataset.Size(less), 0), st.Size)
	}
	if left(written+remaining) == nil {
		return nil
	}
	if err := settle(); err != nil {
		return err
	}
	return left(remaining)
}

// TemporaryImagePath returns the temporary name under which a pool's image is made. Only Drover uses that name, so a
// file with it was left by a process that was killed. A caller that may make the image may also remove that file.
func TemporaryImagePath(path string) string { return path + ".drover-tmp" }
