// Package reports keeps the last reports of agents, and checks what a report may contain.
//
// Latest has the heartbeats of all nodes in memory, under its own mutex. It is not stored: after a restart the agents
// report everything again. The functions named Check limit the size of a report, because the certificate of a node may
// be stolen. For the same reason Profiles decides whether control may record a profile that a node reports: it compares
// the profile with profiles.yaml and with the records, and keeps no state.
//
// A new kind of report gets a field in nodeReport and a limit in bounds.go. Events about pools are made in pools.go
// (poolEvent). If another setting of a profile becomes dangerous on other nodes, add it to Check and WithKnownSettings
// (vetting.go).
package reports

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

// Latest is what agents reported with their last heartbeats. None of it is stored. Safe for concurrent use.
type Latest struct {
	mu          sync.Mutex
	datasets    map[uuid.UUID]map[uuid.UUID]dataset.DatasetStatus // by node, then by dataset
	moved       map[uuid.UUID]movedDataset                        // by dataset; until the new home reports it
	copies      map[uuid.UUID]map[uuid.UUID]reportedCopy          // by node, then by dataset
	pools       map[uuid.UUID]dataset.PoolStatus
	reporters   map[uuid.UUID]uuid.UUID                      // by pool: the node that reported it last
	failedPools map[uuid.UUID][]api.Pool                     // by node; without UUIDs
	Progress    map[uuid.UUID]map[uuid.UUID]dataset.Progress // by node, then by operation
	distrust    map[uuid.UUID]string                         // why nodes do not trust the store, "" if they do
	guards      map[uuid.UUID]bool                           // nodes whose guard answers
	clocks      map[uuid.UUID]ReportedClock                  // the clocks of nodes at their last heartbeats
	lastReport  map[uuid.UUID]time.Duration                  // when nodes sent the last heartbeat, by the steady clock
	found       map[uuid.UUID]*api.NodeFindings              // what agents found on their hosts; never changed
	fullness    map[uuid.UUID]dataset.Fullness               // datasets with little space left
	// poolFullness has how full pools are, with a margin: see dataset.PoolStatus.FullnessAfter.
	poolFullness map[uuid.UUID]dataset.Fullness
}

// movedDataset is what the previous home of a dataset reported of its data.
type movedDataset struct {
	to uuid.UUID // the new home
	dataset.DatasetStatus
}

// ReportedClock is a reading of a clock, and when it was read, by the service's steady clock.
type ReportedClock struct {
	time.Time
	At time.Duration
}

// New returns a Latest without reports.
func New() *Latest {
	return &Latest{
		datasets:    map[uuid.UUID]map[uuid.UUID]dataset.DatasetStatus{},
		moved:       map[uuid.UUID]movedDataset{},
		copies:      map[uuid.UUID]map[uuid.UUID]reportedCopy{},
		pools:       map[uuid.UUID]dataset.PoolStatus{},
		reporters:   map[uuid.UUID]uuid.UUID{},
		failedPools: map[uuid.UUID][]api.Pool{},
		Progress:    map[uuid.UUID]map[uuid.UUID]dataset.Progress{},
		distrust:    map[uuid.UUID]string{},
		guards:      map[uuid.UUID]bool{},
		clocks:      map[uuid.UUID]ReportedClock{},
		lastReport:  map[uuid.UUID]time.Duration{},
		found:       map[uuid.UUID]*api.NodeFindings{},
		fullness:    map[uuid.UUID]dataset.Fullness{},

		poolFullness: map[uuid.UUID]dataset.Fullness{},
	}
}

// merge merges entries of a node with those that are remembered.
func merge[T any](all map[uuid.UUID]map[uuid.UUID]T, node uuid.UUID, list []T, of func(T) uuid.UUID) {
	if all[node] == nil {
		all[node] = make(map[uuid.UUID]T, len(list))
	}
	for _, v := range list {
		all[node][of(v)] = v
	}
}

// Changes are the differences between a heartbeat and the earlier ones.
type Changes struct {
	Events   []api.Event             // about the node's pools, without a time
	Advanced []uuid.UUID             // operations that made progress
	Fullness []dataset.DatasetStatus // of datasets that became full, nearly full, or neither
}

