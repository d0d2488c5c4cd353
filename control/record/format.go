package record

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// FormatKey holds the StoreFormat of the records in the store. If the key is absent, they have format 1.
const FormatKey = "cluster/format"

// Format is the latest format of the records that this version of Drover reads and writes. It reads all earlier ones
// too. A new format is needed for a JSON key that an older replica must neither ignore nor drop. That is so if the
// absence of the key does not mean the same as its zero value.
//
//   - 1: as at commit 418222e.
//   - 2: keys were renamed: see dataset.DecodeRecord, which reads both names.
//   - 3: datasets have aliases: see dataset.Dataset.
//   - 4: the profiles of datasets have scheduled backups: see dataset.Profile.
//   - 5: the scheduled backups of datasets are verified: see dataset.Verification.
const Format = 5

// AliasFormat is the first format whose datasets can have aliases, BackupFormat the first one whose datasets can have
// scheduled backups, and VerifyFormat the first one in which these are verified.
const (
	AliasFormat  = 3
	BackupFormat = 4
	VerifyFormat = 5
)

// FormatOf returns the format that the store must have for the backups of a profile. An older replica would drop what
// it does not know.
func FormatOf(b dataset.Backups) int {
	switch {
	case b.Verify != (dataset.Verification{}):
		return VerifyFormat
	case b.To != "":
		return BackupFormat
	}
	return minFormat
}

// minFormat is the format that the first transaction of a replica sets. Older replicas decide nothing from then on. No
// release had format 1. A later format is set by the first transaction that needs it: see NeedFormat.
const minFormat = 2

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
// that reason, its reads fail too. A transaction raises the format to minFormat, or to the format that it needs.
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
	need, writes, err := neededFormat(writes)
	if err != nil {
		return 0, err
	}
	raise := f.format < need && len(writes) > 0
	if raise {
		value, err := json.Marshal(StoreFormat{need})
		if err != nil {
			return 0, err
		}
		writes = append(writes[:len(writes):len(writes)], store.Write{Key: FormatKey, Value: value})
	}
	at, err := s.Store.Txn(ctx, checks, writes)
	if err == nil && raise {
		s.set(&knownFormat{need, at})
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

// NeedFormat lets a transaction raise the format of the records in the store to format, unless they have it already.
// Older replicas decide nothing from then on, so the caller must first check that none is alive. If the transaction
// needs several formats, the latest one counts.
func NeedFormat(t *Tx, format int) error {
	if i := t.writeIndex(FormatKey); i >= 0 {
		var f StoreFormat
		if err := json.Unmarshal(t.writes[i].Value, &f); err != nil {
			return err
		}
		format = max(format, f.Format)
	}
	return t.Put(FormatKey, StoreFormat{format})
}

// neededFormat returns the format that a transaction needs, and its writes without the one of NeedFormat.
func neededFormat(writes []store.Write) (int, []store.Write, error) {
	i := slices.IndexFunc(writes, func(w store.Write) bool { return w.Key == FormatKey })
	if i < 0 {
		return minFormat, writes, nil
	}
	var f StoreFormat
	err := json.Unmarshal(writes[i].Value, &f)
	return max(f.Format, minFormat), slices.Delete(slices.Clone(writes), i, i+1), err
}
