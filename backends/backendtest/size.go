package backendtest

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
)

const (
	small = 512 * dataset.MiB // XFS needs 300 MiB
	large = 768 * dataset.MiB

	full, fullXFS = 256 * dataset.MiB, 320 * dataset.MiB
)

// sizeIsEnforcedOrRefused fills a dataset with each filesystem. Writes must fail with ENOSPC (or EDQUOT) when the
// dataset has its size, within 3 %. Writes to other datasets must not fail.
func sizeIsEnforcedOrRefused(f *fixture) {
	d := f.Record()
	d.Size = small
	if !f.Can.EnforcesSize {
		for range 2 {
			_, err := f.Pool.Create(f.Ctx, d)
			f.CheckFails(err, dataset.ErrUnsupported)
			f.CheckAbsent(d.ID)
			_, err = f.Pool.Clone(f.Ctx, d, dataset.Source{Dataset: f.Create().ID}, nil)
			f.CheckFails(err, dataset.ErrUnsupported)
			f.CheckAbsent(d.ID)
		}
		return
	}
	other := f.Mount(f.Create().ID)
	for _, fs := range f.Filesystems() {
		size := full
		if fs == "xfs" {
			size = fullXFS
		}
		f.fillsAtItsSize(fs, size, other)
	}
}

// within reports whether a figure is within 3 % of a size.
func within(have int64, size dataset.Size) bool {
	return have >= int64(size)*97/100 && have <= int64(size)*103/100
}

func (f *fixture) fillsAtItsSize(fs string, size dataset.Size, other *Mounted) {
	f.Helper()
	d := f.Record()
	d.Size, d.Profile.Filesystem.Type = size, fs
	f.Twice(func() error {
		got, err := f.Pool.Create(f.Ctx, d)
		if got != size {
			f.Errorf("asked for %s, got %s", size, got)
		}
		return err
	})
	m := f.Mount(d.ID)
	if total, free := f.Space(m); f.Can.OwnFilesystem &&
		(!within(free, size) || total < free || total > int64(size)*110/100) {
		f.Errorf("df in an empty %s of %s shows %d bytes free of %d", fs, size, free, total)
	}
	if written := f.Fill(m); !within(written, size) {
		f.Errorf("%d bytes fit into %s of %s", written, fs, size)
	}
	f.OK(os.WriteFile(other.PathOf("file"), treetest.Bytes(2, 10<<20), 0o600))
	f.OK(unix.Syncfs(int(other.Root.Fd())))
	used, err := f.Pool.Used(f.Ctx, d.ID)
	f.OK(err)
	most := size * 103 / 100
	if f.Can.OwnFilesystem {
		most += 64 * dataset.MiB // what the filesystem uses for itself, such as the log
	}
	if used > most {
		f.Errorf("a full dataset of %s takes %s", size, used.Human())
	}
	f.OK(os.Remove(m.PathOf("fill"))) // after that, writes succeed again
	f.OK(os.WriteFile(m.PathOf("file"), treetest.Bytes(2, 10<<20), 0o600))
	f.OK(unix.Syncfs(int(m.Root.Fd())))
}

func filesystemsAreMadeOrRefused(f *fixture) {
	for _, fs := range f.Can.Filesystems {
		d := f.Record()
		d.Profile.Filesystem.Type = fs
		f.Twice(func() error { _, err := f.Pool.Create(f.Ctx, d); return err })
		m := f.Mount(d.ID)
		if names := f.Names(m.Path); len(names) > 0 {
			f.Errorf("an empty %s contains %q", fs, names)
		}
		m.Unmount()
		m = f.MountWith(d.ID, backends.AttachOptions{Mount: []string{"noatime"}})
		m.Unmount()
	}
	for _, fs := range []string{"ext4", "xfs", "btrfs", "vfat", "../../etc", "-h"} {
		d := f.Record()
		d.Profile.Filesystem.Type = fs
		if _, err := f.Pool.Create(f.Ctx, d); err == nil {
			ok := false
			for _, have := range f.Can.Filesystems {
				ok = ok || have == fs
			}
			if !ok {
				f.Errorf("%s was created, which is not in Filesystems", fs)
			}
			continue
		} else if !isKind(err, dataset.ErrUnsupported) && !isKind(err, dataset.ErrInvalid) {
			f.Errorf("filesystem %q: got %v, want an unsupported error", fs, err)
		}
		f.CheckAbsent(d.ID)
	}
	if !f.Can.OwnFilesystem {
		d := f.Record()
		d.Profile.Filesystem.Mount = []string{"commit=60"}
		_, err := f.Pool.Create(f.Ctx, d)
		f.CheckFails(err, dataset.ErrUnsupported)
		f.CheckAbsent(d.ID)
		_, err = f.Pool.Attach(f.Ctx, f.Create().ID, backends.AttachOptions{Mount: []string{"commit=60"}})
		f.CheckFails(err, dataset.ErrUnsupported)
	}
}

