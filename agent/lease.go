package agent

import (
	"context"
	"encoding/json"
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

// leases says what keeps datasets whose home is this node from being opened here: the
// moves that recall them, as control last said, and the epochs that this node has given
// up. Those are on disk too, and hold whatever control says or does not say.
type leases struct {
	mu       sync.Mutex
	recalled map[uuid.UUID]recall
	given    map[uuid.UUID]yieldRecord
}

// recall is a move that wants a dataset.
type recall struct {
	move, to uuid.UUID
	epoch    uint64
}

func newLeases() *leases {
	return &leases{recalled: map[uuid.UUID]recall{}, given: map[uuid.UUID]yieldRecord{}}
}

// loadLeases reads which epochs were given up.
func (a *Agent) loadLeases(ctx context.Context) error {
	return a.DB.Each(ctx, "yields/", func(rest string, v []byte) error {
		id, err := uuid.Parse(rest)
		if err != nil {
			return err
		}
		var y yieldRecord
		if err := json.Unmarshal(v, &y); err != nil {
			return err
		}
		a.leases.given[id] = y
		return nil
	})
}

// hear takes in what control says of a dataset whose home is here, and reports whether
// it waits for an answer.
func (l *leases) hear(d api.Indexed) (asked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.Lease == nil || d.Lease.State == dataset.LeaseHeld {
		delete(l.recalled, d.ID)
	} else {
		l.recalled[d.ID] = recall{move: d.Move, to: d.Lease.Wanted, epoch: d.Lease.Epoch}
	}
	_, recalled := l.recalled[d.ID]
	_, given := l.given[d.ID]
	return recalled || given
}

// forget takes in that a dataset is not this node's any more.
func (l *leases) forget(id uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.recalled, id)
}

func (l *leases) recall(id uuid.UUID) (recall, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.recalled[id]
	return r, ok
}

func (l *leases) yielded(id uuid.UUID) (yieldRecord, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	y, ok := l.given[id]
	return y, ok
}

// open returns the datasets of which an answer may be due.
func (l *leases) open() []uuid.UUID {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make([]uuid.UUID, 0, len(l.recalled)+len(l.given))
	for id := range l.recalled {
		ids = append(ids, id)
	}
	for id := range l.given {
		if _, twice := l.recalled[id]; !twice {
			ids = append(ids, id)
		}
	}
	return ids
}

// setGiven puts on disk that an epoch is given up, and only then takes it in.
func (a *Agent) setGiven(ctx context.Context, id uuid.UUID, y yieldRecord) error {
	if err := a.DB.Put(ctx, map[string]any{"yields/" + id.String(): y}); err != nil {
		return err
	}
	a.leases.mu.Lock()
	defer a.leases.mu.Unlock()
	a.leases.given[id] = y
	return nil
}

// dropGiven forgets that an epoch was given up, first on disk.
func (a *Agent) dropGiven(ctx context.Context, id uuid.UUID) error {
	if _, given := a.leases.yielded(id); !given {
		return nil
	}
	if err := a.DB.Put(ctx, map[string]any{"yields/" + id.String(): nil}); err != nil {
		return err
	}
	a.leases.mu.Lock()
	defer a.leases.mu.Unlock()
	delete(a.leases.given, id)
	return nil
}

// keeps fails with ErrInUse when this node has given up the epoch that a dataset is at:
// nothing may open or change it here any more.
func (a *Agent) keeps(d dataset.Dataset, what string) error {
	if y, given := a.leases.yielded(d.ID); given && d.Epoch <= y.Epoch {
		return a.underway(d, what, y.Move, y.To)
	}
	return nil
}

// opens fails as keeps does, and while a move recalls a dataset: who uses it goes on,
// and nobody new begins.
func (a *Agent) opens(d dataset.Dataset, what string) error {
	if err := a.keeps(d, what); err != nil {
		return err
	}
	if r, asked := a.leases.recall(d.ID); asked && d.Epoch <= r.epoch {
		return a.underway(d, what, r.move, r.to)
	}
	return nil
}

func (a *Agent) underway(d dataset.Dataset, what string, move, to uuid.UUID) error {
	op := move.String()[:8]
	return dataset.Errorf(dataset.ErrInUse, "cannot %s volume %s here: it is being moved to node %s by operation %s (drover operation watch %s shows how far it is)", what, d.Volume, a.nodes.name(to), op, op)
}

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
	return d, a.opens(d, "mount")
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
