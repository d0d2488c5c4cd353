package membership

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// Config is how this service takes part in a cluster.
type Config struct {
	Timing Timing
	// Replica is the name and the address of this service, and Version its version.
	Replica Replica
	Version string
	// Catalog lists the replicas and agents of a shared store. If nil, they are listed nowhere. With PublishFacts the
	// catalog has the facts of the hosts too.
	Catalog      store.Catalog
	PublishFacts bool
	// Incompatible is called once with the reason why this service cannot work beside the others on its store. May be
	// nil.
	Incompatible func(error)
}

// Members handles the nodes and the control replicas of a cluster. It registers agents, and keeps their sessions and
// the session of this service. It records which nodes are unreachable, fenced or cordoned, and suspends failover when
// many nodes are lost at once. Safe for concurrent use.
type Members struct {
	Config
	Ledger         *record.Ledger
	Reports        *reports.Latest
	Uptime         *record.Uptime
	started        time.Time
	replicaSession atomic.Value // string: the ID of the session of this service, or "" if there is none
	sessions       sync.Map     // record.Alive by node, of agents that renew here; so a renewal reads no record
	sightings      sightings
	lossCheck      lossCheck
}

// NewMembers returns a Members that has no reports yet. The service starts now.
func NewMembers(u *record.Uptime, r *reports.Latest, c Config) *Members {
	return &Members{Config: c, Ledger: u.Ledger, Reports: r, Uptime: u, started: u.Ledger.Clock.Now()}
}

// UnreachableFor returns how long this service has seen the record of an unreachable node (a key under away/) with the
// given index. The first call for an index counts as the moment when the record was first seen. After a restart of the
// service the time begins at zero.
func (m *Members) UnreachableFor(key string, index uint64) time.Duration {
	return m.sightings.observe(key, index, m.Ledger.Clock.Steady())
}

// UnreachableSince returns when this service first saw the present record of an unreachable node, by the steady clock.
// It returns false if it has not seen the record.
func (m *Members) UnreachableSince(key string) (time.Duration, bool) { return m.sightings.since(key) }

// Session returns the session of a node's agent, if the agent has renewed it at this service. Otherwise it returns the
// zero value.
func (m *Members) Session(node uuid.UUID) record.Alive {
	known, _ := m.sessions.Load(node)
	session, _ := known.(record.Alive)
	return session
}

// ForgetSession drops the remembered session of a node, so that its next renewal reads the session from the store.
func (m *Members) ForgetSession(node uuid.UUID) { m.sessions.Delete(node) }

// ReplicaSession returns the session of this service; "" if there is none.
func (m *Members) ReplicaSession() string {
	session, _ := m.replicaSession.Load().(string)
	return session
}

// RecordedOperation reads the record of an operation that an agent reports. It fails with dataset.ErrStale if the
// operation belongs to another agent, or if its kind or object differ from the record.
func RecordedOperation(t *record.Tx, op dataset.Operation) (rec dataset.Operation, known bool, err error) {
	if _, err := FreshNode(t, op.Node, op.Incarnation); err != nil {
		return rec, false, err
	}
	known, err = t.Get(record.OperationKey(op.ID), &rec)
	about := rec.DatasetID
	if rec.Discarded != uuid.Nil { // the agent still reports the dataset that was discarded as a duplicate
		about = rec.Discarded
	}
	if err == nil && known && (rec.Node != op.Node || rec.Kind != op.Kind || about != op.DatasetID) {
		err = dataset.Errorf(dataset.ErrStale, "operation %s is recorded as another one: a %s of dataset %s", op.ID,
			rec.Kind, rec.DatasetID)
	}
	return rec, known, err
}

// recordTrust records whether a node trusts the store. why is the reason for its distrust, or "" if the node trusts the
// store.
//
// If the node reports the same as in its previous heartbeat, recordTrust does not read the store, unless look is true.
// The caller sets look from time to time, because the record may be outdated: another service may have written it after
// an earlier report of the node, and may have stopped before the next report.
func (m *Members) recordTrust(t *record.Tx, node uuid.UUID, why string, look bool) error {
	if was := m.Reports.Heartbeat(node); was.Heard && was.Distrust == why && !look {
		return nil
	}
	var is record.Halt
	if _, err := t.Get(record.HaltedKey, &is); err != nil || is.Nodes[node] == why {
		return err
	}
	_, err := m.Ledger.Update(t.Context(), func(t *record.Tx) error {
		if why == "" {
			return ClearDistrust(t, node)
		}
		var h record.Halt
		there, err := t.Get(record.HaltedKey, &h)
		if err != nil || h.Nodes[node] == why {
			return err
		}
		if h.Nodes == nil {
			h.Nodes = map[uuid.UUID]string{}
		}
		h.Nodes[node], h.Shared = why, m.Ledger.Shared
		if !there {
			h.At = m.Ledger.Clock.Now()
		}
		return t.Put(record.HaltedKey, h)
	})
	return err
}

