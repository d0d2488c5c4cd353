package disk_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

const size = 1 << 30

// rig is a host with disks and no pool yet.
type rig struct {
	*testing.T
	kind  backends.BlockDeviceKind
	mount string
}

func each(t *testing.T, test func(r rig)) {
	for _, kind := range []backends.BlockDeviceKind{loop.New(&run.System{}), dir.Backend{}, btrfs.New()} {
		t.Run(kind.Name(), func(t *testing.T) { test(rig{t, kind, filepath.Join(t.TempDir(), "pool")}) })
	}
}

func (r rig) config(id uuid.UUID, mk bool, devices ...string) backends.Config {
	return backends.Config{
		ID:      id,
		Name:    "p",
		Path:    r.kind.PathOf("p", r.mount),
		Mount:   r.mount,
		Devices: devices,
		Make:    mk,
	}
}

func (r rig) open(id uuid.UUID, mk bool, devices ...string) backends.Pool {
	r.Helper()
	p, err := r.kind.Open(r.Context(), r.config(id, mk, devices...))
	require.NoError(r, err)
	return p
}

func (r rig) close(p backends.Pool) {
	r.Helper()
	require.NoError(r, p.Close())
	if names, err := os.ReadDir(r.mount); err != nil || len(names) > 0 {
		r.Fatalf("it is mounted still: %v, %v", names, err)
	}
}

func (r rig) refused(id uuid.UUID, mk bool, devices []string, kind error, says ...string) {
	r.Helper()
	p, err := r.kind.Open(r.Context(), r.config(id, mk, devices...))
	if err == nil {
		r.close(p)
	}
	if !errors.Is(err, kind) || strings.Contains(err.Error(), "\n") {
		r.Fatalf("%v, want %v", err, kind)
	}
	for _, word := range says {
		if !strings.Contains(err.Error(), word) {
			r.Errorf("%q does not say %q", err, word)
		}
	}
	if names, err := os.ReadDir(r.mount); err == nil && len(names) > 0 {
		r.Errorf("it left %v mounted", names[0])
	}
}

func (r rig) volume(p backends.Pool) uuid.UUID {
	r.Helper()
	d := dataset.Dataset{ID: uuid.New(), Volume: "v"}
	if r.kind.Name() != "dir" {
		d.Size = 400 * dataset.MiB
	}
	_, err := p.Create(r.Context(), d)
	require.NoError(r, err)
	require.NoError(r, p.Commit(r.Context(), d.ID))
	return d.ID
}

func (r rig) has(p backends.Pool, id uuid.UUID) {
	r.Helper()
	if e, err := p.Stat(r.Context(), id); err != nil || e.State != backends.EntryReady {
		r.Errorf("%+v, %v", e, err)
	}
}

// plug attaches an image as a disk with a new name.
func (r rig) plug(image string) (device string, unplug func()) {
	r.Helper()
	dev, err := loopdev.Attach(r.Context(), image, loopdev.Options{})
	require.NoError(r, err)
	unplug = func() {
		if err := dev.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			r.Error(err)
		}
	}
	r.Cleanup(unplug)
	return dev.Path, unplug
}

// A pool on a device is identified by the content of the device. It is found under another device name. Another device
// with the old name is not mistaken for it, and not changed.
func TestPoolMoves(t *testing.T) {
	each(t, func(r rig) {
		image, name := scratch.Image(t, "", size), filepath.Join(t.TempDir(), "disk")
		other := scratch.Disk(t, size)
		scratch.Format(t, "ext4", other)
		calls := func(device string) {
			if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			require.NoError(t, os.Symlink(device, name))
		}
		device, unplug := r.plug(image)
		calls(device)
		p := r.open(uuid.Nil, true, name)
		id := p.ID()
		if !strings.Contains(p.Info().Note, device) || p.Info().Path != r.mount || !p.Status(t.Context()).Online {
			t.Errorf("%+v, %+v", p.Info(), p.Status(t.Context()))
		}
		v := r.volume(p)
		again := r.open(id, false, name) // as a new agent does if datasets kept the pool mounted
		r.has(again, v)
		r.close(p)
		unplug()
		r.refused(id, false, []string{name}, dataset.ErrOffline, name+" is absent", id.String())
		calls(other)
		r.refused(id, false, []string{name}, dataset.ErrOffline, "is its disk connected",
			name+" has an ext2, ext3 or ext4")
		moved, gone := r.plug(image)
		p = r.open(id, false, name)
		r.has(p, v)
		r.has(r.open(id, false, name), v) // under another name, and mounted
		r.close(p)
		if p = r.open(uuid.Nil, false, moved); p.ID() != id { // adopted
			t.Errorf("adopted %s, not %s", p.ID(), id)
		}
		r.close(p)
		scratch.Run(t, "fsck.ext4", "-fn", other)
		gone()
		kind, says := "btrfs", " has a btrfs filesystem"
		if r.kind.Name() == kind {
			kind, says = "xfs", " has an XFS filesystem"
		}
		scratch.Run(t, "wipefs", "-qa", other)
		scratch.Format(t, kind, other)
		r.refused(id, false, []string{name}, dataset.ErrOffline, name+says)
	})
}