// RecordHeartbeat records a heartbeat of a node. now is the time by the steady clock.
//
// If the node would then have more than MaxRemembered datasets or copies, RecordHeartbeat forgets all of them and
// fails, because some of those that it remembers may no longer exist. For an incremental heartbeat it fails with
// dataset.ErrConflict, and the node sends a full one. For a full heartbeat it fails with ErrInvalid.
func (s *Latest) RecordHeartbeat(node dataset.Node, h api.Heartbeat, now time.Duration) (Changes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out Changes
	who := "node " + node.Name
	err := cmp.Or(CheckCount(who, len(s.datasets[node.ID])+len(h.Datasets), MaxRemembered, "datasets to remember"),
		CheckCount(who, len(s.copies[node.ID])+len(h.Copies), MaxRemembered, "copies to remember"))
	if err != nil {
		delete(s.datasets, node.ID)
		delete(s.copies, node.ID)
		if h.Incremental {
			err = dataset.Errorf(dataset.ErrConflict, "%w: a full report is needed", err)
		}
		return out, err
	}
	for _, p := range h.Pools {
		if !slices.Contains(node.Pools, p.ID) {
			continue // the pool belongs to another node, or is not registered yet
		}
		full := s.poolFullness[p.ID]
		if ev, warn := poolEvent(s.pools[p.ID], p, full); warn {
			ev.Node = node.Name
			out.Events = append(out.Events, ev)
		}
		s.poolFullness[p.ID] = p.FullnessAfter(full)
		s.pools[p.ID], s.reporters[p.ID] = p, node.ID
	}
	out.Fullness = s.recordFullness(h.Datasets)
	merge(s.datasets, node.ID, h.Datasets, func(d dataset.DatasetStatus) uuid.UUID { return d.ID })
	for _, d := range h.Datasets {
		if m, ok := s.moved[d.ID]; ok && m.to == node.ID {
			delete(s.moved, d.ID)
		}
	}
	h.Copies = slices.DeleteFunc(h.Copies, func(c dataset.Copy) bool { return c.Node != node.ID })
	s.mergeCopies(node.ID, h.Copies, now)
	s.failedPools[node.ID] = nil
	for _, p := range h.FailedPools {
		p.ID, p.Node, p.NodeName = uuid.Nil, node.ID, node.Name
		s.failedPools[node.ID] = append(s.failedPools[node.ID], p)
	}
	s.distrust[node.ID] = h.StoreDoubt
	s.guards[node.ID], s.lastReport[node.ID] = h.GuardRunning, now
	if h.Found != nil {
		s.found[node.ID] = h.Found
	}
	if !h.NodeTime.IsZero() {
		s.clocks[node.ID] = ReportedClock{h.NodeTime, now}
	}
	was, is := s.Progress[node.ID], make(map[uuid.UUID]dataset.Progress, len(h.Operations))
	for _, op := range h.Operations {
		is[op.ID] = op.Progress
		if was[op.ID] != op.Progress {
			out.Advanced = append(out.Advanced, op.ID)
		}
	}
	s.Progress[node.ID] = is
	return out, nil
}

// RecordDataset records the status of a dataset that a node has just made. If the node has already reported a status of
// the dataset, that status stays: it is the later one, because the report of an operation can be repeated.
// RecordDataset also does nothing if MaxRemembered datasets of the node are remembered already. The next heartbeat of
// the node is then refused with the reason.
func (s *Latest) RecordDataset(node uuid.UUID, st dataset.DatasetStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, reported := s.datasets[node][st.ID]; !reported && len(s.datasets[node]) < MaxRemembered {
		merge(s.datasets, node, []dataset.DatasetStatus{st}, func(d dataset.DatasetStatus) uuid.UUID { return d.ID })
	}
}

// RecordMoved notes that a dataset has moved. Until the new home reports the dataset, Shown returns what the previous
// home reported of its data.
func (s *Latest) RecordMoved(id, from, to uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, known := s.datasets[from][id]
	if m := s.moved[id]; !known && m.to == from {
		st, known = m.DatasetStatus, true // it moved twice in a moment
	}
	if !known || len(s.moved) >= MaxRemembered {
		delete(s.moved, id)
		return
	}
	s.moved[id] = movedDataset{to, dataset.DatasetStatus{
		ID: id, Used: st.Used, InPool: st.InPool, Usage: st.Usage, Fullness: st.Fullness,
	}}
}

