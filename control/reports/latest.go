// Package reports keeps the last reports of agents, and checks what a report may contain.
//
// Latest has the heartbeats of all nodes in memory, under its own mutex, and the statuses that come with the results of
// operations. All packages of control that decide read it; control, deletion, placement and view also write to it. It
// is not stored: after a restart the agents report everything again. The functions named Check limit the size of a
// report, because the certificate of a node may be stolen. For the same reason Profiles decides whether control may
// record a profile that a node reports: it compares the profile with profiles.yaml and with the records, and keeps no
// state.
//
// A new kind of report gets a field in nodeReport and a limit in bounds.go. Events about pools are made in
// poolEvent. If another setting of a profile becomes dangerous on other nodes, add it to Check and WithKnownSettings
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
	mu       sync.Mutex
	nodes    map[uuid.UUID]*nodeReport
	pools    map[uuid.UUID]poolReport
	moved    map[uuid.UUID]movedDataset     // by dataset; until the new home reports it
	fullness map[uuid.UUID]dataset.Fullness // datasets with little space left
}

// Heartbeat is what a node reported of itself with its last heartbeat. The zero value is that of a node that has not
// reported since this service started.
type Heartbeat struct {
	Heard    bool              // it has sent a heartbeat
	Distrust string            // why it does not trust the store, "" if it does
	Guard    bool              // its guard answers
	Clock    ReportedClock     // its own clock; zero if it was not reported
	At       time.Duration     // when it was sent, by the steady clock
	Found    *api.NodeFindings // what its agent found on the host, or nil; never changed
}

// Trusts reports whether the node has sent a heartbeat and trusts the store.
func (h Heartbeat) Trusts() bool { return h.Heard && h.Distrust == "" }

// nodeReport is what a node reported. Except for datasets and copies, it is from the last heartbeat.
type nodeReport struct {
	Heartbeat
	datasets    map[uuid.UUID]dataset.DatasetStatus
	copies      map[uuid.UUID]reportedCopy     // by dataset
	failedPools []api.Pool                     // without UUIDs
	progress    map[uuid.UUID]dataset.Progress // by operation
}

// poolReport is the last report on a pool.
type poolReport struct {
	dataset.PoolStatus
	by       uuid.UUID        // the node that reported it
	fullness dataset.Fullness // with a margin: see dataset.PoolStatus.FullnessAfter
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
		nodes: map[uuid.UUID]*nodeReport{}, pools: map[uuid.UUID]poolReport{}, moved: map[uuid.UUID]movedDataset{},
		fullness: map[uuid.UUID]dataset.Fullness{},
	}
}

// of returns the report of a node to read; an empty one if there is none.
func (s *Latest) of(node uuid.UUID) nodeReport {
	if r := s.nodes[node]; r != nil {
		return *r
	}
	return nodeReport{}
}

func (s *Latest) edit(node uuid.UUID) *nodeReport {
	if s.nodes[node] == nil {
		s.nodes[node] = &nodeReport{
			datasets: map[uuid.UUID]dataset.DatasetStatus{}, copies: map[uuid.UUID]reportedCopy{},
		}
	}
	return s.nodes[node]
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
	who, is := "node "+node.Name, s.edit(node.ID)
	err := cmp.Or(CheckCount(who, len(is.datasets)+len(h.Datasets), MaxRemembered, "datasets to remember"),
		CheckCount(who, len(is.copies)+len(h.Copies), MaxRemembered, "copies to remember"))
	if err != nil {
		clear(is.datasets)
		clear(is.copies)
		if h.Incremental {
			err = dataset.Errorf(dataset.ErrConflict, "%w: a full report is needed", err)
		}
		return out, err
	}
	for _, p := range h.Pools {
		if !slices.Contains(node.Pools, p.ID) {
			continue // the pool belongs to another node, or is not registered yet
		}
		was := s.pools[p.ID]
		if ev, warn := poolEvent(was.PoolStatus, p, was.fullness); warn {
			ev.Node = node.Name
			out.Events = append(out.Events, ev)
		}
		s.pools[p.ID] = poolReport{p, node.ID, p.FullnessAfter(was.fullness)}
	}
	out.Fullness = s.recordFullness(h.Datasets)
	for _, d := range h.Datasets {
		is.datasets[d.ID] = d
		if m, ok := s.moved[d.ID]; ok && m.to == node.ID {
			delete(s.moved, d.ID)
		}
	}
	for _, c := range h.Copies {
		if c.Node == node.ID {
			is.mergeCopy(c, now)
		}
	}
	is.failedPools = nil
	for _, p := range h.FailedPools {
		p.ID, p.Node, p.NodeName = uuid.Nil, node.ID, node.Name
		is.failedPools = append(is.failedPools, p)
	}
	is.Heard, is.Distrust, is.Guard, is.At = true, h.StoreDoubt, h.GuardRunning, now
	if h.Found != nil {
		is.Found = h.Found
	}
	if !h.NodeTime.IsZero() {
		is.Clock = ReportedClock{h.NodeTime, now}
	}
	was := is.progress
	is.progress = make(map[uuid.UUID]dataset.Progress, len(h.Operations))
	for _, op := range h.Operations {
		is.progress[op.ID] = op.Progress
		if was[op.ID] != op.Progress {
			out.Advanced = append(out.Advanced, op.ID)
		}
	}
	return out, nil
}

