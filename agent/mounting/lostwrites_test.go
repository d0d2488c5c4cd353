package mounting_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// bench is a host with a loop pool on a disk that the test fills.
type bench struct {
	*agenttest.Host
	disk string
}

func newHost(t *testing.T) bench {
	disk := scratch.Mount(t, "xfs", 512<<20)
	return bench{agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(loop.New(&run.System{}))
		c.Pools = []pool.Config{{Name: "default", Backend: loop.Name, Path: filepath.Join(disk, "pool")}}
	}), disk}
}

// write writes size bytes to a file of a mounted volume, and does not sync them.
func (h bench) write(path string, size int) {
	h.T.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data)
	require.NoError(h.T, os.WriteFile(filepath.Join(path, "data"), data, 0o600))
}

// flush makes the kernel write the data, as it does after some seconds. Unlike syncfs(2), sync(2) reports no error.
func (h bench) flush() { unix.Sync() }

func (h bench) free() {
	h.T.Helper()
	require.NoError(h.T, os.Remove(filepath.Join(h.disk, "ballast")))
}

func (h bench) status(d dataset.Dataset) dataset.DatasetStatus {
	return h.Status.Status(h.T.Context(), d)
}

// lost returns the finding about a volume that may have lost writes, or the zero value.
func (h bench) lost(d dataset.Dataset) api.Finding {
	h.T.Helper()
	list, err := h.Doctor(h.T.Context())
	require.NoError(h.T, err)
	for _, f := range list {
		if f.Subject == "volume "+d.Volume && strings.HasPrefix(f.Text, mayHaveLost) {
			return f
		}
	}
	return api.Finding{}
}

const mayHaveLost = "may have lost data that was written "

// A volume whose unsynced data did not fit in the full pool is named, also after a restart of Drover and after there is
// space again. The next mount ends that.
func TestLostWritesAreNamedUntilTheNextMount(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			h := newHost(t)
			options := map[string]string{"size": "300MiB"}
			if fs == "ext4" {
				options["size"] = "200MiB"
			}
			d, other := h.NewVolume("db", options), h.NewVolume("other", options)
			path := h.MustMount("db", "user")
			h.MustMount("other", "user")
			h.status(d)
			scratch.Fill(t, h.disk)
			h.write(path, 32<<20)
			h.flush()
			h.status(other)
			h.status(d)
			polls := 0
			agenttest.Await(t, func() bool {
				// A flush can be too early for the kernel's error, so another one follows. It does not follow at once, because
				// the kernel also writes to the other volume from time to time, and a second flush could find that.
				if polls++; polls%500 == 0 {
					h.FakeClock.Advance(5 * time.Second)
				}
				return h.status(d).Problem != ""
			})
			st := h.status(d)
			if !strings.HasPrefix(st.Problem, mayHaveLost+"between ") ||
				!strings.Contains(st.Problem, "pool default was full") || st.Fullness != dataset.NotFull {
				t.Errorf("status %+v", st)
			}
			if f := h.lost(d); f.Level != api.LevelError || !strings.Contains(f.Fix, "stop the volume's containers") {
				t.Errorf("doctor: %+v", f)
			}
			if f, st := h.lost(other), h.status(other); f != (api.Finding{}) || st.Problem != "" {
				t.Errorf("a volume that was not written: %+v, %+v", f, st)
			}

			h.free()
			h.Restart()
			h.FakeClock.Advance(time.Hour)
			h.status(d)
			if f, st := h.lost(d), h.status(d); f.Level != api.LevelError || !strings.HasPrefix(st.Problem, mayHaveLost) {
				t.Errorf("after a restart: %+v, %+v", f, st)
			}
			h.MustUnmount("db", "user")
			if f := h.lost(d); !strings.Contains(f.Fix, "start the volume's containers") || strings.Contains(f.Fix, "stop") {
				t.Errorf("while it is not mounted: %+v", f)
			}
			h.MustMount("db", "next")
			h.status(d)
			if f, st := h.lost(d), h.status(d); f != (api.Finding{}) || st.Problem != "" {
				t.Errorf("after the next mount: %+v, %+v", f, st)
			}
			h.Restart()
			if f := h.lost(d); f != (api.Finding{}) {
				t.Errorf("after the next mount and a restart: %+v", f)
			}
		})
	}
}

