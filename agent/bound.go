package agent

import (
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/dataset"
)

// How long this node may write to a dataset whose lease is bounded in time. Nothing here
// asks anybody, and all moments are of the steady clock: those at which something was
// *sent* that was answered, since nobody who answers can have begun to count before.

// heldFor is how long a word of control counts here, of the time that it counts there: a
// fence that begins then is complete before that is over.
func heldFor(ttl time.Duration) time.Duration { return promise.HeldFor(ttl) }

// fencedFor is what a fence takes until it is complete: three rungs of the guard's ladder.
func fencedFor(ttl time.Duration) time.Duration { return ttl * 3 / 10 }

// fenceMost is what a fence may take.
func fenceMost(ttl time.Duration) time.Duration { return fencedFor(ttl) + ttl }

// tenure is what this node knows of its session with control. The zero value knows nothing.
type tenure struct {
	session uuid.UUID     // that was renewed last; nil: none was
	sent    time.Duration // when that renewal was
	ttl     time.Duration // for how long it counts in control
	// row counts the unbroken rows of renewals of one session, of which each was answered
	// while the one before still counted. read is the row during which this node read what
	// it is the home of: within it nobody takes over what was its own then, as that needs
	// the session to be over. A session alone does not tell: a store that was put back has
	// it again, and what was read while it was over comes late.
	row, read uint64
	// doubted says that control's store is not to be believed: what is held goes on, and
	// nothing begins.
	doubted bool
}

// renewed takes in a renewal that was answered now. When the one before counts no more,
// what was read does not either: a store that was put back brings sessions back that were
// over, and who has lost the store may answer still.
func (t *tenure) renewed(session uuid.UUID, sent, ttl, now time.Duration) {
	if session == t.session {
		sent = max(sent, t.sent)
	}
	if session != t.session || now > t.sent+heldFor(t.ttl) {
		t.row++
	}
	t.session, t.sent, t.ttl = session, sent, ttl
}

// readDuring takes in that what this node is the home of was read, and in which row of
// renewals that began.
func (t *tenure) readDuring(row uint64) { t.read = row }

// unread reports whether a session is there, and nothing was read yet in the row of its
// renewals.
func (t *tenure) unread() bool { return t.session != uuid.Nil && t.read != t.row }

// until is the moment until which the session lets this node write; 0: it does not.
func (t *tenure) until() time.Duration {
	if t.session == uuid.Nil || t.unread() {
		return 0
	}
	return t.sent + heldFor(t.ttl)
}

// hold is how one dataset is held whose home this node is.
type hold struct {
	epoch    uint64
	deadline time.Duration // the latest that was ever justified; 0: none
	fence    time.Duration // how long after it the guard has it fenced at the latest; 0: as fencedFor
	answer   uint64        // of the guard at which that was so, see bounds.answers
	// vows are until when single nodes have promised to open no later epoch, as far as this
	// node may rely on it.
	vows map[uuid.UUID]time.Duration
	// enrolled are nodes that were given something of it: they could go on from that,
	// whether or not they are on record.
	enrolled map[uuid.UUID]enrolment
}

// enrolment is of a node that was given something of a dataset.
type enrolment struct {
	noted bool          // on disk
	asked time.Duration // when it asked for something last
}

// at takes in at which epoch the dataset is. What was justified for another one is void.
func (h *hold) at(epoch uint64) {
	if h.epoch != epoch {
		h.epoch, h.deadline, h.vows = epoch, 0, nil
	}
}

// vow takes in the promise of a node.
func (h *hold) vow(node uuid.UUID, epoch uint64, until time.Duration) {
	if epoch != h.epoch {
		return
	}
	if h.vows == nil {
		h.vows = map[uuid.UUID]time.Duration{}
	}
	h.vows[node] = max(h.vows[node], until)
}

// promisers are the nodes that could open a later epoch: those with a copy on record that
// may be gone on from, and those that were given something.
func (h *hold) promisers(followers []uuid.UUID) []uuid.UUID {
	all := append(slices.Collect(maps.Keys(h.enrolled)), followers...)
	slices.SortFunc(all, func(x, y uuid.UUID) int { return slices.Compare(x[:], y[:]) })
	return slices.Compact(all)
}

// overrun is by how much a fence takes longer than others wait for: who promised counts
// from when it was asked, control from when it saw the session over, a session later.
func (h *hold) overrun(t *tenure) (ofVows, ofSession time.Duration) {
	over := h.fence - fencedFor(t.ttl)
	return max(over, 0), max(over-t.ttl, 0)
}

// fenceMay returns how long a fence may take after a deadline that extend has returned. The guard shortens
// the deadline if it can take longer by now, which this node has not heard yet. See overrun for who waits
// how long.
func (h *hold) fenceMay(t *tenure, deadline time.Duration) time.Duration {
	if _, ofSession := h.overrun(t); deadline <= t.until()-ofSession {
		return max(h.fence, fenceMost(t.ttl))
	}
	return max(h.fence, fencedFor(t.ttl))
}

// extend returns until when this node may write, as promise.Extend. A store that is not to be
// believed may say that a dataset is this node's which is not any more: it begins nothing.
func (h *hold) extend(t *tenure, followers []uuid.UUID, silent bool, now time.Duration) time.Duration {
	ofVows, ofSession := h.overrun(t)
	session := t.until() - ofSession
	if t.doubted && h.deadline <= now {
		session = 0
	}
	var promised []time.Duration
	if silent {
		for _, node := range h.promisers(followers) {
			promised = append(promised, h.vows[node]-ofVows)
		}
	}
	h.deadline = promise.Extend(h.deadline, session, now, t.ttl, silent, promised)
	return h.deadline
}

// enrol puts a node among those that could take over, before it is given anything. It
// reports whether that may be: a promise that this one did not make must not be relied on
// while control, which this node may not hear, lets it take over.
func (h *hold) enrol(t *tenure, node uuid.UUID, now time.Duration) bool {
	was, already := h.enrolled[node]
	if !already && h.deadline > t.until() && h.deadline+max(h.fence, fencedFor(t.ttl)) > now {
		return false
	}
	if h.enrolled == nil {
		h.enrolled = map[uuid.UUID]enrolment{}
	}
	h.enrolled[node] = enrolment{was.noted, now}
	return true
}

// gone returns the nodes that were given something, none of them after a moment, and of
// which a record that was read since does not say that they may go on from it.
func (h *hold) gone(d dataset.Dataset, read time.Duration) (nodes []uuid.UUID) {
	for node, e := range h.enrolled {
		if e.noted && e.asked < read && d.Move == uuid.Nil && !slices.Contains(d.Followers(), node) {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// bounded reports whether the lease of a dataset is bounded in time.
func bounded(d dataset.Dataset) bool { return d.Profile.Failover.Auto }