// RecordDataset records the status of a dataset that a node has just made. If the node has already reported a status of
// the dataset, that status stays: it is the later one, because the report of an operation can be repeated.
// RecordDataset also does nothing if MaxRemembered datasets of the node are remembered already. The next heartbeat of
// the node is then refused with the reason.
func (s *Latest) RecordDataset(node uuid.UUID, st dataset.DatasetStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	is := s.edit(node)
	if _, reported := is.datasets[st.ID]; !reported && len(is.datasets) < MaxRemembered {
		is.datasets[st.ID] = st
	}
}

// RecordMoved notes that a dataset has moved. Until the new home reports the dataset, Shown returns what the previous
// home reported of its data.
func (s *Latest) RecordMoved(id, from, to uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, known := s.of(from).datasets[id]
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

// Heartbeat returns the last heartbeat of a node.
func (s *Latest) Heartbeat(node uuid.UUID) Heartbeat {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(node).Heartbeat
}

// MaxSilence is how old the last report of a node may be. Agents report every ten seconds, and a report can be late by
// several seconds if a disk answers slowly. Without this limit, a silent node would be shown only when its session has
// ended, which takes up to 28 seconds.
const MaxSilence = 18 * time.Second

// IsSilent reports whether the last report of a node is older than MaxSilence. It returns false if the node has not
// reported since this service started.
func (s *Latest) IsSilent(node uuid.UUID, now time.Duration) bool {
	last := s.Heartbeat(node)
	return last.Heard && now-last.At > MaxSilence
}

// CheckTrust fails with dataset.ErrConflict while a node does not trust the store, according to its last heartbeat.
func (s *Latest) CheckTrust() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var h record.Halt
	for node, r := range s.nodes {
		if r.Distrust != "" {
			h.Nodes = map[uuid.UUID]string{node: r.Distrust}
			return h.Err()
		}
	}
	return nil
}

// Dataset returns the status of a dataset that its home has reported. Reports of other nodes do not count.
func (s *Latest) Dataset(id, home uuid.UUID) *dataset.DatasetStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.of(home).datasets[id]; ok {
		return &st
	}
	return nil
}

// Datasets returns the datasets that some node reported.
func (s *Latest) Datasets() []uuid.UUID {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[uuid.UUID]bool{}
	for _, r := range s.nodes {
		for id := range r.datasets {
			all[id] = true
		}
	}
	return slices.Collect(maps.Keys(all))
}

// ForgetDataset drops reports about a dataset that no longer exists.
func (s *Latest) ForgetDataset(id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.nodes {
		delete(r.datasets, id)
	}
	delete(s.fullness, id)
	delete(s.moved, id)
}

// ForgetDatasetOf drops a node's reports about a dataset whose home it no longer is.
func (s *Latest) ForgetDatasetOf(node, id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of(node).datasets, id)
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
	for id, r := range s.nodes {
		if !recorded[id] && r.At < before {
			s.forgetNode(id)
		}
	}
}

// forgetNode does the work of ForgetNode while mu is held. A pool that another node has reported since stays.
func (s *Latest) forgetNode(node uuid.UUID) {
	delete(s.nodes, node)
	for id, m := range s.moved {
		if m.to == node {
			delete(s.moved, id)
		}
	}
	for pool, r := range s.pools {
		if r.by == node {
			delete(s.pools, pool)
		}
	}
}

// WithProgress returns an operation with the progress that its agent reported.
func (s *Latest) WithProgress(op dataset.Operation) dataset.Operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.of(op.Node).progress[op.ID]; ok && !op.State.Final() {
		op.Progress = p
	}
	return op
}

// Pool returns the state of a pool; nil if it was not reported.
func (s *Latest) Pool(id uuid.UUID) *dataset.PoolStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.pools[id]; ok {
		return &r.PoolStatus
	}
	return nil
}

// FailedPools returns the configured pools that nodes could neither open nor create.
func (s *Latest) FailedPools() (all []api.Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.nodes {
		all = append(all, r.failedPools...)
	}
	slices.SortFunc(all, func(x, y api.Pool) int {
		return cmp.Or(cmp.Compare(x.NodeName, y.NodeName), cmp.Compare(x.Name, y.Name))
	})
	return all
}

// WhyPoolUnusable returns why no volume can continue from the data in a pool, according to the last report of its
// node. It returns "" if a volume can, or if the node has not reported.
func (s *Latest) WhyPoolUnusable(pool uuid.UUID) string {
	switch st := s.Pool(pool); {
	case st == nil || st.Online:
		return ""
	case st.Quarantined:
		return "has its copy in a pool that is held: " + st.Reason
	default:
		return "has its copy in a pool that is offline: " + st.Reason
	}
}

