package pooladmin_test

import (
	"context"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
)

// segmented is a backend whose pools report a chosen use, and count the removals of segments.
type segmented struct {
	dir.Backend
	percent, reaped *atomic.Int64
}

func (s segmented) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := s.Backend.Open(ctx, cfg)
	return segmentedPool{p, s}, err
}

type segmentedPool struct {
	backends.Pool
	of segmented
}

// Status returns the status of a pool that is used to percent. If percent is negative, the pool is offline.
func (p segmentedPool) Status(ctx context.Context) dataset.PoolStatus {
	st := p.Pool.Status(ctx)
	percent := dataset.Size(p.of.percent.Load())
	if st.Size, st.Free = 100*dataset.GiB, (100-percent)*dataset.GiB; percent < 0 {
		return dataset.PoolStatus{Reason: "it is away"}
	}
	return st
}

func (p segmentedPool) ReapSegments(context.Context) (int, error) {
	return 0, map[bool]error{true: unix.EIO}[p.of.reaped.Add(1) == 1]
}

// The heartbeats remove the segments of a pool once when it becomes nearly full, and once when it becomes full. They do
// not repeat a removal that failed.
func TestSegmentsAreRemovedWhenPoolFills(t *testing.T) {
	var percent, reaped atomic.Int64
	r := agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(segmented{percent: &percent, reaped: &reaped})
	})
	check := func(use, want int64, when string) {
		t.Helper()
		percent.Store(use)
		for range 3 { // the first call can join a job that has read the previous use
			r.DoHeartbeatWork(t.Context())
			agenttest.Await(t, func() bool { return !r.Jobs.IsRunning("segments of pool default") })
		}
		if got := reaped.Swap(0); got != want {
			t.Errorf("%s, %d%% used: the segments were removed %d times, want %d", when, use, got, want)
		}
	}
	check(84, 0, "below the threshold")
	check(85, 1, "nearly full")
	check(83, 0, "within the margin")
	check(90, 0, "nearly full after the margin")
	check(97, 1, "full")
	check(95, 0, "within the margin of full")
	check(90, 0, "no longer full")
	check(-1, 0, "offline")
	check(90, 0, "online again")
	check(50, 0, "with room again")
	check(99, 1, "full at once")
	r.Restart()
	check(99, 1, "after a restart")
}
