// Package claims prevents the reaper of a pool from removing a dataset that an operation works on. The reaper removes
// the remains of interrupted operations (Reap of package backends). Packages backends/loop and backends/shelf keep the
// [Claims] and [Moves] of an open pool. Both are in memory only, and each is protected by a mutex. The backend decides
// what its reaper removes. Who may use a dataset is in claims.go, and how a search notices a concurrent move is in
// moves.go.
package claims

import (
	"sync"

	"github.com/google/uuid"
)

// Claims records which datasets are being worked on. Several operations can share a dataset: their caller decides which
// of them may overlap. The reaper needs a dataset exclusively. The zero value is ready for use. Safe for concurrent
// use.
type Claims struct {
	mu    sync.Mutex
	users map[uuid.UUID]int // number of claims of operations, or -1 if the reaper has claimed the dataset
	free  *sync.Cond        // signalled when the reaper releases a dataset
}

func (c *Claims) init() {
	if c.users == nil {
		c.users = make(map[uuid.UUID]int)
		c.free = sync.NewCond(&c.mu)
	}
}

// Use claims a dataset for an operation. It waits while the reaper has claimed the dataset. The caller calls release
// once. An operation may claim the same dataset several times.
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

// Reap claims a dataset exclusively until release is called. ok is false if the dataset is in use.
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
