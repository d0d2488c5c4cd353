package move

import (
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// SentKept is how many of the snapshots that were sent to a node are kept for it. Two are needed because the last one
// may not have arrived completely, and is a difference to the one before it.
const SentKept = 2

// SentLog records the snapshots of this node's datasets that were sent to other nodes since this agent started. The
// record of a snapshot does not show who received it: a snapshot that was taken for one node, or for all replicas, may
// be sent to several nodes. The zero value is ready for use. Its methods are safe for concurrent use.
type SentLog struct {
	mu        sync.Mutex
	byDataset map[uuid.UUID]map[uuid.UUID]sentSnapshots // by dataset and node
}

type sentSnapshots struct {
	newestHad   uuid.UUID     // the newest snapshot that the node had at its last request, or uuid.Nil if it had none
	sentSince   []uuid.UUID   // the snapshots that it was sent since then, at most SentKept, the newest at the end
	lastRequest time.Duration // when that request was, by the steady clock
	withoutCopy bool          // the node had no recorded copy then
}

// Record records the newest snapshot that a node had when it requested one, and the snapshot that it is sent. Record
// also keeps the oldest snapshot that was sent after the one that the node has, because a part of it may have arrived.
func (l *SentLog) Record(
	d dataset.Dataset, e backends.Entry, node uuid.UUID, had, snapshot dataset.Snapshot, now time.Duration,
) {
	var last []uuid.UUID
	before, _ := l.sentTo(node, d.ID, e)
	for _, s := range before {
		if s.ID != snapshot.ID && (had.ID == uuid.Nil || s.At().Compare(had.At()) > 0) {
			last = append(last, s.ID)
		}
	}
	last = append(last[:min(len(last), SentKept-1)], snapshot.ID)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byDataset == nil {
		l.byDataset = map[uuid.UUID]map[uuid.UUID]sentSnapshots{}
	}
	if l.byDataset[d.ID] == nil {
		l.byDataset[d.ID] = map[uuid.UUID]sentSnapshots{}
	}
	l.byDataset[d.ID][node] = sentSnapshots{had.ID, last, now, !slices.Contains(d.Copies, node)}
}

// Forget removes a dataset whose home is no longer this node.
func (l *SentLog) Forget(ds uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byDataset, ds)
}

// nodesWithoutCopy returns the nodes that have a part of a dataset but no recorded copy. An unfinished move sent them
// that part, and its next attempt continues from it. nodesWithoutCopy also drops the records of nodes that have neither
// such a part nor a copy in copies.
func (l *SentLog) nodesWithoutCopy(ds uuid.UUID, copies []uuid.UUID, now time.Duration) (nodes []uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for node, g := range l.byDataset[ds] {
		switch {
		case slices.Contains(copies, node):
		case g.withoutCopy && now-g.lastRequest < KeepFailed:
			nodes = append(nodes, node)
		default:
			delete(l.byDataset[ds], node)
		}
	}
	return nodes
}

// sentTo returns the snapshots of an entry that a node had at its last request, or was sent since. If the log has none
// of them, as after a restart of the agent, sentTo returns the newest snapshots that were taken for the node, and
// certain is false.
func (l *SentLog) sentTo(node, ds uuid.UUID, e backends.Entry) (all []dataset.Snapshot, certain bool) {
	l.mu.Lock()
	g := l.byDataset[ds][node]
	l.mu.Unlock()
	for _, s := range e.Snapshots {
		if s.ID == g.newestHad || slices.Contains(g.sentSince, s.ID) {
			all = append(all, s)
		}
	}
	certain = len(all) > 0
	if !certain {
		for _, s := range e.Snapshots {
			if host.IsTransfer(s) && !host.IsShared(s) && s.Request == node {
				all = append(all, s)
			}
		}
	}
	slices.SortFunc(all, func(x, y dataset.Snapshot) int { return x.At().Compare(y.At()) })
	if !certain {
		all = all[max(0, len(all)-SentKept):]
	}
	return all, certain
}