func cloneSizes(f *fixture) {
	if !f.Can.EnforcesSize {
		return // refused: see sizeIsEnforcedOrRefused
	}
	d := f.Sized(small)
	f.Write(d.ID, "file", "content")
	s := f.TakeSnapshot(d)
	for _, src := range []dataset.Source{{Dataset: d.ID}, f.Source(s)} {
		sameSize, bigger, smaller := f.Record(), f.Record(), f.Record()
		bigger.Size, smaller.Size = large, small/2
		size, err := f.Pool.Clone(f.Ctx, sameSize, src, nil)
		f.OK(err)
		if size != small {
			f.Errorf("a clone of %s has %s", small, size)
		}
		if _, ok := f.Pool.(backends.Resizer); ok { // the dataset is still incoming
			f.Resize(sameSize, large, nil)
			sameSize.Size = large
			if size, err := f.Pool.Clone(f.Ctx, sameSize, src, nil); err != nil || size != large {
				f.Errorf("a clone that grew to %s has %s: %v", large, size, err)
			}
			f.CheckContent(sameSize.ID, "file", "content")
		}
		f.Twice(func() error {
			size, err := f.Pool.Clone(f.Ctx, bigger, src, nil)
			if size != large {
				f.Errorf("asked for a clone of %s, got %s", large, size)
			}
			return err
		})
		f.CheckContent(bigger.ID, "file", "content")
		m := f.Mount(bigger.ID)
		if _, free := f.Space(m); f.Can.OwnFilesystem && !within(free, large) {
			f.Errorf("df in a clone of %s shows %d bytes free", large, free)
		}
		m.Unmount()
		f.Twice(func() error { // its source may have been resized since it was planned
			size, err := f.Pool.Clone(f.Ctx, smaller, src, nil)
			if size != small {
				f.Errorf("a clone of %s for which %s was requested has %s", small, smaller.Size, size)
			}
			return err
		})
		f.CheckContent(smaller.ID, "file", "content")
		m = f.Mount(smaller.ID)
		if _, free := f.Space(m); f.Can.OwnFilesystem && !within(free, small) {
			f.Errorf("df in a clone of %s for which %s was requested shows %d bytes free", small, smaller.Size, free)
		}
		m.Unmount()
	}
}

func growIdle(f *fixture) {
	r, ok := f.Pool.(backends.Resizer)
	if !ok {
		return
	}
	f.CheckFails(r.Resize(f.Ctx, f.Record().ID, large, nil), dataset.ErrNotFound)
	d := f.Sized(small)
	f.Write(d.ID, "file", "content")
	s, keep := f.TakeSnapshot(d), f.NewSnapshot(d)
	f.Resize(d, large, nil)
	f.Open()
	m := f.Mount(d.ID)
	if _, free := f.Space(m); f.Can.OwnFilesystem && !within(free, large) {
		f.Errorf("df in %s shows %d bytes free", large, free)
	}
	f.CheckFile(m.PathOf("file"), "content")
	f.OK(f.Pool.(backends.Resizer).Grow(f.Ctx, d.ID, m.Root)) // nothing to do is fine
	m.Unmount()
	f.Twice(func() error { return f.Pool.Restore(f.Ctx, d.ID, s.ID, keep, nil) })
	m = f.Mount(d.ID)
	if _, free := f.Space(m); f.Can.OwnFilesystem && !within(free, large) {
		f.Errorf("after a restore of a snapshot from before the growth, df in %s shows %d bytes free", large, free)
	}
	f.CheckFile(m.PathOf("file"), "content")
	m.Unmount()
	if !f.Can.Shrink {
		for range 2 {
			f.CheckFails(f.Pool.(backends.Resizer).Resize(f.Ctx, d.ID, small, nil), dataset.ErrUnsupported)
		}
		f.CheckContent(d.ID, "file", "content")
	} else {
		f.Resize(d, small, nil)
		f.CheckContent(d.ID, "file", "content")
	}
	f.CheckContent(f.Clone(f.Source(s)).ID, "file", "content")
}