// If a disk and a copy of it are both present, the pool is refused, even under its old device name, unless it is
// mounted already.
func TestCopiedDisk(t *testing.T) {
	each(t, func(r rig) {
		image, copied := scratch.Image(t, "", size), filepath.Join(t.TempDir(), "copy")
		device, _ := r.plug(image)
		p := r.open(uuid.Nil, true, device)
		id, v := p.ID(), r.volume(p)
		r.close(p)
		scratch.Copy(t, image, copied)
		other, unplug := r.plug(copied)
		r.refused(id, false, []string{device}, dataset.ErrOffline, "one is a copy", device, other)
		r.refused(uuid.Nil, false, []string{other}, dataset.ErrOffline, "one is a copy", device, other)
		unplug()
		p = r.open(id, false, device)
		_, unplug = r.plug(copied)
		again := r.open(id, false, device)
		r.has(again, v)
		unplug()
		r.close(p)
	})
}

// After a crash between the first step and the agent's record, the next attempt completes the pool. A pool that was
// used meanwhile is refused.
func TestPoolIsMadeAfterACrash(t *testing.T) {
	each(t, func(r rig) {
		device := scratch.Disk(t, size)
		first, second, third := uuid.New(), uuid.New(), uuid.New()
		r.format(first, device)
		r.unfinished(device)
		p := r.open(second, true, device)
		if p.ID() != second {
			t.Errorf("what was not made to the end is %s", p.ID())
		}
		r.close(p)

		p = r.open(third, true, device) // made, but not recorded by any agent
		if p.ID() != second {
			t.Errorf("made anew as %s", p.ID())
		}
		v := r.volume(p)
		r.close(p)
		for _, id := range []uuid.UUID{second, third} { // also the pool that an attempt on this host has begun
			r.refused(id, true, []string{device}, dataset.ErrExists, "drover pool adopt "+device)
		}
		p = r.open(uuid.Nil, true, device) // from drover.yaml, on a node that has forgotten the pool
		r.has(p, v)
		r.close(p)

		bare := scratch.Disk(t, size)
		r.format(first, bare)
		p = r.open(third, true, bare)
		if p.ID() != first {
			t.Errorf("the filesystem that was there was made anew as %s", p.ID())
		}
		r.volume(p)
		r.close(p)
	})
}

// format makes the filesystem of a pool, and nothing else.
func (r rig) format(id uuid.UUID, devices ...string) {
	r.Helper()
	if r.kind.Name() == "btrfs" {
		scratch.Run(r, "mkfs.btrfs", append([]string{"-q", "-L", "drover-pool", "-U", id.String()}, devices...)...)
		return
	}
	scratch.Run(r, "mkfs.xfs",
		append([]string{"-q", "-L", "drover-pool", "-m", "reflink=1,uuid=" + id.String()}, devices...)...)
}

// unfinished changes the superblock to what it is while mkfs runs.
func (r rig) unfinished(device string) {
	r.Helper()
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	require.NoError(r, err)
	if r.kind.Name() == "btrfs" {
		_, err = f.WriteAt([]byte("!"), 64<<10+0x40)
	} else {
		_, err = f.WriteAt([]byte{1}, 126)
	}
	require.NoError(r, errors.Join(err, f.Sync(), f.Close()))
}

