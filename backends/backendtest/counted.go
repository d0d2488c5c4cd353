package backendtest

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// half is more than half of a small dataset.
const half = small * 6 / 10

// whatASizeCounts writes more than half of a size anew after a snapshot: that does not count, and a clone
// begins with its shared blocks, unless the pool declares that it counts all writes. Neither do snapshots of
// a restored head.
func whatASizeCounts(f *fixture) {
	if !f.can.EnforcesSize {
		return
	}
	d := f.sized(small)
	m := f.mount(d.ID)
	f.ok(f.half(m))
	m = f.letGo(m)
	s := f.take(d)
	m = f.mountAgain(d.ID, m)
	f.ok(os.Remove(m.in("half")))
	f.ok(unix.Syncfs(int(m.root.Fd())))
	err := f.half(m)
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
	if full != f.can.CountsWritten || (err != nil && !full) {
		f.Errorf("written anew beside a snapshot: %v", err)
	}
	m.unmount()
	before := func(what string, id dataset.Dataset) {
		f.Helper()
		m := f.mount(id.ID)
		defer m.unmount()
		written := f.fill(m)
		// The usable size is within 3 % of the declared one.
		if shared := written > int64(small-half+small*3/100); shared != f.can.CountsWritten {
			f.Errorf("%s of %s with %s in it took %d bytes more", what, small, half.Human(), written)
		}
	}
	before("a clone", f.clone(f.source(s)))
	f.ok(f.pool.Restore(f.ctx, d.ID, s.ID, f.snapshot(d), nil))
	before("a restored head", d)
}

// noSize makes a dataset without a size, if none is needed: it is as large as the pool, and gets a size
// later, or in its clone.
func noSize(f *fixture) {
	if !f.can.EnforcesSize || f.pool.Info().DefaultSize != 0 {
		return
	}
	d := f.create()
	m := f.mount(d.ID)
	f.ok(f.half(m))
	f.ok(unix.Syncfs(int(m.root.Fd())))
	if f.can.CountsWritten {
		m.unmount()
		return
	}
	m = f.letGo(m)
	c := f.record()
	c.Size = small / 2
	_, err := f.pool.Clone(f.ctx, c, dataset.Source{Dataset: d.ID}, nil)
	f.fails(err, dataset.ErrUnsupported)
	f.absent(c.ID)
	c.Size = small
	f.twice(func() error {
		size, err := f.pool.Clone(f.ctx, c, dataset.Source{Dataset: d.ID}, nil)
		if size != small {
			f.Errorf("asked for a clone of %s, got %s", small, size)
		}
		return err
	})
	m = f.mountAgain(d.ID, m)
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

// shrinkIsRefused checks that no pool shrinks a dataset below its usage.
func shrinkIsRefused(f *fixture) {
	r, ok := f.pool.(backends.Resizer)
	if !ok || !f.can.EnforcesSize {
		return
	}
	d := f.sized(large)
	m := f.mount(d.ID)
	f.ok(f.half(m))
	for range 2 {
		f.fails(r.Resize(f.ctx, d.ID, half/2, m.root), dataset.ErrUnsupported)
	}
	if written := f.fill(m); written < int64(small-half) {
		f.Errorf("%d bytes more fit into %s after the refusal", written, large)
	}
}

// usedIsKnown watches a folder in a dataset: only a walk opens it.
func usedIsKnown(f *fixture) {
	d := f.create()
	m := f.mount(d.ID)
	f.ok(os.Mkdir(m.in("folder"), 0o755))
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	f.ok(err)
	defer unix.Close(watch)
	_, err = unix.InotifyAddWatch(watch, m.in("folder"), unix.IN_OPEN)
	f.ok(err)
	_, err = f.pool.Used(f.ctx, d.ID)
	f.ok(err)
	_, err = unix.Read(watch, make([]byte, 4<<10))
	if known := errors.Is(err, unix.EAGAIN); known != (f.can.OwnFilesystem || f.can.KnowsUsed) {
		f.Errorf("known without a walk: %v, with own_filesystem %v and knows_used %v", known, f.can.OwnFilesystem,
			f.can.KnowsUsed)
	}
}
