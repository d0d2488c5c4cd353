package loop

import (
	"sync"

	"github.com/google/uuid"
)

// claims keeps the reaper away from temporary files that are in use. Operations share a
// dataset (who may overlap with whom is the caller's to know); the reaper has it alone.
type claims struct {
	mu    sync.Mutex
	users map[uuid.UUID]int // -1: the reaper
	free  *sync.Cond
}

func (c *claims) init() {
	if c.users == nil {
		c.users = make(map[uuid.UUID]int)
		c.free = sync.NewCond(&c.mu)
	}
}

// use waits until the reaper is not at a dataset and keeps it away until the function
// that it returns is called.
func (c *claims) use(id uuid.UUID) (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.init()
	for c.users[id] < 0 {
		c.free.Wait()
	}
	c.users[id]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.users[id]--; c.users[id] == 0 {
			delete(c.users, id)
		}
	}
}

// reap claims a dataset alone, or tells that it is in use.
func (c *claims) reap(id uuid.UUID) (release func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.init()
	if c.users[id] != 0 {
		return nil, false
	}
	c.users[id] = -1
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.users, id)
		c.free.Broadcast()
	}, true
}
