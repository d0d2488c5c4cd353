//go:build lab

package zfs_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/lab/inside"
	"github.com/droverhq/drover/test/require"
)

// udev runs udevd during a test: zpool(8) makes partitions on whole disks, and waits until udev has seen them.
func udev(t *testing.T) {
	t.Helper()
	cmd := exec.Command("/usr/lib/systemd/systemd-udevd")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		err := cmd.Process.Signal(unix.SIGTERM)
		if err := errors.Join(err, cmd.Wait(), os.RemoveAll("/run/udev")); err != nil { // as if udev had never run
			t.Error(err)
		}
	})
	for range 600 {
		if _, err := os.Stat("/run/udev/control"); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	scratch.Run(t, "udevadm", "trigger", "--subsystem-match=block", "--settle")
}

// blank returns an empty disk without partitions in the kernel.
func blank(t *testing.T, name string) (device string) {
	t.Helper()
	scratch.Run(t, "udevadm", "settle")
	device = inside.Disk(t, name)
	scratch.Run(t, "blockdev", "--rereadpt", device)
	return device
}

// onDevices returns the configuration of a pool on devices and the backend that opens it. The zpool is destroyed when
// the test ends.
func onDevices(t *testing.T, devices ...string) (*zfs.Backend, backends.Config) {
	t.Helper()
	kind := zfs.New(&run.System{}, clock.System{})
	dir := filepath.Join(t.TempDir(), "pool")
	t.Cleanup(func() {
		for _, name := range zpools(t) {
			if strings.HasPrefix(name, "drover-") {
				scratch.Run(t, "zpool", "destroy", name)
			}
		}
	})
	return kind, backends.Config{
		Name:    "disks",
		Path:    kind.PathOf("disks", dir),
		Mount:   dir,
		Devices: devices,
		Make:    true,
	}
}

func zpools(t *testing.T) []string {
	t.Helper()
	return strings.Fields(scratch.Run(t, "zpool", "list", "-H", "-o", "name"))
}

// TestPoolOnDevices makes a pool on two disks, and finds it again after the disks were absent.
func TestPoolOnDevices(t *testing.T) {
	udev(t)
	first, second := blank(t, "first"), blank(t, "second")
	kind, cfg := onDevices(t, first, second)
	b := &bench{T: t, left: -1, clock: clock.System{}, cfg: cfg}
	b.open()
	if note := b.pool.Info().Note; !strings.Contains(note, "striped over 2 devices") {
		t.Errorf("the note is %q", note)
	}
	if st := b.pool.Status(t.Context()); !st.Online || st.Size < 3*dataset.GiB {
		t.Errorf("the status is %+v", st)
	}
	d := b.create()
	b.write(d.ID, "content")
	b.ok(b.pool.Close())
	b.open() // Make returns the existing pool
	if got := b.list(); !slices.Equal(got, []uuid.UUID{d.ID}) {
		t.Fatalf("it has %v", got)
	}
	b.ok(b.pool.Close())
	name := "drover-" + b.cfg.ID.String()
	scratch.Run(t, "zpool", "export", name)

	other := b.cfg
	other.ID, other.Make = uuid.New(), false
	_, err := kind.Open(t.Context(), other)
	assert.ErrorIsf(t, err, dataset.ErrOffline, "another pool than the one that is there")
	other.Make = true
	if _, err = kind.Open(t.Context(), other); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("another pool made where one is: %v", err)
	}
	other.Devices = []string{first, "/dev/nowhere"}
	if _, err = kind.Open(t.Context(), other); err == nil {
		t.Error("a pool was made on a device that is not there")
	}
	if slices.Contains(zpools(t), name) {
		t.Error("a refused one was imported")
	}

	// The devices can have other names after a boot.
	b.cfg.Make, b.cfg.Devices = false, []string{"/dev/nowhere", "/dev/disk/by-id/gone"}
	b.open()
	b.holds(d.ID, "content")
	b.ok(b.pool.Close())
	b.cfg.ID, b.cfg.Devices = uuid.Nil, []string{second} // any pool is accepted, as for an adoption
	b.open()
	if note := b.pool.Info().Note; b.cfg.ID.String() != name[len("drover-"):] ||
		!strings.Contains(note, "striped over 2 devices") {
		t.Errorf("it is pool %s, with the note %q", b.cfg.ID, note)
	}
	b.holds(d.ID, "content")
	if left, err := b.pool.(backends.Clearer).Clear(t.Context()); !errors.Is(err, dataset.ErrConflict) || left != "" {
		t.Errorf("cleared with a volume: left %q, %v", left, err)
	}
	b.holds(d.ID, "content")
	if _, err := b.pool.(backends.Trimmer).Trim(t.Context()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("it is not trimmed: %v", err)
	}
	b.ok(b.pool.Delete(t.Context(), d.ID))
	b.ok(b.pool.Close())
}

