package host

import (
	"context"
	"maps"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// EachDataset calls fn with each value of a database whose key is a prefix and the UUID of a dataset. Its errors are
// those of DB.Each.
func EachDataset[T any](ctx context.Context, db DB, prefix string, fn func(id uuid.UUID, v T) error) error {
	return db.Each(ctx, prefix, func(rest string, raw []byte) error {
		id, err := uuid.Parse(rest)
		if err != nil {
			return err
		}
		var v T
		if err := dataset.DecodeRecord(raw, &v); err != nil {
			return err
		}
		return fn(id, v)
	})
}

// Table has at most one value for each dataset, in memory and in the agent's database. A change is on disk before it is
// in memory. The caller holds the dataset's lock during Set and Drop, or knows that nothing else changes the value. It
// is safe for concurrent use.
type Table[T any] struct {
	db     DB
	prefix string // of the keys

	mu     sync.Mutex
	values map[uuid.UUID]T
}

// NewTable returns an empty table, whose values have the prefix in a database. The caller calls Load before the other
// methods.
func NewTable[T any](db DB, prefix string) *Table[T] {
	return &Table[T]{db: db, prefix: prefix, values: map[uuid.UUID]T{}}
}

// Load reads the values from disk.
func (t *Table[T]) Load(ctx context.Context) error {
	return EachDataset(ctx, t.db, t.prefix, func(id uuid.UUID, v T) error {
		t.values[id] = v
		return nil
	})
}

// Get returns the value of a dataset, and whether there is one.
func (t *Table[T]) Get(id uuid.UUID) (v T, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, known = t.values[id]
	return v, known
}

// All returns a copy of all values.
func (t *Table[T]) All() map[uuid.UUID]T {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.values)
}

// Set adds or replaces the value of a dataset.
func (t *Table[T]) Set(ctx context.Context, id uuid.UUID, v T) error {
	if err := t.db.Put(ctx, map[string]any{t.prefix + id.String(): v}); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.values[id] = v
	return nil
}

// Drop removes the value of a dataset. If there is none, Drop writes nothing.
func (t *Table[T]) Drop(ctx context.Context, id uuid.UUID) error {
	if _, known := t.Get(id); !known {
		return nil
	}
	if err := t.db.Put(ctx, map[string]any{t.prefix + id.String(): nil}); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.values, id)
	return nil
}
