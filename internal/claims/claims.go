// Package claims keeps the reaper of a pool away from what operations are at work on.
package claims

import (
	"sync"

	"github.com/google/uuid"
)

// Claims are the datasets that are being worked on. Operations share one (who may
// overlap with whom is their caller's to know); the reaper has it alone. The zero value
// is ready. Safe for concurrent use.
type Claims struct {
	mu    sync.Mutex
	users map[uuid.UUID]int // -1: the reaper
	free  *sync.Cond
}

func (c *Claims) init() {
	if c.users == nil {
		c.users = make(map[uuid.UUID]int)
		c.free = sync.NewCond(&c.mu)
	}
}

// Use waits until the reaper is not at a dataset and keeps it away until the function
// that it returns is called, once. Who has it may take it again.
func (c *Claims) Use(id uuid.UUID) (release func()) {
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

// Reap claims a dataset alone until release is called, or tells that it is in use.
func (c *Claims) Reap(id uuid.UUID) (release func(), ok bool) {
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
