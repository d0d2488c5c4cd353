package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/safefile"
)

// The buckets of the file.
const (
	bucketMeta  = "meta"  // schema, index
	bucketData  = "data"  // key -> record
	bucketBound = "bound" // session, NUL, key -> nothing

	keySchema = "schema"
	keyIndex  = "index"

	schema = 1
)

// pageSize is fixed. By default bbolt uses the kernel's page size, and a file that was created on a host with pages of
// 64 KiB would write sixteen times as much for each change.
const pageSize = 4096

// mapBytes is how much address space is mapped at once. It is more than any file needs, because bbolt can map more
// only while no reader runs. Address space costs no memory.
const mapBytes = 1 << 30

// growBytes is how much a file grows at a time. It fits into the reserve.
const growBytes = 4 << 20

// load opens, locks and checks the file. Open and the committer call it when db is nil.
func (s *Store) load(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.loadLocked(ctx)
	if err != nil {
		s.db, s.file = nil, nil
		s.failed = s.unavailable(err)
		return s.failed
	}
	s.failed = nil
	return nil
}

func (s *Store) loadLocked(ctx context.Context) error {
	var file *os.File
	var found contents
	open := func(name string, _ int, perm os.FileMode) (*os.File, error) {
		var err error
		file, found, err = s.openFile(ctx, name, perm)
		return file, err
	}
	var db *bbolt.DB
	err := s.recoverPanics(func() (err error) {
		db, err = bbolt.Open(s.path, 0o600, options(open))
		return err
	})
	if err != nil {
		if db == nil && file != nil { // after a panic, the file is still open and locked
			_ = unix.Flock(int(file.Fd()), unix.LOCK_UN)
			_ = file.Close()
		}
		return err
	}
	db.AllocSize = growBytes
	if err := s.useFile(db, file, found); err != nil {
		return errors.Join(err, db.Close())
	}
	return nil
}

// options returns the options of bbolt, each with its reason.
func options(open func(string, int, os.FileMode) (*os.File, error)) *bbolt.Options {
	return &bbolt.Options{
		// OpenFile has already taken the lock, so this does not wait.
		Timeout:  time.Nanosecond,
		PageSize: pageSize,
		// If the list of free pages is in the file, the cost of a commit grows with the list: 0.4 ms instead of 0.02 ms
		// after 100,000 keys were created and deleted. Without it, opening reads every page, which the check does too.
		NoFreelistSync:  true,
		FreelistType:    bbolt.FreelistMapType, // the array would be searched from its start for every page
		InitialMmapSize: mapBytes,
		NoStatistics:    true, // statistics take a lock for each reader
		OpenFile:        open,
	}
}

// syncDir flushes the directory of a store, so that the store's name survives a power cut. It is a variable so that a
// test can see the call. The effect itself cannot be tested, because the filesystems that tests can make flush the
// name of a new file together with its content.
var syncDir = durable.SyncDir

// useFile takes over the content of the file.
func (s *Store) useFile(db *bbolt.DB, file *os.File, found contents) error {
	if found.schema == 0 {
		if err := db.Update(makeBuckets); err != nil {
			return err
		}
	}
	// Do this at each open: an earlier one may have created the file and ended before this flush.
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		return err
	}
	s.db, s.file, s.index = db, file, found.index
	s.entries.Store(int64(found.entries))
	s.damaged.Store(int64(found.damaged))
	s.reserve = reserve{}
	s.keepReserve()
	// bbolt has read every page, and the pages count as memory of this process. Release them: pages that are needed
	// are mapped again from the page cache.
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, db.Info().Data, uintptr(s.fileBytes.Load()),
		unix.MADV_DONTNEED); errno != 0 {
		return fmt.Errorf("madvise: %w", errno)
	}
	return db.View(func(tx *bbolt.Tx) error {
		s.durability.setDurable(tx.ID())
		return nil
	})
}

func makeBuckets(tx *bbolt.Tx) error {
	for _, name := range []string{bucketMeta, bucketData, bucketBound} {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	meta := tx.Bucket([]byte(bucketMeta))
	if err := meta.Put([]byte(keySchema), []byte(strconv.Itoa(schema))); err != nil {
		return err
	}
	return putIndex(meta, 0)
}

func putIndex(meta *bbolt.Bucket, index uint64) error {
	return meta.Put([]byte(keyIndex), binary.BigEndian.AppendUint64(nil, index))
}

// openFile opens, locks and checks the file before bbolt sees it.
func (s *Store) openFile(ctx context.Context, name string, perm os.FileMode) (*os.File, contents, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, perm)
	if err != nil {
		return nil, contents{}, err
	}
	found, err := s.prepare(ctx, f)
	if err != nil {
		return nil, contents{}, errors.Join(err, f.Close())
	}
	return f, found, nil
}

