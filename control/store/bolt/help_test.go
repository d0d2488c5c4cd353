package bolt_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/internal/clock"
)

func newClock() *clock.Fake { return clock.NewFake(time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)) }

func pathIn(dir string) string { return filepath.Join(dir, "store.db") }

// open opens a store, which is closed after the test unless the test closes it.
func open(tb testing.TB, path string) *bolt.Store {
	tb.Helper()
	s, err := bolt.Open(tb.Context(), path, bolt.Options{Clock: newClock()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { shut(tb, s) })
	return s
}

func shut(tb testing.TB, s *bolt.Store) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Error(err)
	}
}

func set(key, value string) store.Write { return store.Write{Key: key, Value: []byte(value)} }

func put(tb testing.TB, s *bolt.Store, writes ...store.Write) uint64 {
	tb.Helper()
	index, err := s.Txn(tb.Context(), nil, writes)
	if err != nil {
		tb.Fatal(err)
	}
	return index
}

func all(tb testing.TB, s *bolt.Store) []store.Entry {
	tb.Helper()
	list, err := s.List(tb.Context(), "", "", 0)
	if err != nil {
		tb.Fatal(err)
	}
	return list
}

// create writes what the creation of a volume writes: a name, a dataset, a lease, and an index by node.
func create(n int) ([]store.Precondition, []store.Write) {
	id := uuid.New().String()
	name := fmt.Sprintf("names/volume-%06d", n)
	return []store.Precondition{{Key: name}, {Key: "datasets/" + id}}, []store.Write{
		{Key: name, Value: []byte(id)},
		{Key: "datasets/" + id, Value: make([]byte, 900)},
		{Key: "leases/" + id, Value: make([]byte, 200)},
		{Key: "home/node/" + id},
	}
}

// remove removes what create wrote. It reads the name to get the ID.
func remove(tb testing.TB, s *bolt.Store, n int) error {
	tb.Helper()
	name := fmt.Sprintf("names/volume-%06d", n)
	e, err := s.Get(tb.Context(), name)
	if err != nil {
		return err
	}
	id := string(e.Value)
	_, err = s.Txn(tb.Context(), []store.Precondition{{Key: name, Index: e.Index}}, []store.Write{
		{Key: name, Delete: true}, {Key: "datasets/" + id, Delete: true},
		{Key: "leases/" + id, Delete: true}, {Key: "home/node/" + id, Delete: true},
	})
	return err
}
