package membership

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Register records a node and its pools. From then on, only reports of the incarnation that registered are accepted.
// Idempotent. A node with a certificate gets the name in the certificate.
//
// It fails with these errors:
//   - dataset.ErrInvalid: the registration lacks the identity of the node or of a pool, or is too large.
//   - ErrRemoved: the node was removed.
//   - ErrStale: a later registration of the same agent arrived before.
//   - ErrInUse: another machine with its identity is alive, or one of its pools is recorded for another node that is
//     alive.
//   - ErrConflict: a pool was removed while something is recorded in it.
func (m *Members) Register(ctx context.Context, r api.Registration) error {
	n := r.Node
	if n.ID == uuid.Nil || n.Incarnation == uuid.Nil {
		return dataset.Errorf(dataset.ErrInvalid, "register: missing node or incarnation")
	}
	if p := api.PrincipalOf(ctx); p.Kind == pki.Node {
		n.Name = p.Name
	}
	before := ""
	err := m.withSession(ctx, func(t *record.Tx, session string) (err error) {
		if err := identifyStore(t); err != nil {
			return err
		}
		if before, err = m.admitAgent(t, r, session); err != nil {
			return err
		}
		var old dataset.Node
		if ok, err := t.Get(record.NodeKey(n.ID), &old); err != nil {
			return err
		} else if ok {
			n.Cordoned, n.Draining = old.Cordoned, old.Draining
		}
		n.SetLabels(r.Node.Labels, old.LiveLabels)
		if err := checkRegistration(t, n, old); err != nil {
			return err
		}
		who := "register of node " + n.Name
		n.Pools, n.UnreportedPools = nil, nil
		for _, p := range r.Pools {
			if p.ID == uuid.Nil || slices.Contains(n.Pools, p.ID) {
				return dataset.Errorf(dataset.ErrInvalid, "register: pool %q has no UUID, or that of another",
					dataset.Clip(p.Name))
			}
			if err := m.checkPoolFree(t, n, p); err != nil {
				return err
			}
			p.Node = n.ID
			n.Pools = append(n.Pools, p.ID)
			if err := reports.CheckRecord(who, "the report on pool "+dataset.Clip(p.Name), p); err != nil {
				return err
			}
			if err := t.Put(record.PoolKey(p.ID), p); err != nil {
				return err
			}
		}
		if err := reconcilePools(t, &n, old.Pools, r.RemovedPools); err != nil {
			return err
		}
		if err := cmp.Or(reports.CheckCount(who, len(n.Pools), reports.MaxPools, "pools"),
			reports.CheckRecord(who, "the record of the node", n)); err != nil {
			return err
		}
		n.Registered = m.Ledger.Clock.Now() // this always changes the record, as api.Sync.RegistrationIndex requires
		return errors.Join(noteReturn(t, n.ID), t.Put(record.NodeKey(n.ID), n))
	})
	if err != nil || before == "" {
		return err
	}
	return record.ReadError(ctx, m.Ledger.Store.End(ctx, before))
}

// checkRegistration fails if a node may not register. old is the present record of the node, or empty.
func checkRegistration(t *record.Tx, n, old dataset.Node) error {
	if n.Incarnation == old.Incarnation && n.RegistrationNumber < old.RegistrationNumber {
		// The registration may name pools that were removed.
		return dataset.Errorf(dataset.ErrStale, "register node %s: a later request of its agent arrived before", n.Name)
	}
	if was, err := t.Get(record.RevokedNodeKey(n.ID), &record.Revocation{}); err != nil {
		return err
	} else if was || !old.Removed.IsZero() {
		return RemovedError(n.ID)
	}
	return nil
}

// noteReturn records that a node has registered after the last recovery of the store: see HasReturned.
func noteReturn(t *record.Tx, node uuid.UUID) error {
	var rec record.Recovery
	recovered, err := t.Get(record.RecoveryKey, &rec)
	if err != nil || !recovered || !rec.Done {
		return err
	}
	var is record.Claim
	if _, err := t.Get(record.ReturnedKey(node), &is); err != nil || is.ID == rec.ID {
		return err
	}
	return t.Put(record.ReturnedKey(node), record.Claim{ID: rec.ID})
}

// HasReturned reports whether the records of a node's datasets are at least as new as the data on the node. They are if
// the store was never restored from a backup. Otherwise the node must have reported in the last recovery, have
// registered since then, or have been confirmed since then to be fenced. An earlier confirmation may come from the
// backup, so it may be outdated.
func HasReturned(t *record.Tx, node uuid.UUID) (bool, error) {
	var rec record.Recovery
	recovered, err := t.Get(record.RecoveryKey, &rec)
	if err != nil || !recovered || slices.Contains(rec.ReportedNodes, node) {
		return err == nil, err
	}
	var is record.Claim
	if _, err = t.Get(record.ReturnedKey(node), &is); err != nil || is.ID == rec.ID {
		return err == nil, err
	}
	return IsFencedSinceRecovery(t, node)
}

// IsFencedSinceRecovery reports whether a person has confirmed that a node is fenced, and, if the store was restored
// from a backup, has done so since the recovery.
func IsFencedSinceRecovery(t *record.Tx, node uuid.UUID) (bool, error) {
	confirmed, err := t.Get(record.FencedKey(node), &record.Fenced{})
	if err != nil || !confirmed {
		return false, err
	}
	recovered, err := t.Get(record.RecoveryKey, &record.Recovery{})
	return !recovered || t.Index(record.FencedKey(node)) > t.Index(record.RecoveryKey), err
}

