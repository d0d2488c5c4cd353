package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
)

// onMount is a backend whose pools on devices lie where they are mounted.
type onMount struct{ dir.Backend }

func (onMount) Name() string                  { return "on-mount" }
func (onMount) PathOf(_, mount string) string { return mount }

func (o onMount) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	cfg.Devices = nil
	return o.Backend.Open(ctx, cfg)
}

// Pools on devices are trimmed when it is time, each once, also after a restart and where it
// failed; others never.
func TestTrim(t *testing.T) {
	trimmed := make(chan string, 16)
	r := newRig(t, func(c *Config) {
		c.Trim = func(path string) (int64, error) {
			trimmed <- filepath.Base(path)
			return 0, unix.EIO
		}
		c.Backends = backends.NewRegistry(dir.Backend{}, onMount{}, &former{})
		c.Pools = append(c.Pools,
			PoolConfig{Name: "never", Backend: "on-mount", Devices: []string{"/dev/n"}, Trim: -1},
			PoolConfig{Name: "daily", Backend: "on-mount", Devices: []string{"/dev/d"}, Trim: 24 * time.Hour})
		if err := os.MkdirAll(filepath.Join(c.Root, "pools"), 0o700); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := r.CreatePool(t.Context(), api.NewPool{Name: "weekly", Backend: "on-mount", Devices: []string{"/dev/w"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreatePool(t.Context(), api.NewPool{Name: "aside", Backend: "former", Devices: []string{"/dev/a"}}); err != nil {
		t.Fatal(err)
	}
	after := func(d time.Duration, want ...string) {
		t.Helper()
		r.clock.Advance(d)
		r.trimPools() // unless the heartbeat was first
		var got []string
		for range want {
			got = append(got, <-trimmed)
		}
		for _, jb := range r.trimPools() {
			<-jb.done
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
	after(time.Hour, "daily")
	r.restart()
	after(23 * time.Hour)
	after(6*24*time.Hour, "daily", "weekly")
	after(time.Hour)
}
