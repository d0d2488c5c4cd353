package control

import (
	"context"
	"errors"
	"sync"

	"github.com/droverhq/drover/control/store"
)

// spy is a store that counts what is asked of it, and that a test can have fail
// or let others go first.
type spy struct {
	store.Store
	mu                sync.Mutex
	reads, txns, keys int // Get, GetMany and List; Txn; keys written
	calls             int
	failAt            int  // the call that fails and those after it; 0: none
	lose              bool // a Txn that fails has happened
	before            func()
	onGet             func(key string) // before each Get; of tests with one goroutine
	onList            func(prefix string)
}

var errAway = errors.New("connection refused")

func newSpy(st store.Store) *spy { return &spy{Store: st} }

// first has fn run, once, right before the next transaction.
func (s *spy) first(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = fn
}

// fail has the n-th call from now on, and all after it, fail; 0: none. With lose
// the transactions that fail have happened.
func (s *spy) fail(n int, lose bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.failAt, s.lose = 0, n, lose
}

// counted returns what was asked since the last time.
func (s *spy) counted() (reads, txns, keys int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reads, txns, keys = s.reads, s.txns, s.keys
	s.reads, s.txns, s.keys = 0, 0, 0
	return reads, txns, keys
}

func (s *spy) call() (fails, lose bool) {
	s.calls++
	return s.failAt != 0 && s.calls >= s.failAt, s.lose
}

func (s *spy) read() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if fails, _ := s.call(); fails {
		return errAway
	}
	return nil
}

func (s *spy) Get(ctx context.Context, key string) (store.Entry, error) {
	if s.onGet != nil {
		s.onGet(key)
	}
	if err := s.read(); err != nil {
		return store.Entry{}, err
	}
	return s.Store.Get(ctx, key)
}

func (s *spy) GetMany(ctx context.Context, keys []string) ([]store.Entry, error) {
	if s.onGet != nil && len(keys) > 0 {
		s.onGet(keys[0])
	}
	if err := s.read(); err != nil {
		return nil, err
	}
	return s.Store.GetMany(ctx, keys)
}

func (s *spy) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	if s.onList != nil {
		s.onList(prefix)
	}
	if err := s.read(); err != nil {
		return nil, err
	}
	return s.Store.List(ctx, prefix, after, limit)
}

func (s *spy) Txn(ctx context.Context, checks []store.Check, writes []store.Write) (uint64, error) {
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
		return 0, errAway
	}
	index, err := s.Store.Txn(ctx, checks, writes)
	if fails {
		return 0, errAway
	}
	return index, err
}
