package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// opened returns the record of a dataset as it is known now, for what waited for its
// lock meanwhile. It fails when the dataset may not be mounted here for another user.
func (a *Agent) opened(d dataset.Dataset) (dataset.Dataset, error) {
	now, known := a.Cache.Dataset(d.ID)
	if known {
		d = now
	} else if g, guest := a.guests.get(d.ID); guest && g.State == dataset.StateReady {
		return g.Dataset, a.guests.open(g.Dataset)
	}
	switch _, left := a.Cache.Copy(d.ID); {
	case left || d.Home != a.NodeID:
		return d, dataset.Errorf(dataset.ErrConflict, "volume %s went to another node meanwhile: ask again", d.Volume)
	case d.State != dataset.StateReady:
		return d, dataset.Errorf(dataset.ErrNotFound, "volume %s was deleted", d.Volume)
	}
	if err := a.pools.Free(d.Pool); err != nil {
		return d, fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	return d, a.leases.MayOpen(d, "mount")
}

// freed has those look again who wait until a dataset is not mounted any more.
func (a *Agent) freed(id uuid.UUID) {
	a.yieldIfAsked(id)
	if _, left := a.Cache.Copy(id); left {
		a.copySoon(id)
	}
	if _, guest := a.guests.get(id); guest {
		a.guestSoon(id, uuid.Nil)
	}
}

// nodes are the nodes of the flock as they were last seen.
type nodes struct {
	mu     sync.Mutex
	seen   map[uuid.UUID]dataset.Node
	looked time.Duration      // when control was asked for them last
	missed map[uuid.UUID]bool // whose address was wanted since, and is not known

	saving sync.Mutex // held while saved, which the disk has, is compared and written
	saved  standingRecord
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

// lookAgain is for how long at least what is known of the other nodes is taken for so.
const lookAgain = time.Minute

// keepAddresses has control asked, while it answers, where the nodes are whose promises
// would be needed: at once of one that is not known, and now and then of all, as they move.
// All agents together so ask about once a second in a large flock.
func (a *Agent) keepAddresses(list []dataset.Dataset, ttl time.Duration) {
	promisers, now, n := a.promisers(list), a.Clock.Steady(), &a.nodes
	n.mu.Lock()
	age := now - n.looked
	due := len(promisers) > 0 && age >= max(lookAgain, time.Duration(len(n.seen))*time.Second)
	for node := range promisers {
		due = due || n.seen[node].Address == "" && age >= ttl
	}
	if due {
		n.looked = now
	}
	n.mu.Unlock()
	if due {
		a.Jobs.Start("nodes", func(ctx context.Context, _ *jobs.Job) error {
			if err := a.lookNodes(ctx); err != nil && ctx.Err() == nil {
				a.Log.WithError(err).Warn("control was not asked where other nodes are; it is asked again")
			}
			return nil
		})
	}
}

// lookNodes asks control which nodes there are.
func (a *Agent) lookNodes(ctx context.Context) error {
	list, err := a.Control.NodeList(ctx, "")
	if err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	seen := make(map[uuid.UUID]dataset.Node, len(list))
	for _, n := range list {
		seen[n.ID] = n.Node
	}
	a.nodes.mu.Lock()
	a.nodes.seen, a.nodes.missed = seen, nil
	a.nodes.mu.Unlock()
	return a.saveStanding(ctx)
}

// isAway reports whether control says that nothing is heard of a node. While control does not answer
// nobody says so.
func (a *Agent) isAway(ctx context.Context, node uuid.UUID) (bool, error) {
	list, err := a.Control.NodeList(ctx, "")
	if err != nil && !errors.Is(err, dataset.ErrUnavailable) {
		return false, fmt.Errorf("nodes: %w", err)
	}
	return slices.ContainsFunc(list, func(n api.Node) bool { return n.ID == node && !n.Live }), nil
}

// peer returns a node as control has it now. ErrNotFound.
func (a *Agent) peer(ctx context.Context, id uuid.UUID) (dataset.Node, error) {
	if err := a.lookNodes(ctx); err != nil {
		return dataset.Node{}, err
	}
	a.nodes.mu.Lock()
	defer a.nodes.mu.Unlock()
	n, known := a.nodes.seen[id]
	if !known {
		return n, dataset.Errorf(dataset.ErrNotFound, "node %s is not on record", id)
	}
	return n, nil
}
