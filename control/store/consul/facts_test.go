package consul_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	consultest "github.com/droverhq/drover/test/consul"
)

func kv(o api.KVTxnOp) *api.TxnOp { return &api.TxnOp{KV: &o} }

// The store relies on these facts about Consul. They are checked with the tested version, so that a change of one is
// noticed here.
func TestFactsAboutConsul(t *testing.T) {
	c := consultest.Start(t, consultest.Options{})
	client := c.Client()
	txn := func(ops ...*api.TxnOp) (bool, *api.TxnResponse) {
		t.Helper()
		ok, res, _, err := client.Txn().Txn(ops, nil)
		if err != nil {
			t.Fatal(err)
		}
		return ok, res
	}
	index := func(key string) uint64 {
		t.Helper()
		p, _, err := client.KV().Get(key, nil)
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			return 0
		}
		return p.ModifyIndex
	}
	session := func() string {
		t.Helper()
		id, _, err := client.Session().CreateNoChecks(&api.SessionEntry{TTL: "60s", Behavior: "delete"}, nil)
		if err != nil {
			t.Fatal(err)
		}
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
		if _, err := client.Session().Destroy(id, nil); err != nil {
			t.Fatal(err)
		}
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
		if _, _, _, err := client.Txn().Txn(ops[:128], nil); err != nil {
			t.Error(err)
		}
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
