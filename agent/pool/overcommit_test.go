package pool_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
)

// A policy for overcommit ends when it is removed from drover.yaml. A policy that an operator set stays.
func TestOvercommitFollowsConfig(t *testing.T) {
	const (
		none = 0
		keep = -1 // no operator sets a policy
	)
	type start struct{ configured, set, want float64 }
	for name, starts := range map[string][]start{
		"removed from drover.yaml":             {{1.5, keep, 1.5}, {none, keep, none}, {none, keep, none}},
		"removed after a restart with it":      {{1.5, keep, 1.5}, {1.5, keep, 1.5}, {none, keep, none}},
		"changed in drover.yaml":               {{1.5, keep, 1.5}, {2, keep, 2}, {none, keep, none}},
		"added later, and removed":             {{none, keep, none}, {1.5, keep, 1.5}, {none, keep, none}},
		"set by an operator":                   {{none, 3, 3}, {none, keep, 3}, {none, keep, 3}},
		"set after it was removed":             {{1.5, keep, 1.5}, {none, 3, 3}, {none, keep, 3}},
		"drover.yaml replaces an operator's":   {{none, 3, 3}, {1.5, keep, 1.5}, {none, keep, none}},
		"an operator's limit that was removed": {{none, 3, 3}, {none, none, none}, {none, keep, none}},
	} {
		t.Run(name, func(t *testing.T) {
			r := agenttest.New(t, func(c *agent.Config) {
				c.Pools = []pool.Config{{Name: "default", Backend: "dir", Path: t.TempDir(), Overcommit: starts[0].configured}}
			})
			for i, s := range starts {
				if i > 0 {
					r.Config.Pools[0].Overcommit = s.configured
					r.Restart()
				}
				if s.set != keep {
					if _, err := r.SetPool(t.Context(), "default", api.PoolPolicy{Overcommit: s.set}); err != nil {
						t.Fatal(err)
					}
				}
				if p, ok := r.Pools.ByName("default"); !ok || p.Record.Overcommit != s.want {
					t.Errorf("start %d: overcommit %v, want %v", i+1, p.Record.Overcommit, s.want)
				}
			}
		})
	}
	t.Run("the whole pool is removed from drover.yaml", func(t *testing.T) {
		r := agenttest.New(t, func(c *agent.Config) {
			c.Pools = []pool.Config{{Name: "default", Backend: "dir", Path: t.TempDir(), Overcommit: 1.5}}
		})
		r.Config.Pools = nil
		r.Restart()
		if p, ok := r.Pools.ByName("default"); !ok || p.Record.Overcommit != none {
			t.Errorf("overcommit %v, want none", p.Record.Overcommit)
		}
	})
}

// A policy that an operator set survives the loss of the agent's database, because it is stored in the pool too. A
// policy of drover.yaml is read from that file.
func TestOvercommitSurvivesALostDatabase(t *testing.T) {
	for _, backend := range []string{"dir", loop.Name} {
		t.Run(backend, func(t *testing.T) {
			disk := scratch.Mount(t, "xfs", 512<<20)
			r := agenttest.New(t, func(c *agent.Config) {
				c.Backends = backends.NewRegistry(dir.Backend{}, loop.New(&run.System{}))
				c.Pools = []pool.Config{{Name: "default", Backend: backend, Path: filepath.Join(disk, "default")}}
			})
			ctx := t.Context()
			want := func(when, name string, want float64) {
				t.Helper()
				if p, ok := r.Pools.ByName(name); !ok || p.Record.Overcommit != want || p.Record.OvercommitUnknown {
					t.Errorf("%s: pool %s has the record %+v, want an overcommit of %v", when, name, p.Record, want)
				}
			}
			loseDatabase := func() {
				t.Helper()
				r.Stop()
				if err := r.EmptyDatabase(); err != nil {
					t.Fatal(err)
				}
				r.Start()
			}
			made := api.NewPool{Name: "made", Backend: backend, Path: filepath.Join(disk, "made"), Overcommit: 3}
			if _, err := r.CreatePool(ctx, made); err != nil {
				t.Fatal(err)
			}
			if _, err := r.SetPool(ctx, "default", api.PoolPolicy{Overcommit: 1.5}); err != nil {
				t.Fatal(err)
			}
			loseDatabase()
			want("after the loss", "default", 1.5)
			want("after the loss", "made", 3)

			if _, err := r.SetPool(ctx, "made", api.PoolPolicy{}); err != nil {
				t.Fatal(err)
			}
			r.Config.Pools[0].Overcommit = 2
			loseDatabase()
			want("after a change and a second loss", "default", 2)
			want("after a change and a second loss", "made", 0)

			// The policy in the pool was lost, and that in the database decides.
			if _, err := r.SetPool(ctx, "made", api.PoolPolicy{Overcommit: 4}); err != nil {
				t.Fatal(err)
			}
			p, _ := r.Pools.ByName("made")
			if err := p.Storage.(backends.PolicyKeeper).KeepOvercommit(0); err != nil {
				t.Fatal(err)
			}
			r.Restart()
			loseDatabase()
			want("after a repair and a loss", "made", 4)

			// A pool that has moved keeps its policy.
			r.Stop()
			if err := os.Rename(filepath.Join(disk, "made"), filepath.Join(disk, "moved")); err != nil {
				t.Fatal(err)
			}
			r.Start()
			if _, _, err := r.AdoptPool(ctx, filepath.Join(disk, "moved"), false); err != nil {
				t.Fatal(err)
			}
			want("after it has moved", "made", 4)
			r.LoseStore(true)
			if _, _, err := r.AdoptPool(ctx, filepath.Join(disk, "moved"), false); err != nil {
				t.Fatal(err)
			}
			want("after everything but the pool was lost", "moved", 4)
		})
	}
}
