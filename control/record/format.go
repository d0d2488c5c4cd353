package record

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// FormatKey holds the format of the records in the store. The first transaction on a new store writes it.
const FormatKey = "cluster/format"

// Format is the format of the records that this version of Drover reads and writes. A later version must raise it for a
// JSON key that this version must neither ignore nor drop. That is so if the absence of the key does not mean the same
// as its zero value.
const Format = 1

// storeFormat is the value of FormatKey.
type storeFormat struct {
	Format int `json:"format"`
}

// CheckFormat fails with dataset.ErrUnsupported if the records in a store have another format.
func CheckFormat(ctx context.Context, st store.Store) error {
	_, err := readFormat(ctx, st)
	return err
}

// readFormat returns the index of FormatKey in the store; 0 if it is absent. It fails as CheckFormat does.
func readFormat(ctx context.Context, st store.Store) (index uint64, err error) {
	e, err := st.Get(ctx, FormatKey)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var f storeFormat
	if err := json.Unmarshal(e.Value, &f); err != nil {
		return 0, dataset.Errorf(dataset.ErrCorrupt, "store: value of %q is damaged: %w", FormatKey, err)
	}
	return e.Index, dataset.CheckFormat("the records of the store", f.Format, Format)
}

// formatStore is a store that fails with dataset.ErrUnsupported while its records have another format.
type formatStore struct {
	store.Store

	mu    sync.Mutex
	index *uint64 // of FormatKey, 0 if it is absent; nil: it must be read
}

// WithFormat returns st with a check of the format of its records. A later version can raise the format of a shared
// store at any time, so each transaction checks that FormatKey has not changed since it was read. So this version never
// writes to a store of another format. After the first transaction that fails for that reason, reads fail too.
func WithFormat(st store.Store) store.Store { return &formatStore{Store: st} }

// check returns the index of FormatKey. It reads the key unless its index is known.
func (s *formatStore) check(ctx context.Context) (uint64, error) {
	s.mu.Lock()
	known := s.index
	s.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	index, err := readFormat(ctx, s.Store)
	if err == nil {
		s.set(&index)
	}
	return index, err
}

func (s *formatStore) set(index *uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index = index
}

// Get implements store.Store.
func (s *formatStore) Get(ctx context.Context, key string) (store.Entry, error) {
	if _, err := s.check(ctx); err != nil {
		return store.Entry{}, err
	}
	return s.Store.Get(ctx, key)
}

// GetMany implements store.Store.
func (s *formatStore) GetMany(ctx context.Context, keys []string) ([]store.Entry, error) {
	if _, err := s.check(ctx); err != nil {
		return nil, err
	}
	return s.Store.GetMany(ctx, keys)
}

// List implements store.Store.
func (s *formatStore) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	if _, err := s.check(ctx); err != nil {
		return nil, err
	}
	return s.Store.List(ctx, prefix, after, limit)
}

// Txn implements store.Store.
func (s *formatStore) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	index, err := s.check(ctx)
	if err != nil {
		return 0, err
	}
	checks = append(checks[:len(checks):len(checks)], store.Precondition{Key: FormatKey, Index: index})
	isNew := index == 0 && len(writes) > 0
	if isNew {
		value, err := json.Marshal(storeFormat{Format})
		if err != nil {
			return 0, err
		}
		writes = append(writes[:len(writes):len(writes)], store.Write{Key: FormatKey, Value: value})
	}
	at, err := s.Store.Txn(ctx, checks, writes)
	if err == nil && isNew {
		s.set(&at)
	}
	if errors.Is(err, store.ErrConflict) {
		s.set(nil)
		if _, ferr := s.check(ctx); errors.Is(ferr, dataset.ErrUnsupported) {
			return 0, ferr
		}
	}
	return at, err
}
