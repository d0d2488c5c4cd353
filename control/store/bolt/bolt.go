// Package bolt keeps the control service's state in one file on one host, with go.etcd.io/bbolt. The daemon opens one
// file for a single control service, and another one as the database of the agent.
//
// bbolt is a B+ tree. A commit writes new pages, flushes them, then writes and flushes one of two meta pages. So a
// crash leaves either the old or the new state.
//
// One goroutine, the committer, commits. It takes all waiting transactions, checks and applies them one after another
// in one bbolt transaction, flushes once, and answers all of them. So many callers share one flush, and a single
// caller does not wait for others.
//
// bbolt shows a new state to readers before its meta page is flushed. In this package, a reader that sees such a state
// waits for the flush, so that no caller acts on a state that a power cut could undo.
//
// When a commit fails (disk full, a failed flush), all its requests get an error. Before the next commit, the committer
// closes the file, checks it and opens it again. After a failed flush the page cache may contain data that is not on
// the disk (fsync(2), "Errors"), and bbolt would rely on it. So the committer writes and flushes the meta pages again,
// drops all pages from the cache, and checks the file as it is on the disk. If that fails, each later request makes it
// try again, and gets an error if that fails too.
//
// In memory the package keeps the sessions, the queue of the committer, the watches, and which transactions are
// durable. Each of these has a mutex, and Store.mu protects the open file. The counters for Stats are atomic. A flock
// on the file keeps other processes out.
//
// bbolt reuses the pages of deleted keys, so the package never compacts the file. In a test, 1,000 volumes and 2,000
// operations had a file of 12 MiB after 10,000 commits, and still after 200,000. After nearly all keys of a file of
// 235 MiB were deleted, opening it took 80 ms.
//
// Where to change what: what is written, and when it is durable, is in commit.go and record.go. How a damaged or full
// disk is handled is in load.go, check.go and reserve.go. Sessions are in session.go, and watches in watch.go.
package bolt

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"go.etcd.io/bbolt"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

var (
	_ store.Store    = (*Store)(nil)
	_ store.Backuper = (*Store)(nil)
	_ store.Raiser   = (*Store)(nil)
)

// Options are the settings of a store.
type Options struct {
	// Clock times the sessions.
	Clock clock.Clock
}

// Store is an open file. Safe for concurrent use.
type Store struct {
	path    string
	opts    Options
	closing chan struct{}
	once    sync.Once
	workers sync.WaitGroup

	queue      queue
	watches    *watches
	sessions   *sessions
	durability durability

	// mu guards the following fields. It is locked for reading while the file is used, and for writing only while the
	// file is opened or closed.
	mu     sync.RWMutex
	db     *bbolt.DB
	file   *os.File // the file of db, which bbolt closes
	failed error    // why db cannot be used; nil: it can be used

	writeFailed bool // used by the committer only: a write has failed, so the page cache is not reliable

	reserve reserve // of the committer
	index   uint64  // used by the committer only: the newest index

	entries   atomic.Int64
	damaged   atomic.Int64
	fileBytes atomic.Int64
	reserved  atomic.Int64
	commits   atomic.Uint64
	txns      atomic.Uint64
	conflicts atomic.Uint64
}

// Stats are figures for metrics.
type Stats struct {
	Entries   int64
	Damaged   int64 // damaged values that were found when the file was opened
	FileBytes int64
	// ReserveBytes is the size of the reserve on the disk, so that small changes still fit when the disk is full. 0
	// means that the disk has no space for it, or that the filesystem does not support it.
	ReserveBytes int64
	Commits      uint64 // flushed to the disk by this process
	Txns         uint64 // committed by this process
	Conflicts    uint64 // refused by this process
}

// Stats returns the current figures, without I/O.
func (s *Store) Stats() Stats {
	return Stats{
		Entries: s.entries.Load(), Damaged: s.damaged.Load(),
		FileBytes: s.fileBytes.Load(), ReserveBytes: s.reserved.Load(),
		Commits: s.commits.Load(), Txns: s.txns.Load(), Conflicts: s.conflicts.Load(),
	}
}

// Open opens the store in the file at path. If there is no file, it creates an empty store. It checks the whole file in
// a child process. Sessions of an earlier process are ended. The caller must close the store.
//
// It fails with dataset.ErrCorrupt if the file is damaged or not a store, with dataset.ErrInUse if another process has
// it open, and with dataset.ErrUnsupported if a newer Drover wrote it.
func Open(ctx context.Context, path string, opts Options) (*Store, error) {
	s := &Store{path: path, opts: opts, closing: make(chan struct{}), sessions: newSessions(opts.Clock)}
	s.queue.wake = make(chan struct{}, 1)
	s.durability.changed = make(chan struct{})
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	if err := s.dropBound(); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	s.watches = newWatches(s.index)
	s.workers.Go(s.commitAll)
	s.workers.Go(s.expire)
	return s, nil
}

// Close ends all sessions and all calls that wait with store.ErrClosed. A call whose commit is in progress gets its
// outcome. Close waits for the calls that read, which return their result. A Backup that already writes to its w
// continues after Close. Idempotent.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closing)
		s.queue.close()
		s.workers.Wait()
		s.durability.reportFailure() // releases readers that wait for a flush that did not happen
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.failed == nil {
			err = s.db.Close()
		}
		s.failed = store.ErrClosed
	})
	if err != nil {
		return s.unavailable(err)
	}
	return nil
}

// open fails if ctx or the store has ended.
func (s *Store) open(ctx context.Context) error {
	select {
	case <-s.closing:
		return store.ErrClosed
	default:
		return ctx.Err()
	}
}

// unavailable returns the error for calls of a store that cannot work. It has the cause, if it is known, and the
// remedy.
func (s *Store) unavailable(err error) error {
	switch {
	case errors.Is(err, dataset.ErrCorrupt), errors.Is(err, dataset.ErrInUse), errors.Is(err, dataset.ErrUnsupported),
		errors.Is(err, dataset.ErrNoSpace), errors.Is(err, store.ErrClosed),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return dataset.Errorf(dataset.ErrNoSpace, "store %s: %w (free some of its disk, then try again)", s.path, err)
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EROFS):
		return dataset.Errorf(dataset.ErrUnavailable,
			"store %s: its disk fails: %w (dmesg says more; docs/operations.md: A disk fails)", s.path, err)
	}
	return dataset.Errorf(dataset.ErrUnavailable, "store %s: %w", s.path, err)
}
