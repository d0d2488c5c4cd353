package backendtest

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
)

func lifeOfADataset(f *fixture) {
	d := f.record()
	var sizes []dataset.Size
	f.twice(func() error {
		size, err := f.pool.Create(f.ctx, d)
		sizes = append(sizes, size)
		return err
	})
	if want := f.pool.Info().DefaultSize; sizes[0] != want || sizes[1] != want {
		f.Errorf("create without a size returned %v, but %s is declared", sizes, want)
	}
	f.inState(d, backends.EntryIncoming)
	f.write(d.ID, "early", "written before the commit")
	f.open()
	f.inState(d, backends.EntryIncoming)
	_, err := f.pool.Create(f.ctx, d) // must return the existing dataset
	f.ok(err)

	f.twice(func() error { return f.pool.Commit(f.ctx, d.ID) })
	f.inState(d, backends.EntryReady)
	f.holds(d.ID, "early", "written before the commit")
	_, err = f.pool.Create(f.ctx, d)
	f.ok(err)
	f.inState(d, backends.EntryReady)
	f.open()
	f.inState(d, backends.EntryReady)
	f.holds(d.ID, "early", "written before the commit")

	f.take(d)
	f.twice(func() error { return f.pool.Delete(f.ctx, d.ID) })
	f.absent(d.ID)
	f.open()
	f.absent(d.ID)

	incoming := f.record()
	_, err = f.pool.Create(f.ctx, incoming)
	f.ok(err)
	f.twice(func() error { return f.pool.Delete(f.ctx, incoming.ID) })
	f.absent(incoming.ID)
}

// retryRenewsTheRecord checks that a repeated Create replaces the record of an incoming dataset, because the store will
// record the last attempt. A ready dataset keeps its record.
func retryRenewsTheRecord(f *fixture) {
	src := f.create()
	for what, try := range map[string]func(d dataset.Dataset) error{
		"create": func(d dataset.Dataset) error { _, err := f.pool.Create(f.ctx, d); return err },
		"clone": func(d dataset.Dataset) error {
			_, err := f.pool.Clone(f.ctx, d, dataset.Source{Dataset: src.ID}, nil)
			return err
		},
	} {
		d := f.record()
		d.Volume = "first-" + what
		f.ok(try(d))
		d.Volume, d.Epoch = "last-"+what, d.Epoch+1
		f.twice(func() error { return try(d) })
		f.inState(d, backends.EntryIncoming)
		f.open()
		f.inState(d, backends.EntryIncoming)
		f.ok(f.pool.Commit(f.ctx, d.ID))
		late := d
		late.Volume = "late-" + what
		f.ok(try(late))
		f.inState(d, backends.EntryReady)
	}
}

func rootIsEmptyAndOwned(f *fixture) {
	mode := func(m uint32) *uint32 { return &m }
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	large := uint32(4_000_000_000)
	if slices.Contains(f.without, treetest.LargeIDs) {
		large = 2_000_000_000
	}
	for _, test := range []struct {
		owner         *dataset.Owner
		uid, gid, bit uint32
	}{
		{nil, 0, 0, 0o755},
		{&dataset.Owner{UID: 999, GID: 998, Mode: mode(0o750)}, 999, 998, 0o750},
		{&dataset.Owner{UID: 70_000, GID: large, Mode: mode(0o3777)}, 70_000, large, 0o3777},
		{&dataset.Owner{UID: 5, GID: 6}, 5, 6, 0o755},
		{&dataset.Owner{Mode: mode(0)}, 0, 0, 0},
	} {
		d := f.record()
		d.Profile.Owner = test.owner
		f.twice(func() error { _, err := f.pool.Create(f.ctx, d); return err })
		m := f.mount(d.ID)
		if names := f.names(m.path); len(names) > 0 {
			f.Errorf("the root contains %q", names)
		}
		var st unix.Stat_t
		f.ok(unix.Fstat(int(m.root.Fd()), &st))
		if st.Uid != test.uid || st.Gid != test.gid || st.Mode != unix.S_IFDIR|test.bit {
			f.Errorf("with owner %+v the root has %d:%d %o", test.owner, st.Uid, st.Gid, st.Mode)
		}
		m.unmount()
		f.ok(f.pool.Delete(f.ctx, d.ID))
	}
}

