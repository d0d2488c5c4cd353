package consul

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
)

// layout holds where things are in Consul.
type layout struct {
	prefix   string
	data     string // before every key
	rev      string // before every shard
	format   string
	check    string // written by Check
	node     string // in the catalog, with the sessions
	services string // likewise, with the services
}

func newLayout(prefix string) layout {
	return layout{
		prefix: prefix, data: prefix + "/data/", rev: prefix + "/own/rev/",
		format: prefix + "/own/format", check: prefix + "/own/check",
		node: prefix + "-sessions", services: prefix + "-services",
	}
}

const (
	// shards is how many rev keys there are, beside everything.
	shards = 64
	// everything is the rev key of a transaction that changes more shards than
	// it can name, and of the store as it was made.
	everything = "all"
	// maxShards is how many a transaction names: with store.MaxOps it makes the
	// 128 operations that Consul takes.
	maxShards = 8
)

// shardOf returns the shard of a key or of a prefix of more than one word. It
// hangs on the second word alone, which mostly is a UUID: the records of one
// dataset, or of one node, share a shard, of all families.
func shardOf(key string) int {
	word, rest, more := strings.Cut(key, "/")
	if more {
		word, _, _ = strings.Cut(rest, "/")
	}
	h := fnv.New32a()
	h.Write([]byte(word))
	return int(h.Sum32() % shards)
}

// oneShard reports whether all keys under a prefix have one shard, and which.
func oneShard(prefix string) (int, bool) {
	if strings.Count(prefix, "/") < 2 {
		return 0, false
	}
	return shardOf(prefix), true
}

func shardName(n int) string { return fmt.Sprintf("%02d", n) }

// changed returns the names of the rev keys that a transaction writes.
func changed(writes []store.Write) []string {
	var seen [shards]bool
	var names []string
	for _, w := range writes {
		if n := shardOf(w.Key); !seen[n] {
			seen[n] = true
			names = append(names, shardName(n))
		}
	}
	if len(names) > maxShards {
		return []string{everything}
	}
	return names
}

// fresh returns flags that no write had before, so that Consul never treats a set as a repetition of the
// present value (agent/consul/state/kvs.go, kvsSetTxn).
func fresh() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func op(kv api.KVTxnOp) *api.TxnOp { return &api.TxnOp{KV: &kv} }

// consistent are the options of a read that sees everything that was committed
// before it.
func consistent(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

// blocking is the same, and waits until something has an index above after.
func blocking(ctx context.Context, after uint64) *api.QueryOptions {
	q := &api.QueryOptions{RequireConsistent: true, WaitIndex: after}
	if after > 0 {
		q.WaitTime = watchTime
	}
	return q.WithContext(ctx)
}

// The times of calls. A server without a leader holds a request for 7 s
// (rpc_hold_timeout) and the pause that it is in then, which mostly is twice that in
// all, see leaderless: one that says nothing for answerTime is away.
const (
	dialTime   = 3 * time.Second
	answerTime = 15 * time.Second
	silentTime = time.Second
	watchTime  = 20 * time.Second
)
