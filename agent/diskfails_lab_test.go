//go:build lab

package agent_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/backends/lvm"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/lab/inside"
	"github.com/droverhq/drover/test/require"
)

// faultyRig is a host whose pool default is on a disk that fails when the test says so. Its pool other is on the root
// filesystem of the machine.
type faultyRig struct {
	*agenttest.Cluster
	h    *agenttest.Host
	disk *inside.Faulty
	// mount mounts the filesystem of the pool, as the operator does. It is nil if Drover mounts the filesystem.
	mount   func()
	unmount func()
}

func command(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// format makes a filesystem on a faulty disk, and returns functions that mount it on a new folder and unmount it.
func format(t *testing.T, disk *inside.Faulty, fs string) (at string, mounts, unmounts func()) {
	t.Helper()
	force := "-f"
	if fs == "ext4" {
		force = "-F"
	}
	command(t, "mkfs."+fs, "-q", force, disk.Path())
	at = t.TempDir()
	unmounts = func() {
		t.Helper()
		err := mount.Unmount(at)
		for until := time.Now().Add(time.Minute); errors.Is(err, mount.ErrBusy) && time.Now().Before(until); {
			err = mount.Unmount(at)
		}
		if err != nil && !errors.Is(err, mount.ErrNotMounted) {
			t.Errorf("unmount the filesystem of the disk: %v", err)
		}
	}
	mounts = func() { t.Helper(); command(t, "mount", "-t", fs, disk.Path(), at) }
	mounts()
	t.Cleanup(func() { disk.Works(); unmounts() })
	return at, mounts, unmounts
}

// newFaultyRig makes a host whose pool default is of the given backend, on a filesystem of the faulty disk, or on the
// device itself if fs is empty.
func newFaultyRig(t *testing.T, backend, fs string, image dataset.Size) *faultyRig {
	t.Helper()
	r := &faultyRig{Cluster: &agenttest.Cluster{T: t, MayFailWith: "error"}, disk: inside.FaultyDisk(t, "faulty")}
	cfg := pool.Config{Name: "default", Backend: backend, Image: image}
	if fs == "" {
		cfg.Devices = []string{r.disk.Path()}
		t.Cleanup(func() { // after the agent is closed
			command(t, "lvm", "vgremove", "--config", "activation{udev_sync=0 udev_rules=0} devices{obtain_device_list_from_udev=0}", "--force", "--yes", "drover-default")
		})
	} else {
		at, mounts, unmounts := format(t, r.disk, fs)
		cfg.Path, r.mount, r.unmount = filepath.Join(at, "pool"), mounts, unmounts
		if fs == "btrfs" {
			command(t, "btrfs", "quota", "enable", at)
		}
	}
	r.StartControl()
	h := r.AddHost("host-a", "dir")
	h.Config.Pools = []pool.Config{cfg, {Name: "other", Backend: "dir", Path: filepath.Join(t.TempDir(), "other")}}
	h.Config.Backends = backends.NewRegistry(loop.New(&run.System{}), dir.Backend{}, btrfs.New(), lvm.New(&run.System{}))
	r.h, r.A = h, h
	t.Cleanup(r.Close)
	h.Start()
	return r
}

// poolIs waits until control shows pool default online or not, and returns why not.
func (r *faultyRig) poolIs(online bool) (reason string) {
	r.Helper()
	for until := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		list, err := r.Service.Pools(r.Context())
		require.NoError(r, err)
		for _, p := range list {
			if p.Name == "other" && (p.Status == nil || !p.Status.Online) {
				r.Fatalf("the pool on another disk: %+v", p.Status)
			}
			if p.Name == "default" && p.Status != nil && p.Status.Online == online {
				return p.Status.Reason
			}
			if time.Now().After(until) {
				r.Fatalf("pool %s: %+v, want online %t", p.Name, p.Status, online)
			}
		}
	}
}

// events counts the events of a type.
func (r *faultyRig) events(kind api.EventType) (n int) {
	r.Helper()
	if err := r.Service.Events(r.Context(), 0, false, func(e api.Event) error {
		if e.Type == kind {
			n++
		}
		return nil
	}); err != nil {
		r.Error(err)
	}
	return n
}

// lines appends lines to a file and flushes each line. Flushed lines count as acknowledged.
type lines struct {
	f     *os.File
	acked int
}

