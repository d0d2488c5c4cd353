package control

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// seen is what agents' heartbeats said last; none of it is stored.
type seen struct {
	mu       sync.Mutex
	datasets map[uuid.UUID]map[uuid.UUID]dataset.DatasetStatus // node, dataset
	copies   map[uuid.UUID]map[uuid.UUID]heardCopy             // likewise
	pools    map[uuid.UUID]dataset.PoolStatus
	unmade   map[uuid.UUID][]api.Pool                     // node; without UUIDs
	progress map[uuid.UUID]map[uuid.UUID]dataset.Progress // node, operation
	distrust map[uuid.UUID]string                         // nodes that were heard: why they do not believe the store
	guards   map[uuid.UUID]bool                           // nodes whose guard answers
	clocks   map[uuid.UUID]heardClock                     // the nodes' own, when they were heard last
	last     map[uuid.UUID]time.Duration                  // when nodes were heard last, by the service's steady clock
}

// heardCopy is a copy, and when its node first said that it has all until then, by the
// service's steady clock.
type heardCopy struct {
	dataset.Copy
	at time.Duration
}

// heardClock is what a clock said, and when, by the service's steady one.
type heardClock struct {
	time.Time
	at time.Duration
}

func newSeen() seen {
	return seen{
		datasets: map[uuid.UUID]map[uuid.UUID]dataset.DatasetStatus{},
		copies:   map[uuid.UUID]map[uuid.UUID]heardCopy{},
		pools:    map[uuid.UUID]dataset.PoolStatus{},
		unmade:   map[uuid.UUID][]api.Pool{},
		progress: map[uuid.UUID]map[uuid.UUID]dataset.Progress{},
		distrust: map[uuid.UUID]string{},
		guards:   map[uuid.UUID]bool{},
		clocks:   map[uuid.UUID]heardClock{},
		last:     map[uuid.UUID]time.Duration{},
	}
}

// keep puts entries of a node with those that are remembered.
func keep[T any](all map[uuid.UUID]map[uuid.UUID]T, node uuid.UUID, list []T, of func(T) uuid.UUID) {
	if all[node] == nil {
		all[node] = make(map[uuid.UUID]T, len(list))
	}
	for _, v := range list {
		all[node][of(v)] = v
	}
}

// take takes in a heartbeat of a node, at a moment of the steady clock. It returns what is
// to be told of its pools, and the operations that got further. When that is more than is
// remembered of one node all of that is forgotten, as some of it may be long over:
// ErrConflict, and the node tells what it has. ErrInvalid when that is too much.
func (s *seen) take(node dataset.Node, h api.Heartbeat, now time.Duration) (warnings []api.Event, moved []uuid.UUID,
	err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	who := "node " + node.Name
	err = cmp.Or(within(who, len(s.datasets[node.ID])+len(h.Datasets), maxSeen, "datasets to remember"),
		within(who, len(s.copies[node.ID])+len(h.Copies), maxSeen, "copies to remember"))
	if err != nil {
		delete(s.datasets, node.ID)
		delete(s.copies, node.ID)
		if h.Whole {
			err = dataset.Errorf(dataset.ErrConflict, "%w: all is to be told", err)
		}
		return nil, nil, err
	}
	for _, p := range h.Pools {
		if !slices.Contains(node.Pools, p.ID) {
			continue // another node's to speak of, or not registered yet
		}
		if ev, warn := poolEvent(s.pools[p.ID], p); warn {
			ev.Node = node.Name
			warnings = append(warnings, ev)
		}
		s.pools[p.ID] = p
	}
	keep(s.datasets, node.ID, h.Datasets, func(d dataset.DatasetStatus) uuid.UUID { return d.ID })
	h.Copies = slices.DeleteFunc(h.Copies, func(c dataset.Copy) bool { return c.Node != node.ID })
	s.keepCopies(node.ID, h.Copies, now)
	s.unmade[node.ID] = nil
	for _, p := range h.Unmade {
		p.ID, p.Node, p.NodeName = uuid.Nil, node.ID, node.Name
		s.unmade[node.ID] = append(s.unmade[node.ID], p)
	}
	s.distrust[node.ID] = h.Distrust
	s.guards[node.ID], s.last[node.ID] = h.Guard, now
	if !h.Clock.IsZero() { // an older agent does not say it
		s.clocks[node.ID] = heardClock{h.Clock, now}
	}
	was, is := s.progress[node.ID], make(map[uuid.UUID]dataset.Progress, len(h.Operations))
	for _, op := range h.Operations {
		is[op.ID] = op.Progress
		if was[op.ID] != op.Progress {
			moved = append(moved, op.ID)
		}
	}
	s.progress[node.ID] = is
	return warnings, moved, nil
}

// believed reports whether a node was heard and believes the store.
func (s *seen) believed(node uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	why, heard := s.distrust[node]
	return heard && why == ""
}

// guarded reports whether a node's guard answered when the node was heard last.
func (s *seen) guarded(node uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.guards[node]
}

