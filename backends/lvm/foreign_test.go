//go:build lab

package lvm

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/lab/inside"
	"github.com/droverhq/drover/test/require"
)

// sum returns the checksum of a device's first bytes.
func sum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.CopyN(h, f, 32<<20)
	require.NoError(t, err)
	return string(h.Sum(nil))
}

// A pool takes the free space of a group that others use too, and none of their volumes: neither volumes beside the
// pool, nor volumes that somebody put into its thin pool or gave a name of Drover's form.
func TestForeignVolumes(t *testing.T) {
	const vg = "test-shared"
	disk := inside.Disk(t, "lvm-first")
	dropped(t, vg)
	lvmDo(t, "vgcreate", vg, disk)
	lvmDo(t, "lvcreate", "--yes", "--size", "64m", "--name", "theirs", vg)
	do(t, "mkfs.ext4", "-q", "/dev/"+vg+"/theirs")
	before := sum(t, "/dev/"+vg+"/theirs")

	cfg := backends.Config{Name: "test", Path: "/dev/" + vg, Mount: filepath.Join(t.TempDir(), "mnt")}
	if _, err := New(&run.System{}).Open(t.Context(), cfg); !errors.Is(err, dataset.ErrOffline) {
		t.Errorf("a group that is no pool: %v", err)
	}
	cfg.Make = true
	b := newBench(t, cfg)
	d := b.create(little)
	b.write(d.ID, "content")

	odd := namePrefix + strings.Repeat("ab", 16)
	lvmDo(t, "lvcreate", "--yes", "--type", "thin", "--virtualsize", "64m", "--thinpool", poolName, "--name", "among",
		vg)
	lvmDo(t, "lvcreate", "--yes", "--type", "thin", "--virtualsize", "64m", "--thinpool", poolName, "--name", odd, vg)
	b.open()
	// A file of a dataset that names such a volume does not make it a volume of Drover.
	victim := b.create(little)
	folder := filepath.Join(cfg.Mount, "datasets", victim.ID.String())
	lost, err := b.head(victim.ID)
	b.must(err)
	b.must(os.WriteFile(filepath.Join(folder, "head"), []byte(`{"volume":"`+odd+`","size":1,"filesystem":"xfs"}`), 0o600))
	e, err := b.Stat(t.Context(), victim.ID)
	if err != nil || !strings.Contains(e.Problem, ": drover did not create volume") {
		t.Errorf("%+v, %v", e, err)
	}
	b.must(b.Delete(t.Context(), victim.ID))
	_, err = b.Reap(t.Context(), func(uuid.UUID) bool { return true })
	b.must(err)

	list, err := b.List(t.Context())
	b.must(err)
	for _, name := range []string{"among", odd, lost} {
		if !slices.ContainsFunc(list, func(e backends.Entry) bool {
			return e.State == backends.EntryForeign && e.Path == cfg.Path+"/"+name && e.Problem != ""
		}) {
			t.Errorf("%s is not listed: %+v", name, list)
		}
	}
	if slices.ContainsFunc(list, func(e backends.Entry) bool { return strings.Contains(e.Path, "theirs") }) {
		t.Error("what is beside the pool is listed")
	}
	all, err := newTool(&run.System{}).volumes(t.Context(), vg)
	b.must(err)
	for _, name := range []string{"theirs", "among", odd} {
		if all[name].Name == "" {
			t.Errorf("%s is gone", name)
		}
	}
	if sum(t, "/dev/"+vg+"/theirs") != before {
		t.Error("their volume was written to")
	}
	if got := b.read(d.ID); got != "content" {
		t.Errorf("the dataset holds %q", got)
	}
}

// A volume with a damaged superblock is reported as damaged, and is not changed.
func TestDamagedSuperblock(t *testing.T) {
	b := newBench(t, place(t, "lvm-first"))
	d := b.create(little)
	b.write(d.ID, "content")
	name, err := b.head(d.ID)
	b.must(err)
	node := b.cfg.Path + "/" + name
	f, err := os.OpenFile(node, os.O_WRONLY|os.O_SYNC, 0)
	b.must(err)
	_, err = f.WriteAt(make([]byte, 4096), 0)
	b.must(errors.Join(err, f.Close()))
	before := sum(t, node)
	for range 2 {
		if _, err := b.Attach(t.Context(), d.ID, backends.AttachOptions{}); !errors.Is(err, dataset.ErrCorrupt) {
			t.Errorf("attached: %v", err)
		}
		if _, err := b.Create(t.Context(), d); err != nil { // it exists already
			t.Error(err)
		}
		if err := b.Pool.(backends.Resizer).Resize(t.Context(), d.ID, more, nil); !errors.Is(err, dataset.ErrCorrupt) {
			t.Errorf("resized: %v", err)
		}
		_, err = b.Reap(t.Context(), func(uuid.UUID) bool { return true })
		b.must(err)
		b.open()
	}
	if sum(t, node) != before {
		t.Error("it was written to")
	}
}

