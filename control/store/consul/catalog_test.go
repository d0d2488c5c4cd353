package consul_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/control/store/storetest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/assert"
	consultest "github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/require"
)

// Published entries are found by Consul's own queries. Publishing costs a write if something changed and none
// otherwise, and removing them removes nothing else.
func TestCatalog(t *testing.T) {
	c := consultest.Start(t, consultest.Options{ACL: true})
	open := func(token string) *consul.Store {
		return openWith(t, consul.Options{Addresses: c.Addresses(), Prefix: "drover", Token: token})
	}
	s := open(c.NewToken(consul.Policy("drover") + consul.CatalogPolicy("drover")))
	session, err := s.Session(t.Context(), time.Minute)
	require.NoError(t, err)
	var all []store.Service
	for i := range 150 { // more than one transaction takes
		all = append(all, store.Service{
			Kind: "agent", ID: fmt.Sprint("n", i), Address: fmt.Sprintf("10.0.0.%d:9471", i), Alive: true,
			Tags: []string{"pool.fast"}, Meta: map[string]string{"drover_load_10": fmt.Sprint(i)},
		})
	}
	all = append(all, store.Service{Kind: "control", ID: "10.0.1.1:9470", Address: "c1.example:9470", Alive: true})
	publish := func(s *consul.Store, look bool) {
		t.Helper()
		require.NoError(t, s.Publish(t.Context(), all, look))
	}
	found := func(kind, filter string) []*api.ServiceEntry {
		t.Helper()
		list, _, err := c.Client().Health().Service("drover-"+kind, "", true, &api.QueryOptions{Filter: filter, RequireConsistent: true})
		require.NoError(t, err)
		return list
	}
	publish(s, false)
	if list := found("agent", `Service.Meta.drover_load_10 == "7" and "pool.fast" in Service.Tags`); len(list) != 1 || list[0].Service.Address != "10.0.0.7" || list[0].Service.Port != 9471 {
		t.Errorf("%+v", list)
	}
	if list := found("control", ""); len(list) != 1 || list[0].Service.Address != "c1.example" {
		t.Errorf("%+v", list)
	}
	// The raft index is not counted: Consul writes the coordinates of its nodes from time to time.
	written := func() [2]uint64 {
		t.Helper()
		q := &api.QueryOptions{RequireConsistent: true}
		_, services, err1 := c.Client().Catalog().Services(q)
		_, checks, err2 := c.Client().Health().State("any", q)
		require.NoError(t, errors.Join(err1, err2))
		return [2]uint64{services.LastIndex, checks.LastIndex}
	}
	before, sent := written(), s.Stats().Requests
	publish(s, false)
	if got := s.Stats().Requests; got != sent {
		t.Errorf("%d requests for entries that are published already", got-sent)
	}
	publish(s, true)
	other := open(c.Token) // another process does not know of it
	publish(other, false)
	if now := written(); now != before {
		t.Errorf("indexes %v, were %v: it writes what is there", now, before)
	}
	all[7].Alive, all[7].Note = false, "nothing is heard of it"
	all[8].Meta = map[string]string{"drover_load_10": "9.9"}
	publish(other, false)
	if list := found("agent", `Service.Meta.drover_load_10 == "9.9"`); len(list) != 1 || len(found("agent", "")) != 149 {
		t.Errorf("%+v", list)
	}
	require.NoError(t, s.Withdraw(t.Context(), "control", "10.0.1.1:9470"))
	assert.NoErrorf(t, s.Withdraw(t.Context(), "control", "10.0.1.1:9470"), "again")
	if len(found("control", "")) != 0 {
		t.Error("it is still published")
	}
	all = all[:1]
	publish(s, false)
	services, _, err := c.Client().Catalog().Services(nil)
	if _, there := services["consul"]; err != nil || len(services) != 2 || !there || len(found("agent", "")) != 1 {
		t.Errorf("%v, %v", services, err)
	}
	assert.NoErrorf(t, s.Renew(t.Context(), session), "a session was removed together with the services")
}

