package bolt

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// bbolt reuses the pages of deleted keys and never shrinks a file, so a file stays as large as it once was. Open
// compacts a file that is mostly free: it copies the pages in use to a new file, which replaces the old one. Each start
// reads the whole file, so compaction also keeps starts fast.
const (
	compactFrom = 64 << 20 // minimum size of the file in bytes
	compactFree = 4        // minimum ratio of all pages to pages in use
	compactStep = 4 << 20  // maximum size of one transaction in bytes
)

// Compaction describes what Open did with a file that was mostly free.
type Compaction struct {
	From, To int64 // size of the file in bytes; 0 if it was not compacted
	Err      error // why the file was not compacted
}

// Compaction returns what Open did with the file.
func (s *Store) Compaction() Compaction { return s.compaction }

// errReplaced means that a compaction in another process replaced the file while this process waited for its lock.
var errReplaced = errors.New("the file was replaced")

// isMostlyFree reports whether a file is large and mostly free.
func isMostlyFree(c contents, size int64) bool {
	return c.schema != 0 && size >= compactFrom && int64(c.pages)*pageSize*compactFree <= size
}

// compact returns the file to use. If Open is running and f is mostly free, compact replaces f by a smaller file and
// returns the new one. Otherwise, or if the compaction fails, it returns f. Compaction has the reason of a failure.
func (s *Store) compact(ctx context.Context, f *os.File, found contents) (*os.File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if s.loaded || !isMostlyFree(found, info.Size()) {
		return f, nil
	}
	s.compaction.From = info.Size()
	g, err := s.replaceByCompacted(ctx, f, info.Size(), found)
	if err != nil {
		s.compaction.To, s.compaction.Err = info.Size(), err
		return f, nil
	}
	if info, err = g.Stat(); err != nil {
		return nil, errors.Join(err, g.Close(), f.Close())
	}
	s.compaction.To = info.Size()
	return g, f.Close()
}

// syncCopy flushes a compacted copy. It is a variable so that a test can make it fail: no test disk fails only at this
// point.
var syncCopy = (*os.File).Sync

// replaceByCompacted returns a new file with the content of f, open and locked, after it has replaced f. f stays
// open. After an error f is still in place and unchanged: the caller can use it, and the next start tries again.
func (s *Store) replaceByCompacted(ctx context.Context, f *os.File, size int64,
	found contents) (_ *os.File, err error) {
	path := s.path + ".compact" // a file that a crash left behind is overwritten
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	g, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close(), os.Remove(path))
		}
	}()
	if err := noCopyOnWrite(g); err != nil {
		return nil, err
	}
	if err := copyTo(ctx, path, f, size); err != nil {
		return nil, err
	}
	if err := s.lock(ctx, g); err != nil {
		return nil, err
	}
	info, err := g.Stat()
	if err != nil {
		return nil, err
	}
	copied, err := check(g, info.Size())
	if err != nil {
		return nil, err
	}
	if copied.pages = found.pages; copied != found {
		return nil, dataset.Errorf(dataset.ErrInternal, "the copy holds %+v, the file %+v", copied, found)
	}
	if err := syncCopy(g); err != nil { // an unflushed file must not replace f
		return nil, err
	}
	if err := os.Rename(path, s.path); err != nil {
		return nil, err
	}
	// useFile flushes the directory before anything is written. Until then a power cut may restore the old file, which
	// has the same content.
	return g, nil
}

// copyTo copies the buckets of a file with a size to an empty file at path. It does not flush.
func copyTo(ctx context.Context, path string, f io.ReaderAt, size int64) (err error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		PageSize: pageSize, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, NoStatistics: true, NoSync: true,
		Timeout: time.Nanosecond,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.AllocSize = growBytes
	t, root, err := newTree(f, size)
	if err != nil {
		return err
	}
	var buckets []element
	err = t.walk(root, func(e element) error {
		buckets = append(buckets, element{key: bytes.Clone(e.key), value: bytes.Clone(e.value)})
		return nil
	})
	if err != nil {
		return err
	}
	for _, b := range buckets {
		if err := copyBucket(ctx, db, t, b); err != nil {
			return err
		}
	}
	return nil
}

// copyBucket copies one bucket in transactions of bounded size. Keys arrive in order, so that full pages are written.
func copyBucket(ctx context.Context, db *bbolt.DB, t *tree, b element) error {
	var some []element
	bytesOf := 0
	write := func() error {
		defer func() { some, bytesOf = nil, 0 }()
		return db.Update(func(tx *bbolt.Tx) error {
			to, err := tx.CreateBucketIfNotExists(b.key)
			if err != nil {
				return err
			}
			to.FillPercent = 0.9
			for _, e := range some {
				if err := to.Put(e.key, e.value); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	err := t.bucket(b.value, func(e element) error {
		some = append(some, element{key: bytes.Clone(e.key), value: bytes.Clone(e.value)})
		if bytesOf += len(e.key) + len(e.value); bytesOf < compactStep {
			return nil
		}
		return write()
	})
	if err != nil {
		return err
	}
	return write()
}

// isInPlace reports whether an open file is still the one at the store's path.
func (s *Store) isInPlace(f *os.File) (bool, error) {
	open, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(open, named), err
}
