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

// layout contains the keys and names under which a store keeps its data in Consul.
type layout struct {
	prefix   string
	data     string // prefix of every key
	rev      string // prefix of every shard
	format   string
	check    string // written by Check
	node     string // node in the catalog with the sessions
	services string // node in the catalog with the services
}

func newLayout(prefix string) layout {
	return layout{
		prefix: prefix, data: prefix + "/data/", rev: prefix + "/own/rev/",
		format: prefix + "/own/format", check: prefix + "/own/check",
		node: prefix + "-sessions", services: prefix + "-services",
	}
}

const (
	// shards is the number of rev keys besides allShards.
	shards = 64
	// allShards is the name of the rev key that the creation of the store writes, and each transaction that changes
	// more than maxShards shards.
	allShards = "all"
	// maxShards is the maximum number of rev keys that a transaction writes. Together with store.MaxOps that is 128,
	// the number of operations that Consul accepts.
	maxShards = 8
)

// shardOf returns the shard of a key, or of a prefix of more than one word. It depends only on the second word, which
// usually is a UUID, or on the only word. So the records of one dataset or node share a shard, whatever their first
// word is.
func shardOf(key string) int {
	word, rest, more := strings.Cut(key, "/")
	if more {
		word, _, _ = strings.Cut(rest, "/")
	}
	h := fnv.New32a()
	h.Write([]byte(word))
	return int(h.Sum32() % shards)
}

// oneShard returns the shard of all keys under a prefix, if they have the same one.
func oneShard(prefix string) (int, bool) {
	if strings.Count(prefix, "/") < 2 {
		return 0, false
	}
	return shardOf(prefix), true
}

func shardName(n int) string { return fmt.Sprintf("%02d", n) }

// changed returns the names of the rev keys that a transaction with these writes must also write.
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
		return []string{allShards}
	}
	return names
}

// newFlags returns flags that no earlier write had. Without new flags, Consul would ignore a set that repeats the
// current value (kvsSetTxn in agent/consul/state/kvs.go).
func newFlags() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func op(kv api.KVTxnOp) *api.TxnOp { return &api.TxnOp{KV: &kv} }

// consistentOptions returns the options of a read that sees everything that was committed before the read began.
func consistentOptions(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

// blockingOptions returns the options of a consistent read that waits until the index is above after.
func blockingOptions(ctx context.Context, after uint64) *api.QueryOptions {
	q := &api.QueryOptions{RequireConsistent: true, WaitIndex: after}
	if after > 0 {
		q.WaitTime = watchTime
	}
	return q.WithContext(ctx)
}

// The timeouts of calls.
const (
	dialTime = 3 * time.Second // for a connection and for the TLS handshake, each
	// answerTime is how long a server may take to begin its answer. It is longer than twice rpc_hold_timeout (7 s by
	// default): a server without a leader usually holds a request for that long. See hasNoLeader.
	answerTime = 15 * time.Second
	// silentTime is how long a request waits at least. An address that was silent for this time is no longer preferred.
	silentTime = time.Second
	watchTime  = 20 * time.Second // how long a blocking query waits for a change
)
