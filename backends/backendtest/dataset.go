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
	"github.com/droverhq/drover/test/require"
)

func datasetLifeCycle(f *fixture) {
	d := f.Record()
	var sizes []dataset.Size
	f.Twice(func() error {
		size, err := f.Pool.Create(f.Ctx, d)
		sizes = append(sizes, size)
		return err
	})
	if want := f.Pool.Info().DefaultSize; sizes[0] != want || sizes[1] != want {
		f.Errorf("create without a size returned %v, but %s is declared", sizes, want)
	}
	f.CheckState(d, backends.EntryIncoming)
	f.Write(d.ID, "early", "written before the commit")
	f.Open()
	f.CheckState(d, backends.EntryIncoming)
	_, err := f.Pool.Create(f.Ctx, d) // must return the existing dataset
	f.OK(err)

	f.Twice(func() error { return f.Pool.Commit(f.Ctx, d.ID) })
	f.CheckState(d, backends.EntryReady)
	f.CheckContent(d.ID, "early", "written before the commit")
	_, err = f.Pool.Create(f.Ctx, d)
	f.OK(err)
	f.CheckState(d, backends.EntryReady)
	f.Open()
	f.CheckState(d, backends.EntryReady)
	f.CheckContent(d.ID, "early", "written before the commit")

	f.TakeSnapshot(d)
	f.Twice(func() error { return f.Pool.Delete(f.Ctx, d.ID) })
	f.CheckAbsent(d.ID)
	f.Open()
	f.CheckAbsent(d.ID)

	incoming := f.Record()
	_, err = f.Pool.Create(f.Ctx, incoming)
	f.OK(err)
	f.Twice(func() error { return f.Pool.Delete(f.Ctx, incoming.ID) })
	f.CheckAbsent(incoming.ID)
}

// retryReplacesRecord checks that a repeated Create replaces the record of an incoming dataset, because the store will
// record the last attempt. A ready dataset keeps its record.
func retryReplacesRecord(f *fixture) {
	src := f.Create()
	for what, try := range map[string]func(d dataset.Dataset) error{
		"create": func(d dataset.Dataset) error { _, err := f.Pool.Create(f.Ctx, d); return err },
		"clone": func(d dataset.Dataset) error {
			_, err := f.Pool.Clone(f.Ctx, d, dataset.Source{Dataset: src.ID}, nil)
			return err
		},
	} {
		d := f.Record()
		d.Volume = "first-" + what
		f.OK(try(d))
		d.Volume, d.Epoch = "last-"+what, d.Epoch+1
		f.Twice(func() error { return try(d) })
		f.CheckState(d, backends.EntryIncoming)
		f.Open()
		f.CheckState(d, backends.EntryIncoming)
		f.OK(f.Pool.Commit(f.Ctx, d.ID))
		late := d
		late.Volume = "late-" + what
		f.OK(try(late))
		f.CheckState(d, backends.EntryReady)
	}
}

func rootIsEmptyAndOwned(f *fixture) {
	mode := func(m uint32) *uint32 { return &m }
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	large := uint32(4_000_000_000)
	if slices.Contains(f.Unsupported, treetest.LargeIDs) {
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
		d := f.Record()
		d.Profile.Owner = test.owner
		f.Twice(func() error { _, err := f.Pool.Create(f.Ctx, d); return err })
		m := f.Mount(d.ID)
		if names := f.Names(m.Path); len(names) > 0 {
			f.Errorf("the root contains %q", names)
		}
		var st unix.Stat_t
		f.OK(unix.Fstat(int(m.Root.Fd()), &st))
		if st.Uid != test.uid || st.Gid != test.gid || st.Mode != unix.S_IFDIR|test.bit {
			f.Errorf("with owner %+v the root has %d:%d %o", test.owner, st.Uid, st.Gid, st.Mode)
		}
		m.Unmount()
		f.OK(f.Pool.Delete(f.Ctx, d.ID))
	}
}

