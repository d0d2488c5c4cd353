package record

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// FormatKey holds the StoreFormat of the records in the store. If the key is absent, they have format 1.
const FormatKey = "cluster/format"

// Format is the latest format of the records that this version of Drover reads and writes. It is raised when a record
// gets a JSON key that an older replica must not ignore or drop, because the zero value of the key does not mean the
// same as its absence.
//
// The replica that first writes such a record sets FormatKey in the same transaction. It must do so only when every
// replica in LiveServicesPrefix has a version that knows the new format.
const Format = 1

// StoreFormat is the value of FormatKey.
type StoreFormat struct {
	Format int `json:"format"`
}

// CheckFormat fails with dataset.ErrUnsupported if the records in a store have a later format.
func CheckFormat(ctx context.Context, st store.Store) error {
	_, err := readFormat(ctx, st)
	return err
}

// readFormat is CheckFormat, and returns the index of FormatKey.
func readFormat(ctx context.Context, st store.Store) (index uint64, err error) {
	e, err := st.Get(ctx, FormatKey)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var f StoreFormat
	if err := json.Unmarshal(e.Value, &f); err != nil {
		return 0, dataset.Errorf(dataset.ErrCorrupt, "store: value of %q is damaged: %w", FormatKey, err)
	}
	return e.Index, dataset.CheckFormat("the records of the store", f.Format, Format)
}

// formatStore is a store that fails with dataset.ErrUnsupported while its records have a later format.
type formatStore struct {
	store.Store

	mu    sync.Mutex
	known bool
	index uint64 // of FormatKey, if known
}

// WithFormat returns st with a check of the format of its records. Several replicas work on one store, and a newer one
// can raise the format at any time. So each transaction checks that FormatKey has not changed since it was read: an
// older replica never writes to records that it does not know. Its reads fail from its next transaction on.
func WithFormat(st store.Store) store.Store { return &formatStore{Store: st} }

// check reads the format unless it is known, and returns the index of FormatKey.
func (s *formatStore) check(ctx context.Context) (uint64, error) {
	s.mu.Lock()
	known, index := s.known, s.index
	s.mu.Unlock()
	if known {
		return index, nil
	}
	index, err := readFormat(ctx, s.Store)
	if err == nil {
		s.set(true, index)
	}
	return index, err
}

func (s *formatStore) set(known bool, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known, s.index = known, index
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
func (s *formatStore) Txn(ctx context.Context, checks []store.Check, writes []store.Write) (uint64, error) {
	index, err := s.check(ctx)
	if err != nil {
		return 0, err
	}
	checks = append(checks[:len(checks):len(checks)], store.Check{Key: FormatKey, Index: index})
	at, err := s.Store.Txn(ctx, checks, writes)
	if !errors.Is(err, store.ErrConflict) {
		return at, err
	}
	now, fErr := readFormat(ctx, s.Store)
	s.set(fErr == nil, now)
	if errors.Is(fErr, dataset.ErrUnsupported) {
		return 0, fErr
	}
	return at, err
}