// keepsEverything runs the same operations on a plain directory and on a mounted dataset, and compares them. It
// compares them again after a remount.
func keepsEverything(f *fixture) {
	plain, d := f.plain(), f.create()
	m := f.mount(d.ID)
	for _, op := range treetest.Operations(f.without...) {
		if err := op.Do(plain.Name()); err != nil {
			f.Fatalf("%s, in a plain directory: %v", op.Name, err)
		}
		if err := op.Do(m.path); err != nil {
			f.Fatalf("%s: %v", op.Name, err)
		}
	}
	f.equal(plain, m.root)
	m.unmount()
	f.open()
	m = f.mount(d.ID)
	f.equal(plain, m.root)
	m.unmount()
	s := f.take(d)
	c := f.clone(dataset.Source{Dataset: d.ID, Snapshot: s.ID})
	m = f.mount(c.ID)
	f.equal(plain, m.root)
}

func inUseIsNotDeleted(f *fixture) {
	d := f.create()
	a, err := f.pool.Attach(f.ctx, d.ID, backends.AttachOptions{})
	f.ok(err)
	f.fails(f.pool.Delete(f.ctx, d.ID), dataset.ErrInUse)
	f.ok(a.Release())
	m := f.mount(d.ID)
	f.ok(os.WriteFile(m.in("file"), []byte("content"), 0o600))
	f.fails(f.pool.Delete(f.ctx, d.ID), dataset.ErrInUse)
	f.inState(d, backends.EntryReady)
	f.open()
	f.fails(f.pool.Delete(f.ctx, d.ID), dataset.ErrInUse)
	f.fileHolds(m.in("file"), "content")
	m.unmount()
	f.holds(d.ID, "file", "content")
	f.ok(f.pool.Delete(f.ctx, d.ID))
}

func attachTwice(f *fixture) {
	d := f.create()
	first, err := f.pool.Attach(f.ctx, d.ID, backends.AttachOptions{})
	f.ok(err)
	second, err := f.pool.Attach(f.ctx, d.ID, backends.AttachOptions{})
	if err != nil {
		f.ok(first.Release())
		f.Fatalf("again: %v", err)
	}
	if first.Mount.Source != second.Mount.Source || first.Mount.FSType != second.Mount.FSType {
		f.Errorf("attached as %+v, then as %+v", first.Mount, second.Mount)
	}
	f.ok(first.Release())
	f.ok(second.Release())
	m := f.mount(d.ID)
	defer m.unmount()
	third, err := f.pool.Attach(f.ctx, d.ID, backends.AttachOptions{})
	f.ok(err)
	f.ok(third.Release())
	f.ok(os.WriteFile(m.in("file"), nil, 0o600))
}

// deviceIsOwn checks that each dataset has its own block device if the pool declares that, because a speed limit
// applies to a whole device.
func deviceIsOwn(f *fixture) {
	seen := map[string]bool{}
	own := true
	for range 2 {
		m := f.mount(f.create().ID)
		defer m.unmount()
		var st unix.Stat_t
		f.ok(unix.Fstat(int(m.root.Fd()), &st))
		number := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
		_, err := os.Stat("/sys/dev/block/" + number)
		own = own && err == nil && !seen[number]
		seen[number] = true
	}
	if own != f.can.OwnDevice {
		f.Errorf("devices %v: own %t, declared %t", slices.Sorted(maps.Keys(seen)), own, f.can.OwnDevice)
	}
}

func readOnlyMount(f *fixture) {
	d := f.create()
	f.write(d.ID, "file", "content")
	m := f.mountWith(d.ID, backends.AttachOptions{ReadOnly: true})
	defer m.unmount()
	f.fileHolds(m.in("file"), "content")
	if err := os.WriteFile(m.in("new"), nil, 0o600); !os.IsPermission(err) && !isErrno(err, unix.EROFS) {
		f.Errorf("a write returned %v, want EROFS", err)
	}
}