// filePropertiesAreKept runs the same operations on a plain directory and on a mounted dataset, and compares them.
// After a remount, it compares them again.
func filePropertiesAreKept(f *fixture) {
	plain, d := f.MakePlainDir(), f.Create()
	m := f.Mount(d.ID)
	for _, op := range treetest.Operations(f.Unsupported...) {
		require.NoErrorf(f, op.Do(plain.Name()), "%s, in a plain directory", op.Name)
		require.NoErrorf(f, op.Do(m.Path), "%s", op.Name)
	}
	f.CheckEqual(plain, m.Root)
	m.Unmount()
	f.Open()
	m = f.Mount(d.ID)
	f.CheckEqual(plain, m.Root)
	m.Unmount()
	s := f.TakeSnapshot(d)
	c := f.Clone(dataset.Source{Dataset: d.ID, Snapshot: s.ID})
	m = f.Mount(c.ID)
	f.CheckEqual(plain, m.Root)
}

func inUseIsNotDeleted(f *fixture) {
	d := f.Create()
	a, err := f.Pool.Attach(f.Ctx, d.ID, backends.AttachOptions{})
	f.OK(err)
	f.CheckFails(f.Pool.Delete(f.Ctx, d.ID), dataset.ErrInUse)
	f.OK(a.Release())
	m := f.Mount(d.ID)
	f.OK(os.WriteFile(m.PathOf("file"), []byte("content"), 0o600))
	f.CheckFails(f.Pool.Delete(f.Ctx, d.ID), dataset.ErrInUse)
	f.CheckState(d, backends.EntryReady)
	f.Open()
	f.CheckFails(f.Pool.Delete(f.Ctx, d.ID), dataset.ErrInUse)
	f.CheckFile(m.PathOf("file"), "content")
	m.Unmount()
	f.CheckContent(d.ID, "file", "content")
	f.OK(f.Pool.Delete(f.Ctx, d.ID))
}

func attachTwice(f *fixture) {
	d := f.Create()
	first, err := f.Pool.Attach(f.Ctx, d.ID, backends.AttachOptions{})
	f.OK(err)
	second, err := f.Pool.Attach(f.Ctx, d.ID, backends.AttachOptions{})
	if err != nil {
		f.OK(first.Release())
		f.Fatalf("again: %v", err)
	}
	if first.Mount.Source != second.Mount.Source || first.Mount.FSType != second.Mount.FSType {
		f.Errorf("attached as %+v, then as %+v", first.Mount, second.Mount)
	}
	f.OK(first.Release())
	f.OK(second.Release())
	m := f.Mount(d.ID)
	defer m.Unmount()
	third, err := f.Pool.Attach(f.Ctx, d.ID, backends.AttachOptions{})
	f.OK(err)
	f.OK(third.Release())
	f.OK(os.WriteFile(m.PathOf("file"), nil, 0o600))
}

// deviceIsNotShared checks that each dataset has its own block device if the pool declares that, because a speed limit
// applies to a whole device.
func deviceIsNotShared(f *fixture) {
	seen := map[string]bool{}
	own := true
	for range 2 {
		m := f.Mount(f.Create().ID)
		defer m.Unmount()
		var st unix.Stat_t
		f.OK(unix.Fstat(int(m.Root.Fd()), &st))
		number := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
		_, err := os.Stat("/sys/dev/block/" + number)
		own = own && err == nil && !seen[number]
		seen[number] = true
	}
	if own != f.Can.OwnDevice {
		f.Errorf("devices %v: own %t, declared %t", slices.Sorted(maps.Keys(seen)), own, f.Can.OwnDevice)
	}
}

func readOnlyMount(f *fixture) {
	d := f.Create()
	f.Write(d.ID, "file", "content")
	m := f.MountWith(d.ID, backends.AttachOptions{ReadOnly: true})
	defer m.Unmount()
	f.CheckFile(m.PathOf("file"), "content")
	if err := os.WriteFile(m.PathOf("new"), nil, 0o600); !os.IsPermission(err) && !isErrno(err, unix.EROFS) {
		f.Errorf("a write returned %v, want EROFS", err)
	}
}

