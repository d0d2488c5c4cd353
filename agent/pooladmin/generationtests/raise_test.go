package generation_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// stubborn is backend dir whose pools cannot store a generation, as when their disk is full.
type stubborn struct {
	dir.Backend
	stubborn atomic.Bool
	asked    atomic.Int32
	raised   func() // called after a raise, if it is not nil
}

func (b *stubborn) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := b.Backend.Open(ctx, cfg)
	return stubbornPool{p, b}, err
}

type stubbornPool struct {
	backends.Pool
	b *stubborn
}

func (p stubbornPool) Raise(to uint64) error {
	if p.b.asked.Add(1); p.b.stubborn.Load() {
		return dataset.Errorf(dataset.ErrNoSpace, "no space")
	}
	err := p.Pool.Raise(to)
	if p.b.raised != nil {
		p.b.raised()
	}
	return err
}

// A raise is recorded although the agent stops after the pool has the new generation.
func TestI1RaiseIsRecordedWhenAgentStops(t *testing.T) {
	b := &stubborn{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(b) })
	at(r, 1)
	ctx, stop := context.WithCancel(t.Context())
	b.raised = stop
	p, _ := r.Pools.ByName("default")
	if err := r.Pools.Raise(ctx, p, 7); err != nil || ctx.Err() == nil {
		t.Fatalf("raise: got error %v, context %v", err, ctx.Err())
	}
	if got := r.Pools.ByID(p.ID).Record.Generation; got != 7 {
		t.Errorf("recorded generation: got %d, want 7", got)
	}
}

// The generation of a pool is raised every pool.RaiseEvery while something in the pool is in use or was changed, and
// soon after the pool became the home of a dataset. The generation of an idle pool is not raised. A pool whose
// generation cannot be raised is still served, and the raise is retried at the same interval.
func TestPoolIsRaisedWhileUsedOrChanged(t *testing.T) {
	b := &stubborn{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(b) })
	nothing := func(context.Context, *host.Job) error { return nil }
	look := func(want uint64, what string) {
		t.Helper()
		r.Generations.RaiseDue()
		_, err := r.Jobs.Do(t.Context(), "generations", "raising", nothing)
		require.NoError(t, err)
		require.NoError(t, r.Generations.Raise(t.Context()))
		// The start of an agent raises the pool as well, in the background.
		_, err = r.Jobs.Do(t.Context(), "generation/"+r.Pools.All()[0].ID.String(), "raising", nothing)
		require.NoError(t, err)
		if g, err := r.Pools.All()[0].Storage.Generation(); g != want || err != nil {
			t.Errorf("%s: generation %d, %v; want %d", what, g, err, want)
		}
	}
	at(r, 1)
	r.FakeClock.Advance(3 * pool.RaiseEvery)
	look(1, "idle")
	d := r.NewVolume("db")
	look(2, "a volume was made")
	r.MountDataset(d, "id")
	look(2, "in use, for a moment")
	r.FakeClock.Advance(pool.RaiseEvery)
	look(3, "in use")
	r.FakeClock.Advance(pool.RaiseEvery)
	look(4, "still in use")
	r.Pools.MarkChanged(d.Pool, true)
	look(5, "a home came")
	b.stubborn.Store(true)
	r.FakeClock.Advance(pool.RaiseEvery)
	look(5, "it takes none")
	asked := b.asked.Load()
	look(5, "it takes none")
	if got := b.asked.Load(); got != asked {
		t.Errorf("asked %d times more at once", got-asked)
	}
	assert.NoError(t, r.Unmount(t.Context(), "db", "id"))
	r.Restart()
	r.MountDataset(d, "id")
	look(5, "it takes none after a start")
	b.stubborn.Store(false)
	r.FakeClock.Advance(pool.RaiseEvery)
	look(6, "it takes one again")
	assert.NoError(t, r.Unmount(t.Context(), "db", "id"))
}
