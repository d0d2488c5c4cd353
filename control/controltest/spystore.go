package controltest

import (
	"context"
	"errors"
	"sync"

	"github.com/droverhq/drover/control/store"
)

// Committed is how many transactions the store was given.
func (s *SpyStore) Committed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Txns
}

// SpyStore is a store that counts what is asked of it, and that a test can have fail
// or let others go first.
type SpyStore struct {
	store.Store
	mu                sync.Mutex
	reads, Txns, keys int // Get, GetMany and List; Txn; keys written
	calls             int
	failAt            int  // the call that fails and those after it; 0: none
	lose              bool // a Txn that fails has happened
	before            func()
	OnGet             func(key string) // before each Get; of tests with one goroutine
	OnList            func(prefix string)
}

var ErrUnreachable = errors.New("connection refused")

func NewSpyStore(st store.Store) *SpyStore { return &SpyStore{Store: st} }

// Before has fn run, once, right before the next transaction.
func (s *SpyStore) Before(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = fn
}

// FailFrom has the n-th call from now on, and all after it, fail; 0: none. With lose
// the transactions that fail have happened.
func (s *SpyStore) FailFrom(n int, lose bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.failAt, s.lose = 0, n, lose
}

// Counted returns what was asked since the last time.
func (s *SpyStore) Counted() (reads, txns, keys int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reads, txns, keys = s.reads, s.Txns, s.keys
	s.reads, s.Txns, s.keys = 0, 0, 0
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

func (s *SpyStore) Get(ctx context.Context, key string) (store.Entry, error) {
	if s.OnGet != nil {
		s.OnGet(key)
	}
	if err := s.read(); err != nil {
		return store.Entry{}, err
	}
	return s.Store.Get(ctx, key)
}

func (s *SpyStore) GetMany(ctx context.Context, keys []string) ([]store.Entry, error) {
	if s.OnGet != nil && len(keys) > 0 {
		s.OnGet(keys[0])
	}
	if err := s.read(); err != nil {
		return nil, err
	}
	return s.Store.GetMany(ctx, keys)
}

func (s *SpyStore) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	if s.OnList != nil {
		s.OnList(prefix)
	}
	if err := s.read(); err != nil {
		return nil, err
	}
	return s.Store.List(ctx, prefix, after, limit)
}

func (s *SpyStore) Txn(ctx context.Context, checks []store.Check, writes []store.Write) (uint64, error) {
	s.mu.Lock()
	before := s.before
	s.before = nil
	s.mu.Unlock()
	if before != nil {
		before()
	}
	s.mu.Lock()
	s.Txns++
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
