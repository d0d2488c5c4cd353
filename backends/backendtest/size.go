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
	other := f.mount(f.Create().ID)
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

func (f *fixture) fillsAtItsSize(fs string, size dataset.Size, other *mounted) {
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
	m := f.mount(d.ID)
	if total, free := f.space(m); f.Can.OwnFilesystem &&
		(!within(free, size) || total < free || total > int64(size)*110/100) {
		f.Errorf("df in an empty %s of %s shows %d bytes free of %d", fs, size, free, total)
	}
	if written := f.fill(m); !within(written, size) {
		f.Errorf("%d bytes fit into %s of %s", written, fs, size)
	}
	f.OK(os.WriteFile(other.pathOf("file"), treetest.Bytes(2, 10<<20), 0o600))
	f.OK(unix.Syncfs(int(other.root.Fd())))
	used, err := f.Pool.Used(f.Ctx, d.ID)
	f.OK(err)
	most := size * 103 / 100
	if f.Can.OwnFilesystem {
		most += 64 * dataset.MiB // what the filesystem uses for itself, such as the log
	}
	if used > most {
		f.Errorf("a full dataset of %s takes %s", size, used.Human())
	}
	f.OK(os.Remove(m.pathOf("fill"))) // after that, writes succeed again
	f.OK(os.WriteFile(m.pathOf("file"), treetest.Bytes(2, 10<<20), 0o600))
	f.OK(unix.Syncfs(int(m.root.Fd())))
}

func filesystemsAreMadeOrRefused(f *fixture) {
	for _, fs := range f.Can.Filesystems {
		d := f.Record()
		d.Profile.Filesystem.Type = fs
		f.Twice(func() error { _, err := f.Pool.Create(f.Ctx, d); return err })
		m := f.mount(d.ID)
		if names := f.Names(m.path); len(names) > 0 {
			f.Errorf("an empty %s contains %q", fs, names)
		}
		m.unmount()
		m = f.mountWith(d.ID, backends.AttachOptions{Mount: []string{"noatime"}})
		m.unmount()
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
	f.write(d.ID, "file", "content")
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
			f.resize(sameSize, large, nil)
			sameSize.Size = large
			if size, err := f.Pool.Clone(f.Ctx, sameSize, src, nil); err != nil || size != large {
				f.Errorf("a clone that grew to %s has %s: %v", large, size, err)
			}
			f.checkFile(sameSize.ID, "file", "content")
		}
		f.Twice(func() error {
			size, err := f.Pool.Clone(f.Ctx, bigger, src, nil)
			if size != large {
				f.Errorf("asked for a clone of %s, got %s", large, size)
			}
			return err
		})
		f.checkFile(bigger.ID, "file", "content")
		m := f.mount(bigger.ID)
		if _, free := f.space(m); f.Can.OwnFilesystem && !within(free, large) {
			f.Errorf("df in a clone of %s shows %d bytes free", large, free)
		}
		m.unmount()
		f.Twice(func() error { // its source may have been resized since it was planned
			size, err := f.Pool.Clone(f.Ctx, smaller, src, nil)
			if size != small {
				f.Errorf("a clone of %s for which %s was requested has %s", small, smaller.Size, size)
			}
			return err
		})
		f.checkFile(smaller.ID, "file", "content")
		m = f.mount(smaller.ID)
		if _, free := f.space(m); f.Can.OwnFilesystem && !within(free, small) {
			f.Errorf("df in a clone of %s for which %s was requested shows %d bytes free", small, smaller.Size, free)
		}
		m.unmount()
	}
}

func growIdle(f *fixture) {
	r, ok := f.Pool.(backends.Resizer)
	if !ok {
		return
	}
	f.CheckFails(r.Resize(f.Ctx, f.Record().ID, large, nil), dataset.ErrNotFound)
	d := f.Sized(small)
	f.write(d.ID, "file", "content")
	s, keep := f.TakeSnapshot(d), f.NewSnapshot(d)
	f.resize(d, large, nil)
	f.Open()
	m := f.mount(d.ID)
	if _, free := f.space(m); f.Can.OwnFilesystem && !within(free, large) {
		f.Errorf("df in %s shows %d bytes free", large, free)
	}
	f.CheckFile(m.pathOf("file"), "content")
	f.OK(f.Pool.(backends.Resizer).Grow(f.Ctx, d.ID, m.root)) // nothing to do is fine
	m.unmount()
	f.Twice(func() error { return f.Pool.Restore(f.Ctx, d.ID, s.ID, keep, nil) })
	m = f.mount(d.ID)
	if _, free := f.space(m); f.Can.OwnFilesystem && !within(free, large) {
		f.Errorf("after a restore of a snapshot from before the growth, df in %s shows %d bytes free", large, free)
	}
	f.CheckFile(m.pathOf("file"), "content")
	m.unmount()
	if !f.Can.Shrink {
		for range 2 {
			f.CheckFails(f.Pool.(backends.Resizer).Resize(f.Ctx, d.ID, small, nil), dataset.ErrUnsupported)
		}
		f.checkFile(d.ID, "file", "content")
	} else {
		f.resize(d, small, nil)
		f.checkFile(d.ID, "file", "content")
	}
	f.checkFile(f.Clone(f.Source(s)).ID, "file", "content")
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
	m := f.mount(d.ID)
	file, err := os.Create(m.pathOf("open"))
	f.OK(err)
	defer file.Close()
	f.resize(d, large, m)
	if _, free := f.space(m); f.Can.OwnFilesystem && !within(free, large) {
		f.Errorf("df in %s shows %d bytes free", large, free)
	}
	_, err = file.WriteString("the same file, still open")
	f.OK(err)
	f.OK(file.Close())
	if fit := f.freeSpace(m); !within(fit, large) {
		f.Errorf("%d bytes fit into %s", fit, large)
	}
	f.OK(os.Remove(m.pathOf("fill")))
	m.unmount()
	f.Open()
	f.checkFile(d.ID, "open", "the same file, still open")
}

