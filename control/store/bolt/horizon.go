package bolt

import (
	"context"
	"errors"
	"sync"
)

// errNotDurable means that a reader saw a state that never became durable.
var errNotDurable = errors.New("not durable")

// horizon tracks which of bbolt's transactions are durable.
type horizon struct {
	mu    sync.Mutex
	txid  int
	fails int
	moved chan struct{}
}

func (h *horizon) move(txid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.txid = txid
	h.ring()
}

// fail releases the readers that wait for a failed commit.
func (h *horizon) fail() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fails++
	h.ring()
}

func (h *horizon) ring() {
	close(h.moved)
	h.moved = make(chan struct{})
}

func (h *horizon) failures() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fails
}

// reach waits until the bbolt transaction txid is durable. fails is the number of failed commits before the caller
// began to read. If another commit has failed since, reach returns errNotDurable.
func (h *horizon) reach(ctx context.Context, txid, fails int) error {
	for {
		h.mu.Lock()
		durable, failed, moved := h.txid, h.fails, h.moved
		h.mu.Unlock()
		switch {
		case txid <= durable && failed == fails:
			return nil
		case failed != fails:
			return errNotDurable
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
