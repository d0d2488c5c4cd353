package consul

import (
	"context"
	"fmt"
	"math"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// cooked is the store's index for one of Consul's, which counts by itself and for
// all that lies in it: Raise has it begin further on.
func (s *Store) cooked(index uint64) uint64 {
	if index == 0 {
		return 0
	}
	return index + s.base.Load()
}

// raw is the reverse; for an index from before the store, one that nothing has.
func (s *Store) raw(index uint64) uint64 {
	base := s.base.Load()
	switch {
	case index == 0:
		return 0
	case index <= base:
		return math.MaxUint64
	}
	return index - base
}

// Raise makes every index from now on larger than index. The base is kept with the
// format, and read once by each process: none may work on the store meanwhile.
func (s *Store) Raise(ctx context.Context, index uint64) error {
	if index >= math.MaxInt64 {
		return dataset.Errorf(dataset.ErrInvalid, "consul: index %d is no index", index)
	}
	ctx, done := s.call(ctx)
	defer done()
	if err := s.ready(ctx); err != nil {
		return err
	}
	pair, _, err := s.client.KV().Get(s.layout.format, consistent(ctx))
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