func usedGrows(f *fixture) {
	d := f.create()
	before, err := f.pool.Used(f.ctx, d.ID)
	f.ok(err)
	m := f.mount(d.ID)
	f.ok(os.WriteFile(m.in("file"), treetest.Bytes(1, 20<<20), 0o600))
	f.ok(unix.Syncfs(int(m.root.Fd())))
	f.usedGrowsBy(d, before, 20*dataset.MiB)
	m.unmount()
	f.usedGrowsBy(d, before, 20*dataset.MiB)
}

func unknownIsNotFound(f *fixture) {
	d, s := f.create(), dataset.Snapshot{}
	unknown := f.record()
	for what, call := range map[string]func() error{
		"commit": func() error { return f.pool.Commit(f.ctx, unknown.ID) },
		"stat":   func() error { _, err := f.pool.Stat(f.ctx, unknown.ID); return err },
		"used":   func() error { _, err := f.pool.Used(f.ctx, unknown.ID); return err },
		"attach": func() error {
			_, err := f.pool.Attach(f.ctx, unknown.ID, backends.AttachOptions{})
			return err
		},
		"write record": func() error { return f.pool.WriteRecord(f.ctx, unknown, true) },
		"snapshot":     func() error { return f.pool.Snapshot(f.ctx, f.snapshot(unknown), nil) },
		"restore": func() error {
			return f.pool.Restore(f.ctx, unknown.ID, uuid.New(), f.snapshot(unknown), nil)
		},
		"restore to it": func() error { s = f.snapshot(d); return f.pool.Restore(f.ctx, d.ID, uuid.New(), s, nil) },
		"clone": func() error {
			_, err := f.pool.Clone(f.ctx, f.record(), dataset.Source{Dataset: unknown.ID}, nil)
			return err
		},
		"clone a snapshot": func() error {
			_, err := f.pool.Clone(f.ctx, f.record(), dataset.Source{Dataset: d.ID, Snapshot: uuid.New()}, nil)
			return err
		},
	} {
		for range 2 {
			if err := call(); !isKind(err, dataset.ErrNotFound) {
				f.Errorf("%s: got %v, want a not_found error", what, err)
			}
		}
	}
	f.ok(f.pool.Delete(f.ctx, unknown.ID))
	f.ok(f.pool.DeleteSnapshot(f.ctx, unknown.ID, uuid.New()))
	f.ok(f.pool.DeleteSnapshot(f.ctx, d.ID, uuid.New()))
	list, err := f.pool.List(f.ctx)
	f.ok(err)
	if len(list) != 1 {
		f.Errorf("the list contains %+v, want one dataset", list)
	}
	f.hasSnapshots(d.ID)
}

// visitBesideTheHome mounts a dataset at its home and at the same time as another host would. Each mount must see the
// writes of the other. A second pool of the share is not available here, so the pool visits itself.
func visitBesideTheHome(f *fixture) {
	sharer, is := f.pool.(backends.Sharer)
	if !is {
		return
	}
	d := f.create()
	home := f.mount(d.ID)
	defer home.unmount()
	a, err := sharer.Visit(f.ctx, d.ID, f.pool.ID(), backends.AttachOptions{})
	if !f.can.ManyHosts {
		f.fails(err, dataset.ErrUnsupported)
		return
	}
	f.ok(err)
	guest := f.mountOf(a)
	f.ok(os.WriteFile(guest.in("guest"), []byte("from the guest"), 0o600))
	f.fileHolds(home.in("guest"), "from the guest")
	f.ok(os.WriteFile(home.in("home"), []byte("from the home"), 0o600))
	f.fileHolds(guest.in("home"), "from the home")
	home.unmount()
	f.fails(f.pool.Delete(f.ctx, d.ID), dataset.ErrInUse)
	guest.unmount()
	for what, missing := range map[string][2]uuid.UUID{"dataset": {uuid.New(), f.pool.ID()},
		"pool": {d.ID, uuid.New()}} {
		if _, err := sharer.Visit(f.ctx, missing[0], missing[1],
			backends.AttachOptions{}); dataset.KindOf(err) != dataset.ErrNotFound {
			f.Errorf("%s that does not exist: %v", what, err)
		}
	}
}
