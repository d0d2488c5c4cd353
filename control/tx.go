package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// tx is one decision: it remembers the index of every key that it read and
// commits its writes only if none of them has changed since.
type tx struct {
	ctx    context.Context
	store  store.Store
	read   map[string]store.Entry // Index 0: read and absent
	writes map[string]store.Write
	order  []string

	touched []uuid.UUID // datasets that changed
	nodes   map[uuid.UUID]bool
	ops     []uuid.UUID // operations that changed
	events  []api.Event
}

func newTx(ctx context.Context, st store.Store) *tx {
	return &tx{
		ctx: ctx, store: st,
		read: map[string]store.Entry{}, writes: map[string]store.Write{}, nodes: map[uuid.UUID]bool{},
	}
}

// get reads key into v and reports whether it is there. It sees the writes of
// this transaction.
func (t *tx) get(key string, v any) (bool, error) {
	if w, ok := t.writes[key]; ok {
		if w.Delete {
			return false, nil
		}
		return true, decode(key, w.Value, v)
	}
	e, seen := t.read[key]
	if !seen {
		var err error
		e, err = t.store.Get(t.ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, unavailable(err)
		}
		e.Key = key
		t.read[key] = e
	}
	if e.Index == 0 {
		return false, nil
	}
	return true, decode(key, e.Value, v)
}

func (t *tx) put(key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	t.write(store.Write{Key: key, Value: b})
	return nil
}

func (t *tx) del(key string) { t.write(store.Write{Key: key, Delete: true}) }

func (t *tx) write(w store.Write) {
	if _, again := t.writes[w.Key]; !again {
		t.order = append(t.order, w.Key)
	}
	t.writes[w.Key] = w
}

func (t *tx) event(typ string, d dataset.Dataset, detail string) {
	t.events = append(t.events, api.Event{Type: typ, Volume: d.Volume, Dataset: d.ID, Detail: detail})
}

// putDataset writes a record and wakes its home's agent.
func (t *tx) putDataset(d dataset.Dataset) error {
	t.touch(d.ID, d.Home)
	return t.put(datasetKey(d.ID), d)
}

func (t *tx) touch(ds, node uuid.UUID) {
	t.touched = append(t.touched, ds)
	t.nodes[node] = true
}

func (t *tx) commit() (uint64, error) {
	if len(t.order) == 0 {
		return 0, nil
	}
	checks := make([]store.Check, 0, len(t.read))
	for k, e := range t.read {
		checks = append(checks, store.Check{Key: k, Index: e.Index})
	}
	writes := make([]store.Write, 0, len(t.order))
	for _, k := range t.order {
		writes = append(writes, t.writes[k])
	}
	return t.store.Txn(t.ctx, checks, writes)
}

// tries is how often a decision is made anew when what it read has changed.
// Each round some other transaction got through, so this is no live-lock.
const tries = 64

// update makes one decision and commits it, again as long as what it rests on
// changes under it.
func (s *Service) update(ctx context.Context, decide func(*tx) error) (uint64, error) {
	for range tries {
		t := newTx(ctx, s.store)
		if err := decide(t); err != nil {
			return 0, err
		}
		index, err := t.commit()
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return 0, unavailable(err)
		}
		s.publish(t)
		return index, nil
	}
	return 0, dataset.Errorf(dataset.ErrConflict, "too many changes at once to the same object: try again")
}

// view makes a decision that writes nothing.
func (s *Service) view(ctx context.Context, decide func(*tx) error) error {
	return decide(newTx(ctx, s.store))
}

// unavailable turns a store's failure into the words of the API: not knowing is
// never the same as absence.
func unavailable(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, store.ErrTooLarge):
		return dataset.Errorf(dataset.ErrInvalid, "store: %w", err)
	}
	return dataset.Errorf(dataset.ErrUnavailable, "the store does not answer: %w", err)
}
