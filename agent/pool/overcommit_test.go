package pool_test

import (
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
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
