package consul

import (
	"context"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// Get implements store.Store with a consistent read.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := store.CheckKey(key); err != nil {
		return store.Entry{}, err
	}
	if err := s.open(ctx); err != nil {
		return store.Entry{}, err
	}
	ctx, done := s.call(ctx)
	defer done()
	if err := s.ready(ctx); err != nil {
		return store.Entry{}, err
	}
	pair, _, err := s.client.KV().Get(s.layout.data+key, consistentOptions(ctx))
	if err != nil {
		return store.Entry{}, s.failed(ctx, "read "+key, err)
	}
	if pair == nil {
		return store.Entry{}, store.ErrNotFound
	}
	return s.entry(pair), nil
}

func (s *Store) entry(p *api.KVPair) store.Entry {
	return store.Entry{
		Key:   strings.TrimPrefix(p.Key, s.layout.data),
		Value: p.Value,
		Index: s.base.fromConsul(p.ModifyIndex),
	}
}

// GetMany implements store.Store. It sends one request for each maxReads keys.
func (s *Store) GetMany(ctx context.Context, keys []string) ([]store.Entry, error) {
	for _, key := range keys {
		if err := store.CheckKey(key); err != nil {
			return nil, err
		}
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	ctx, done := s.call(ctx)
	defer done()
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	list := make([]store.Entry, 0, len(keys))
	for some := range slices.Chunk(keys, maxReads) {
		ops := make(api.TxnOps, len(some))
		for i, key := range some {
			ops[i] = op(api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: s.layout.data + key})
		}
		found, err := s.read(ctx, some[0], ops)
		if err != nil {
			return nil, err
		}
		if !slices.EqualFunc(found, some, func(e store.Entry, key string) bool { return e.Key == key }) {
			return nil, s.unexpectedAnswer("a transaction that reads gives other keys than were asked for")
		}
		list = append(list, found...)
	}
	return list, nil
}

// List implements store.Store. Without a limit it sends one request, and all entries are from the same moment. With a
// limit and a prefix that is empty or ends with a slash, the cost of each page but the first depends only on its size.
// Otherwise the cost depends on the number of keys under the prefix.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]store.Entry, error) {
	if limit < 0 {
		return nil, dataset.Errorf(dataset.ErrInvalid, "list of %d entries: want 0 (all) or more", limit)
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	ctx, done := s.call(ctx)
	defer done()
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	if limit > 0 && (prefix == "" || strings.HasSuffix(prefix, "/")) {
		return s.page(ctx, prefix, max(prefix, afterKey(after)), limit)
	}
	pairs, meta, err := s.client.KV().List(s.layout.data+requestPrefix(prefix), consistentOptions(ctx))
	if err == nil {
		err = s.checkComplete(ctx, prefix, len(pairs), meta.ResultsFilteredByACLs)
	}
	if err != nil {
		return nil, s.failed(ctx, "list "+prefix, err)
	}
	var list []store.Entry
	for _, p := range pairs {
		e := s.entry(p)
		// No key ends with a slash: such an entry is the marker below live/.
		if !strings.HasPrefix(e.Key, prefix) || e.Key <= after || strings.HasSuffix(e.Key, "/") {
			continue
		}
		if list = append(list, e); len(list) == limit {
			break
		}
	}
	return list, nil
}

// requestPrefix returns the prefix to request from Consul. If the last word consists of dots, it is left out, because
// URLs drop such a word.
func requestPrefix(prefix string) string {
	i := strings.LastIndexByte(prefix, '/') + 1
	if word := prefix[i:]; word == "." || word == ".." {
		return prefix[:i]
	}
	return prefix
}

// checkComplete fails if entries may be missing from a list because the token must not read them. Consul leaves such
// entries out without an error, so they look absent. A header of the answer says so, except for the anonymous token
// (maskResultsFilteredByACLs in agent/consul/rpc.go). For the anonymous token, checkComplete makes a plain read to
// find out.
func (s *Store) checkComplete(ctx context.Context, prefix string, found int, filtered bool) error {
	if filtered {
		return s.lacksRight(`lacks permission 'key:read' on "` + s.layout.data + prefix + `"`)
	}
	if found > 0 || s.transport.creds.current() != "" {
		return nil
	}
	key := strings.TrimSuffix(s.layout.data+requestPrefix(prefix), "/") + "/-"
	_, _, err := s.client.KV().Get(key, consistentOptions(ctx))
	return err
}
