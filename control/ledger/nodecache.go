package ledger

import (
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// RecalledFor is how long a node's record is assumed to be unchanged: a little longer than its agent is silent.
const RecalledFor = 15 * time.Second

// NodeCache has the records of nodes as this service last saw them in the store. If a decision uses one instead of
// reading it, the commit checks that it has not changed: see record.Tx.Suppose.
type NodeCache struct {
	ReadClock clock.Clock

	mu sync.Mutex
	of map[string]recall
}

type recall struct {
	Entry store.Entry
	at    time.Duration // by the steady clock
}

// Note remembers a transaction's record of a node. It was true at some time after began.
func (r *NodeCache) Note(t *record.Tx, node uuid.UUID, began time.Duration) {
	e := t.Entry(record.NodeKey(node))
	if e.Index == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of[e.Key] = recall{e, began}
}

// drop removes the nodes that a transaction writes.
func (r *NodeCache) drop(writes []store.Write) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range writes {
		if strings.HasPrefix(w.Key, record.NodesPrefix) {
			delete(r.of, w.Key)
		}
	}
}

// dropAll removes all nodes: the store was restored from a backup, and may give out an index a second time.
func (r *NodeCache) dropAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.of)
}

// Entry returns the entry of a node for record.Tx.Suppose; false if none is known, or it is too old.
func (r *NodeCache) Entry(node uuid.UUID) (store.Entry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.of[record.NodeKey(node)]
	return known.Entry, ok && r.ReadClock.Steady()-known.at < RecalledFor
}

// Node returns a record of a node that may be a few seconds old.
func (r *NodeCache) Node(id uuid.UUID) (n dataset.Node, ok bool) {
	e, ok := r.Entry(id)
	return n, ok && record.Decode(e.Key, e.Value, &n) == nil
}
