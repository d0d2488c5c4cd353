package pooladmin_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/socket"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// onMount is a backend whose pools on devices are located where they are mounted.
type onMount struct {
	dir.Backend
	trimmed chan string
	away    *atomic.Bool
}

func (onMount) Name() string { return "on-mount" }

func (onMount) PathOf(_, mount string) string { return mount }

func (o onMount) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	cfg.Devices = nil
	p, err := o.Backend.Open(ctx, cfg)
	return trimmer{p, cfg.Name, o}, err
}

// trimmer is a pool whose trims fail, and that can be offline.
type trimmer struct {
	backends.Pool
	name string
	of   onMount
}

func (t trimmer) Trim(context.Context) (dataset.Size, error) {
	t.of.trimmed <- t.name
	return 0, unix.EIO
}

func (t trimmer) Status(ctx context.Context) dataset.PoolStatus {
	if t.of.away.Load() {
		return dataset.PoolStatus{Reason: "it is away"}
	}
	return t.Pool.Status(ctx)
}

// untrimmed is a pool that cannot be trimmed.
type untrimmed struct{ former }

func (u *untrimmed) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := u.former.Open(ctx, cfg)
	return struct{ backends.Pool }{p}, err
}

// Pools on devices are trimmed when due, each once, also after a restart and after a failure, and as soon as they are
// online again. Other pools are never trimmed.
func TestTrimOfDevicesWhenDue(t *testing.T) {
	trimmed, away := make(chan string, 16), &atomic.Bool{}
	r := agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(dir.Backend{}, onMount{trimmed: trimmed, away: away}, &untrimmed{})
		c.Pools = append(c.Pools,
			pool.Config{Name: "never", Backend: "on-mount", Devices: []string{"/dev/n"}, Trim: -1},
			pool.Config{Name: "daily", Backend: "on-mount", Devices: []string{"/dev/d"}, Trim: 24 * time.Hour})
		require.NoError(t, os.MkdirAll(filepath.Join(c.Root, "pools"), 0o700))
	})
	_, err := r.CreatePool(t.Context(), api.NewPool{Name: "weekly", Backend: "on-mount", Devices: []string{"/dev/w"}})
	require.NoError(t, err)
	_, err = r.CreatePool(t.Context(), api.NewPool{Name: "aside", Backend: "former", Devices: []string{"/dev/a"}})
	require.NoError(t, err)
	after := func(d time.Duration, want ...string) {
		t.Helper()
		r.FakeClock.Advance(d)
		r.TrimDue() // unless the heartbeat was first
		var got []string
		for range want {
			got = append(got, <-trimmed)
		}
		for _, jb := range r.TrimDue() {
			<-jb.Ended()
		}
		for len(trimmed) > 0 {
			got = append(got, <-trimmed)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("after %s: trimmed %v, want %v", d, got, want)
		}
	}
	after(0)
	after(23 * time.Hour)
	away.Store(true)
	after(time.Hour)
	away.Store(false)
	after(0, "daily")
	r.Restart()
	after(23 * time.Hour)
	after(6*24*time.Hour, "daily", "weekly")
	after(time.Hour)
}

func TestMain(m *testing.M) { agenttest.Main(m) }

// clearing is a backend that calls a function before a pool is cleared, and counts how often pools are opened.
type clearing struct {
	backends.Kind
	before func()
	opened atomic.Int32
}

type clearingPool struct {
	backends.Pool
	of *clearing
}

func (k *clearing) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := k.Kind.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	k.opened.Add(1)
	return clearingPool{p, k}, nil
}

func (p clearingPool) Clear(ctx context.Context) (string, error) {
	p.of.before()
	return p.Pool.(backends.Clearer).Clear(ctx)
}

