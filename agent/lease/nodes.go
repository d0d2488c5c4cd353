package lease

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Nodes has the names and addresses of the other nodes of the cluster. The addresses are also on disk, so that a
// restarted agent can ask other nodes for promises while control is unreachable. mu protects seen, refreshed and
// missing. No request is sent while mu is held.
type Nodes struct {
	*Leases

	mu        sync.Mutex
	seen      map[uuid.UUID]dataset.Node
	refreshed time.Duration      // when refreshIfDue asked control last, by the steady clock
	missing   map[uuid.UUID]bool // nodes whose address was needed since the last Refresh and is unknown

	saving sync.Mutex  // held while saved is compared and written
	saved  nodesRecord // the record on disk
}

// Name returns the name of a node, or its UUID if the name is unknown.
func (n *Nodes) Name(id uuid.UUID) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if node, known := n.seen[id]; known {
		return node.Name
	}
	return id.String()
}

// Address returns the address of a node's agent, or "" if it is unknown.
func (n *Nodes) Address(id uuid.UUID) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen[id].Address
}

// Knows reports whether the name of a node is known. It returns true for uuid.Nil.
func (n *Nodes) Knows(id uuid.UUID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, known := n.seen[id]
	return known || id == uuid.Nil
}

// setMissing records that the address of a node was needed and is unknown. It reports whether this is the first time
// since the last Refresh, so that the caller logs it once.
func (n *Nodes) setMissing(id uuid.UUID) (first bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	first = !n.missing[id]
	if n.missing == nil {
		n.missing = map[uuid.UUID]bool{}
	}
	n.missing[id] = true
	return first
}

// Refresh reads the list of nodes from control, and writes it to disk if it has changed.
func (n *Nodes) Refresh(ctx context.Context) error {
	list, err := n.Control.NodeList(ctx, "")
	if err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	seen := make(map[uuid.UUID]dataset.Node, len(list))
	for _, node := range list {
		seen[node.ID] = node.Node
	}
	n.mu.Lock()
	n.seen, n.missing = seen, nil
	n.mu.Unlock()
	return n.save(ctx)
}

// refreshPause is the minimum time between two reads of the list of nodes, if all needed addresses are known.
const refreshPause = time.Minute

// refreshIfDue starts a job that calls Refresh if the last read of the list is old enough. It does nothing if promisers
// is empty. The addresses of the promisers are needed once control is unreachable, and they can change, so the list is
// read again and again. The minimum age is ttl if the address of one of these nodes is unknown. Otherwise it is
// refreshPause, or one second for each node in a large cluster, so that all agents together send about one request a
// second.
func (n *Nodes) refreshIfDue(promisers []uuid.UUID, ttl time.Duration) {
	now := n.Clock.Steady()
	n.mu.Lock()
	age := now - n.refreshed
	due := len(promisers) > 0 && age >= max(refreshPause, time.Duration(len(n.seen))*time.Second)
	for _, node := range promisers {
		due = due || n.seen[node].Address == "" && age >= ttl
	}
	if due {
		n.refreshed = now
	}
	n.mu.Unlock()
	if due {
		n.Jobs.Start("nodes", func(ctx context.Context, _ *host.Job) error {
			if err := n.Refresh(ctx); err != nil && ctx.Err() == nil {
				n.Log.WithError(err).Warn("cannot get the addresses of other nodes from control, retrying")
			}
			return nil
		})
	}
}

// IsUnreachable reports whether control counts a node as unreachable. If control does not answer or does not know the
// node, IsUnreachable returns false and no error.
func (n *Nodes) IsUnreachable(ctx context.Context, node uuid.UUID) (bool, error) {
	list, err := n.Control.NodeList(ctx, "")
	if err != nil && !errors.Is(err, dataset.ErrUnavailable) {
		return false, fmt.Errorf("nodes: %w", err)
	}
	return slices.ContainsFunc(list, func(a api.Node) bool { return a.ID == node && !a.Live }), nil
}

// Peer reads the list of nodes from control and returns one of them. It fails with ErrNotFound if control has no
// record of the node.
func (n *Nodes) Peer(ctx context.Context, id uuid.UUID) (dataset.Node, error) {
	if err := n.Refresh(ctx); err != nil {
		return dataset.Node{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	node, known := n.seen[id]
	if !known {
		return node, dataset.Errorf(dataset.ErrNotFound, "no such node: %s", id)
	}
	return node, nil
}

// nodesKey is the key of the record that a restarted agent needs to ask other nodes for promises while control
// is unreachable.
const nodesKey = "standing"

type nodesRecord struct {
	TTL   dataset.Duration          `json:"ttl"` // of this node's session with control
	Nodes map[uuid.UUID]nodeAddress `json:"nodes"`
}

// nodeAddress is the name of a node and the address of its agent.
type nodeAddress struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// load reads the addresses from disk. It returns the TTL of the last session, or 0 if it is not known.
func (n *Nodes) load(ctx context.Context) (ttl time.Duration, err error) {
	var r nodesRecord
	if there, err := n.DB.Get(ctx, nodesKey, &r); err != nil || !there {
		return 0, err
	}
	n.seen = make(map[uuid.UUID]dataset.Node, len(r.Nodes))
	for id, node := range r.Nodes {
		n.seen[id] = dataset.Node{ID: id, Name: node.Name, Address: node.Address}
	}
	n.saved = r
	return time.Duration(r.TTL), nil
}

// save writes the TTL and the addresses to disk if they have changed, which is rare. It writes nothing if this node has
// no session.
func (n *Nodes) save(ctx context.Context) error {
	_, ttl := n.Deadlines.Session()
	if ttl == 0 {
		return nil // no lease is bounded in time, or control has not answered yet
	}
	n.saving.Lock()
	defer n.saving.Unlock()
	r := nodesRecord{dataset.Duration(ttl), map[uuid.UUID]nodeAddress{}}
	n.mu.Lock()
	for id, node := range n.seen {
		r.Nodes[id] = nodeAddress{node.Name, node.Address}
	}
	n.mu.Unlock()
	if r.TTL == n.saved.TTL && maps.Equal(r.Nodes, n.saved.Nodes) {
		return nil
	}
	err := n.DB.Put(ctx, map[string]any{nodesKey: r})
	if err == nil {
		n.saved = r
	}
	return err
}
