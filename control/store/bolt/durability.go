package bolt

import (
	"context"
	"errors"
	"sync"
)

// errNotDurable means that a reader saw a state that never became durable.
var errNotDurable = errors.New("not durable")

// durability tracks which of bbolt's transactions are durable.
type durability struct {
	mu      sync.Mutex
	txid    int           // the newest durable transaction
	fails   int           // the number of failed commits
	changed chan struct{} // closed and replaced when txid or fails changes
}

func (h *durability) setDurable(txid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.txid = txid
	h.wake()
}

// reportFailure releases the readers that wait for a failed commit.
func (h *durability) reportFailure() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fails++
	h.wake()
}

func (h *durability) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *durability) failures() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fails
}

// awaitDurable waits until the bbolt transaction txid is durable. fails is the number of failed commits before the
// caller began to read. If another commit has failed since, awaitDurable returns errNotDurable.
func (h *durability) awaitDurable(ctx context.Context, txid, fails int) error {
	for {
		h.mu.Lock()
		durable, failed, moved := h.txid, h.fails, h.changed
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
