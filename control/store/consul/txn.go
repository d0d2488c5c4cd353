package consul

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// Txn implements store.Store. A transaction without writes has index 0. In addition to the contract, it fails with
// dataset.ErrForbidden if the token lacks a right. In that case nothing was changed. After dataset.ErrUnavailable the
// outcome is unknown. The transaction is sent again, to the same or another address, only if the first attempt cannot
// have changed anything.
func (s *Store) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	if err := store.CheckTxn(checks, writes); err != nil {
		return 0, err
	}
	if err := s.open(ctx); err != nil {
		return 0, err
	}
	for _, w := range writes {
		if w.Session != "" && uuid.Validate(w.Session) != nil {
			return 0, noSession(w.Session)
		}
	}
	ctx, done := s.call(ctx)
	defer done()
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	ops, revs, err := s.plan(checks, writes)
	if err != nil || len(ops) == 0 {
		return 0, err
	}
	refused, res, err := s.commit(ctx, ops)
	switch {
	case err != nil:
		s.unknown.Add(1)
		return 0, err
	case refused != nil:
		s.conflicts.Add(1)
		return 0, refused
	case len(writes) == 0:
		return 0, nil
	}
	index := indexOf(res, s.layout.rev+revs[0])
	if index == 0 {
		return 0, dataset.Errorf(dataset.ErrUnavailable,
			"consul: its answer to a transaction lacks the index (is this Consul 1.22 or later?)")
	}
	s.txns.Add(1)
	s.feed.publish(index, revs)
	return s.base.fromConsul(index), nil
}

// plan converts checks and writes to operations of Consul, with all checks before all writes, and returns the rev keys.
// It fails with store.ErrConflict if checks contradict each other.
func (s *Store) plan(checks []store.Precondition, writes []store.Write) (ops api.TxnOps, revs []string, err error) {
	sets := make(map[string]bool, len(writes))
	for _, w := range writes {
		sets[w.Key] = !w.Delete && w.Session == ""
	}
	want := make(map[string]uint64, len(checks))
	for _, c := range checks {
		if i, again := want[c.Key]; again {
			if i != c.Index {
				return nil, nil, fmt.Errorf("%w: %s cannot have index %d and %d", store.ErrConflict, c.Key, i, c.Index)
			}
			continue
		}
		want[c.Key] = c.Index
		if !sets[c.Key] { // an operation that sets the same key also checks its index
			ops = append(ops, s.check(c))
		}
	}
	for _, w := range writes {
		index, checked := want[w.Key]
		ops = append(ops, s.write(w, index, checked)...)
	}
	if len(writes) > 0 {
		revs = changed(writes)
	}
	for _, r := range revs {
		ops = append(ops, op(api.KVTxnOp{Verb: api.KVSet, Key: s.layout.rev + r, Flags: newFlags()}))
	}
	return ops, revs, nil
}

func (s *Store) check(c store.Precondition) *api.TxnOp {
	if c.Index == 0 {
		return op(api.KVTxnOp{Verb: api.KVCheckNotExists, Key: s.layout.data + c.Key})
	}
	return op(api.KVTxnOp{Verb: api.KVCheckIndex, Key: s.layout.data + c.Key, Index: s.base.toConsul(c.Index)})
}

// write returns the operation for one write. It does not use delete-cas, because that operation succeeds for an
// absent key (kvsDeleteCASTxn in agent/consul/state/kvs.go).
func (s *Store) write(w store.Write, index uint64, checked bool) api.TxnOps {
	key := s.layout.data + w.Key
	switch {
	case w.Delete:
		return api.TxnOps{op(api.KVTxnOp{Verb: api.KVDelete, Key: key})}
	case w.Session != "":
		// Consul refuses to lock a key that another session has locked, so delete the key first.
		return api.TxnOps{
			op(api.KVTxnOp{Verb: api.KVDelete, Key: key}),
			op(api.KVTxnOp{Verb: api.KVLock, Key: key, Value: w.Value, Session: w.Session, Flags: newFlags()}),
		}
	case checked:
		return api.TxnOps{op(api.KVTxnOp{
			Verb:  api.KVCAS,
			Key:   key,
			Value: w.Value,
			Index: s.base.toConsul(index),
			Flags: newFlags(),
		})}
	}
	return api.TxnOps{op(api.KVTxnOp{Verb: api.KVSet, Key: key, Value: w.Value, Flags: newFlags()})}
}

func indexOf(res *api.TxnResponse, key string) uint64 {
	for _, r := range res.Results {
		if r != nil && r.KV != nil && r.KV.Key == key {
			return r.KV.ModifyIndex
		}
	}
	return 0
}

// commit sends operations. refused is not nil if Consul rolled the operations back. If err is not nil, it is unknown
// whether they were executed, unless err is dataset.ErrForbidden or store.ErrTooLarge.
func (s *Store) commit(ctx context.Context, ops api.TxnOps) (refused error, res *api.TxnResponse, err error) {
	ok, res, _, err := s.client.Txn().Txn(ops, consistentOptions(ctx))
	if err != nil {
		return nil, nil, s.failed(ctx, "transaction", err)
	}
	if ok {
		return nil, res, nil
	}
	refused, err = s.refusal(ops, res.Errors)
	return refused, nil, err
}

// refusal returns why Consul rolled a transaction back: a check failed, or a session does not exist. Any other reason
// is returned as an error and not as a conflict, because the caller would retry a conflict forever.
func (s *Store) refusal(ops api.TxnOps, errs api.TxnErrors) (refused, err error) {
	for _, e := range errs {
		if e.OpIndex < 0 || e.OpIndex >= len(ops) || ops[e.OpIndex].KV == nil {
			return nil, s.unexpectedAnswer(e.What)
		}
		kv := ops[e.OpIndex].KV
		key := strings.TrimPrefix(kv.Key, s.layout.data)
		switch {
		case isACL(e.What):
			return nil, s.lacksRight(e.What)
		case kv.Verb == api.KVLock && strings.HasPrefix(e.What, "invalid session"):
			refused = noSession(kv.Session)
		case conflicts(*kv, e.What):
			if refused == nil {
				refused = fmt.Errorf("%w: %s", store.ErrConflict, key)
			}
		default:
			return nil, s.unexpectedAnswer(e.What)
		}
	}
	if refused == nil {
		return nil, s.unexpectedAnswer("it rolled a transaction back and does not say why")
	}
	return refused, nil
}

// conflicts reports whether an operation failed because its check failed. The texts are those of
// agent/consul/state/txn.go and kvs.go.
func conflicts(kv api.KVTxnOp, what string) bool {
	words := map[api.KVOp][]string{
		api.KVCheckIndex:     {"failed to check index, key ", "failed index check for key "},
		api.KVCheckNotExists: {"key "},
		api.KVCAS:            {"failed to set key "},
	}
	return slices.ContainsFunc(words[kv.Verb], func(begin string) bool { return strings.HasPrefix(what, begin) })
}