// growsNotMounted checks a dataset that, according to the capabilities, can only grow while it is not mounted. Growing
// it while it is mounted must fail and change nothing.
func (f *fixture) growsNotMounted(d dataset.Dataset) {
	f.Helper()
	m := f.mount(d.ID)
	before, _ := f.space(m)
	f.CheckFails(f.Pool.(backends.Resizer).Resize(f.Ctx, d.ID, large, m.root), dataset.ErrUnsupported)
	if total, _ := f.space(m); total != before {
		f.Errorf("df shows %d after the refusal, %d before", total, before)
	}
	m.unmount()
	f.resize(d, large, nil)
}

// half is a size in bytes: a little more than half of the size small.
const half = small * 6 / 10

// sizeExcludesSnapshots overwrites more than half of a size after a snapshot. The overwritten blocks, which only the
// snapshot still has, must not count for the head. The usage of a new clone must include the blocks that it shares with
// its source. Neither rule applies to a pool that declares CountsWritten. Snapshots of a restored head must not count
// either.
func sizeExcludesSnapshots(f *fixture) {
	if !f.Can.EnforcesSize {
		return
	}
	d := f.Sized(small)
	m := f.mount(d.ID)
	f.OK(f.fillHalf(m))
	m = f.unmountToCopy(m)
	s := f.TakeSnapshot(d)
	m = f.remount(d.ID, m)
	f.OK(os.Remove(m.pathOf("half")))
	f.OK(unix.Syncfs(int(m.root.Fd())))
	err := f.fillHalf(m)
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
	if full != f.Can.CountsWritten || (err != nil && !full) {
		f.Errorf("rewriting it beside a snapshot: %v", err)
	}
	m.unmount()
	before := func(what string, id dataset.Dataset) {
		f.Helper()
		m := f.mount(id.ID)
		defer m.unmount()
		written := f.fill(m)
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
	m := f.mount(d.ID)
	f.OK(f.fillHalf(m))
	f.OK(unix.Syncfs(int(m.root.Fd())))
	if f.Can.CountsWritten {
		m.unmount()
		return
	}
	m = f.unmountToCopy(m)
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
	m = f.remount(d.ID, m)
	f.resize(d, small, m)
	m.unmount()
	for _, id := range []dataset.Dataset{d, c} {
		m := f.mount(id.ID)
		if written := f.fill(m); written > int64(small-half)*103/100 {
			f.Errorf("%d bytes more fit into %s", written, small)
		}
		m.unmount()
	}
}

// shrinkBelowUsageIsRefused checks that no pool shrinks a dataset below its usage.
func shrinkBelowUsageIsRefused(f *fixture) {
	r, ok := f.Pool.(backends.Resizer)
	if !ok || !f.Can.EnforcesSize {
		return
	}
	d := f.Sized(large)
	m := f.mount(d.ID)
	f.OK(f.fillHalf(m))
	for range 2 {
		f.CheckFails(r.Resize(f.Ctx, d.ID, half/2, m.root), dataset.ErrUnsupported)
	}
	if written := f.fill(m); written < int64(small-half) {
		f.Errorf("%d bytes more fit into %s after the refusal", written, large)
	}
}

// usedWithoutTreeWalk watches a folder in a dataset. A walk of the tree would open the folder.
func usedWithoutTreeWalk(f *fixture) {
	d := f.Create()
	m := f.mount(d.ID)
	f.OK(os.Mkdir(m.pathOf("folder"), 0o755))
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	f.OK(err)
	defer unix.Close(watch)
	_, err = unix.InotifyAddWatch(watch, m.pathOf("folder"), unix.IN_OPEN)
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
