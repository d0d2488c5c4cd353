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
	failed  bool          // a commit has failed, and the file was not opened again since
	changed chan struct{} // closed and replaced when txid or fails changes
}

func (h *durability) setDurable(txid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.txid, h.failed = txid, false
	h.wake()
}

// reportFailure releases the readers that wait for a failed commit. Until the next call of setDurable, no reader waits.
func (h *durability) reportFailure() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fails++
	h.failed = true
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
// caller began to read. awaitDurable returns errNotDurable if another commit has failed since. It also does so if the
// transaction is not durable and the file must first be opened again: reopen waits for the readers.
func (h *durability) awaitDurable(ctx context.Context, txid, fails int) error {
	for {
		h.mu.Lock()
		durable, now, failed, moved := h.txid, h.fails, h.failed, h.changed
		h.mu.Unlock()
		switch {
		case now != fails:
			return errNotDurable
		case txid <= durable:
			return nil
		case failed:
			return errNotDurable
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
