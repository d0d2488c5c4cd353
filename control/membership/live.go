package membership

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// errNoSession is returned by a decision that needs a session and has none. withSession then opens a session and
// repeats the decision. So a session is opened only if a decision needs one.
var errNoSession = errors.New("missing session")

// withSession makes a decision that may bind a key to a new session. If the decision does not use the session,
// withSession ends it.
func (m *Members) withSession(ctx context.Context, decide func(t *record.Tx, session string) error) error {
	used, session := false, ""
	attempt := func() error {
		_, err := m.Ledger.Update(ctx, func(t *record.Tx) error {
			err := decide(t, session)
			used = err == nil && session != "" &&
				slices.ContainsFunc(t.Writes(), func(w store.Write) bool { return w.Session == session })
			return err
		})
		return err
	}
	err := attempt()
	if !errors.Is(err, errNoSession) {
		return err
	}
	if session, err = m.Ledger.Store.Session(ctx, m.Timing.Session); err != nil {
		return record.ReadError(ctx, err)
	}
	if err = attempt(); err == nil && used {
		return nil
	}
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	return errors.Join(err, record.ReadError(cctx, m.Ledger.Store.End(cctx, session)))
}

// admitAgent makes the agent with registration r the living agent of its node, unless another agent of the node is
// alive. So if two machines have the same identity, the first one keeps it. before is the session of the previous
// agent; the caller must end that session.
func (m *Members) admitAgent(t *record.Tx, r api.Registration, session string) (before string, err error) {
	if !m.Ledger.Shared {
		return "", nil
	}
	id := r.Node.ID
	var was record.Alive
	there, err := t.Get(record.LiveNodeKey(id), &was)
	switch {
	case err != nil:
		return "", err
	case there && was.Incarnation == r.Node.Incarnation:
		return "", nil
	case there && !isSuccessor(r, was):
		return "", dataset.Errorf(dataset.ErrInUse,
			"node %s (%s) is alive as another agent, since %s: two machines have one identity (if this host is a "+
				"copy of that one, have it join as a separate node, with an empty --root; if its agent just "+
				"restarted, it is admitted within %s)",
			r.Node.Name, id, was.Since.Format(time.RFC3339), 2*m.Timing.Session)
	case session == "":
		return "", errNoSession
	}
	var word record.Fenced
	if err := errors.Join(t.DeleteExisting(record.UnreachableKey(id), &record.Unreachable{}),
		t.DeleteExisting(record.FencedKey(id), &word),
		t.DeleteExisting(record.StoppedKey(id), &record.Claim{})); err != nil {
		return "", err
	}
	if back := (api.Event{Type: api.EventNodeLive, Node: r.Node.Name}); !there {
		if word.By != "" {
			back.Detail = "although " + word.By +
				" confirmed that it writes no more: its mounted volumes could be opened elsewhere meanwhile"
		}
		t.Notice.Events = append(t.Notice.Events, back)
	}
	return was.Session, t.PutWithSession(record.LiveNodeKey(id),
		record.Alive{
			Node:        id,
			Incarnation: r.Node.Incarnation,
			Boot:        r.BootID,
			Since:       m.Ledger.Clock.Now(),
			Session:     session,
		}, session)
}

// isSuccessor reports whether an agent is the successor of the present agent of its node on the same machine. The new
// agent proves this with the incarnation of the present agent and the ID of the same boot. It can know that
// incarnation only from its root directory. Only one agent can run on a root directory, so the present one has ended.
func isSuccessor(r api.Registration, was record.Alive) bool {
	return r.BootID != "" && r.BootID == was.Boot && slices.Contains(r.PreviousIncarnations, was.Incarnation)
}

// Renew renews the session of a node's agent, and returns how long the agent now counts as alive. If the store is not
// shared, the time has no end, and Renew returns 0. Renew writes nothing to the store. It fails with dataset.ErrStale
// for an agent that is not the node's newest, and for an agent whose session has ended. Such an agent must register
// again.
func (m *Members) Renew(ctx context.Context, node, incarnation uuid.UUID) (api.SessionState, error) {
	var out api.SessionState
	if !m.Ledger.Shared {
		return out, nil
	}
	known := m.Session(node)
	if known.Incarnation != incarnation {
		there, err := record.NewTx(ctx, m.Ledger.Store).Peek(record.LiveNodeKey(node), &known)
		switch {
		case err != nil:
			return out, err
		case !there || known.Incarnation != incarnation:
			return out, dataset.Errorf(dataset.ErrStale,
				"node %s: agent %s is not the one that is alive (it must register)", node, incarnation)
		}
	}
	if err := m.Ledger.Store.Renew(ctx, known.Session); errors.Is(err, store.ErrNotFound) {
		m.ForgetSession(node)
		return out, dataset.Errorf(dataset.ErrStale,
			"node %s: agent %s was not heard from for too long (it must register again)", node, incarnation)
	} else if err != nil {
		return out, record.ReadError(ctx, err)
	}
	m.sessions.Store(node, known)
	out.TTL = dataset.Duration(m.Timing.Session)
	// a hash, because a program that knows the ID of a session can end the session
	out.Session = uuid.NewSHA1(node, []byte(known.Session))
	return out, nil
}

// LivingSession reports whether a node's agent is alive, and makes the decision of t depend on that. If the agent is
// not alive, since is when the node became unreachable, or zero if that is not known.
func LivingSession(t *record.Tx, node uuid.UUID) (since time.Time, there bool, err error) {
	if there, err = t.Get(record.LiveNodeKey(node), &record.Alive{}); err != nil || there {
		return since, there, err
	}
	var gone record.Unreachable
	_, err = t.Get(record.UnreachableKey(node), &gone)
	return gone.Since, false, err
}