// Devices with content are refused, also if only one of several devices has content. Devices that are too small are
// refused, and so are several devices for a filesystem that cannot stripe them.
func TestPoolIsNotMade(t *testing.T) {
	each(t, func(r rig) {
		blank, small, full := scratch.Disk(t, size), scratch.Disk(t, 400<<20), scratch.Disk(t, size)
		scratch.Format(t, "ext4", full)
		r.refused(uuid.New(), true, []string{full}, dataset.ErrExists, "ext4")
		r.refused(uuid.New(), true, []string{small}, dataset.ErrUnsupported, "too small", "512MiB")
		r.refused(uuid.New(), true, []string{blank + "x"}, dataset.ErrInvalid, "no such device")
		r.refused(uuid.New(), false, []string{blank}, dataset.ErrOffline, "has nothing")
		r.refused(uuid.Nil, false, []string{blank}, dataset.ErrInvalid, "has no")
		if r.kind.Name() != "btrfs" {
			r.refused(uuid.New(), true, []string{blank, small}, dataset.ErrUnsupported, "backend btrfs")
			foreign := scratch.Disk(t, size)
			scratch.Format(t, "xfs", foreign)
			r.refused(uuid.Nil, false, []string{foreign}, dataset.ErrInvalid, "mount it")
			r.refused(uuid.Nil, true, []string{foreign}, dataset.ErrExists, "an XFS filesystem")
			return
		}
		r.refused(uuid.New(), true, []string{blank, full}, dataset.ErrExists, "ext4")
		r.refused(uuid.New(), true, []string{blank, blank}, dataset.ErrInvalid, "twice")
		r.format(uuid.New(), small)
		r.refused(uuid.New(), true, []string{blank, small}, dataset.ErrExists, "drover pool adopt")
		r.open(uuid.New(), true, blank).Close() // the device was not changed
	})
}

// A btrfs on several devices is striped, and is found by any of them. It is not mounted if one device is missing, or if
// a copy of one is present.
func TestStriped(t *testing.T) {
	r := rig{t, btrfs.New(), filepath.Join(t.TempDir(), "pool")}
	images := []string{scratch.Image(t, "", size), scratch.Image(t, "", size)}
	a, _ := r.plug(images[0])
	b, unplug := r.plug(images[1])
	p := r.open(uuid.Nil, true, a, b)
	id, v := p.ID(), r.volume(p)
	for _, says := range []string{"data raid0, metadata raid1", "full quotas", a, b} {
		if !strings.Contains(p.Info().Note, says) {
			t.Errorf("%q does not say %q", p.Info().Note, says)
		}
	}
	r.close(p)
	p = r.open(uuid.Nil, false, b) // adopted by one of them
	r.has(p, v)
	r.close(p)
	unplug()
	r.refused(id, false, []string{a, b}, dataset.ErrOffline, "1 of the 2 devices", b+" is absent")
	r.plug(images[1])
	copied := filepath.Join(t.TempDir(), "copy")
	scratch.Copy(t, images[0], copied)
	c, unplug := r.plug(copied)
	r.refused(id, false, []string{a, c}, dataset.ErrOffline, "one is a copy", a, c)
	unplug()
	p = r.open(id, false, a, "/dev/none")
	r.has(p, v)
	if st := p.Status(t.Context()); st.Size < 3*size/2 {
		t.Errorf("%s of two devices", st.Size)
	}
	r.has(r.open(id, false, b), v) // known by one of them, and mounted
	r.close(p)
}

