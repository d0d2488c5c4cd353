package shelf

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
)

func TestClaims(t *testing.T) {
	var c claims
	id := uuid.New()
	first, second := c.Use(id), c.Use(id)
	first()
	if _, ok := c.Reap(id); ok {
		t.Error("reaped while it is in use")
	}
	second()
	release, ok := c.Reap(id)
	if !ok {
		t.Fatal("in use after all have gone")
	}
	if _, ok := c.Reap(id); ok {
		t.Error("reaped twice at once")
	}
	c.Use(uuid.New())() // another one does not wait

	var reaping atomic.Bool
	reaping.Store(true)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			defer c.Use(id)()
			if reaping.Load() {
				t.Error("used while it was reaped")
			}
		})
	}
	for range 1000 {
		runtime.Gosched() // so that some are waiting
	}
	reaping.Store(false)
	release()
	wg.Wait()
	if len(c.users) != 0 {
		t.Errorf("left over: %v", c.users)
	}
}

// If two calls of Count return the same number, no move was in progress between them.
func TestMoves(t *testing.T) {
	var m moves
	var half atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				_ = m.MoveBack(func() error {
					half.Store(true)
					runtime.Gosched()
					half.Store(false)
					return nil
				})
				before := m.Count()
				seen := half.Load()
				if m.Count() == before && seen {
					t.Error("it was half way")
				}
			}
		})
	}
	wg.Wait()
	if n := m.Count(); n != 400 {
		t.Errorf("%d moves are counted", n)
	}
}
