package consul

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// indexBase is the difference between an index of the store and the index of Consul. Consul has one counter for all its
// data, which begins at 1 in a new Consul. Raise sets a base, so that the store's indexes never go backwards.
type indexBase struct{ atomic.Uint64 }

// fromConsul returns the store's index for an index of Consul. 0 stays 0.
func (b *indexBase) fromConsul(index uint64) uint64 {
	if index == 0 {
		return 0
	}
	return index + b.Load()
}

// toConsul is the reverse of fromConsul. For an index from before the store was raised, it returns math.MaxUint64,
// which no entry has.
func (b *indexBase) toConsul(index uint64) uint64 {
	base := b.Load()
	switch {
	case index == 0:
		return 0
	case index <= base:
		return math.MaxUint64
	}
	return index - base
}

// Raise makes every later index larger than index. No other process may use the store meanwhile, because each process
// reads the base only once. The base is stored with the format.
func (s *Store) Raise(ctx context.Context, index uint64) error {
	if index >= math.MaxInt64 {
		return dataset.Errorf(dataset.ErrInvalid, "consul: index %d is too large", index)
	}
	ctx, done := s.call(ctx)
	defer done()
	if err := s.ready(ctx); err != nil {
		return err
	}
	pair, _, err := s.client.KV().Get(s.layout.format, consistentOptions(ctx))
	if err != nil {
		return s.failed(ctx, "read its format", err)
	}
	base, ours := uint64(0), false
	if pair != nil {
		base, ours = baseIn(pair.Value)
	}
	switch {
	case !ours:
		return fmt.Errorf("consul: %s: %w", s.layout.format, store.ErrConflict)
	case base >= index:
		s.base.Store(base)
		return nil
	}
	ops := api.TxnOps{op(api.KVTxnOp{
		Verb:  api.KVCAS,
		Key:   s.layout.format,
		Value: fmt.Appendf(nil, "%s +%d", format, index),
		Index: pair.ModifyIndex,
	})}
	refused, _, err := s.commit(ctx, ops)
	if err == nil {
		err = refused
	}
	if err == nil {
		s.base.Store(index)
	}
	return err
}
