package daemon

import (
	"context"
	"time"

	"github.com/droverhq/drover/control/store"
)

// timedStore times the requests to a store, except those of Watch, Session and End. A watch lasts until something
// changes, so its duration has no meaning.
type timedStore struct {
	store.Store
	kind     string
	recorder *Recorder
}

// timedReporter is a timedStore of a store that knows the health of its servers.
type timedReporter struct {
	timedStore
	store.HealthReporter
}

// TimeStore returns a store that records how long its requests take. kind is the kind of the store, such as bolt.
func TimeStore(st store.Store, kind string, r *Recorder) store.Store {
	timed := timedStore{st, kind, r}
	if reporter, ok := st.(store.HealthReporter); ok {
		return timedReporter{timed, reporter}
	}
	return timed
}

func (s timedStore) record(operation string, began time.Time, err error) {
	s.recorder.stores.WithLabelValues(operation, outcome(err), s.kind).Observe(time.Since(began).Seconds())
}

// Get implements store.Store.
func (s timedStore) Get(ctx context.Context, key string) (e store.Entry, err error) {
	defer func(began time.Time) { s.record("get", began, err) }(time.Now())
	return s.Store.Get(ctx, key)
}

// GetMany implements store.Store.
func (s timedStore) GetMany(ctx context.Context, keys []string) (all []store.Entry, err error) {
	defer func(began time.Time) { s.record("get_many", began, err) }(time.Now())
	return s.Store.GetMany(ctx, keys)
}

// List implements store.Store.
func (s timedStore) List(ctx context.Context, prefix, after string, limit int) (all []store.Entry, err error) {
	defer func(began time.Time) { s.record("list", began, err) }(time.Now())
	return s.Store.List(ctx, prefix, after, limit)
}

// Txn implements store.Store.
func (s timedStore) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (index uint64,
	err error) {
	defer func(began time.Time) { s.record("transaction", began, err) }(time.Now())
	return s.Store.Txn(ctx, checks, writes)
}

// Renew implements store.Store.
func (s timedStore) Renew(ctx context.Context, id string) (err error) {
	defer func(began time.Time) { s.record("renew", began, err) }(time.Now())
	return s.Store.Renew(ctx, id)
}