// Without the permission, the error says which one is missing and what to add to the policy. Nothing else is
// affected.
func TestCatalogWithoutTheRight(t *testing.T) {
	c := consultest.Start(t, consultest.Options{ACL: true})
	one := []store.Service{{Kind: "control", ID: "c1", Address: "10.0.0.1:9470", Alive: true}}
	for rules, want := range map[string]string{
		"": `lacks node:write on drover-services: give its policy node "drover-services" { policy = "write" } (all rights that it needs: node "drover-services" { policy = "write" } service "drover-control"`,
		`node "drover-services" { policy = "write" }`: `lacks service:write on drover-control: give its policy service "drover-control" { policy = "write" }`,
	} {
		s := openWith(t, consul.Options{Addresses: c.Addresses(), Prefix: "drover", Token: c.NewToken(consul.Policy("drover") + rules)})
		for range 2 {
			says(t, s.Publish(t.Context(), one, false), dataset.ErrForbidden, "", want)
		}
		says(t, s.Withdraw(t.Context(), "control", "c1"), dataset.ErrForbidden, "", "lacks service:write on ")
		assert.NoError(t, s.Check(t.Context()))
	}
	s := openWith(t, consul.Options{Addresses: c.Addresses(), Prefix: "drover", Token: c.Token})
	says(t, s.Publish(t.Context(), []store.Service{{Kind: "agent", ID: "a", Address: "nowhere"}}, false), dataset.ErrInvalid, "", `address "nowhere"`)
}

func TestDocsShowTheCatalogPolicy(t *testing.T) {
	text, err := os.ReadFile("../../../docs/consul.md")
	require.NoError(t, err)
	if !strings.Contains(string(text), "```hcl\n"+consul.CatalogPolicy("drover")+"```") {
		t.Errorf("docs/consul.md does not show\n%s", consul.CatalogPolicy("drover"))
	}
}

func kv(o api.KVTxnOp) *api.TxnOp { return &api.TxnOp{KV: &o} }