func (l *lines) write() error {
	_, err := fmt.Fprintf(l.f, "line %d %s\n", l.acked, strings.Repeat("x", 4000))
	if err == nil {
		err = l.f.Sync()
	}
	if err == nil {
		l.acked++
	}
	return err
}

// kept counts the lines of a file from its start to the first incomplete line.
func kept(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	assert.NoError(t, err)
	n := 0
	for line := range strings.Lines(string(b)) {
		if line != fmt.Sprintf("line %d %s\n", n, strings.Repeat("x", 4000)) {
			break
		}
		n++
	}
	return n
}

// A pool whose disk fails is offline with one message, and returns without intervention. Then all lines that a
// container wrote and flushed exist, and another pool serves throughout.
func TestI2PoolsDiskFails(t *testing.T) {
	for _, c := range []struct {
		backend, fs string
		image       dataset.Size
	}{
		{"loop", "xfs", 0}, {"loop", "ext4", dataset.GiB}, {"dir", "ext4", 0}, {"dir", "xfs", 0}, {"btrfs", "btrfs", 0}, {"lvm", "", 0},
	} {
		for _, how := range []string{"writes", "all"} {
			t.Run(strings.Join(strings.Fields(fmt.Sprint(c.backend, " ", c.fs, " ", how)), "-"), func(t *testing.T) {
				r := newFaultyRig(t, c.backend, c.fs, c.image)
				r.failsAndWorksAgain(how)
			})
		}
	}
}

func (r *faultyRig) failsAndWorksAgain(how string) {
	t, h := r.T, r.h
	opts := map[string]string{"pool": "default"}
	for _, name := range []string{"db", "idle"} {
		h.NewVolume(name, opts)
		h.WriteFile(name, "token", "kept")
	}
	h.NewVolume("near", map[string]string{"pool": "other"})
	path := h.MustMount("db", "user")
	file, err := os.Create(filepath.Join(path, "log"))
	require.NoError(t, err)
	log := &lines{f: file}
	for range 20 {
		require.NoError(t, log.write())
	}

	if how == "writes" {
		r.disk.FailsWrites()
	} else {
		r.disk.Fails()
	}
	if err := log.write(); err == nil {
		t.Error("a flush succeeded on a disk that fails")
	}
	if err := h.Create(t.Context(), "new", opts); err == nil || !strings.Contains(err.Error(), "its disk fails") {
		t.Errorf("a create: %v", err)
	}
	if why := r.poolIs(false); !strings.Contains(why, "its disk fails") {
		t.Errorf("the pool is offline: %s", why)
	}
	if _, err := h.Mount(t.Context(), "idle", "refused"); err == nil || !strings.Contains(err.Error(), "its disk fails") {
		t.Errorf("a mount: %v", err)
	}
	h.WriteFile("near", "token", "served")
	h.WantFile("near", "token", "served")
	if n := r.events("pool.offline"); n != 1 {
		t.Errorf("%d events say that it is offline", n)
	}
	file.Close()
	h.MustUnmount("db", "user")

	r.disk.Works()
	if r.mount != nil {
		r.unmount() // once Drover has unmounted the pool image that is on it
		r.mount()
	}
	r.poolIs(true)
	if n := r.events("pool.online"); n != 1 {
		t.Errorf("%d events say that it is online", n)
	}
	path = h.MustMount("db", "again")
	if n := kept(t, filepath.Join(path, "log")); n < log.acked {
		t.Errorf("%d lines of %d that were acknowledged", n, log.acked)
	}
	h.MustUnmount("db", "again")
	for _, name := range []string{"db", "idle"} {
		if got := h.ReadFile(name, "token"); got != "kept" {
			t.Errorf("volume %s: %q", name, got)
		}
	}
	h.NewVolume("new", opts)
}

