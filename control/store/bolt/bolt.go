// Package bolt keeps the control service's state in one file on one host, with
// go.etcd.io/bbolt: a B+ tree whose commits write new pages, flush, then write
// and flush one of two meta pages, so that a crash leaves the one state or the
// next.
//
// One goroutine commits. It takes all transactions that wait, checks and
// applies them one after another in one bbolt transaction, flushes once and
// answers them all: many callers share a flush, and a single one waits for no other.
//
// bbolt shows a new state to readers before its meta page is flushed. A reader
// here that meets such a state waits for the flush, so that no caller acts on a state that a power cut could
// still undo.
//
// When a commit fails (disk full, a flush error) the file is closed, checked
// and opened again before anything else is done: after a failed flush the page
// cache may hold what the disk doesn't (fsync(2), "Errors"), and bbolt would
// build on it. So the meta pages are written and flushed once more, the pages
// dropped from the cache, and the file checked as the disk has it. While that
// fails, every request is refused, and the next one tries again.
package bolt

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

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

// Options say how a store is opened.
type Options struct {
	// Clock times the sessions.
	Clock clock.Clock
	// LockWait is how long Open waits for another process, such as one that is just ending, to unlock the
	// file; 0: not at all.
	LockWait time.Duration
}

// Store is one open file. Safe for concurrent use.
type Store struct {
	path    string
	opts    Options
	closing chan struct{}
	once    sync.Once
	workers sync.WaitGroup

	queue    queue
	watches  *watches
	sessions *sessions
	horizon  horizon

	loaded     bool // by Open: from then on the file is not compacted
	compaction Compaction

	// mu guards what follows. It is held for reading while the file is used
	// and for writing only while it is opened or closed.
	mu     sync.RWMutex
	db     *bbolt.DB
	file   *os.File // bbolt's own; never closed here
	failed error    // why there is no db

	doubted bool // the committer's: a write has failed, so the page cache is not believed

	reserve reserve // the committer's
	index   uint64  // the committer's: the newest given out

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
	Damaged   int64 // values that were found damaged when the file was opened
	FileBytes int64
	// ReserveBytes is the space that is reserved on the disk so that small changes still fit when it is full.
	// 0: the disk has no room for it, or the filesystem does not support it. Creates are refused by the room
	// that is left.
	ReserveBytes int64
	Commits      uint64 // flushed to the disk by this process
	Txns         uint64 // committed by this process
	Conflicts    uint64 // refused by this process
}

// Stats returns the figures of now, without I/O.
func (s *Store) Stats() Stats {
	return Stats{
		Entries: s.entries.Load(), Damaged: s.damaged.Load(),
		FileBytes: s.fileBytes.Load(), ReserveBytes: s.reserved.Load(),
		Commits: s.commits.Load(), Txns: s.txns.Load(), Conflicts: s.conflicts.Load(),
	}
}

// Open opens the store in the file at path, or makes an empty one where there
// is none. It reads the whole file, checks it, and makes a large one that is mostly
// free smaller (Compaction): dataset.ErrCorrupt for one
// that is damaged or no store. Other errors: dataset.ErrInUse when another
// process has it open, dataset.ErrUnsupported when a newer Drover wrote it.
// Sessions of an earlier process are ended. Close the store after use.
func Open(ctx context.Context, path string, opts Options) (*Store, error) {
	s := &Store{path: path, opts: opts, closing: make(chan struct{}), sessions: newSessions(opts.Clock)}
	s.queue.wake = make(chan struct{}, 1)
	s.horizon.moved = make(chan struct{})
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	s.loaded = true
	if err := s.dropBound(); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	s.watches = newWatches(s.index)
	s.workers.Go(s.commitAll)
	s.workers.Go(s.expire)
	return s, nil
}

// Close ends all sessions' timers and all calls in flight with store.ErrClosed,
// except those whose commit is under way: they get its outcome. Again: nothing.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closing)
		s.queue.close()
		s.workers.Wait()
		s.horizon.fail() // a reader that waits for a flush that never came
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.failed == nil {
			err = s.db.Close()
		}
		s.failed = store.ErrClosed
	})
	if err != nil {
		return s.away(err)
	}
	return nil
}

// open fails when ctx or the store has ended.
func (s *Store) open(ctx context.Context) error {
	select {
	case <-s.closing:
		return store.ErrClosed
	default:
		return ctx.Err()
	}
}

// away returns the error of a store that could not do its work: the cause, if it is known, and the remedy.
func (s *Store) away(err error) error {
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