// While as many flushes are in progress as there may be, a look starts no other one. A later look does.
func TestFlushesAreBounded(t *testing.T) {
	h := newHost(t)
	d := h.NewVolume("db", map[string]string{"size": "300MiB"})
	path := h.MustMount("db", "user")
	h.status(d)
	free := h.LostWrites.Occupy()
	scratch.Fill(t, h.disk)
	h.write(path, 32<<20)
	h.flush()
	for range 5 {
		h.status(d)
		agenttest.Await(t, func() bool { return h.Jobs.Count() == 0 })
	}
	if f := h.lost(d); f != (api.Finding{}) {
		t.Errorf("found without a flush: %+v", f)
	}
	free()
	agenttest.Await(t, func() bool { return h.status(d).Problem != "" })
}

// A container can end before the agent looks at its volume.
func TestLostWritesAreFoundAtTheUnmount(t *testing.T) {
	h := newHost(t)
	d := h.NewVolume("db", map[string]string{"size": "200MiB"})
	path := h.MustMount("db", "user")
	scratch.Fill(t, h.disk)
	h.write(path, 32<<20)
	h.MustUnmount("db", "user")
	if f := h.lost(d); f.Level != api.LevelError || !strings.Contains(f.Text, "between ") {
		t.Errorf("%+v", f)
	}
	h.free()
	require.NoError(t, h.Remove(t.Context(), "db"))
	if f := h.lost(d); f != (api.Finding{}) {
		t.Errorf("of a deleted volume: %+v", f)
	}
}

// A pool can become full while the last data of a container is flushed: when the container ends, the pool still has
// enough space. The loss is reported although the container itself has got the error before.
func TestLossInTheLastFlushIsReported(t *testing.T) {
	for name, syncs := range map[string]bool{"nobody has seen the error": false, "the container has seen it": true} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			d := h.NewVolume("db", map[string]string{"size": "300MiB"})
			path := h.MustMount("db", "user")
			scratch.Fill(t, h.disk)
			require.NoError(t, os.Truncate(filepath.Join(h.disk, "ballast"), h.ballast()-64<<20))
			h.status(d)
			h.write(path, 128<<20)
			if syncs {
				root, err := os.Open(path)
				require.NoError(t, err)
				if err := errors.Join(unix.Syncfs(int(root.Fd())), root.Close()); err == nil {
					t.Fatal("nothing was lost")
				}
			}
			h.MustUnmount("db", "user")
			if st := h.status(d); st.Mounted || !strings.HasPrefix(st.Problem, mayHaveLost) {
				t.Errorf("status %+v", st)
			}
			if f := h.lost(d); f.Level != api.LevelError || !strings.Contains(f.Fix, "start the volume's containers") {
				t.Errorf("doctor: %+v", f)
			}
		})
	}
}

// ballast returns the size of the file that fills the disk.
func (h bench) ballast() int64 {
	h.T.Helper()
	info, err := os.Stat(filepath.Join(h.disk, "ballast"))
	require.NoError(h.T, err)
	return info.Size()
}

// A snapshot flushes the volume, and gets the error that the kernel reports only once.
func TestSnapshotThatFindsLostWrites(t *testing.T) {
	h := newHost(t)
	d := h.NewVolume("db", map[string]string{"size": "200MiB"})
	path := h.MustMount("db", "user")
	scratch.Fill(t, h.disk)
	h.write(path, 32<<20)
	err := h.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "first"})
	if err == nil {
		t.Error("a snapshot was taken in a full pool")
	}
	h.free()
	if f := h.lost(d); err != nil && strings.Contains(err.Error(), "flush volume db") && f.Level != api.LevelError {
		t.Errorf("%v, but %+v", err, f)
	}
}