// Devices with content or in use, and existing groups, are refused and not changed.
func TestDevicesThatHoldSomething(t *testing.T) {
	cfg := place(t, "lvm-first", "lvm-second")
	refused := func(what string, kinds ...*dataset.Kind) {
		t.Helper()
		before := sum(t, cfg.Devices[1])
		_, err := New(&run.System{}).Open(t.Context(), cfg)
		if !slices.ContainsFunc(kinds, func(k *dataset.Kind) bool { return errors.Is(err, k) }) {
			t.Errorf("%s: %v", what, err)
		}
		if sum(t, cfg.Devices[1]) != before {
			t.Errorf("%s: it was written to", what)
		}
		if content, err := fsctl.Identify(cfg.Devices[0]); content != fsctl.Empty || err != nil {
			t.Errorf("%s: the empty device holds %s (%v)", what, content, err)
		}
	}
	do(t, "mkfs.ext4", "-q", cfg.Devices[1])
	refused("ext4", dataset.ErrExists)
	dir := t.TempDir()
	require.NoError(t, mount.Mount(dir, mount.Spec{Source: cfg.Devices[1], FSType: "ext4", ReadOnly: true}))
	refused("mounted", dataset.ErrInUse)
	require.NoError(t, mount.Unmount(dir))
	inside.Disk(t, "lvm-second")
	f, err := os.OpenFile(cfg.Devices[1], os.O_WRONLY|os.O_SYNC, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("precious"), 8<<20)
	require.NoError(t, errors.Join(err, f.Close()))
	refused("a few bytes", dataset.ErrExists)
	inside.Disk(t, "lvm-second")
	lvmDo(t, "vgcreate", filepath.Base(cfg.Path), cfg.Devices[1])
	refused("a group of that name", dataset.ErrExists)
	good := cfg.Devices
	cfg.Path += "-other"
	refused("of another group", dataset.ErrExists, dataset.ErrInUse)
	cfg.Devices = []string{good[0], "relative"}
	if _, err := New(&run.System{}).Open(t.Context(), cfg); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("a relative path: %v", err)
	}
	cfg.Devices = []string{good[0], "/dev/null"}
	if _, err := New(&run.System{}).Open(t.Context(), cfg); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("no disk: %v", err)
	}
}

// If the process died while it made a pool, the next attempt completes the pool. Until then the pool is offline.
func TestMakingIsCutShort(t *testing.T) {
	cfg := place(t, "lvm-first")
	cfg.ID = uuid.New()
	b := &bench{T: t, cfg: cfg, left: -1, backend: New(&run.System{})}
	b.backend.step = func(step string) {
		if b.left == 0 {
			b.left = -1
			panic(crash{step})
		}
		b.left--
	}
	n := 0
	for cut := true; cut; {
		cut, _ = b.cut(0, func() error { b.open(); return nil })
		if !cut {
			break
		}
		n++
		cfg.Make = false
		if _, err := New(&run.System{}).Open(t.Context(), cfg); !errors.Is(err, dataset.ErrOffline) {
			t.Errorf("after %d steps: %v", n, err)
		}
		cfg.Make, cfg.ID = true, uuid.New()
		if _, err := New(&run.System{}).Open(t.Context(), cfg); !errors.Is(err, dataset.ErrExists) ||
			n < 5 && !strings.Contains(err.Error(), "vgremove") {
			t.Errorf("after %d steps, as another pool: %v", n, err)
		}
	}
	if n != 5 {
		t.Errorf("it was cut %d times", n)
	}
	d := b.create(little)
	b.write(d.ID, "content")
	b.must(b.Close())
}

// The datasets of one host exist on another one after their disks were moved, because the records are on the disks.
func TestDisksGoToAnotherHost(t *testing.T) {
	b := newBench(t, place(t, "lvm-first", "lvm-second"))
	vg := filepath.Base(b.cfg.Path)
	said := lvmDo(t, "lvs", "--all", "--noheadings", "--options", "stripes", "--select", "lv_name="+poolName+"_tdata",
		vg)
	if strings.TrimSpace(said) != "2" {
		t.Errorf("it has %q stripes", said)
	}
	d := b.create(little)
	b.write(d.ID, "old")
	s := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}
	b.must(b.Snapshot(t.Context(), s, nil))
	b.write(d.ID, "new")
	id := b.ID()
	b.must(b.Close())
	lvmDo(t, "vgchange", "--activate", "n", vg)
	b.cfg.ID, b.cfg.Make, b.cfg.Devices, b.cfg.Mount = uuid.Nil, false, nil, filepath.Join(t.TempDir(), "elsewhere")
	b.open()
	if b.ID() != id {
		t.Errorf("it is pool %s", b.ID())
	}
	if got := b.read(d.ID); got != "new" {
		t.Errorf("the head holds %q", got)
	}
	b.snapshotHolds(d.ID, s.ID, "old")
	b.settled()
}
