package agent

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/internal/run"
)

// stuck is backend dir on a disk that does not answer while gate is there.
type stuck struct {
	dir.Backend
	gate    chan chan struct{} // holds what a call waits for; nil: it does not
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

// The disk of one pool hangs. After a session that lapsed what lies in the other pools is
// confirmed, and mounted, all the same.
func TestOnePoolHangs(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := g.replicated("db")
	s := stuck{gate: make(chan chan struct{}, 1), entered: make(chan struct{}, 1)}
	s.gate <- nil
	g.a.cfg.Pools = append(g.a.cfg.Pools, pool.Config{Name: "hangs", Backend: "dir", Path: t.TempDir()})
	g.a.cfg.Backends = backends.NewRegistry(fusedKind{loop.New(&run.System{}), g.a}, s)
	g.a.again()
	await(t, func() bool { return g.a.deadlines.Until(d) > g.a.Clock.Steady() })
	gate := make(chan struct{})
	<-s.gate
	s.gate <- gate
	t.Cleanup(func() {
		close(gate)
		<-s.gate
		s.gate <- nil
	})
	g.la.away()
	await(t, func() bool { return g.a.deadlines.Until(d) < g.a.Clock.Steady() })
	lapsed, _ := g.a.Standing()
	g.la.back()
	await(t, func() bool { renewed, _ := g.a.Standing(); return renewed > lapsed })
	<-s.entered
	g.a.mounts("db@auto", "user")
	g.a.unmounts("db@auto", "user")
}
