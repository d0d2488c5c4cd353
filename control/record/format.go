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

// Format is the format of the records that this version of Drover writes. It reads all earlier ones too. The format
// is raised when a record gets a JSON key that an older replica must neither ignore nor drop. That is so if the
// absence of the key does not mean the same as its zero value.
//
// The first transaction of a replica on records of an earlier format sets FormatKey. Older replicas decide nothing from
// then on, so all replicas of a cluster are upgraded together.
//
//   - 1: as at commit 418222e.
//   - 2: keys were renamed: see dataset.DecodeRecord, which reads both names.
const Format = 2

// StoreFormat is the value of FormatKey.
type StoreFormat struct {
	Format int `json:"format"`
}

// CheckFormat fails with dataset.ErrUnsupported if the records in a store have a later format.
func CheckFormat(ctx context.Context, st store.Store) error {
	_, err := readFormat(ctx, st)
	return err
}

// knownFormat is the format of the store's records, as it was read from FormatKey.
type knownFormat struct {
	format int
	index  uint64 // of FormatKey in the store; 0 if it is absent
}

// readFormat reads FormatKey. It fails as CheckFormat does.
func readFormat(ctx context.Context, st store.Store) (knownFormat, error) {
	e, err := st.Get(ctx, FormatKey)
	if errors.Is(err, store.ErrNotFound) {
		return knownFormat{}, nil
	}
	if err != nil {
		return knownFormat{}, err
	}
	var f StoreFormat
	if err := json.Unmarshal(e.Value, &f); err != nil {
		return knownFormat{}, dataset.Errorf(dataset.ErrCorrupt, "store: value of %q is damaged: %w", FormatKey, err)
	}
	return knownFormat{f.Format, e.Index}, dataset.CheckFormat("the records of the store", f.Format, Format)
}

// formatStore is a store that fails with dataset.ErrUnsupported while its records have a later format.
type formatStore struct {
	store.Store

	mu    sync.Mutex
	known *knownFormat // nil: FormatKey must be read
}

// WithFormat returns st with a check of the format of its records. Several replicas work on one store, and a newer one
// can raise the format at any time. So each transaction checks that FormatKey has not changed since it was read. Thus
// an older replica never writes to a store whose format it does not know. Once one of its transactions has failed for
// that reason, its reads fail too. The first transaction on records of an earlier format raises the format.
func WithFormat(st store.Store) store.Store { return &formatStore{Store: st} }

// check returns the format of the records. It reads FormatKey unless the format is known.
func (s *formatStore) check(ctx context.Context) (knownFormat, error) {
	s.mu.Lock()
	known := s.known
	s.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	f, err := readFormat(ctx, s.Store)
	if err == nil {
		s.set(&f)
	}
	return f, err
}

func (s *formatStore) set(f *knownFormat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = f
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
	f, err := s.check(ctx)
	if err != nil {
		return 0, err
	}
	checks = append(checks[:len(checks):len(checks)], store.Precondition{Key: FormatKey, Index: f.index})
	raise := f.format < Format && len(writes) > 0
	if raise {
		value, err := json.Marshal(StoreFormat{Format})
		if err != nil {
			return 0, err
		}
		writes = append(writes[:len(writes):len(writes)], store.Write{Key: FormatKey, Value: value})
	}
	at, err := s.Store.Txn(ctx, checks, writes)
	if err == nil && raise {
		s.set(&knownFormat{Format, at})
	}
	if !errors.Is(err, store.ErrConflict) {
		return at, err
	}
	now, fErr := readFormat(ctx, s.Store)
	if fErr != nil {
		s.set(nil)
	} else {
		s.set(&now)
	}
	if errors.Is(fErr, dataset.ErrUnsupported) {
		return 0, fErr
	}
	return at, err
}
