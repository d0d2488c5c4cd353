package shelf

import (
	"sync"

	"github.com/google/uuid"
)

// claims records which datasets are being worked on. Several operations can share a dataset: their caller decides which
// of them may overlap. The reaper needs a dataset exclusively. The zero value is ready for use. Safe for concurrent
// use.
type claims struct {
	mu    sync.Mutex
	users map[uuid.UUID]int // number of claims of operations, or -1 if the reaper has claimed the dataset
	free  *sync.Cond        // signalled when the reaper releases a dataset
}

func (c *claims) init() {
	if c.users == nil {
		c.users = make(map[uuid.UUID]int)
		c.free = sync.NewCond(&c.mu)
	}
}

// Use claims a dataset for an operation. It waits while the reaper has claimed the dataset. The caller calls release
// once. An operation may claim the same dataset several times.
func (c *claims) Use(id uuid.UUID) (release func()) {
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

// Reap claims a dataset exclusively until release is called. ok is false if the dataset is in use.
func (c *claims) Reap(id uuid.UUID) (release func(), ok bool) {
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
