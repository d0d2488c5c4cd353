package bolt

import (
	"context"
	"slices"
	"sync"

	"github.com/droverhq/drover/control/store"
)

// request is a transaction for the committer. Between take and the answer, only the committer accesses it.
type request struct {
	checks  []store.Precondition
	writes  []store.Write
	records [][]byte // encoded records of the writes
	end     string   // a session whose keys are deleted; the other fields are empty then
	raise   uint64   // the index is raised to at least this; the other fields are empty then
	bytes   int

	index  uint64
	err    error
	answer chan struct{}
}

// queue holds the requests that wait for the next commit.
type queue struct {
	mu      sync.Mutex
	waiting []*request
	closed  bool
	wake    chan struct{}
}

// batchBytes is the maximum size of one commit, so that the file does not grow by more than the reserve at once.
const batchBytes = 2 << 20

func (q *queue) put(r *request) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return store.ErrClosed
	}
	q.waiting = append(q.waiting, r)
	q.wakeCommitter()
	return nil
}

func (q *queue) wakeCommitter() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// withdraw removes a request from the queue, unless work on it has begun.
func (q *queue) withdraw(r *request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, r); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
}

// take waits for requests and returns the oldest ones. It returns nil when the queue is closed.
func (q *queue) take() []*request {
	for {
		q.mu.Lock()
		n, bytes := 0, 0
		for n < len(q.waiting) && (n == 0 || bytes+q.waiting[n].bytes <= batchBytes) {
			bytes += q.waiting[n].bytes
			n++
		}
		batch := slices.Clone(q.waiting[:n])
		q.waiting = slices.Delete(q.waiting, 0, n)
		closed := q.closed
		q.mu.Unlock()
		switch {
		case n > 0:
			return batch
		case closed:
			return nil
		}
		<-q.wake
	}
}

// close refuses the waiting requests and all later ones.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, r := range q.waiting {
		r.err = store.ErrClosed
		close(r.answer)
	}
	q.waiting = nil
	q.wakeCommitter()
}

// submit passes a request to the committer and waits for its answer. If ctx ends first, submit withdraws the request,
// unless the committer has already taken it. A taken request may still be committed.
func (s *Store) submit(ctx context.Context, r *request) (uint64, error) {
	if err := s.open(ctx); err != nil {
		return 0, err
	}
	r.answer = make(chan struct{})
	if err := s.queue.put(r); err != nil {
		return 0, err
	}
	select {
	case <-r.answer:
		return r.index, r.err
	case <-ctx.Done():
		s.queue.withdraw(r)
		return 0, ctx.Err()
	}
}