func growMounted(f *fixture) {
	if !f.Can.EnforcesSize {
		return
	}
	for _, fs := range f.Filesystems() {
		d := f.Record()
		d.Size, d.Profile.Filesystem.Type = small, fs
		_, err := f.Pool.Create(f.Ctx, d)
		f.OK(err)
		f.OK(f.Pool.Commit(f.Ctx, d.ID))
		if f.Can.OnlineGrow && !slices.Contains(f.Can.OfflineGrow, fs) {
			f.growsMounted(d)
		} else {
			f.growsNotMounted(d)
		}
	}
}

func (f *fixture) growsMounted(d dataset.Dataset) {
	f.Helper()
	m := f.Mount(d.ID)
	file, err := os.Create(m.PathOf("open"))
	f.OK(err)
	defer file.Close()
	f.Resize(d, large, m)
	if _, free := f.Space(m); f.Can.OwnFilesystem && !within(free, large) {
		f.Errorf("df in %s shows %d bytes free", large, free)
	}
	_, err = file.WriteString("the same file, still open")
	f.OK(err)
	f.OK(file.Close())
	if fit := f.FreeSpace(m); !within(fit, large) {
		f.Errorf("%d bytes fit into %s", fit, large)
	}
	f.OK(os.Remove(m.PathOf("fill")))
	m.Unmount()
	f.Open()
	f.CheckContent(d.ID, "open", "the same file, still open")
}

// growsNotMounted checks a dataset that, according to the capabilities, can only grow while it is not mounted. Growing
// it while it is mounted must fail and change nothing.
func (f *fixture) growsNotMounted(d dataset.Dataset) {
	f.Helper()
	m := f.Mount(d.ID)
	before, _ := f.Space(m)
	f.CheckFails(f.Pool.(backends.Resizer).Resize(f.Ctx, d.ID, large, m.Root), dataset.ErrUnsupported)
	if total, _ := f.Space(m); total != before {
		f.Errorf("df shows %d after the refusal, %d before", total, before)
	}
	m.Unmount()
	f.Resize(d, large, nil)
}

// half is a size in bytes: a little more than half of the size small.
const half = small * 6 / 10

// fillHalf writes a file of the size half.
func fillHalf(f *fixture, m *Mounted) error {
	file, err := os.Create(m.PathOf("half"))
	f.OK(err)
	defer file.Close()
	f.AsContainer(func() {
		for buf, n := treetest.Bytes(3, 1<<20), dataset.Size(0); err == nil && n < half; n += dataset.MiB {
			_, err = file.Write(buf)
		}
		err = errors.Join(err, file.Sync())
	})
	return err
}

