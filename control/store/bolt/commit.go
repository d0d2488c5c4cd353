package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/droverhq/drover/control/store"
)

// Txn implements store.Store. In addition to the contract, it fails with dataset.ErrCorrupt if a checked value is
// damaged, which changes nothing, or if the file is damaged. As the caller cannot tell these two apart, the outcome is
// unknown after dataset.ErrCorrupt, as it is after dataset.ErrNoSpace and dataset.ErrUnavailable.
func (s *Store) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	if err := store.CheckTxn(checks, writes); err != nil {
		return 0, err
	}
	// Copy the values: a caller whose ctx ends may reuse their memory while the committer still works.
	r := &request{checks: append([]store.Precondition(nil), checks...), writes: append([]store.Write(nil), writes...)}
	r.records = make([][]byte, len(writes))
	for i, w := range writes {
		if len(w.Session) > maxSession {
			return 0, noSession(w.Session)
		}
		if !w.Delete {
			r.records[i] = newRecord(w.Session, w.Value)
			r.bytes += len(w.Key) + len(r.records[i])
		}
		r.writes[i].Value = nil
	}
	index, err := s.submit(ctx, r)
	switch {
	case err == nil:
		s.txns.Add(1)
	case errors.Is(err, store.ErrConflict):
		s.conflicts.Add(1)
	}
	return index, err
}

// Raise makes every index from now on larger than index.
func (s *Store) Raise(ctx context.Context, index uint64) error {
	_, err := s.submit(ctx, &request{raise: index})
	return err
}

// commitAll is the loop of the committer.
func (s *Store) commitAll() {
	for {
		requests := s.queue.take()
		if requests == nil {
			return
		}
		s.commit(requests)
		for _, r := range requests {
			close(r.answer)
		}
		// Callers that were answered may have their next transaction ready. Give them time to queue it before the next
		// batch is taken.
		runtime.Gosched()
	}
}

// commit decides all requests, and makes their changes durable.
func (s *Store) commit(requests []*request) {
	ctx := context.Background()
	if s.failed != nil { // only this goroutine writes the field
		if err := s.reopen(ctx); err != nil {
			fail(requests, err)
			return
		}
	}
	var b *batch
	var txid int
	err := s.recoverPanics(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			b, txid = newBatch(tx, s.index, s.entries.Load()), tx.ID()
			for _, r := range requests {
				if err := b.decide(r, s.sessions); err != nil {
					return err
				}
			}
			return b.finish()
		})
	})
	if errors.Is(err, errNoWrites) {
		return
	}
	if err == nil {
		s.index = b.index
		s.entries.Store(b.entries)
		s.commits.Add(1)
		s.durability.setDurable(txid)
		s.watches.publish(b.index, b.changes)
		s.keepReserve()
		return
	}
	err = s.unavailable(fmt.Errorf("commit: %w", err))
	if again := s.reopen(ctx); again != nil {
		err = again
	}
	fail(requests, err)
}

func fail(requests []*request, err error) {
	for _, r := range requests {
		r.index, r.err = 0, err
	}
}

// errNoWrites rolls back a bbolt transaction in which nothing was written.
var errNoWrites = errors.New("nothing written")

// batch is the content of one bbolt transaction.
type batch struct {
	meta, data, bound *bbolt.Bucket
	index             uint64
	entries           int64
	changes           []change
	wrote             bool
}

func newBatch(tx *bbolt.Tx, index uint64, entries int64) *batch {
	return &batch{
		meta: tx.Bucket([]byte(bucketMeta)), data: tx.Bucket([]byte(bucketData)), bound: tx.Bucket([]byte(bucketBound)),
		index: index, entries: entries,
	}
}

// finish records the index, or fails with errNoWrites.
func (b *batch) finish() error {
	if !b.wrote {
		return errNoWrites
	}
	return putIndex(b.meta, b.index)
}

// decide answers one request, and applies it if its checks hold. It sees the changes of earlier requests of the batch.
// An error ends the whole batch.
func (b *batch) decide(r *request, live *sessions) error {
	r.index, r.err = b.index, nil
	if r.end != "" {
		return b.dropBound(r.end)
	}
	if r.raise > b.index {
		b.index, b.wrote = r.raise, true
	}
	for _, c := range r.checks {
		if r.err = b.check(c); r.err != nil {
			r.index = 0
			return nil
		}
	}
	for _, w := range r.writes {
		if w.Session != "" && !live.alive(w.Session, false) {
			r.index, r.err = 0, noSession(w.Session)
			return nil
		}
	}
	if len(r.writes) == 0 {
		return nil
	}
	b.index, b.wrote = b.index+1, true
	r.index = b.index
	for i, w := range r.writes {
		if err := b.write(w, r.records[i]); err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) check(c store.Precondition) error {
	have := uint64(0)
	if v := b.data.Get([]byte(c.Key)); v != nil {
		r, err := parseRecord(c.Key, v)
		if err != nil {
			return err
		}
		have = r.index
	}
	if have != c.Index {
		return fmt.Errorf("%w: %s has index %d and not %d", store.ErrConflict, c.Key, have, c.Index)
	}
	return nil
}

func (b *batch) write(w store.Write, rec []byte) error {
	key := []byte(w.Key)
	old := b.data.Get(key)
	if old != nil {
		// A damaged record can be overwritten and deleted. That can leave its key in the bucket "bound". This does no
		// harm, because only keys whose record names a session are deleted.
		if was, err := parseRecord(w.Key, old); err == nil && was.session != "" {
			if err := b.bound.Delete(boundKey(was.session, w.Key)); err != nil {
				return err
			}
		}
		b.entries--
	}
	b.changes = append(b.changes, change{w.Key, b.index})
	if w.Delete {
		return b.data.Delete(key)
	}
	b.entries++
	seal(rec, w.Key, b.index)
	if w.Session != "" {
		if err := b.bound.Put(boundKey(w.Session, w.Key), nil); err != nil {
			return err
		}
	}
	return b.data.Put(key, rec)
}

func boundKey(session, key string) []byte { return []byte(session + "\x00" + key) }

// dropBound deletes the keys bound to a session. For "", it deletes the keys bound to any session.
func (b *batch) dropBound(session string) error {
	var prefix []byte
	if session != "" {
		prefix = boundKey(session, "")
	}
	var stale [][]byte
	c := b.bound.Cursor()
	for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		stale = append(stale, bytes.Clone(k)) // the cursor must not see deletions
	}
	if len(stale) == 0 {
		return nil
	}
	b.index, b.wrote = b.index+1, true
	for _, k := range stale {
		if err := b.dropOne(k); err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) dropOne(k []byte) error {
	session, key, _ := bytes.Cut(k, []byte{0})
	if v := b.data.Get(key); v != nil {
		if r, err := parseRecord(string(key), v); err == nil && r.session == string(session) {
			b.entries--
			b.changes = append(b.changes, change{string(key), b.index})
			if err := b.data.Delete(key); err != nil {
				return err
			}
		}
	}
	return b.bound.Delete(k)
}

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