// RecordUnreachable records which nodes became unreachable and when, and publishes an event for each. It also drops the
// reports of nodes that are no longer recorded.
func (m *Members) RecordUnreachable(ctx context.Context) error {
	if !m.Ledger.Shared {
		return nil
	}
	began, t := m.Ledger.Clock.Steady(), record.NewTx(ctx, m.Ledger.Store)
	nodes, err := record.ListAll[dataset.Node](t, record.NodesPrefix)
	if err != nil {
		return err
	}
	ids := make([]uuid.UUID, len(nodes))
	for i, n := range nodes {
		ids[i] = n.ID
	}
	m.Reports.RetainNodes(ids, began)
	live, err := m.LiveAgents(t)
	if err != nil {
		return err
	}
	entries, err := t.List(record.UnreachablePrefix, "", 0)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, e := range entries {
		known[e.Key] = true
		m.sightings.observe(e.Key, e.Index, m.Ledger.Clock.Steady())
	}
	m.sightings.retain(known)
	for _, n := range nodes {
		if _, lives := live[n.ID]; lives || known[record.UnreachableKey(n.ID)] {
			continue
		}
		if err := m.markUnreachable(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (m *Members) markUnreachable(ctx context.Context, n dataset.Node) error {
	index, err := m.Ledger.Update(ctx, func(t *record.Tx) error { return m.putUnreachable(t, n.ID) })
	if index != 0 {
		m.sightings.observe(record.UnreachableKey(n.ID), index, m.Ledger.Clock.Steady())
	}
	return err
}

// putUnreachable records that a node is unreachable, unless that is recorded already, or the node is alive or was
// removed.
func (m *Members) putUnreachable(t *record.Tx, id uuid.UUID) error {
	there, err := t.Get(record.LiveNodeKey(id), &record.Alive{})
	if err != nil || there {
		return err
	}
	if known, err := t.Get(record.UnreachableKey(id), &record.Unreachable{}); err != nil || known {
		return err
	}
	var n dataset.Node
	if on, err := t.Get(record.NodeKey(id), &n); err != nil || !on {
		return err
	}
	ran, err := m.Uptime.RunTime(t)
	if err != nil {
		return err
	}
	t.Notice.Events = append(t.Notice.Events, api.Event{Type: api.EventNodeAway, Node: n.Name})
	gone := record.Unreachable{Since: m.Ledger.Clock.Now(), RunTime: dataset.Duration(ran)}
	if c := m.Reports.Heartbeat(id).Clock; !c.IsZero() {
		gone.Clock, gone.ClockAge = c.Time, dataset.Duration(m.Ledger.Clock.Steady()-c.At)
		gone.Guarded = m.Reports.Heartbeat(id).Guard
	}
	return t.Put(record.UnreachableKey(id), gone)
}

// sightings measures how long this service has seen each record of an unreachable node without a change, by the steady
// clock. After a restart of the service, the durations begin at zero.
type sightings struct {
	mu   sync.Mutex
	seen map[string]sighting
}

type sighting struct {
	index uint64
	since time.Duration
}

// observe notes the present index of a record. It returns for how long this service has seen the record with that
// index.
func (a *sightings) observe(key string, index uint64, now time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen == nil {
		a.seen = map[string]sighting{}
	}
	if a.seen[key].index != index {
		a.seen[key] = sighting{index, now}
	}
	return now - a.seen[key].since
}

// since returns when this service first saw a record with its present index. It returns false if it has not seen the
// record.
func (a *sightings) since(key string) (time.Duration, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	first, seen := a.seen[key]
	return first.since, seen
}

// retain forgets the records whose keys are not in known. If such a record reappears with its former index, as in a
// restored store, its duration begins at zero.
func (a *sightings) retain(known map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key := range a.seen {
		if !known[key] {
			delete(a.seen, key)
		}
	}
}

// LiveAgents returns the agents that are alive, by their nodes. If the store is not shared, there are no sessions, so
// it returns none.
func (m *Members) LiveAgents(t *record.Tx) (map[uuid.UUID]record.Alive, error) {
	if !m.Ledger.Shared {
		return nil, nil
	}
	list, err := record.ListAll[record.Alive](t, record.LiveNodesPrefix)
	live := map[uuid.UUID]record.Alive{}
	for _, a := range list {
		live[a.Node] = a
	}
	return live, err
}

// addReachability sets in each node whether it is reachable, and since when.
func (m *Members) addReachability(ctx context.Context, nodes []api.Node) error {
	for i, n := range nodes {
		nodes[i].GuardRunning = m.Reports.Heartbeat(n.ID).Guard
	}
	if !m.Ledger.Shared {
		for i, n := range nodes {
			nodes[i].Live = m.Reports.Heartbeat(n.ID).Heard
			if nodes[i].Live {
				nodes[i].StatusSince = n.Registered
			}
		}
		return nil
	}
	t := record.NewTx(ctx, m.Ledger.Store)
	live, err := m.LiveAgents(t)
	if err != nil {
		return err
	}
	for i, n := range nodes {
		if a, lives := live[n.ID]; lives {
			nodes[i].StatusSince, nodes[i].Live = a.Since, true
			continue
		}
		var gone record.Unreachable
		_, err := t.Peek(record.UnreachableKey(n.ID), &gone)
		if err == nil {
			nodes[i].Fenced, err = t.Peek(record.FencedKey(n.ID), &record.Fenced{})
		}
		if err != nil {
			return err
		}
		nodes[i].StatusSince = gone.Since
	}
	return nil
}
