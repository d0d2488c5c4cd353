package pool_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/dataset"
)

// The disk of a pool hangs while hints on its free space are asked for, again and again: the pool is asked once, and
// each hint ends without its answer.
func TestSpaceHintsOfHangingPool(t *testing.T) {
	for _, call := range []string{"status", "used"} {
		t.Run(call, func(t *testing.T) {
			r, h, _, there := hungRig(t)
			agenttest.Await(t, func() bool { // otherwise the raise would be the one request
				r.FakeClock.Advance(r.Timing.Heartbeat)
				p := other(r)
				return !p.IsDue(r.FakeClock.Steady()) && !p.Raising && p.Question == nil
			})
			h.Mu.Lock()
			h.OwnFilesystem = true
			h.Mu.Unlock()
			h.Hang(call)
			var hints sync.WaitGroup
			for range 10 {
				hints.Go(func() {
					full := dataset.Errorf(dataset.ErrNoSpace, "full")
					if err := r.Pools.AddHint(t.Context(), there.Pool, full); !strings.HasPrefix(err.Error(), "full") {
						t.Errorf("hint: %v", err)
					}
				})
				hints.Go(func() {
					if hint := r.Pools.RootHint(t.Context()); !strings.Contains(hint, "df -h "+r.Root) {
						t.Errorf("hint of the root: %q", hint)
					}
				})
			}
			ended := make(chan struct{})
			go func() { hints.Wait(); close(ended) }()
			agenttest.Await(t, func() bool {
				r.FakeClock.Advance(pool.AskPatience / pool.AskTurns)
				select {
				case <-ended:
					return true
				default:
					return h.Calls() > 1
				}
			})
			if n := h.Calls(); n != 1 {
				t.Errorf("the pool was asked %d times at once", n)
			}
			h.Resume()
			<-ended
		})
	}
}
