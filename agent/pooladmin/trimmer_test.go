package pooladmin_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
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