// A heartbeat reopens offline pools, but not a pool that is being cleared: its image would be mounted again, and
// nobody would unmount it.
func TestPoolBeingClearedIsNotReopened(t *testing.T) {
	k := &clearing{Kind: dir.Backend{}}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(k) })
	newPool(r, "plain")
	k.before = func() { r.Pools.Retry(t.Context()) }
	was := k.opened.Load()
	_, err := r.RemovePool(t.Context(), "plain", api.PoolRemoval{})
	require.NoError(t, err)
	if is := k.opened.Load(); is != was {
		t.Errorf("it was opened %d times while it was cleared", is-was)
	}
	unlisted(r, "plain")
}

// When the removal of a pool resumes, its devices may belong to somebody else: nothing is made on them.
func TestPoolBeingRemovedIsNotCreatedOnItsDevices(t *testing.T) {
	r := agenttest.New(t, everyKind)
	ctx := t.Context()
	require.NoError(t, os.MkdirAll(filepath.Join(r.Root, "pools"), 0o700))
	disk := scratch.Disk(t, 1<<30)
	p, err := r.CreatePool(ctx, api.NewPool{Name: "fast", Backend: "loop", Devices: []string{disk}})
	require.NoError(t, err)
	require.NoError(t, r.Pools.UpdateRecord(ctx, p.ID, func(rec *pool.Record) { rec.Leaving = pool.LeavingRemoved }))
	cfg := r.Config
	r.Stop()
	log := logtest.NewLocal(cfg.Log.(*logrus.Logger))
	scratch.Run(t, "blkdiscard", "-z", "-f", disk)
	r.StartWith(cfg)
	text := ""
	agenttest.Await(t, func() bool {
		r.DoHeartbeatWork(ctx)
		_, there := r.Pools.ByName("fast")
		for _, e := range log.AllEntries() { // this is logged after the removal
			left, _ := e.Data["left"].(string)
			text += left
		}
		return !there && text != ""
	})
	if !strings.Contains(text, disk+": cannot be opened, and is not changed: ") || !strings.Contains(text, "drover pool adopt "+disk+" adopts it") {
		t.Errorf("it is said %s", text)
	}
	if is, err := fsctl.Identify(disk); is != fsctl.Empty {
		t.Errorf("on the device is %s now: %v", is, err)
	}
}

// A pool that is being forgotten stays unchanged, even if the removal is resumed by a plain remove command.
func TestForgetResumesByPlainRemove(t *testing.T) {
	r := agenttest.New(t)
	path := newPool(r, "plain")
	p, _ := r.Pools.ByName("plain")
	err := r.Pools.UpdateRecord(t.Context(), p.ID, func(rec *pool.Record) { rec.Leaving = pool.LeavingForgotten })
	require.NoError(t, err)
	_, err = r.RemovePool(t.Context(), "plain", api.PoolRemoval{})
	require.NoError(t, err)
	_, err = os.Stat(filepath.Join(path, "pool.json"))
	assert.NoError(t, err)
	unlisted(r, "plain")
}

// If another Drover has taken a pool by the time its removal resumes, the pool belongs to that one. It is not
// cleared, the reason is reported, and it can be forgotten.
func TestPoolTakenByAnotherDroverIsNotCleared(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	path := newPool(r, "plain")
	p, _ := r.Pools.ByName("plain")
	require.NoError(t, r.Pools.UpdateRecord(ctx, p.ID, func(rec *pool.Record) { rec.Leaving = pool.LeavingRemoved }))
	names := slices.DeleteFunc(slices.Collect(maps.Keys(r.Pools.PoolLocks.Sockets)), func(n string) bool { return !strings.HasPrefix(n, pool.LockName(p.ID)) })
	cfg := r.Config
	r.Stop()
	other, err := socket.AcquireName(ctx, names[0])
	require.NoError(t, err)
	defer other.Close()
	r.StartWith(cfg)
	_, err = r.RemovePool(ctx, "plain", api.PoolRemoval{})
	if !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "drover pool rm plain --forget --dry-run") {
		t.Errorf("removed: %v", err)
	}
	_, err = r.RemovePool(ctx, "plain", api.PoolRemoval{Forget: true})
	assert.NoError(t, err)
	_, err = os.Stat(filepath.Join(path, "pool.json"))
	assert.NoError(t, err)
	unlisted(r, "plain")
}