func (s *Store) prepare(ctx context.Context, f *os.File) (contents, error) {
	if err := s.lock(f); err != nil {
		return contents{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return contents{}, err
	}
	if !info.Mode().IsRegular() {
		return contents{}, dataset.Errorf(dataset.ErrCorrupt, "store %s is not a regular file", s.path)
	}
	// A restored copy may have another mode. A user who can open the file can read the hashes of join tokens, and can
	// hold the lock.
	if err := f.Chmod(0o600); err != nil {
		return contents{}, err
	}
	if info.Size() == 0 {
		return contents{}, noCopyOnWrite(f)
	}
	// bbolt reads in the order of the tree, page by page, so read ahead.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_WILLNEED)
	found, err := s.check(ctx, f)
	if err != nil {
		return contents{}, err
	}
	if err := rewriteMeta(f); err != nil || !s.writeFailed {
		return found, err
	}
	// After a failed write, the page cache may differ from the disk. The pages are clean now, so the kernel can drop
	// them, and the second check reads the disk.
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return contents{}, err
	}
	return s.check(ctx, f)
}

// lock takes the lock that bbolt takes too (an exclusive flock), on the same open file, so that bbolt already has it.
func (s *Store) lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return dataset.Errorf(dataset.ErrInUse,
			"store %s is open in another drover, %s: stop that one, or give this one a --root of its own",
			s.path, safefile.Holders(f))
	}
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	return nil
}

// rewriteMeta makes the current meta pages durable. If a process ends between the write and the flush of a meta page,
// the file has a state that can be read but may not be on the disk. After a failed flush, the kernel considers the
// page clean, so the page reaches the disk only if it is written again.
func rewriteMeta(f *os.File) error {
	buf := make([]byte, 2*pageSize)
	if _, err := f.ReadAt(buf, 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(buf, 0); err != nil {
		return err
	}
	return unix.Fdatasync(int(f.Fd()))
}

// dropBound deletes the keys that are bound to sessions of an earlier process.
func (s *Store) dropBound() error {
	err := s.recoverPanics(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			b := newBatch(tx, s.index, s.entries.Load())
			if err := b.dropBound(""); err != nil {
				return err
			}
			if err := b.finish(); err != nil {
				return err
			}
			s.index = b.index
			s.entries.Store(b.entries)
			s.durability.setDurable(tx.ID())
			return nil
		})
	})
	if err != nil && !errors.Is(err, errNoWrites) {
		return s.unavailable(err)
	}
	return nil
}

// recoverPanics converts a panic of bbolt about a damaged page, and a fault on a page that the disk cannot read, into
// an error.
func (s *Store) recoverPanics(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = dataset.Errorf(dataset.ErrCorrupt,
				"store %s cannot be read: %v (stop drover, then put back a backup or run drover store recover "+
					"--from-pools)", s.path, p)
		}
	}()
	return fn()
}

// reopen opens the store again after a failure. After that, every state that readers can see is durable, including
// states whose commit was not acknowledged.
func (s *Store) reopen(ctx context.Context) error {
	s.durability.reportFailure()
	s.writeFailed = true
	s.mu.Lock()
	var err error
	if s.failed == nil {
		err = s.db.Close()
		s.db, s.failed = nil, store.ErrClosed
	}
	s.mu.Unlock()
	if err != nil {
		return s.unavailable(err)
	}
	if err := s.load(ctx); err != nil {
		return err
	}
	s.writeFailed = false
	s.watches.reset(s.index)
	return nil
}

// ReleasePages removes the mapped pages of the file from the memory of this process. They stay in the page cache of the
// kernel, and the next read maps them again (madvise(2), MADV_DONTNEED on a shared mapping). A store that cannot be
// used now has no pages, so ReleasePages does nothing. Idempotent, and safe for concurrent use.
func (s *Store) ReleasePages() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.failed != nil {
		return nil
	}
	return s.recoverPanics(func() error {
		// bbolt does not move the mapping while a read transaction is open.
		return s.db.View(func(tx *bbolt.Tx) error {
			_, _, errno := unix.Syscall(unix.SYS_MADVISE, tx.DB().Info().Data, uintptr(tx.Size()), unix.MADV_DONTNEED)
			if errno != 0 {
				return fmt.Errorf("release the pages of %s: %w", s.path, errno)
			}
			return nil
		})
	})
}