// TestPoolOnDevicesCutShort kills zpool(8) after it has made its partitions. A repetition of the same command makes the
// pool.
func TestPoolOnDevicesCutShort(t *testing.T) {
	udev(t)
	device := blank(t, "first")
	_, cfg := onDevices(t, device)
	killed := zfs.New(fakes.Run(func(ctx context.Context, c run.Command) (run.Result, error) {
		if c.Args[0] != "create" {
			return (&run.System{}).Run(ctx, c)
		}
		cmd := exec.CommandContext(ctx, c.Name, c.Args...)
		if err := cmd.Start(); err != nil {
			return run.Result{}, err
		}
		for range 6000 {
			if _, err := os.Stat(
				filepath.Join("/sys/block", filepath.Base(device), filepath.Base(device)+"1")); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		killed := cmd.Process.Kill()
		_ = cmd.Wait()
		panic(errors.Join(errCrash, killed)) // no command follows
	}), clock.System{})
	func() {
		defer func() {
			if err, _ := recover().(error); !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
		}()
		_, err := killed.Open(t.Context(), cfg)
		t.Fatal(err)
	}()
	assert.ErrorIsf(t, disk.CheckVacant(device), dataset.ErrExists, "it was killed too early")
	b := &bench{T: t, left: -1, clock: clock.System{}, cfg: cfg}
	b.open()
	d := b.create()
	b.write(d.ID, "content")
	b.holds(d.ID, "content")
	b.ok(b.pool.Delete(t.Context(), d.ID))
	b.ok(b.pool.Close())
}

// TestSuiteEncrypted runs the cases that concern keys with every dataset encrypted.
func TestSuiteEncrypted(t *testing.T) {
	keyed := []string{
		"DatasetLifeCycle", "AttachTwice", "ClonesAndDeletedSources", "RestoreKeepsOldHead", "CopyBecomesHome",
		"CopyIsUpdated",
		"DamagedStreamIsRefused", "CopyHasNoHead", "HomeBecomesCopy", "SupersededHeadIsKept",
	}
	for _, c := range backendtest.Cases() {
		if !slices.Contains(keyed, c.Name) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			keys := backendtest.NewKeys()
			c.Run(t, func() (backends.Kind, backends.Config) {
				_, mnt := zpool(t, suiteDisk)
				return zfs.New(&run.System{}, clock.System{}), backends.Config{
					Name: "test",
					Path: filepath.Join(mnt, "pool"),
					Keys: keys,
				}
			})
		})
	}
}

// TestEncryptedOnDisk searches the zpool's disk for the written text, and checks that ZFS has the key only as long as
// it is needed.
func TestEncryptedOnDisk(t *testing.T) {
	home, mnt, image := zpoolOn(t, 192<<20)
	b := &bench{T: t, home: home, left: -1, clock: clock.System{}}
	b.cfg = backends.Config{Name: "test", Path: filepath.Join(mnt, "pool"), Make: true, Keys: backendtest.NewKeys()}
	b.open()
	sealed, open := strings.Repeat("sealed-4f1d9c", 1<<16), strings.Repeat("open-77ab03e1", 1<<16)
	for content, encryption := range map[string]*dataset.Encryption{open: nil, sealed: {ID: uuid.New()}} {
		d := dataset.Dataset{ID: uuid.New(), Volume: "db", Size: 64 * dataset.MiB, Encryption: encryption}
		_, err := b.pool.Create(t.Context(), d)
		b.ok(err)
		b.ok(b.pool.Commit(t.Context(), d.ID))
		b.write(d.ID, content)
		scratch.Run(t, "zpool", "sync")
		raw, err := os.ReadFile(image)
		b.ok(err)
		if on := bytes.Contains(raw, []byte(content[:1024])); on != (encryption == nil) {
			t.Errorf("encrypted with %v, and on the disk: %v", encryption, on)
		}
		if encryption == nil {
			continue
		}
		b.ok(b.pool.Close())
		root := b.home + "/drover-" + b.cfg.ID.String() + "/" + d.ID.String()
		if status := lines(t, "get", "-H", "-o", "value", "keystatus", root); status[0] != "unavailable" {
			t.Errorf("with nothing mounted the key is %s", status[0])
		}
		b.open()
		b.holds(d.ID, content)
	}
}