// clock is what a node's own clock said when the node was heard last; zero: not heard.
func (s *seen) clock(node uuid.UUID) heardClock {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clocks[node]
}

// ahead is by how much a copy is newer than its home's clock was when that was told, going
// by what it said when the home was heard last; 0: that is not known. A home that only
// control does not hear goes on, and the copy with it.
func (s *seen) ahead(home uuid.UUID, c dataset.Copy, now time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	clock, heard := s.clocks[home]
	if !heard {
		return 0
	}
	if last := s.copies[c.Node][c.Dataset]; last.Current.Equal(c.Current) {
		now = last.at
	}
	return c.Current.Sub(clock.Time) - max(now-clock.at, 0)
}

// heard reports whether a node told something of itself since this service started.
func (s *seen) heard(node uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, heard := s.distrust[node]
	return heard
}

// silence is for how long nothing was heard of a node that was heard before.
func (s *seen) silence(node uuid.UUID, now time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now - s.last[node]
}

// halted fails with ErrConflict while a node that was heard does not believe the store.
func (s *seen) halted() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var h record.Halt
	for node, why := range s.distrust {
		if why != "" {
			h.Nodes = map[uuid.UUID]string{node: why}
			return h.Err()
		}
	}
	return nil
}

// trust returns why a node did not believe the store when it was heard last.
func (s *seen) trust(node uuid.UUID) (why string, heard bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	why, heard = s.distrust[node]
	return why, heard
}

func (s *seen) pool(id uuid.UUID) *dataset.PoolStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.pools[id]; ok {
		return &st
	}
	return nil
}

// unmadePools are the pools that nodes are configured with and could not make.
func (s *seen) unmadePools() (all []api.Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range s.unmade {
		all = append(all, list...)
	}
	slices.SortFunc(all, func(x, y api.Pool) int {
		return cmp.Or(cmp.Compare(x.NodeName, y.NodeName), cmp.Compare(x.Name, y.Name))
	})
	return all
}

// dataset is what its home sees of a dataset; what others say of it counts for nothing.
func (s *seen) dataset(id, home uuid.UUID) *dataset.DatasetStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.datasets[home][id]; ok {
		return &st
	}
	return nil
}

// ids are those of the datasets of which some node said something.
func (s *seen) ids() []uuid.UUID {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[uuid.UUID]bool{}
	for _, of := range s.datasets {
		for id := range of {
			all[id] = true
		}
	}
	return slices.Collect(maps.Keys(all))
}

// forget forgets what nodes saw of a dataset that is no more.
func (s *seen) forget(id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.datasets {
		delete(of, id)
	}
}

// forgetFrom forgets what a node saw of a dataset that is not its own any more.
func (s *seen) forgetFrom(node, id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.datasets[node], id)
}

// copied takes in what a node says of a copy, at a moment of the steady clock.
func (s *seen) copied(c dataset.Copy, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keepCopies(c.Node, []dataset.Copy{c}, now)
}

func (s *seen) keepCopies(node uuid.UUID, list []dataset.Copy, now time.Duration) {
	heard := make([]heardCopy, 0, len(list))
	for _, c := range list {
		at := now
		if was, known := s.copies[node][c.Dataset]; known && was.Current.Equal(c.Current) {
			at = was.at
		}
		heard = append(heard, heardCopy{c, at})
	}
	keep(s.copies, node, heard, func(c heardCopy) uuid.UUID { return c.Dataset })
}

func (s *seen) copy(node, id uuid.UUID) (dataset.Copy, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.copies[node][id]
	return c.Copy, ok
}

func (s *seen) forgetCopy(node, id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.copies[node], id)
}

// withProgress returns an operation with how far its agent said that it is.
func (s *seen) withProgress(op dataset.Operation) dataset.Operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.progress[op.Node][op.ID]; ok && !op.State.Final() {
		op.Progress = p
	}
	return op
}

// fullAt is the share of a pool, in percent, from which on people are warned.
const fullAt = 80

func usedPercent(p dataset.PoolStatus) float64 {
	if p.Size <= 0 {
		return 0
	}
	return float64(p.Size-p.Free) * 100 / float64(p.Size)
}

// poolEvent says whether a pool filled up, went away or came back. Pure.
func poolEvent(was, is dataset.PoolStatus) (ev api.Event, tell bool) {
	known := was.ID != uuid.Nil
	switch {
	case is.Held && !was.Held:
		ev.Type, ev.Detail = "pool.held", is.Reason
	case !is.Online && (was.Online || !known):
		ev.Type, ev.Detail = "pool.offline", is.Reason
	case known && !was.Online && is.Online:
		ev.Type, ev.Detail = "pool.online", is.Reason
	case is.Online && usedPercent(was) < fullAt && usedPercent(is) >= fullAt:
		ev.Type, ev.Detail = "pool.full", is.Free.Human()+" free of "+is.Size.Human()
	default:
		return ev, false
	}
	ev.Labels = map[string]string{"pool": is.ID.String()}
	return ev, true
}