// sizeExcludesSnapshots overwrites more than half of a size after a snapshot. The overwritten blocks, which only the
// snapshot still has, must not count for the head. The usage of a new clone must include the blocks that it shares with
// its source. Neither rule applies to a pool that declares CountsWritten. Snapshots of a restored head must not count
// either.
func sizeExcludesSnapshots(f *fixture) {
	if !f.Can.EnforcesSize {
		return
	}
	d := f.Sized(small)
	m := f.Mount(d.ID)
	f.OK(fillHalf(f, m))
	m = f.UnmountToCopy(m)
	s := f.TakeSnapshot(d)
	m = f.Remount(d.ID, m)
	f.OK(os.Remove(m.PathOf("half")))
	f.OK(unix.Syncfs(int(m.Root.Fd())))
	err := fillHalf(f, m)
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
	if full != f.Can.CountsWritten || (err != nil && !full) {
		f.Errorf("rewriting it beside a snapshot: %v", err)
	}
	m.Unmount()
	before := func(what string, id dataset.Dataset) {
		f.Helper()
		m := f.Mount(id.ID)
		defer m.Unmount()
		written := f.Fill(m)
		// The usable size is within 3 % of the declared one.
		if shared := written > int64(small-half+small*3/100); shared != f.Can.CountsWritten {
			f.Errorf("%s of %s with %s in it took %d bytes more", what, small, half.Human(), written)
		}
	}
	before("a clone", f.Clone(f.Source(s)))
	f.OK(f.Pool.Restore(f.Ctx, d.ID, s.ID, f.NewSnapshot(d), nil))
	before("a restored head", d)
}

// datasetWithoutSize makes a dataset without a size, if the pool allows that. The dataset must be as large as the pool.
// It gets a size later by Resize, and its clone gets one when it is made.
func datasetWithoutSize(f *fixture) {
	if !f.Can.EnforcesSize || f.Pool.Info().DefaultSize != 0 {
		return
	}
	d := f.Create()
	m := f.Mount(d.ID)
	f.OK(fillHalf(f, m))
	f.OK(unix.Syncfs(int(m.Root.Fd())))
	if f.Can.CountsWritten {
		m.Unmount()
		return
	}
	m = f.UnmountToCopy(m)
	c := f.Record()
	c.Size = small / 2
	_, err := f.Pool.Clone(f.Ctx, c, dataset.Source{Dataset: d.ID}, nil)
	f.CheckFails(err, dataset.ErrUnsupported)
	f.CheckAbsent(c.ID)
	c.Size = small
	f.Twice(func() error {
		size, err := f.Pool.Clone(f.Ctx, c, dataset.Source{Dataset: d.ID}, nil)
		if size != small {
			f.Errorf("asked for a clone of %s, got %s", small, size)
		}
		return err
	})
	m = f.Remount(d.ID, m)
	f.Resize(d, small, m)
	m.Unmount()
	for _, id := range []dataset.Dataset{d, c} {
		m := f.Mount(id.ID)
		if written := f.Fill(m); written > int64(small-half)*103/100 {
			f.Errorf("%d bytes more fit into %s", written, small)
		}
		m.Unmount()
	}
}

// shrinkBelowUsageIsRefused checks that no pool shrinks a dataset below its usage.
func shrinkBelowUsageIsRefused(f *fixture) {
	r, ok := f.Pool.(backends.Resizer)
	if !ok || !f.Can.EnforcesSize {
		return
	}
	d := f.Sized(large)
	m := f.Mount(d.ID)
	f.OK(fillHalf(f, m))
	for range 2 {
		f.CheckFails(r.Resize(f.Ctx, d.ID, half/2, m.Root), dataset.ErrUnsupported)
	}
	if written := f.Fill(m); written < int64(small-half) {
		f.Errorf("%d bytes more fit into %s after the refusal", written, large)
	}
}

// usedWithoutTreeWalk watches a folder in a dataset. A walk of the tree would open the folder.
func usedWithoutTreeWalk(f *fixture) {
	d := f.Create()
	m := f.Mount(d.ID)
	f.OK(os.Mkdir(m.PathOf("folder"), 0o755))
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	f.OK(err)
	defer unix.Close(watch)
	_, err = unix.InotifyAddWatch(watch, m.PathOf("folder"), unix.IN_OPEN)
	f.OK(err)
	_, err = f.Pool.Used(f.Ctx, d.ID)
	f.OK(err)
	_, err = unix.Read(watch, make([]byte, 4<<10))
	if known := errors.Is(err, unix.EAGAIN); known != (f.Can.OwnFilesystem || f.Can.KnowsUsed) {
		f.Errorf("used space known without a walk: %v, with own_filesystem %v and knows_used "+
			"%v", known, f.Can.OwnFilesystem,
			f.Can.KnowsUsed)
	}
}