// A pool with enough space is not flushed, and a volume there has no problem.
func TestPoolWithSpaceIsNotFlushed(t *testing.T) {
	h := newHost(t)
	d := h.NewVolume("db", map[string]string{"size": "200MiB"})
	path := h.MustMount("db", "user")
	h.write(path, 1<<20)
	h.status(d)
	if n := h.Jobs.Count(); n != 0 {
		t.Errorf("%d jobs run", n)
	}
	h.LostWrites.Failed(t.Context(), d, unix.EIO)
	h.LostWrites.Failed(t.Context(), d, errors.New("interrupted"))
	if st := h.status(d); st.Problem != "" {
		t.Errorf("an error of the disk is not one of a full pool: %+v", st)
	}
}

// fullStore is a store whose disk is full while full is set.
type fullStore struct {
	store.Store
	full bool
}

func (s *fullStore) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	if s.full {
		return 0, dataset.Errorf(dataset.ErrNoSpace, "no space left")
	}
	return s.Store.Txn(ctx, checks, writes)
}

// A loss that could not be recorded, because the database is on the full disk, is recorded once there is space.
func TestLossIsRecordedLater(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	st, err := bolt.Open(t.Context(), t.TempDir()+"/agent.db", bolt.Options{Clock: clock.System{}})
	require.NoError(t, err)
	defer st.Close()
	disk := &fullStore{Store: st, full: true}
	h := &host.Host{
		Boot: r.Boot, DB: host.OpenDB(disk), Cache: r.Cache, Clock: r.Clock, Log: r.Log, News: r.News,
	}
	watcher := func() *mounting.Watcher {
		w := mounting.New(h, r.Pools, nil, nil, nil).LostWrites
		require.NoError(t, w.Load(t.Context()))
		return w
	}
	w := watcher()
	w.Failed(t.Context(), d, unix.ENOSPC)
	if problem := watcher().Problem(d.ID); problem != "" {
		t.Fatalf("recorded on a full disk: %s", problem)
	}
	b, err := r.Pools.Get(d.Pool)
	require.NoError(t, err)
	for _, full := range []bool{true, false} {
		disk.full = full
		w.Look(t.Context(), b, d, r.MountPath(d.ID))
		if known := watcher().Problem(d.ID) != ""; known == full {
			t.Errorf("full %t: the next start knows the loss: %t", full, known)
		}
	}
}

// A mounted volume whose filesystem took no more writes says so once in the log, and in its status and
// doctor. It is not given to another container, and it can be unmounted.
func TestStoppedFilesystemIsReportedAndRefused(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			device, fail := scratch.FailingDisk(t, scratch.XFS)
			scratch.Format(t, fs, device)
			r := agenttest.New(t)
			log := logtest.NewLocal(r.Agent.Log.(*logrus.Logger))
			d := r.NewVolume("db")
			r.MountDataset(d, "user")
			path := r.MountPath(d.ID)
			// Instead of the folder of the pool.
			require.NoError(t, mount.Mount(path, mount.Spec{Source: device, FSType: fs}))
			r.MountDataset(d, "second")
			if st := r.Status.Status(t.Context(), d); st.Problem != "" || !st.Mounted {
				t.Errorf("while its disk works: %+v", st)
			}
			file, err := os.Create(filepath.Join(path, "file"))
			require.NoError(t, err)
			fail()
			for range 3 { // the first write fails to write data, a later one the journal
				if _, err := file.WriteString("more"); err == nil && file.Sync() == nil {
					t.Error("written to a disk that fails")
				}
				if f, err := os.Create(filepath.Join(path, "another")); err == nil {
					_ = f.Sync()
					f.Close()
				}
			}
			file.Close()
			r.Disks.DropTable() // as after a second
			r.Status.Status(t.Context(), d)
			const want = "its filesystem is read-only since a disk error"
			if st := r.Status.Status(t.Context(), d); !strings.Contains(st.Problem, want) || !st.Mounted {
				t.Errorf("status %+v", st)
			}
			if f := r.Finding("volume db"); f.Level != api.LevelError || !strings.Contains(f.Text, want) {
				t.Errorf("doctor: %+v", f)
			}
			if _, err := r.Mount(t.Context(), "db", "third"); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), want) {
				t.Errorf("a mount: %v", err)
			}
			if n := len(r.Uses.Get(d.ID).IDs); n != 2 {
				t.Errorf("%d uses are counted", n)
			}
			lines := 0
			for _, e := range log.AllEntries() {
				if strings.HasPrefix(e.Message, "volume has a disk error: "+want) {
					lines++
				}
			}
			if st := r.PoolStatus("default"); lines != 1 || !st.Online {
				t.Errorf("%d lines in the log; the pool, whose disk works: %+v", lines, st)
			}
			for _, id := range []string{"user", "second"} {
				assert.NoErrorf(t, r.Unmount(t.Context(), "db", id), "unmount")
			}
			table, err := mount.Table()
			require.NoError(t, err)
			if e := table.At(path); e != nil && e.Source == device {
				t.Errorf("it is mounted still: %+v", e)
			}
		})
	}
}