// Clear refuses a pool on devices that still has a ready or an incoming dataset, or a name in an area. It names no
// command that wipes the devices, and the pool stays open.
func TestPoolWithDataIsNotCleared(t *testing.T) {
	each(t, func(r rig) {
		p := r.open(uuid.New(), true, scratch.Disk(r.T, size))
		refused := func(what string) {
			r.Helper()
			left, err := p.(backends.Clearer).Clear(r.Context())
			if !errors.Is(err, dataset.ErrConflict) || left != "" {
				r.Fatalf("with %s: left %q, %v", what, left, err)
			}
		}
		remove := func(id uuid.UUID) {
			r.Helper()
			require.NoError(r, p.Delete(r.Context(), id))
			_, err := p.Reap(r.Context(), func(uuid.UUID) bool { return true })
			require.NoError(r, err)
		}
		id := r.volume(p)
		refused("a volume")
		r.has(p, id)
		remove(id)
		incoming := dataset.Dataset{ID: uuid.New(), Volume: "w", Size: 400 * dataset.MiB}
		if r.kind.Name() == "dir" {
			incoming.Size = 0
		}
		_, err := p.Create(r.Context(), incoming)
		require.NoError(r, err)
		refused("an incoming dataset")
		remove(incoming.ID)
		if r.kind.Name() != "loop" { // loop has other areas
			deleting := filepath.Join(p.Info().Path, "deleting", uuid.NewString())
			require.NoError(r, os.Mkdir(deleting, 0o700))
			refused("a dataset that is being deleted")
			require.NoError(r, os.Remove(deleting))
		}
		left, err := p.(backends.Clearer).Clear(r.Context())
		if err != nil || !strings.Contains(left, "an empty filesystem") {
			r.Errorf("empty: left %q, %v", left, err)
		}
	})
}

// The commands that Clear reports for wiping the devices leave a busy device alone, and free the others.
func TestWipingAsSaid(t *testing.T) {
	each(t, func(r rig) {
		device := scratch.Disk(r.T, size)
		p := r.open(uuid.New(), true, device)
		left, err := p.(backends.Clearer).Clear(r.Context())
		require.NoError(r, err)
		_, how, _ := strings.Cut(left, "for another use: ")
		how = strings.TrimSuffix(how, ")")
		p = r.open(p.ID(), false, device)
		if out, err := exec.CommandContext(r.Context(), "sh", "-c", how).CombinedOutput(); err == nil {
			r.Fatalf("%s: a mounted device was wiped: %s", how, out)
		}
		r.has(p, r.volume(p))
		r.close(p)
		if out, err := exec.CommandContext(r.Context(), "sh", "-c", how).CombinedOutput(); err != nil {
			r.Fatalf("%s: %v: %s", how, err, out)
		}
		assert.NoError(r, disk.CheckVacant(device))
	})
}

// A pool is created and found while a mounted device of somebody else answers no reads: its image is on a filesystem
// that was frozen.
func TestDeviceOfOthersIsNotRead(t *testing.T) {
	image := filepath.Join(scratch.Mount(t, "xfs", size), "image")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 100<<20))
	scratch.Format(t, "ext4", image)
	stranger := scratch.MountImage(t, "ext4", image)
	table, err := mount.Table()
	require.NoError(t, err)
	lower, err := os.Open(filepath.Dir(image))
	require.NoError(t, err)
	defer lower.Close()
	require.NoError(t, fsctl.Freeze(lower))
	written := make(chan error, 1)
	go func() { written <- writeThrough(filepath.Join(stranger, "file")) }()
	defer func() {
		assert.NoError(t, <-written)
	}()
	defer scratch.Thaw(lower.Name())
	inFlight := filepath.Join("/sys/block", filepath.Base(table.At(stranger).Source), "inflight")
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(inFlight); err != nil || time.Now().After(end) {
			t.Fatalf("nothing is written: %q, %v", text, err)
		} else if fields := strings.Fields(string(text)); fields[1] != "0" {
			break
		}
	}
	r := rig{t, loop.New(&run.System{}), filepath.Join(t.TempDir(), "pool")}
	disk := scratch.Disk(t, size)
	opened := make(chan error, 1)
	go func() {
		p, err := r.kind.Open(t.Context(), r.config(uuid.Nil, true, disk))
		if err == nil {
			err = p.Close()
		}
		if err == nil {
			p, err = r.kind.Open(t.Context(), r.config(uuid.Nil, false, disk))
		}
		if err == nil {
			err = p.Close()
		}
		opened <- err
	}()
	select {
	case err = <-opened:
	case <-time.After(time.Minute):
		t.Error("it waits for the device of somebody else")
		scratch.Thaw(lower.Name())
		err = <-opened
	}
	assert.NoError(t, err)
}

// writeThrough writes a file to its device.
func writeThrough(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_SYNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(make([]byte, 4<<20))
	return err
}