// checkPoolFree fails with dataset.ErrInUse for a pool that is recorded for another node, while that node is alive. In
// that case either the disk was moved, and its former host no longer has it, or the disk was copied, and the same pool
// exists twice. To take over a pool of an unreachable node, the operator runs drover pool adopt on the new host.
// recovery.Rebuild describes what happens to the volumes.
func (m *Members) checkPoolFree(t *record.Tx, n dataset.Node, p dataset.Pool) error {
	if !m.Ledger.Shared {
		return nil
	}
	var on dataset.Pool
	there, err := t.Get(record.PoolKey(p.ID), &on)
	if err != nil || !there || on.Node == n.ID {
		return err
	}
	_, alive, err := LivingSession(t, on.Node)
	if err != nil || !alive {
		return err
	}
	name, err := t.NodeName(on.Node)
	if err == nil {
		err = dataset.Errorf(dataset.ErrInUse,
			"register node %s: pool %s (%s) belongs to node %s, which is alive (a copy of its disk cannot be "+
				"used at the same time; remove the pool from drover.yaml, or stop drover on node %s "+
				"and wait until it is unreachable)", n.Name, p.Name,
			p.ID, name, name)
	}
	return err
}

func identifyStore(t *record.Tx) error {
	var c record.Claim
	ok, err := t.Get(record.ClusterKey, &c)
	if err != nil || ok {
		return err
	}
	return t.Put(record.ClusterKey, record.Claim{ID: uuid.New()})
}

// Heartbeat keeps the report of an agent in memory. It writes to the store only if the agent is stopping, or if the
// store does not have the trust or distrust that the agent reports. It fails with dataset.ErrStale for an agent that is
// not the newest one of its node, and with ErrInvalid for a report that is too large. It fails with ErrConflict for an
// incremental report if this service did not receive the report before it.
func (m *Members) Heartbeat(ctx context.Context, node uuid.UUID, h api.Heartbeat) error {
	n, ok := m.Ledger.Nodes().Node(node)
	t := record.NewTx(ctx, m.Ledger.Store)
	look := !ok || n.Incarnation != h.Incarnation || !n.Removed.IsZero()
	if look {
		began := m.Ledger.Clock.Steady()
		err := t.Prefetch([]string{record.NodeKey(node), record.HaltedKey})
		if err == nil {
			n, err = FreshNode(t, node, h.Incarnation)
		}
		if err != nil {
			return err
		}
		m.Ledger.Nodes().Remember(t, node, began)
	}
	if err := reports.CheckHeartbeat(n, h); err != nil {
		return err
	}
	if h.Stopping {
		return m.recordStopped(ctx, n)
	}
	if h.Incremental && !m.Reports.Heartbeat(node).Heard {
		return dataset.Errorf(dataset.ErrConflict,
			"node %s: not heard from since control started: a full report is needed", n.Name)
	}
	if err := m.recordTrust(t, node, h.StoreDoubt, look); err != nil {
		return err
	}
	changes, err := m.Reports.RecordHeartbeat(n, h, m.Ledger.Clock.Steady())
	if err != nil {
		return err
	}
	events := slices.Concat(changes.Events, fullnessEvents(t, n, changes.Fullness))
	for i := range events {
		events[i].Time = m.Ledger.Clock.Now()
	}
	m.Ledger.Events.Publish(events...)
	for _, op := range changes.Advanced {
		m.Ledger.Feed.WakeWaiters(op)
	}
	return nil
}

// fullnessEvents returns the events about volumes that became full, nearly full, or neither. A volume whose record
// cannot be read has no event: the list of volumes still shows how full it is.
func fullnessEvents(t *record.Tx, n dataset.Node, changed []dataset.DatasetStatus) (events []api.Event) {
	for _, st := range changed {
		d, err := t.Dataset(st.ID)
		if err != nil || d.Home != n.ID || d.State != dataset.StateReady {
			continue
		}
		typ := map[dataset.Fullness]api.EventType{
			dataset.Full: api.EventVolumeFull, dataset.NearlyFull: api.EventVolumeNearly,
			dataset.NotFull: api.EventVolumeNotFull,
		}[st.Fullness]
		events = append(events, api.Event{
			Type: typ, Volume: d.Volume, Dataset: d.ID, Node: n.Name, Labels: d.Labels,
			Detail: st.Usage.Describe(d.Size),
		})
	}
	return events
}

// FreshNode fails with dataset.ErrStale unless a report comes from the agent that registered last for its node.
func FreshNode(t *record.Tx, node, incarnation uuid.UUID) (n dataset.Node, err error) {
	ok, err := t.Get(record.NodeKey(node), &n)
	switch {
	case err != nil:
		return n, err
	case !ok:
		return n, dataset.Errorf(dataset.ErrStale, "node %s is not registered", node)
	case !n.Removed.IsZero():
		return n, RemovedError(node)
	case n.Incarnation != incarnation:
		return n, dataset.Errorf(dataset.ErrStale, "node %s: report of incarnation %s, but %s registered since",
			n.Name, incarnation, n.Incarnation)
	}
	return n, nil
}
