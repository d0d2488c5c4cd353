package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// view calls fn with one durable state.
func (s *Store) view(ctx context.Context, fn func(*bbolt.Tx) error) error {
	for {
		if err := s.open(ctx); err != nil {
			return err
		}
		err := s.viewOnce(ctx, fn)
		if !errors.Is(err, errNotDurable) {
			return err
		}
		// A commit has failed meanwhile. An empty transaction makes the committer open the file again if needed, and
		// succeeds once the file is open.
		if _, err := s.submit(ctx, &request{}); err != nil {
			return err
		}
	}
}

func (s *Store) viewOnce(ctx context.Context, fn func(*bbolt.Tx) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.failed != nil {
		return errNotDurable
	}
	return s.recoverPanics(func() error {
		fails := s.durability.failures()
		return s.db.View(func(tx *bbolt.Tx) error {
			if err := s.durability.awaitDurable(ctx, tx.ID(), fails); err != nil {
				return err
			}
			return fn(tx)
		})
	})
}

// Get implements store.Store. It fails with dataset.ErrCorrupt if the value is damaged: a damaged value is never
// reported as absent.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := store.CheckKey(key); err != nil {
		return store.Entry{}, err
	}
	var e store.Entry
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketData)).Get([]byte(key))
		if b == nil {
			return store.ErrNotFound
		}
		r, err := parseRecord(key, b)
		if err == nil {
			e = r.entry(key)
		}
		return err
	})
	return e, err
}

// GetMany implements store.Store. It fails with dataset.ErrCorrupt if a value is damaged.
func (s *Store) GetMany(ctx context.Context, keys []string) ([]store.Entry, error) {
	for _, key := range keys {
		if err := store.CheckKey(key); err != nil {
			return nil, err
		}
	}
	list := make([]store.Entry, len(keys))
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		data := tx.Bucket([]byte(bucketData))
		for i, key := range keys {
			list[i] = store.Entry{Key: key}
			b := data.Get([]byte(key))
			if b == nil {
				continue
			}
			r, err := parseRecord(key, b)
			if err != nil {
				return err
			}
			list[i] = r.entry(key)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// List implements store.Store. It fails with dataset.ErrCorrupt if a value is damaged, because an incomplete list makes
// a key look absent.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	if limit < 0 {
		return nil, dataset.Errorf(dataset.ErrInvalid, "list of %d entries: want 0 (all) or more", limit)
	}
	var list []store.Entry
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		list = nil
		c := tx.Bucket([]byte(bucketData)).Cursor()
		from := prefix
		if after >= prefix {
			from = after + "\x00" // the smallest key that is larger
		}
		for k, v := c.Seek([]byte(from)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
			if len(list)%1024 == 1023 && ctx.Err() != nil {
				return ctx.Err()
			}
			r, err := parseRecord(string(k), v)
			if err != nil {
				return err
			}
			list = append(list, r.entry(string(k)))
			if len(list) == limit {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Backup writes the state of one moment to w, as a checked file that Open can open. It first makes an unnamed copy
// beside the store, so that a slow w does not prevent the store from reusing its free pages. The disk must have space
// for the copy.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	tmp, err := unnamedFile(filepath.Dir(s.path))
	if err != nil {
		return s.unavailable(fmt.Errorf("backup: %w", err))
	}
	defer tmp.Close()
	var size int64
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		if _, err := tmp.Seek(0, io.SeekStart); err != nil {
			return err
		}
		size, err = tx.WriteTo(ctxWriter{ctx, tmp})
		return err
	})
	if err != nil {
		return s.unavailable(fmt.Errorf("backup: %w", err))
	}
	if _, err := s.check(ctx, tmp); err != nil {
		return s.unavailable(err)
	}
	_, err = io.Copy(ctxWriter{ctx, w}, io.NewSectionReader(tmp, 0, size))
	if err != nil {
		return fmt.Errorf("backup of store %s: %w", s.path, err)
	}
	return nil
}

// unnamedFile creates a file that disappears when its descriptor is closed. open(2) lists the filesystems that do not
// support that: there, the name of the file is removed at once.
func unnamedFile(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return f, err
	}
	if f, err = os.CreateTemp(dir, ".backup-*"); err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c ctxWriter) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(b)
}