// Shown returns the status of a dataset to show to users. Unlike the status that Dataset returns, it may be that of the
// data at the previous home, and so it does not prove that the home can use the dataset.
func (s *Latest) Shown(id, home uuid.UUID) *dataset.DatasetStatus {
	if st := s.Dataset(id, home); st != nil {
		return st
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.moved[id]; ok && m.to == home {
		return &m.DatasetStatus
	}
	return nil
}

// recordFullness records how full datasets are, and returns those whose state has changed. A dataset whose usage is not
// known keeps its state: its node has restarted. After a restart of this service each full dataset counts as changed,
// because it may have become full meanwhile.
func (s *Latest) recordFullness(list []dataset.DatasetStatus) (changed []dataset.DatasetStatus) {
	for _, st := range list {
		was, remembered := s.fullness[st.ID]
		if st.Usage == nil || was == st.Fullness || !remembered && len(s.fullness) >= MaxRemembered {
			continue
		}
		if s.fullness[st.ID] = st.Fullness; st.Fullness == dataset.NotFull {
			delete(s.fullness, st.ID)
		}
		changed = append(changed, st)
	}
	return changed
}

// Trusts reports whether a node has sent a heartbeat and trusts the store.
func (s *Latest) Trusts(node uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	why, heard := s.distrust[node]
	return heard && why == ""
}

// HasGuard reports whether a node's guard answered at the node's last heartbeat.
func (s *Latest) HasGuard(node uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.guards[node]
}

// Clock returns a node's own clock at its last heartbeat. Without a heartbeat, it returns zero.
func (s *Latest) Clock(node uuid.UUID) ReportedClock {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clocks[node]
}

// HasReported reports whether a node has reported since this service started.
func (s *Latest) HasReported(node uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, heard := s.distrust[node]
	return heard
}

// Found returns the findings of a node's agent about its host, or nil if the agent has not reported them. The caller
// must not change the result.
func (s *Latest) Found(node uuid.UUID) *api.NodeFindings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found[node]
}

// Silence returns how long ago a node sent its last heartbeat. The result has no meaning for a node that has sent none:
// see HasReported.
func (s *Latest) Silence(node uuid.UUID, now time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now - s.lastReport[node]
}

// MaxSilence is how old the last report of a node may be. Agents report every ten seconds, and a report can be late by
// several seconds if a disk answers slowly. Without this limit, a silent node would be shown only when its session has
// ended, which takes up to 28 seconds.
const MaxSilence = 18 * time.Second

// IsSilent reports whether the last report of a node is older than MaxSilence. It returns false if the node has not
// reported since this service started.
func (s *Latest) IsSilent(node uuid.UUID, now time.Duration) bool {
	return s.HasReported(node) && s.Silence(node, now) > MaxSilence
}

// CheckTrust fails with dataset.ErrConflict while a node does not trust the store, according to its last heartbeat.
func (s *Latest) CheckTrust() error {
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

// Distrust returns why a node did not trust the store at its last heartbeat.
func (s *Latest) Distrust(node uuid.UUID) (why string, heard bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	why, heard = s.distrust[node]
	return why, heard
}

// Dataset returns the status of a dataset that its home has reported. Reports of other nodes do not count.
func (s *Latest) Dataset(id, home uuid.UUID) *dataset.DatasetStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.datasets[home][id]; ok {
		return &st
	}
	return nil
}

// Datasets returns the datasets that some node reported.
func (s *Latest) Datasets() []uuid.UUID {
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

// ForgetDataset drops reports about a dataset that no longer exists.
func (s *Latest) ForgetDataset(id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.datasets {
		delete(of, id)
	}
	delete(s.fullness, id)
	delete(s.moved, id)
}

// ForgetDatasetOf drops a node's reports about a dataset whose home it no longer is.
func (s *Latest) ForgetDatasetOf(node, id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.datasets[node], id)
}

// ForgetNode drops all reports of a node that was removed.
func (s *Latest) ForgetNode(node uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetNode(node)
}

// RetainNodes drops the reports of the nodes that are not in nodes, which must be all recorded nodes. before is when
// the caller began to read the nodes, by the steady clock. A node with a later heartbeat is kept, because it may have
// registered since.
func (s *Latest) RetainNodes(nodes []uuid.UUID, before time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	recorded := map[uuid.UUID]bool{}
	for _, id := range nodes {
		recorded[id] = true
	}
	reported := slices.Concat(slices.Collect(maps.Keys(s.lastReport)), slices.Collect(maps.Keys(s.datasets)),
		slices.Collect(maps.Keys(s.copies)))
	for _, id := range reported {
		if !recorded[id] && s.lastReport[id] < before {
			s.forgetNode(id)
		}
	}
}

// forgetNode does the work of ForgetNode while mu is held. A pool that another node has reported since stays.
func (s *Latest) forgetNode(node uuid.UUID) {
	delete(s.datasets, node)
	delete(s.copies, node)
	delete(s.failedPools, node)
	delete(s.Progress, node)
	delete(s.distrust, node)
	delete(s.guards, node)
	delete(s.clocks, node)
	delete(s.lastReport, node)
	delete(s.found, node)
	for id, m := range s.moved {
		if m.to == node {
			delete(s.moved, id)
		}
	}
	for pool, by := range s.reporters {
		if by == node {
			delete(s.reporters, pool)
			delete(s.pools, pool)
			delete(s.poolFullness, pool)
		}
	}
}

// WithProgress returns an operation with the progress that its agent reported.
func (s *Latest) WithProgress(op dataset.Operation) dataset.Operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.Progress[op.Node][op.ID]; ok && !op.State.Final() {
		op.Progress = p
	}
	return op
}