// A filesystem that stopped taking writes, and that nobody uses, is remounted by the next request.
func TestStoppedFilesystemIsRemounted(t *testing.T) {
	r := agenttest.New(t)
	below := scratch.Mount(t, "xfs", scratch.XFS)
	d := r.NewVolume("db")
	r.MountDataset(d, "user")
	path := r.MountPath(d.ID)
	require.NoError(t, unix.Mount(below, path, "", unix.MS_BIND, ""))
	// Like a request that gave up.
	require.NoError(t, r.Uses.Save(t.Context(), d, 0, mounting.Record{Boot: r.Boot}, nil))
	scratch.ShutDown(t, below)
	if _, err := r.Mount(t.Context(), "db", "next"); !errors.Is(err, unix.EIO) {
		t.Fatalf("mounted: %v", err)
	}
	r.MountDataset(d, "next")
}

// A look that fails for another reason than the disk does not say that the disk works again.
func TestUnreadableMountTableEndsNoDiskError(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	log := logtest.NewLocal(r.Agent.Log.(*logrus.Logger))
	r.Disks.Record(d, unix.EIO)
	r.Disks.Record(d, errors.New("cannot check whether its filesystem is writable"))
	r.Disks.Record(d, unix.EIO)
	var lines []string
	for _, e := range log.AllEntries() {
		if strings.HasPrefix(e.Message, "volume has ") {
			lines = append(lines, e.Message)
		}
	}
	if len(lines) != 1 {
		t.Errorf("the log has %q", lines)
	}
	r.Disks.Record(d, nil)
	if e := log.LastEntry(); e == nil || e.Message != "volume has no disk error any more" {
		t.Errorf("after a good look: %+v", e)
	}
}

// A volume can be mounted and written to again after its filesystem was shut down, although a copy of the old mount
// exists in another mount namespace. The volume has what was flushed before the shutdown.
func TestEndedFilesystemIsReplaced(t *testing.T) {
	r := agenttest.NewCluster(t, "loop", "dir").A
	r.NewVolume("db")
	path := r.MustMount("db", "user")
	r.WriteFile("db", "file", "flushed")
	end := agenttest.StartWithCopy(t)
	defer end()
	root, err := os.Open(path)
	require.NoError(t, err)
	require.NoError(t, fsctl.Fence(t.Context(), root, func() error { return nil }))
	r.MustUnmount("db", "user")
	path = r.MustMount("db", "next")
	if text, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(text) != "flushed" {
		t.Errorf("got %q, %v", text, err)
	}
	r.WriteFile("db", "file", "again")
	r.MustUnmount("db", "next")
}