// The store relies on these facts about Consul. They are checked with the tested version, so that a change of one is
// noticed here.
func TestFactsAboutConsul(t *testing.T) {
	c := consultest.Start(t, consultest.Options{})
	client := c.Client()
	txn := func(ops ...*api.TxnOp) (bool, *api.TxnResponse) {
		t.Helper()
		ok, res, _, err := client.Txn().Txn(ops, nil)
		require.NoError(t, err)
		return ok, res
	}
	index := func(key string) uint64 {
		t.Helper()
		p, _, err := client.KV().Get(key, nil)
		require.NoError(t, err)
		if p == nil {
			return 0
		}
		return p.ModifyIndex
	}
	session := func() string {
		t.Helper()
		id, _, err := client.Session().CreateNoChecks(&api.SessionEntry{TTL: "60s", Behavior: "delete"}, nil)
		require.NoError(t, err)
		return id
	}

	t.Run("equal bytes do not move the index, equal bytes with other flags do", func(t *testing.T) {
		txn(kv(api.KVTxnOp{Verb: api.KVSet, Key: "a", Value: []byte("1"), Flags: 1}))
		was := index("a")
		txn(kv(api.KVTxnOp{Verb: api.KVSet, Key: "a", Value: []byte("1"), Flags: 1}))
		if index("a") != was {
			t.Error("the index moved")
		}
		txn(kv(api.KVTxnOp{Verb: api.KVSet, Key: "a", Value: []byte("1"), Flags: 2}))
		if index("a") == was {
			t.Error("the index did not move")
		}
	})
	t.Run("delete-cas takes an absent key for the right one", func(t *testing.T) {
		if ok, _ := txn(kv(api.KVTxnOp{Verb: api.KVDeleteCAS, Key: "never", Index: 5})); !ok {
			t.Error("it is refused: it could be used for checks now")
		}
	})
	t.Run("a set keeps the session of a key", func(t *testing.T) {
		id := session()
		txn(kv(api.KVTxnOp{Verb: api.KVLock, Key: "b", Session: id}))
		txn(kv(api.KVTxnOp{Verb: api.KVSet, Key: "b", Value: []byte("2")}))
		if p, _, err := client.KV().Get("b", nil); err != nil || p == nil || p.Session != id {
			t.Errorf("%+v, %v", p, err)
		}
	})
	t.Run("delete and lock in one transaction move a key to another session", func(t *testing.T) {
		one, two := session(), session()
		txn(kv(api.KVTxnOp{Verb: api.KVLock, Key: "c", Session: one}))
		if ok, _ := txn(kv(api.KVTxnOp{Verb: api.KVLock, Key: "c", Session: two})); ok {
			t.Error("a lock took a key from another session")
		}
		if ok, res := txn(kv(api.KVTxnOp{Verb: api.KVDelete, Key: "c"}), kv(api.KVTxnOp{Verb: api.KVLock, Key: "c", Session: two})); !ok {
			t.Errorf("%v", res.Errors)
		}
		if _, err := client.Session().Destroy(one, nil); err != nil || index("c") == 0 {
			t.Errorf("it went with the first session: %v", err)
		}
		if _, err := client.Session().Destroy(two, nil); err != nil || index("c") != 0 {
			t.Errorf("it stayed after the second: %v", err)
		}
	})
	t.Run("lock-delay binds lock, not set", func(t *testing.T) {
		id := session()
		txn(kv(api.KVTxnOp{Verb: api.KVLock, Key: "d", Session: id}))
		_, err := client.Session().Destroy(id, nil)
		require.NoError(t, err)
		if ok, res := txn(kv(api.KVTxnOp{Verb: api.KVLock, Key: "d", Session: session()})); ok || !strings.Contains(res.Errors[0].What, "lock delay") {
			t.Errorf("%v", res.Errors)
		}
		if ok, _ := txn(kv(api.KVTxnOp{Verb: api.KVCAS, Key: "d"})); !ok {
			t.Error("a compare and swap was refused")
		}
	})
	t.Run("129 operations are too many", func(t *testing.T) {
		var ops api.TxnOps
		for range 129 {
			ops = append(ops, kv(api.KVTxnOp{Verb: api.KVCheckNotExists, Key: "none"}))
		}
		_, _, _, err := client.Txn().Txn(ops[:128], nil)
		assert.NoError(t, err)
		if _, _, _, err := client.Txn().Txn(ops, nil); err == nil || !strings.Contains(err.Error(), "too many operations") {
			t.Error(err)
		}
	})
	t.Run("a restored snapshot brings old indexes back, and new ones are above all", func(t *testing.T) {
		txn(kv(api.KVTxnOp{Verb: api.KVSet, Key: "e", Value: []byte("old")}))
		old, snapshot := index("e"), c.Snapshot()
		txn(kv(api.KVTxnOp{Verb: api.KVSet, Key: "e", Value: []byte("new")}))
		last := index("e")
		c.Restore(snapshot)
		if index("e") != old {
			t.Errorf("index %d, was %d", index("e"), old)
		}
		txn(kv(api.KVTxnOp{Verb: api.KVSet, Key: "e", Value: []byte("newer")}))
		if index("e") <= last {
			t.Errorf("index %d after %d", index("e"), last)
		}
	})
}