// A disk that hangs while its pool is removed does not block the creation of another pool. A request to adopt the
// pool that is being cleared gets an error.
func TestHangingRemovalDoesNotBlockOtherPools(t *testing.T) {
	hangs, hung := make(chan struct{}), make(chan struct{})
	k := &clearing{Kind: dir.Backend{}, before: func() { close(hung); <-hangs }}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(k) })
	path := newPool(r, "plain")
	gone := make(chan error, 1)
	go func() { _, err := r.RemovePool(t.Context(), "plain", api.PoolRemoval{}); gone <- err }()
	<-hung
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := r.CreatePool(ctx, api.NewPool{Name: "other", Backend: "dir", Path: filepath.Join(r.Root, "other")}); err != nil {
		t.Error(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(filepath.Dir(path), link))
	for _, way := range []string{path, filepath.Join(link, filepath.Base(path))} {
		if _, _, err := r.AdoptPool(ctx, way, false); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "pool plain at "+path+" is being removed") {
			t.Errorf("taken in by %s: %v", way, err)
		}
	}
	close(hangs)
	assert.NoError(t, <-gone)
	unlisted(r, "plain")
}

// An operator puts a pool back into drover.yaml before its removal has ended. The pool is used again: unchanged, or
// made again if it may be partly cleared.
func TestRemovedPoolConfiguredAgain(t *testing.T) {
	for name, is := range map[string]pool.Record{"whole": {Leaving: pool.LeavingRemoved}, "cleared": {Leaving: pool.LeavingRemoved, Unrecorded: true}} {
		t.Run(name, func(t *testing.T) {
			r := agenttest.New(t)
			path := newPool(r, "plain")
			p, _ := r.Pools.ByName("plain")
			err := r.Pools.UpdateRecord(t.Context(), p.ID, func(rec *pool.Record) { rec.Leaving, rec.Unrecorded = is.Leaving, is.Unrecorded })
			require.NoError(t, err)
			cfg := r.Config
			r.Stop()
			if name == "cleared" {
				require.NoError(t, os.Remove(filepath.Join(path, "pool.json")))
			}
			cfg.Pools = append(cfg.Pools, pool.Config{Name: "plain", Backend: "dir", Path: path})
			r.StartWith(cfg)
			for range 2 {
				r.DoHeartbeatWork(t.Context())
				now, there := r.Pools.ByName("plain")
				if !there || now.CheckServed() != nil || (name == "cleared") == (now.ID == p.ID) {
					t.Fatalf("it is %+v", now)
				}
				r.Restart()
			}
			assert.NoError(t, r.Create(t.Context(), "db", map[string]string{"pool": "plain"}))
		})
	}
}

// A forgotten pool may hold data: while its disk is missing nothing is made in its place.
func TestForgottenPoolConfiguredAgain(t *testing.T) {
	r := agenttest.New(t)
	path := newPool(r, "plain")
	p, _ := r.Pools.ByName("plain")
	err := r.Pools.UpdateRecord(t.Context(), p.ID, func(rec *pool.Record) { rec.Leaving, rec.Unrecorded = pool.LeavingForgotten, true })
	require.NoError(t, err)
	cfg := r.Config
	r.Stop()
	require.NoError(t, errors.Join(os.Rename(path, path+".away"), os.Mkdir(path, 0o700)))
	cfg.Pools = append(cfg.Pools, pool.Config{Name: "plain", Backend: "dir", Path: path})
	r.StartWith(cfg)
	if there, err := os.ReadDir(path); err != nil || len(there) > 0 {
		t.Errorf("made in its place: %v, %v", there, err)
	}
	r.Stop()
	require.NoError(t, errors.Join(os.Remove(path), os.Rename(path+".away", path)))
	r.StartWith(cfg)
	if now, there := r.Pools.ByName("plain"); !there || now.ID != p.ID || now.CheckServed() != nil {
		t.Errorf("it is %+v", now)
	}
}