// A store whose disk fails refuses what it cannot store, and gives the reason. Everything that it acknowledged exists
// when the disk works again.
func TestI2StoresDiskFails(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		for _, how := range []string{"writes", "all"} {
			t.Run(fs+" "+how, func(t *testing.T) {
				disk := inside.FaultyDisk(t, "faulty")
				at, mounts, unmounts := format(t, disk, fs)
				begin := func() *bolt.Store {
					t.Helper()
					st, err := bolt.Open(t.Context(), filepath.Join(at, "store.db"), bolt.Options{Clock: clock.System{}})
					require.NoError(t, err)
					return st
				}
				put := func(st *bolt.Store, n int) error {
					_, err := st.Txn(t.Context(), nil, []store.Write{{Key: fmt.Sprint("key/", n), Value: []byte("value")}})
					return err
				}
				st, acked := begin(), 0
				for ; acked < 50; acked++ {
					require.NoError(t, put(st, acked))
				}
				if how == "writes" {
					disk.FailsWrites()
				} else {
					disk.Fails()
				}
				for range 3 {
					if err := put(st, acked); !errors.Is(err, dataset.ErrUnavailable) || !strings.Contains(err.Error(), "its disk fails") {
						t.Errorf("a change: %v", err)
					}
				}
				if err := st.Close(); err != nil {
					t.Log(err)
				}
				disk.Works()
				unmounts()
				mounts()
				st = begin()
				list, err := st.List(t.Context(), "key/", "", 0)
				if err != nil || len(list) < acked {
					t.Errorf("%d keys of %d that were acknowledged, %v", len(list), acked, err)
				}
				assert.NoError(t, errors.Join(put(st, acked+1), st.Close()))
			})
		}
	}
}

// When the disk of the agent's root fails, containers continue with the volumes that they have, and mounts are
// refused with the reason. Acknowledged uses are known when the disk works again.
func TestI9RootsDiskFails(t *testing.T) {
	disk := inside.FaultyDisk(t, "faulty")
	at, mounts, unmounts := format(t, disk, "ext4")
	f := &agenttest.Cluster{T: t, MayFailWith: "error"}
	f.StartControl()
	h := f.AddHost("host-a", "dir")
	f.A = h
	begin := func() (end func() error) {
		t.Helper()
		own, err := bolt.Open(t.Context(), filepath.Join(at, "agent.db"), bolt.Options{Clock: clock.System{}})
		require.NoError(t, err)
		h.Config.Root, h.Config.State = at, own
		h.Start()
		return own.Close
	}
	h.Config.Pools[0].Path = filepath.Join(t.TempDir(), "pool") // on a disk that works
	end := begin()
	t.Cleanup(func() { f.Close(); _ = end() }) // the one of the last agent
	h.NewVolume("db", nil)
	h.NewVolume("idle", nil)
	path := h.MustMount("db", "user")
	file, err := os.Create(filepath.Join(path, "log"))
	require.NoError(t, err)
	log := &lines{f: file}
	require.NoError(t, log.write())

	disk.FailsWrites()
	for _, name := range []string{"db", "idle"} {
		if _, err := h.Mount(t.Context(), name, "refused"); err == nil || !strings.Contains(err.Error(), "its disk fails") {
			t.Errorf("a mount of %s: %v", name, err)
		}
	}
	if err := h.Unmount(t.Context(), "db", "user"); err == nil || !strings.Contains(err.Error(), "its disk fails") {
		t.Errorf("an unmount: %v", err)
	}
	for range 10 {
		assert.NoErrorf(t, log.write(), "a container that writes")
	}
	file.Close()
	_, err = h.Get(t.Context(), "db")
	assert.NoError(t, err)
	found, err := h.Doctor(t.Context())
	if err != nil || !slices.ContainsFunc(found, func(f api.Finding) bool {
		return f.Level == api.LevelError && f.Subject == "root" && strings.Contains(f.Text, "its disk fails")
	}) {
		t.Errorf("doctor: %+v, %v", found, err)
	}
	if err := h.Close(); err != nil {
		t.Log(err)
	}
	if err := end(); err != nil {
		t.Log(err)
	}
	disk.Works()
	for _, name := range []string{"db", "idle"} { // as after a boot: otherwise the root cannot be remounted
		d, _ := h.Cache.Volume(name)
		assert.NoError(t, mount.Unmount(h.MountPath(d.ID)))
	}
	unmounts()
	mounts()
	end = begin()
	d, _ := h.Cache.Volume("db")
	if r := h.Uses.Get(d.ID); len(r.IDs) != 1 || r.IDs["user"].Count != 1 {
		t.Errorf("uses %+v", r.IDs)
	}
	if n := kept(t, filepath.Join(h.MustMount("db", "second"), "log")); n != log.acked {
		t.Errorf("%d lines of %d", n, log.acked)
	}
	h.MustUnmount("db", "second")
	h.MustUnmount("db", "user")
	h.MustMount("idle", "user")
	h.MustUnmount("idle", "user")
}
