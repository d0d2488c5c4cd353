package lease

import (
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// This file computes how long this node may write to a dataset whose lease is bounded in time. It sends no requests.
// All times are of the steady clock. The time of an answered request is the time at which it was *sent*, because the
// node that answers cannot have started to count earlier.

// usualFenceTime is how long a fence usually takes: three steps of the guard's ladder.
func usualFenceTime(ttl time.Duration) time.Duration { return ttl * 3 / 10 }

// MaxFenceTime is how long a fence may take at most.
func MaxFenceTime(ttl time.Duration) time.Duration { return usualFenceTime(ttl) + ttl }

// controlSession is the state of this node's session with control. The zero value has no session.
type controlSession struct {
	session uuid.UUID     // the session that was renewed last; uuid.Nil if there was none
	sent    time.Duration // when that renewal was sent
	ttl     time.Duration // how long control counts this node as alive after that renewal
	// streak is the number of the current streak of renewals. All renewals of a streak are of one session, and each
	// was answered while the previous one was still valid. readStreak is the streak in which this node last read from
	// control which datasets have their home here. While that streak lasts, no other node takes over these datasets,
	// because a takeover requires that the session has ended.
	//
	// Comparing the UUIDs of two sessions does not show whether the session ended between two renewals. If the store
	// was restored from a backup, a session that had ended exists again, and has the same UUID. And an answer that
	// control read between two renewals, while the session had ended, may arrive after the second one.
	streak, readStreak uint64
	// inconsistent is true if control's store is inconsistent. Then leases that have a deadline are extended, and no
	// other lease starts.
	inconsistent bool
}

// renew applies a renewal that was answered now. If the previous renewal is no longer valid, a new streak starts, and
// this node must read again which datasets it is the home of: a restored store contains sessions that had ended, and a
// control replica that has lost the store may still answer.
func (t *controlSession) renew(session uuid.UUID, sent, ttl, now time.Duration) {
	if session == t.session {
		sent = max(sent, t.sent)
	}
	if session != t.session || now > t.sent+HolderSpan(t.ttl) {
		t.streak++
	}
	t.session, t.sent, t.ttl = session, sent, ttl
}

// setRead records that this node has read which datasets it is the home of. streak is the streak of renewals in which
// the read started.
func (t *controlSession) setRead(streak uint64) { t.readStreak = streak }

// mustRead reports whether there is a session, and this node has not yet read, in the current streak, which datasets it
// is the home of.
func (t *controlSession) mustRead() bool { return t.session != uuid.Nil && t.readStreak != t.streak }

// until returns the time until which the session allows this node to write, or 0 if it does not.
func (t *controlSession) until() time.Duration {
	if t.session == uuid.Nil || t.mustRead() {
		return 0
	}
	return t.sent + HolderSpan(t.ttl)
}

// boundedLease is the state of the bounded lease of one dataset whose home is this node.
type boundedLease struct {
	epoch     uint64
	deadline  time.Duration // the latest justified deadline, or 0; SetFenceTime can make it earlier
	fenceTime time.Duration // how long a fence may take after deadline, as the guard reported; if 0, usualFenceTime
	answer    uint64        // the number of the guard's answer that fenceTime is from, see Deadlines.AnswerCount
	// promises has, for each node that promised to open no later epoch, the time until which this node may rely on the
	// promise.
	promises map[uuid.UUID]time.Duration
	// enrolled has the nodes that were given a part of the dataset. They could continue from that part, even if
	// control has not recorded their copies.
	enrolled map[uuid.UUID]enrolment
}

// enrolment is the state of a node that was given a part of a dataset.
type enrolment struct {
	onDisk      bool          // the enrolment is recorded on disk
	lastRequest time.Duration // when the node requested data last
}

// setEpoch sets the epoch of the dataset. The deadline and the promises of another epoch are discarded.
func (h *boundedLease) setEpoch(epoch uint64) {
	if h.epoch != epoch {
		h.epoch, h.deadline, h.promises = epoch, 0, nil
	}
}

// addPromise records the promise of a node. A promise for another epoch is ignored.
func (h *boundedLease) addPromise(node uuid.UUID, epoch uint64, until time.Duration) {
	if epoch != h.epoch {
		return
	}
	if h.promises == nil {
		h.promises = map[uuid.UUID]time.Duration{}
	}
	h.promises[node] = max(h.promises[node], until)
}

// promisers returns the nodes that could open a later epoch: those with a recorded copy that is not superseded, and
// the enrolled ones.
func (h *boundedLease) promisers(followers []uuid.UUID) []uuid.UUID {
	all := append(slices.Collect(maps.Keys(h.enrolled)), followers...)
	slices.SortFunc(all, func(x, y uuid.UUID) int { return slices.Compare(x[:], y[:]) })
	return slices.Compact(all)
}

// overrun returns by how much a fence of this dataset may take longer than other nodes wait for it. ofPromises applies
// to a deadline that relies on promises: a node that promised starts to wait when the request arrives. ofSession
// applies to a deadline that relies on the session. ofSession is one TTL smaller, because control starts to wait one
// TTL later, when it notices the end of the session.
func (h *boundedLease) overrun(t *controlSession) (ofPromises, ofSession time.Duration) {
	over := h.fenceTime - usualFenceTime(t.ttl)
	return max(over, 0), max(over-t.ttl, 0)
}

// allowedFenceTime returns how long a fence may take after a deadline that extend has returned. The guard gets this
// value with the deadline. If the guard learns before this node that a fence now takes longer, the guard shortens the
// deadline.
func (h *boundedLease) allowedFenceTime(t *controlSession, deadline time.Duration) time.Duration {
	if _, ofSession := h.overrun(t); deadline <= t.until()-ofSession {
		return max(h.fenceTime, MaxFenceTime(t.ttl))
	}
	return max(h.fenceTime, usualFenceTime(t.ttl))
}

// extend returns the time until which this node may write: see Extend. An inconsistent store may name this
// node as the home of a dataset that has moved to another node. So a session with such a store can extend a lease,
// but cannot start one.
func (h *boundedLease) extend(t *controlSession, followers []uuid.UUID, silent bool, now time.Duration) time.Duration {
	ofPromises, ofSession := h.overrun(t)
	session := t.until() - ofSession
	if t.inconsistent && h.deadline <= now {
		session = 0
	}
	var promised []time.Duration
	if silent {
		for _, node := range h.promisers(followers) {
			promised = append(promised, h.promises[node]-ofPromises)
		}
	}
	h.deadline = Extend(h.deadline, session, now, t.ttl, silent, promised)
	return h.deadline
}

// enrol adds a node to those that could take over, before the node is given any data. It returns false if the deadline
// relies on promises, or relied on them and the fence may not be complete yet. The node must then be given no data: it
// has made no promise, and control could let it take over while control is unreachable from here. A node that is
// already enrolled is never refused.
func (h *boundedLease) enrol(t *controlSession, node uuid.UUID, now time.Duration) bool {
	was, already := h.enrolled[node]
	if !already && h.deadline > t.until() && h.deadline+max(h.fenceTime, usualFenceTime(t.ttl)) > now {
		return false
	}
	if h.enrolled == nil {
		h.enrolled = map[uuid.UUID]enrolment{}
	}
	h.enrolled[node] = enrolment{was.onDisk, now}
	return true
}

// unneededNodes returns the enrolled nodes that can no longer continue from the data that they were given. d is
// control's record of the dataset, and read is the time of the request for it. A node that requested data after that
// time is not returned, because the record may not have its copy yet.
func (h *boundedLease) unneededNodes(d dataset.Dataset, read time.Duration) (nodes []uuid.UUID) {
	for node, e := range h.enrolled {
		if e.onDisk && e.lastRequest < read && d.Move == uuid.Nil && !slices.Contains(d.Followers(), node) {
			nodes = append(nodes, node)
		}
	}
	return nodes
}
