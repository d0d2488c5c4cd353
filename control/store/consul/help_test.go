package consul_test

import (
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/consul"
)

func put(tb testing.TB, s *consul.Store, key, value string) uint64 {
	tb.Helper()
	index, err := s.Txn(tb.Context(), nil, []store.Write{{Key: key, Value: []byte(value)}})
	if err != nil {
		tb.Fatal(err)
	}
	return index
}

func value(tb testing.TB, s *consul.Store, key string) string {
	tb.Helper()
	e, err := s.Get(tb.Context(), key)
	if err != nil {
		tb.Fatal(err)
	}
	return string(e.Value)
}

func policyOf(tb testing.TB, client *api.Client, rules string) *api.ACLPolicy {
	tb.Helper()
	p, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: "test", Rules: rules}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// attachAnonymous gives a policy to callers without a token.
func attachAnonymous(tb testing.TB, client *api.Client, p *api.ACLPolicy) {
	tb.Helper()
	t := &api.ACLToken{AccessorID: "00000000-0000-0000-0000-000000000002", Policies: []*api.ACLTokenPolicyLink{{ID: p.ID}}}
	if _, _, err := client.ACL().TokenUpdate(t, nil); err != nil {
		tb.Fatal(err)
	}
}

func revoke(tb testing.TB, client *api.Client, secret string) {
	tb.Helper()
	t, _, err := client.ACL().TokenReadSelf(&api.QueryOptions{Token: secret})
	if err == nil {
		_, err = client.ACL().TokenDelete(t.AccessorID, nil)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func deregister(tb testing.TB, client *api.Client, node string) {
	tb.Helper()
	if _, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: node}, nil); err != nil {
		tb.Fatal(err)
	}
}
