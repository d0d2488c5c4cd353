package lease_test

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/internal/run"
)

// stuck is backend dir on a disk that does not answer while gate is set.
type stuck struct {
	dir.Backend
	gate    chan chan struct{} // holds the channel that a call waits for; nil: calls do not wait
	entered chan struct{}
}

func (s stuck) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := s.Backend.Open(ctx, cfg)
	return stuckPool{p, s}, err
}

type stuckPool struct {
	backends.Pool
	s stuck
}

func (p stuckPool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	gate := <-p.s.gate
	p.s.gate <- gate
	if gate != nil {
		select {
		case p.s.entered <- struct{}{}:
		default:
		}
		<-gate
	}
	return p.Pool.Reap(ctx, drop)
}

// The disk of one pool hangs. After a session that lapsed, the volumes in the other pools are confirmed and mounted
// all the same.
func TestHangingPoolDoesNotDelayOtherLeases(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	d := g.NewReplicated("db")
	s := stuck{gate: make(chan chan struct{}, 1), entered: make(chan struct{}, 1)}
	s.gate <- nil
	g.A.Config.Pools = append(g.A.Config.Pools, pool.Config{Name: "hangs", Backend: "dir", Path: t.TempDir()})
	g.A.Config.Backends = backends.NewRegistry(agenttest.FusedBackend{Kind: loop.New(&run.System{}), Host: g.A}, s)
	g.A.Restart()
	agenttest.Await(t, func() bool { return g.A.Leases.Deadlines.Until(d) > g.A.Clock.Steady() })
	gate := make(chan struct{})
	<-s.gate
	s.gate <- gate
	t.Cleanup(func() {
		close(gate)
		<-s.gate
		s.gate <- nil
	})
	g.LinkA.Cut()
	agenttest.Await(t, func() bool { return g.A.Leases.Deadlines.Until(d) < g.A.Clock.Steady() })
	lapsed, _ := g.A.Leases.Deadlines.Session()
	g.LinkA.Mend()
	agenttest.Await(t, func() bool { renewed, _ := g.A.Leases.Deadlines.Session(); return renewed > lapsed })
	<-s.entered
	g.A.MustMount("db@auto", "user")
	g.A.MustUnmount("db@auto", "user")
}
