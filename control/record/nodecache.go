package record

import (
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// NodeCacheTTL is how long a cached record of a node is used. It is a little longer than the time between two reports
// of an agent.
const NodeCacheTTL = 15 * time.Second

// NodeCache has the records of nodes as this service last saw them in the store. A decision can use a cached record
// instead of reading it. Then the commit checks that the record has not changed: see Tx.UseCached.
type NodeCache struct {
	clock clock.Clock

	mu    sync.Mutex
	nodes map[string]cachedNode
}

type cachedNode struct {
	entry store.Entry
	at    time.Duration // by the steady clock
}

// Remember caches the record of a node that a transaction has read. began is when the transaction began. The age of the
// cached record is counted from began, because the transaction may have read the record at any time since then.
func (r *NodeCache) Remember(t *Tx, node uuid.UUID, began time.Duration) {
	e := t.Entry(NodeKey(node))
	if e.Index == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[e.Key] = cachedNode{e, began}
}

// drop removes the nodes that a transaction writes.
func (r *NodeCache) drop(writes []store.Write) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range writes {
		if strings.HasPrefix(w.Key, NodesPrefix) {
			delete(r.nodes, w.Key)
		}
	}
}

// dropAll removes all nodes. It is called when the store was restored from a backup: such a store may give out an
// index a second time, so the check of an index proves nothing.
func (r *NodeCache) dropAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.nodes)
}

// Entry returns the cached entry of a node, for Tx.UseCached. It returns false if the node is not cached, or
// if its entry is too old.
func (r *NodeCache) Entry(node uuid.UUID) (store.Entry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.nodes[NodeKey(node)]
	return known.entry, ok && r.clock.Steady()-known.at < NodeCacheTTL
}

// Node returns a record of a node that may be a few seconds old.
func (r *NodeCache) Node(id uuid.UUID) (n dataset.Node, ok bool) {
	e, ok := r.Entry(id)
	return n, ok && Decode(e.Key, e.Value, &n) == nil
}