// WhyQuarantined returns why a pool is quarantined, according to the last report of its node. It returns "" if the
// pool is not quarantined. The records of a quarantined pool may not agree with its content.
func (s *Latest) WhyQuarantined(pool uuid.UUID) string {
	if st := s.Pool(pool); st != nil && st.Quarantined {
		return st.Reason
	}
	return ""
}

// poolEvent returns the event to publish if a pool became nearly full, went offline, is online again or was
// quarantined. full is how full it was, with a margin, so that a pool whose use varies around a threshold causes one
// event. publish is false if nothing must be published. poolEvent is a pure function.
func poolEvent(was, is dataset.PoolStatus, full dataset.Fullness) (ev api.Event, publish bool) {
	known := was.ID != uuid.Nil
	switch {
	case is.Quarantined && !was.Quarantined:
		ev.Type, ev.Detail = api.EventPoolHeld, is.Reason
	case !is.Online && (was.Online || !known):
		ev.Type, ev.Detail = api.EventPoolOffline, is.Reason
	case known && !was.Online && is.Online:
		ev.Type, ev.Detail = api.EventPoolOnline, is.Reason
	case is.Online && full == dataset.NotFull && is.FullnessAfter(full) != dataset.NotFull:
		ev.Type, ev.Detail = api.EventPoolFull, is.Free.Human()+" free of "+is.Size.Human()
	default:
		return ev, false
	}
	ev.Labels = map[string]string{"pool": is.ID.String()}
	return ev, true
}

// reportedCopy is a copy as its node reported it. at is when the node first reported the present VerifiedAtHome of the
// copy, by this service's steady clock.
type reportedCopy struct {
	dataset.Copy
	at time.Duration
}

// RecordCopy records a node's report on a copy. now is the time by the steady clock.
func (s *Latest) RecordCopy(c dataset.Copy, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.edit(c.Node).mergeCopy(c, now)
}

// mergeCopy merges a report on a copy with the one that is remembered. A report without a snapshot does not replace the
// remembered state of the copy: the node has just started, and reports only why it cannot refresh the copy.
func (r *nodeReport) mergeCopy(c dataset.Copy, now time.Duration) {
	at := now
	was, known := r.copies[c.Dataset]
	if known && c.Snapshot == uuid.Nil {
		c.Snapshot, c.Taken, c.OrderTime, c.Epoch = was.Snapshot, was.Taken, was.OrderTime, was.Epoch
		c.VerifiedAt, c.VerifiedAtHome = was.VerifiedAt, was.VerifiedAtHome
	}
	if known && was.VerifiedAtHome.Equal(c.VerifiedAtHome) {
		at = was.at
	}
	r.copies[c.Dataset] = reportedCopy{c, at}
}

// Copy returns a node's last report on its copy of a dataset.
func (s *Latest) Copy(node, id uuid.UUID) (dataset.Copy, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.of(node).copies[id]
	return c.Copy, ok
}

// CurrentCopy returns a recorded copy, updated with the last report of its node. It ignores a report about an earlier
// copy or another epoch, because the first snapshot of each copy and of each epoch is recorded in the store.
func (s *Latest) CurrentCopy(t *record.Tx, node, id uuid.UUID) (c dataset.Copy, there bool, err error) {
	if there, err = t.Get(record.CopyKey(node, id), &c); err != nil || !there {
		return c, false, err
	}
	if last, heard := s.Copy(node, id); heard && c.Snapshot != uuid.Nil && last.Epoch == c.Epoch &&
		last.At().Compare(c.At()) >= 0 {
		c.Snapshot, c.Taken, c.OrderTime, c.Epoch = last.Snapshot, last.Taken, last.OrderTime, last.Epoch
		c.VerifiedAt, c.VerifiedAtHome = last.VerifiedAt, last.VerifiedAtHome
	}
	return c, true, nil
}

// CopyAhead returns by how much VerifiedAtHome of a copy is later than what the home's clock showed when the copy was
// reported. home is the clock in the last heartbeat of the home, from which CopyAhead computes the clock at the report.
// now is the time by the steady clock. The result is negative if VerifiedAtHome is earlier, as it should be. A positive
// result of more than the time between two heartbeats shows that the clock of the home was set back since.
func (s *Latest) CopyAhead(home ReportedClock, c dataset.Copy, now time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.of(c.Node).copies[c.Dataset]; last.VerifiedAtHome.Equal(c.VerifiedAtHome) {
		now = last.at
	}
	return c.VerifiedAtHome.Sub(home.Add(now - home.At))
}

// ForgetCopy drops a node's report on a copy that it no longer has.
func (s *Latest) ForgetCopy(node, id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of(node).copies, id)
}