func usedGrows(f *fixture) {
	d := f.Create()
	before, err := f.Pool.Used(f.Ctx, d.ID)
	f.OK(err)
	m := f.Mount(d.ID)
	f.OK(os.WriteFile(m.PathOf("file"), treetest.Bytes(1, 20<<20), 0o600))
	f.OK(unix.Syncfs(int(m.Root.Fd())))
	f.CheckUsedGrows(d, before, 20*dataset.MiB)
	m.Unmount()
	f.CheckUsedGrows(d, before, 20*dataset.MiB)
}

func unknownIsNotFound(f *fixture) {
	d, s := f.Create(), dataset.Snapshot{}
	unknown := f.Record()
	for what, call := range map[string]func() error{
		"commit": func() error { return f.Pool.Commit(f.Ctx, unknown.ID) },
		"stat":   func() error { _, err := f.Pool.Stat(f.Ctx, unknown.ID); return err },
		"used":   func() error { _, err := f.Pool.Used(f.Ctx, unknown.ID); return err },
		"attach": func() error {
			_, err := f.Pool.Attach(f.Ctx, unknown.ID, backends.AttachOptions{})
			return err
		},
		"write record": func() error { return f.Pool.WriteRecord(f.Ctx, unknown, true) },
		"snapshot":     func() error { return f.Pool.Snapshot(f.Ctx, f.NewSnapshot(unknown), nil) },
		"restore": func() error {
			return f.Pool.Restore(f.Ctx, unknown.ID, uuid.New(), f.NewSnapshot(unknown), nil)
		},
		"restore to it": func() error { s = f.NewSnapshot(d); return f.Pool.Restore(f.Ctx, d.ID, uuid.New(), s, nil) },
		"clone": func() error {
			_, err := f.Pool.Clone(f.Ctx, f.Record(), dataset.Source{Dataset: unknown.ID}, nil)
			return err
		},
		"clone a snapshot": func() error {
			_, err := f.Pool.Clone(f.Ctx, f.Record(), dataset.Source{Dataset: d.ID, Snapshot: uuid.New()}, nil)
			return err
		},
	} {
		for range 2 {
			if err := call(); !isKind(err, dataset.ErrNotFound) {
				f.Errorf("%s: got %v, want a not_found error", what, err)
			}
		}
	}
	f.OK(f.Pool.Delete(f.Ctx, unknown.ID))
	f.OK(f.Pool.DeleteSnapshot(f.Ctx, unknown.ID, uuid.New()))
	f.OK(f.Pool.DeleteSnapshot(f.Ctx, d.ID, uuid.New()))
	list, err := f.Pool.List(f.Ctx)
	f.OK(err)
	if len(list) != 1 {
		f.Errorf("the list contains %+v, want one dataset", list)
	}
	f.CheckSnapshots(d.ID)
}

// guestMountsBesideHome mounts a dataset at its home and at the same time as another host would. Each mount must see
// the writes of the other. A second pool of the share is not available here, so the pool visits itself.
func guestMountsBesideHome(f *fixture) {
	sharer, is := f.Pool.(backends.Sharer)
	if !is {
		return
	}
	d := f.Create()
	home := f.Mount(d.ID)
	defer home.Unmount()
	a, err := sharer.Visit(f.Ctx, d.ID, f.Pool.ID(), backends.AttachOptions{})
	if !f.Can.ManyHosts {
		f.CheckFails(err, dataset.ErrUnsupported)
		return
	}
	f.OK(err)
	guest := f.MountOf(a)
	f.OK(os.WriteFile(guest.PathOf("guest"), []byte("from the guest"), 0o600))
	f.CheckFile(home.PathOf("guest"), "from the guest")
	f.OK(os.WriteFile(home.PathOf("home"), []byte("from the home"), 0o600))
	f.CheckFile(guest.PathOf("home"), "from the home")
	home.Unmount()
	f.CheckFails(f.Pool.Delete(f.Ctx, d.ID), dataset.ErrInUse)
	guest.Unmount()
	for what, missing := range map[string][2]uuid.UUID{"dataset": {uuid.New(), f.Pool.ID()},
		"pool": {d.ID, uuid.New()}} {
		if _, err := sharer.Visit(f.Ctx, missing[0], missing[1],
			backends.AttachOptions{}); dataset.KindOf(err) != dataset.ErrNotFound {
			f.Errorf("%s that does not exist: %v", what, err)
		}
	}
}
