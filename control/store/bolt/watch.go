package bolt

import (
	"context"
	"strings"
	"sync"

	"github.com/droverhq/drover/control/store"
)

// watches has the index of the last change under each prefix, and wakes the callers that wait for one. A change costs
// one map access for each slash in its key, for any number of watchers and keys.
type watches struct {
	mu      sync.Mutex
	newest  uint64
	floor   uint64            // a prefix that is not in last may have changed up to this index
	last    map[string]uint64 // prefix -> index
	waiting map[string]*waiters
}

// waiters wakes all callers that wait for one prefix, once.
type waiters struct {
	signal chan struct{}
	count  int
}

// maxLast is the maximum size of last. Beyond it, last is emptied. Then the next call of Watch for a prefix can return
// at once although nothing under the prefix has changed.
const maxLast = 1 << 15

func newWatches(index uint64) *watches {
	w := &watches{waiting: map[string]*waiters{}}
	w.reset(index)
	return w
}

// reset empties last: any key may have changed up to index.
func (w *watches) reset(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.newest, w.floor, w.last = index, index, map[string]uint64{}
	for prefix := range w.waiting {
		w.wakeWaiters(prefix)
	}
}

// change is one key that a transaction wrote.
type change struct {
	key   string
	index uint64
}

// publish reports durable changes, in the order of their indexes.
func (w *watches) publish(newest uint64, changes []change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.newest = newest
	for _, c := range changes {
		for i := strings.IndexByte(c.key, '/'); i >= 0; {
			prefix := c.key[:i+1]
			w.last[prefix] = c.index
			w.wakeWaiters(prefix)
			next := strings.IndexByte(c.key[i+1:], '/')
			if next < 0 {
				break
			}
			i += 1 + next
		}
	}
	if len(w.last) > maxLast {
		w.floor, w.last = newest, map[string]uint64{}
	}
}

func (w *watches) wakeWaiters(prefix string) {
	if b := w.waiting[prefix]; b != nil {
		close(b.signal)
		delete(w.waiting, prefix)
	}
}

// poll returns the newest index if something under prefix may have changed after the given index. Otherwise it returns
// the waiters to join, with the caller already counted.
func (w *watches) poll(prefix string, after uint64) (uint64, *waiters) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, known := w.last[prefix]
	if !known {
		last = w.floor
	}
	// If after is above every index, the store was replaced by an older copy since the caller got that index. The
	// caller must read everything again.
	if last > after || after > w.newest {
		return w.newest, nil
	}
	b := w.waiting[prefix]
	if b == nil {
		b = &waiters{signal: make(chan struct{})}
		w.waiting[prefix] = b
	}
	b.count++
	return 0, b
}

// leave ends the wait of one caller, and removes the waiters of a prefix when no caller is left.
func (w *watches) leave(prefix string, b *waiters) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b.count--
	if b.count == 0 && w.waiting[prefix] == b {
		delete(w.waiting, prefix)
	}
}

// Watch implements store.Store. It also returns at once, with the newest index, if after is above every index that the
// store has given out: the file was replaced by an older one.
func (s *Store) Watch(ctx context.Context, prefix string, after uint64) (uint64, error) {
	if err := store.CheckPrefix(prefix); err != nil {
		return 0, err
	}
	for {
		if err := s.open(ctx); err != nil {
			return 0, err
		}
		newest, b := s.watches.poll(prefix, after)
		if b == nil {
			return newest, nil
		}
		select {
		case <-b.signal:
		case <-ctx.Done():
		case <-s.closing:
		}
		s.watches.leave(prefix, b)
	}
}
