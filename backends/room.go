package backends

import "github.com/droverhq/drover/dataset"

// Reserve is how many bytes must stay free on a filesystem of a size for what lies there:
// a twentieth, at least 32 MiB or half of it, at most 2 GiB.
func Reserve(size dataset.Size) dataset.Size {
	return min(max(size/20, min(32*dataset.MiB, size/2)), 2*dataset.GiB)
}

// Room fails with dataset.ErrNoSpace when a pool is so full that nothing new should
// begin in it: what is there already would get the errors.
func Room(pool string, free, size dataset.Size) error {
	least := Reserve(size)
	if free >= least {
		return nil
	}
	return dataset.Errorf(dataset.ErrNoSpace,
		"pool %s is nearly full: %s free of %s, %s are kept for what is in it", pool, free.Human(), size.Human(),
		least.Human())
}

// RoomFor is Room for so many bytes that are still to come, where so many were written of which
// the pool may not know yet: settle has it count them.
func RoomFor(pool string, status func() dataset.PoolStatus, written, wanted int64, settle func() error) error {
	left := func(less int64) error {
		st := status()
		if !st.Online {
			return dataset.Errorf(dataset.ErrOffline, "%s", st.Reason)
		}
		return Room(pool, max(st.Free-dataset.Size(less), 0), st.Size)
	}
	if left(written+wanted) == nil {
		return nil
	}
	if err := settle(); err != nil {
		return err
	}
	return left(wanted)
}

// UnfinishedImage is the name under which a pool's image is made before it has its own.
// Nobody else gives such a name: what has it was left by a process that was killed, and
// may be removed by whoever has the right to make the image.
func UnfinishedImage(path string) string { return path + ".drover-tmp" }