// ClearDistrust removes a node from the record of the nodes that do not trust the store. It is called when the node
// trusts the store again, or was removed from the cluster. When no node is left in the record, the halt ends, unless a
// service has seen a higher store clock than the present one.
func ClearDistrust(t *record.Tx, node uuid.UUID) error {
	var h record.Halt
	if _, err := t.Get(record.HaltedKey, &h); err != nil || h.Nodes[node] == "" {
		return err
	}
	if len(h.Nodes) == 1 && h.HighestClock == 0 {
		t.Delete(record.HaltedKey)
		return nil
	}
	delete(h.Nodes, node)
	return t.Put(record.HaltedKey, h)
}

// addDrained sets in each node that is being drained whether the drain is complete.
func (m *Members) addDrained(ctx context.Context, nodes []api.Node) error {
	t := record.NewTx(ctx, m.Ledger.Store)
	for i, n := range nodes {
		if !n.Draining {
			continue
		}
		var err error
		if nodes[i].Drained, err = isDrained(t, n.ID); err != nil {
			return err
		}
	}
	return nil
}

// isDrained reports whether a node is the home of no volume and has no replica. Datasets in the trash and superseded
// copies do not count, because a drain leaves them on the node.
func isDrained(t *record.Tx, node uuid.UUID) (bool, error) {
	copies, err := record.ListAll[dataset.Copy](t, record.NodeCopies(node))
	if err != nil {
		return false, err
	}
	for _, c := range copies {
		if c.Kind == dataset.CopyReplica {
			return false, nil
		}
	}
	homes, err := record.ListAll[record.Claim](t, record.HomePrefix(node))
	if err != nil {
		return false, err
	}
	for _, h := range homes {
		var d dataset.Dataset
		if _, err := t.Peek(record.DatasetKey(h.ID), &d); err != nil || d.State == dataset.StateReady {
			return false, err
		}
	}
	return true, nil
}

// Fence records the confirmation of an operator that a node is fenced: it is switched off, or disconnected for good.
// Automatic failover then does not wait for the node, and the node does not count towards a mass loss. The
// confirmation ends when the agent registers again. Idempotent.
//
// It fails with dataset.ErrInvalid if the request lacks the confirmation, with ErrConflict while the node is alive,
// with ErrNotFound for an unknown node, and with ErrUnsupported in the store of a single host.
func (m *Members) Fence(ctx context.Context, node uuid.UUID, f api.Fenced) (n dataset.Node, err error) {
	_, err = m.Ledger.Update(ctx, func(t *record.Tx) error {
		n = dataset.Node{}
		known, err := t.Get(record.NodeKey(node), &n)
		switch {
		case err != nil:
			return err
		case !known:
			return dataset.Errorf(dataset.ErrNotFound, "no such node: %s", node)
		case !m.Ledger.Shared:
			return dataset.Errorf(dataset.ErrUnsupported, "fence of node %s: there is no other node", n.Name)
		case !f.Confirmed:
			return dataset.Errorf(dataset.ErrInvalid,
				"fence of node %s: its volumes may then be opened elsewhere: set confirmed in the request once it is "+
					"off, or cut off for good", n.Name)
		}
		_, there, err := LivingSession(t, node)
		if err != nil {
			return err
		}
		if there {
			return dataset.Errorf(dataset.ErrConflict,
				"fence of node %s: it is alive (stop drover and its containers there first, or switch it off)", n.Name)
		}
		if already, err := IsFencedSinceRecovery(t, node); err != nil || already {
			return err
		}
		by := api.PrincipalOf(t.Context()).String()
		t.Notice.Events = append(t.Notice.Events, api.Event{
			Type:   api.EventNodeFence,
			Node:   n.Name,
			Detail: by + " confirms that it writes no more",
		})
		is := record.Fenced{At: m.Ledger.Clock.Now(), By: by}
		return errors.Join(m.putUnreachable(t, node), t.Put(record.FencedKey(node), is))
	})
	if err == nil {
		err = m.CheckMassLoss(ctx)
	}
	return n, err
}

// Failover returns whether automatic failover is suspended.
func (m *Members) Failover(ctx context.Context) (out api.FailoverState, err error) {
	err = m.Ledger.View(ctx, func(t *record.Tx) error {
		out = api.FailoverState{}
		var h record.FailoverHalt
		if _, err := t.Get(record.FailoverKey, &h); err != nil {
			return err
		}
		out.Halted, err = FailoverSuspended(t)
		out.HaltedSince = h.Since
		return err
	})
	return out, err
}
