package agent

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

// nodes are the nodes of the flock as they were last seen.
type nodes struct {
	*host.Host
	session func() (renewed, ttl time.Duration) // see Agent.Standing

	mu     sync.Mutex
	seen   map[uuid.UUID]dataset.Node
	looked time.Duration      // when control was asked for them last
	missed map[uuid.UUID]bool // whose address was wanted since, and is not known

	saving sync.Mutex // held while saved, which the disk has, is compared and written
	saved  standingRecord
}

func newNodes(h *host.Host, session func() (renewed, ttl time.Duration)) *nodes {
	return &nodes{Host: h, session: session}
}

// name is what people call a node; its UUID where that was never heard.
func (n *nodes) name(id uuid.UUID) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if node, known := n.seen[id]; known {
		return node.Name
	}
	return id.String()
}

// address is where the agent of a node is asked; empty where that was never heard.
func (n *nodes) address(id uuid.UUID) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen[id].Address
}

func (n *nodes) knows(id uuid.UUID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, known := n.seen[id]
	return known || id == uuid.Nil
}

// misses takes in that the address of a node is wanted and not known, and reports whether
// that is new.
func (n *nodes) misses(id uuid.UUID) (first bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	first = !n.missed[id]
	if n.missed == nil {
		n.missed = map[uuid.UUID]bool{}
	}
	n.missed[id] = true
	return first
}

// look asks control which nodes there are.
func (n *nodes) look(ctx context.Context) error {
	list, err := n.Control.NodeList(ctx, "")
	if err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	seen := make(map[uuid.UUID]dataset.Node, len(list))
	for _, node := range list {
		seen[node.ID] = node.Node
	}
	n.mu.Lock()
	n.seen, n.missed = seen, nil
	n.mu.Unlock()
	return n.save(ctx)
}

// isAway reports whether control says that nothing is heard of a node. While control does not answer
// nobody says so.
func (n *nodes) isAway(ctx context.Context, node uuid.UUID) (bool, error) {
	list, err := n.Control.NodeList(ctx, "")
	if err != nil && !errors.Is(err, dataset.ErrUnavailable) {
		return false, fmt.Errorf("nodes: %w", err)
	}
	return slices.ContainsFunc(list, func(a api.Node) bool { return a.ID == node && !a.Live }), nil
}

// peer returns a node as control has it now. ErrNotFound.
func (n *nodes) peer(ctx context.Context, id uuid.UUID) (dataset.Node, error) {
	if err := n.look(ctx); err != nil {
		return dataset.Node{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	node, known := n.seen[id]
	if !known {
		return node, dataset.Errorf(dataset.ErrNotFound, "node %s is not on record", id)
	}
	return node, nil
}

// standingKey holds what is needed to ask other nodes for promises with control away.
const standingKey = "standing"

type standingRecord struct {
	TTL   dataset.Duration          `json:"ttl"` // of a session
	Nodes map[uuid.UUID]nodeAddress `json:"nodes"`
}

// nodeAddress is where a node's agent answers.
type nodeAddress struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// load reads the addresses from disk. It returns the TTL of the last session, or 0 if it is not known.
func (n *nodes) load(ctx context.Context) (ttl time.Duration, err error) {
	var r standingRecord
	if there, err := n.DB.Get(ctx, standingKey, &r); err != nil || !there {
		return 0, err
	}
	n.seen = make(map[uuid.UUID]dataset.Node, len(r.Nodes))
	for id, node := range r.Nodes {
		n.seen[id] = dataset.Node{ID: id, Name: node.Name, Address: node.Address}
	}
	n.saved = r
	return time.Duration(r.TTL), nil
}

// save puts it on disk where that says something else. Nodes come and go seldom.
func (n *nodes) save(ctx context.Context) error {
	_, ttl := n.session()
	if ttl == 0 {
		return nil // nobody is bounded in time, or nothing is known yet
	}
	n.saving.Lock()
	defer n.saving.Unlock()
	r := standingRecord{dataset.Duration(ttl), map[uuid.UUID]nodeAddress{}}
	n.mu.Lock()
	for id, node := range n.seen {
		r.Nodes[id] = nodeAddress{node.Name, node.Address}
	}
	n.mu.Unlock()
	if r.TTL == n.saved.TTL && maps.Equal(r.Nodes, n.saved.Nodes) {
		return nil
	}
	err := n.DB.Put(ctx, map[string]any{standingKey: r})
	if err == nil {
		n.saved = r
	}
	return err
}