// TestHealthNamesServersThatAreDown: with one of three servers down the store works and names that server; with two down
// it has no leader. Once they are back, it is healthy again.
func TestHealthNamesServersThatAreDown(t *testing.T) {
	c := consultest.Start(t, consultest.Options{Servers: 3})
	s := open(t, c, "p")
	await := func(what string, ok func(store.Health) bool) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(200 * time.Millisecond) { // Consul reports no change of its autopilot
			h := s.Health(t.Context())
			if ok(h) {
				return
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("%s: not reported within a minute: %+v", what, h)
			}
		}
	}
	down := func(h store.Health) (n int) {
		for _, is := range h.Servers {
			if !is.Healthy {
				n++
			}
		}
		return n
	}
	await("three healthy servers", func(h store.Health) bool {
		return h.Leader != "" && len(h.Servers) == 3 && down(h) == 0 && h.FailureTolerance == 1 && h.Problem == ""
	})
	c.Servers[0].Kill()
	await("a server that is down", func(h store.Health) bool {
		return h.Leader != "" && down(h) == 1 && h.FailureTolerance == 0 && h.Problem == ""
	})
	c.Servers[1].Kill()
	await("no leader", func(h store.Health) bool { return h.Problem != "" && h.Leader == "" })
	c.Servers[0].Start()
	c.Servers[1].Start()
	await("three healthy servers again", func(h store.Health) bool {
		return h.Leader != "" && len(h.Servers) == 3 && down(h) == 0
	})
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shortTTL is a store in a Consul that allows short sessions.
type shortTTL struct{ *consul.Store }

var _ storetest.ShortTTL = shortTTL{}

// TTL gives the suite some time between its steps on a busy machine.
func (shortTTL) TTL() time.Duration { return 3 * time.Second }

// open opens a store, which is closed after the test unless the test closes it.
func open(tb testing.TB, c *consultest.Cluster, prefix string) *consul.Store {
	tb.Helper()
	return openWith(tb, consul.Options{Addresses: c.Addresses(), Prefix: prefix, Token: c.Token})
}

func openWith(tb testing.TB, o consul.Options) *consul.Store {
	tb.Helper()
	o.Clock = clock.System{}
	s, err := consul.Open(o)
	require.NoError(tb, err)
	tb.Cleanup(func() {
		assert.NoError(tb, s.Close())
	})
	return s
}

func TestContract(t *testing.T) {
	c := consultest.Start(t, consultest.Options{})
	var n atomic.Int64
	storetest.Run(t, func(t *testing.T) store.Store {
		return shortTTL{open(t, c, fmt.Sprintf("t%d", n.Add(1)))}
	})
}

func put(tb testing.TB, s *consul.Store, key, value string) uint64 {
	tb.Helper()
	index, err := s.Txn(tb.Context(), nil, []store.Write{{Key: key, Value: []byte(value)}})
	require.NoError(tb, err)
	return index
}

func value(tb testing.TB, s *consul.Store, key string) string {
	tb.Helper()
	e, err := s.Get(tb.Context(), key)
	require.NoError(tb, err)
	return string(e.Value)
}

func policyOf(tb testing.TB, client *api.Client, rules string) *api.ACLPolicy {
	tb.Helper()
	p, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: "test", Rules: rules}, nil)
	require.NoError(tb, err)
	return p
}

// attachAnonymous gives a policy to callers without a token.
func attachAnonymous(tb testing.TB, client *api.Client, p *api.ACLPolicy) {
	tb.Helper()
	t := &api.ACLToken{AccessorID: "00000000-0000-0000-0000-000000000002", Policies: []*api.ACLTokenPolicyLink{{ID: p.ID}}}
	_, _, err := client.ACL().TokenUpdate(t, nil)
	require.NoError(tb, err)
}

func revoke(tb testing.TB, client *api.Client, secret string) {
	tb.Helper()
	t, _, err := client.ACL().TokenReadSelf(&api.QueryOptions{Token: secret})
	if err == nil {
		_, err = client.ACL().TokenDelete(t.AccessorID, nil)
	}
	require.NoError(tb, err)
}

func deregister(tb testing.TB, client *api.Client, node string) {
	tb.Helper()
	_, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: node}, nil)
	require.NoError(tb, err)
}
