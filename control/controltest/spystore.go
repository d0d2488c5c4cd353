package controltest

import (
	"context"
	"errors"
	"sync"

	"github.com/droverhq/drover/control/store"
)

// SpyStore is a store that counts requests. A test can make requests fail, or run something before one.
type SpyStore struct {
	store.Store
	OnGet  func(key string) // called before each Get; for tests with one goroutine
	OnList func(prefix string)

	mu     sync.Mutex
	reads  int // number of calls of Get, GetMany and List
	txns   int // number of calls of Txn
	keys   int // number of written keys
	calls  int
	failAt int  // number of the first request that fails; if it is 0, none fails
	lose   bool // a Txn that fails is committed nevertheless
	before func()
}

// ErrUnreachable is the error of a request that a test makes fail.
var ErrUnreachable = errors.New("connection refused")

// NewSpyStore returns a SpyStore on a store.
func NewSpyStore(st store.Store) *SpyStore { return &SpyStore{Store: st} }

// Committed returns the number of transactions since the last call of Counted, including those that failed.
func (s *SpyStore) Committed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.txns
}

// Before runs fn once, right before the next transaction.
func (s *SpyStore) Before(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = fn
}

// FailFrom makes the n-th request from now on fail, and all after it. If n is 0, none fails. With lose, the
// transactions that fail are committed nevertheless.
func (s *SpyStore) FailFrom(n int, lose bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.failAt, s.lose = 0, n, lose
}

// Counted returns the number of reads, transactions and written keys since the last call.
func (s *SpyStore) Counted() (reads, txns, keys int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reads, txns, keys = s.reads, s.txns, s.keys
	s.reads, s.txns, s.keys = 0, 0, 0
	return reads, txns, keys
}

func (s *SpyStore) call() (fails, lose bool) {
	s.calls++
	return s.failAt != 0 && s.calls >= s.failAt, s.lose
}

func (s *SpyStore) read() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if fails, _ := s.call(); fails {
		return ErrUnreachable
	}
	return nil
}

// Get is store.Store.Get.
func (s *SpyStore) Get(ctx context.Context, key string) (store.Entry, error) {
	if s.OnGet != nil {
		s.OnGet(key)
	}
	if err := s.read(); err != nil {
		return store.Entry{}, err
	}
	return s.Store.Get(ctx, key)
}

// GetMany is store.Store.GetMany.
func (s *SpyStore) GetMany(ctx context.Context, keys []string) ([]store.Entry, error) {
	if s.OnGet != nil && len(keys) > 0 {
		s.OnGet(keys[0])
	}
	if err := s.read(); err != nil {
		return nil, err
	}
	return s.Store.GetMany(ctx, keys)
}

// List is store.Store.List.
func (s *SpyStore) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	if s.OnList != nil {
		s.OnList(prefix)
	}
	if err := s.read(); err != nil {
		return nil, err
	}
	return s.Store.List(ctx, prefix, after, limit)
}

// Txn is store.Store.Txn.
func (s *SpyStore) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	s.mu.Lock()
	before := s.before
	s.before = nil
	s.mu.Unlock()
	if before != nil {
		before()
	}
	s.mu.Lock()
	s.txns++
	s.keys += len(writes)
	fails, lose := s.call()
	s.mu.Unlock()
	if fails && !lose {
		return 0, ErrUnreachable
	}
	index, err := s.Store.Txn(ctx, checks, writes)
	if fails {
		return 0, ErrUnreachable
	}
	return index, err
}
