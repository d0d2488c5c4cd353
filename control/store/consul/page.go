package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
)

// maxReads is how many operations a transaction that only reads can have in Consul.
const maxReads = 128

// page returns the first limit entries from a key on. It requests the parts of the prefix that should contain them
// (see keyDistribution), and further parts until there are enough entries.
func (s *Store) page(ctx context.Context, prefix, from string, limit int) ([]store.Entry, error) {
	if !s.distributions.has(prefix) {
		if err := s.survey(ctx, prefix); err != nil {
			return nil, err
		}
	}
	var list []store.Entry
	for factor := 1; ; factor *= 4 { // keys may have been deleted since they were counted
		parts := s.distributions.selectParts(prefix, from, (limit-len(list))*factor)
		if len(parts) == 0 {
			if err := s.checkComplete(ctx, prefix, len(list), false); err != nil {
				return nil, s.failed(ctx, "list "+prefix, err)
			}
			return list, nil
		}
		found, err := s.parts(ctx, prefix, parts)
		if err != nil {
			return nil, err
		}
		for i, p := range parts {
			keys := make([]string, len(found[i]))
			for n, e := range found[i] {
				keys[n] = e.Key
				if e.Key >= from && !strings.HasSuffix(e.Key, "/") && len(list) < limit {
					list = append(list, e)
				}
			}
			s.distributions.update(prefix, p, keys)
		}
		if len(list) == limit {
			return list, nil
		}
		from = parts[len(parts)-1].end()
	}
}

// survey finds out how the keys under a prefix are distributed. Its cost grows with the number of keys, unlike that
// of all other parts of paging. But it runs only once for each process and prefix, and does not read the values.
func (s *Store) survey(ctx context.Context, prefix string) error {
	keys, meta, err := s.client.KV().Keys(s.layout.data+prefix, "", consistentOptions(ctx))
	if err == nil {
		err = s.checkComplete(ctx, prefix, len(keys), meta.ResultsFilteredByACLs)
	}
	if err != nil {
		return s.failed(ctx, "list the keys of "+prefix, err)
	}
	for i, k := range keys {
		keys[i] = strings.TrimPrefix(k, s.layout.data)
	}
	s.distributions.put(prefix, newKeyDistribution(keys, len(prefix)))
	return nil
}

// readAnswer is Consul's answer to a transaction that only reads (agent/structs, TxnReadResponse). The API's client
// drops most of it.
type readAnswer struct {
	Results               []struct{ KV *api.KVPair }
	Errors                api.TxnErrors
	Index                 uint64 // never 0
	refused               bool
	ResultsFilteredByACLs bool
}

// parts reads disjoint parts in order, all of them at the same moment.
func (s *Store) parts(ctx context.Context, prefix string, parts []part) ([][]store.Entry, error) {
	ops := make(api.TxnOps, len(parts))
	for i, p := range parts {
		verb := api.KVGetTree
		if p.alone {
			verb = api.KVGetOrEmpty
		}
		ops[i] = op(api.KVTxnOp{Verb: verb, Key: s.layout.data + p.prefix})
	}
	list, err := s.read(ctx, prefix, ops)
	if err != nil {
		return nil, err
	}
	found := make([][]store.Entry, len(parts))
	for i, p := range parts {
		for len(list) > 0 && p.holds(list[0].Key) {
			if list[0].Index > 0 {
				found[i] = append(found[i], list[0])
			}
			list = list[1:]
		}
	}
	if len(list) > 0 {
		return nil, s.unexpectedAnswer("it holds " + list[0].Key + ", which was not asked for")
	}
	return found, nil
}

// read executes a transaction that only reads, and returns the results in the order of its operations. Keys that
// get-or-empty did not find have index 0. All results are from the same moment during the call.
func (s *Store) read(ctx context.Context, what string, ops api.TxnOps) ([]store.Entry, error) {
	answer, err := s.sendRead(ctx, ops)
	switch {
	case err != nil:
		return nil, s.failed(ctx, "read "+what, err)
	case answer.ResultsFilteredByACLs:
		return nil, s.checkComplete(ctx, what, 0, true)
	case answer.refused:
		refused, err := s.refusal(ops, answer.Errors)
		return nil, errors.Join(refused, err) // Consul's reason for the refusal
	case answer.Index == 0:
		return nil, s.unexpectedAnswer("a transaction that reads has no index (is this Consul 1.22 or later?)")
	}
	list := make([]store.Entry, 0, len(answer.Results))
	for _, r := range answer.Results {
		if r.KV == nil {
			return nil, s.unexpectedAnswer("a transaction that reads gives something that is no key")
		}
		list = append(list, s.entry(r.KV))
	}
	return list, nil
}

// sendRead sends the operations of a read. It does not use the function of the API's client, which drops the
// information that entries were left out.
func (s *Store) sendRead(ctx context.Context, ops api.TxnOps) (*readAnswer, error) {
	body, err := json.Marshal(ops)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://consul/v1/txn?consistent=",
		bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := s.idempotentTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer := &readAnswer{refused: res.StatusCode != http.StatusOK}
	if err := json.NewDecoder(res.Body).Decode(answer); err != nil {
		return nil, err
	}
	return answer, nil
}
