package membership

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
)

// If many nodes become unreachable at once, probably the network has failed, and not the nodes. Then no dataset of the
// cluster fails over automatically until a person has checked the nodes.
const (
	massLossMinNodes = 3 // the rule applies to clusters with at least this number of nodes
	massLossShare    = 3 // the rule applies if more than one in three nodes is unreachable
	// vanishedShown is how many of the nodes an error names.
	vanishedShown = 10
)

// vanishedTogether returns the nodes that became unreachable within MassLossWindow, in the order of their UUIDs, if
// they are more than a third of all nodes. Otherwise it returns nil. lostAt has the unreachable nodes that are not
// confirmed to be fenced, each with the running time of services at which it became unreachable. before has the nodes
// that the previous call returned. Those that are still unreachable count as well. vanishedTogether is a pure function.
func vanishedTogether(all int, lostAt map[uuid.UUID]time.Duration, before []uuid.UUID) []uuid.UUID {
	var most []uuid.UUID
	for _, from := range lostAt {
		var some []uuid.UUID
		for id, at := range lostAt {
			if at >= from && at-from <= record.MassLossWindow {
				some = append(some, id)
			}
		}
		if len(some) > len(most) {
			most = some
		}
	}
	if all < massLossMinNodes {
		return nil
	}
	if len(most)*massLossShare <= all {
		most = nil
	}
	for _, id := range before {
		if _, still := lostAt[id]; still && !slices.Contains(most, id) {
			most = append(most, id)
		}
	}
	if len(most)*massLossShare <= all {
		return nil
	}
	slices.SortFunc(most, func(x, y uuid.UUID) int { return slices.Compare(x[:], y[:]) })
	return most
}

// CheckMassLoss suspends or resumes automatic failover, depending on which nodes are unreachable at present.
func (m *Members) CheckMassLoss(ctx context.Context) error {
	if !m.Ledger.Shared {
		return nil
	}
	var said string
	_, err := m.Ledger.Update(ctx, func(t *record.Tx) error {
		said = ""
		// Read this key first: a service that records more lost nodes writes it, which repeats this decision.
		var was record.FailoverHalt
		there, err := t.Get(record.FailoverKey, &was)
		if err != nil {
			return err
		}
		nodes, err := record.ListAll[dataset.Node](t, record.NodesPrefix)
		if err != nil {
			return err
		}
		keys := make([]string, 0, 2*len(nodes))
		for _, n := range nodes {
			keys = append(keys, record.UnreachableKey(n.ID), record.FencedKey(n.ID))
		}
		if err := t.Prefetch(keys); err != nil {
			return err
		}
		lostAt, all := map[uuid.UUID]time.Duration{}, 0
		for _, n := range nodes {
			if !n.Removed.IsZero() || n.Registered.IsZero() { // removed, or not registered yet
				continue
			}
			all++
			var gone record.Unreachable
			known, err := t.Peek(record.UnreachableKey(n.ID), &gone)
			if err != nil {
				return err
			}
			confirmed, err := t.Peek(record.FencedKey(n.ID), &record.Fenced{})
			if err != nil {
				return err
			}
			if known && !confirmed {
				lostAt[n.ID] = time.Duration(gone.RunTime)
			}
		}
		now := vanishedTogether(all, lostAt, was.Nodes)
		if slices.Equal(now, was.Nodes) {
			return nil
		}
		if len(now) == 0 {
			t.Delete(record.FailoverKey)
			t.Notice.Events = append(t.Notice.Events, api.Event{Type: api.EventFailoverResume,
				Detail: "volumes fail over by themselves again"})
			return nil
		}
		if !there {
			was.Since = m.Ledger.Clock.Now()
		}
		was.Nodes = now
		if err := t.Put(record.FailoverKey, was); err != nil {
			return err
		}
		if said, err = FailoverSuspended(t); err == nil {
			t.Notice.Events = append(t.Notice.Events, api.Event{Type: api.EventFailoverHalt, Detail: said})
		}
		return err
	})
	if err == nil && said != "" {
		m.Ledger.Failed("fail over automatically", dataset.Errorf(dataset.ErrOffline, "%s", said))
	}
	return err
}

// LossCheckInterval is the minimum time between two checks of this service for lost nodes. A check reads all nodes,
// and every container that waits for a failover requests a check each second.
const LossCheckInterval = time.Second

// lossCheck has the time of the last check for lost nodes by this service.
type lossCheck struct {
	mu  sync.Mutex
	ran bool
	at  time.Duration
}

// due reports whether a check is due. If it is, due records that the check is done now.
func (l *lossCheck) due(now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ran && now-l.at < LossCheckInterval {
		return false
	}
	l.ran, l.at = true, now
	return true
}

// CheckLoss records which nodes became unreachable, and suspends failover if they are too many. It does nothing if the
// last check was less than LossCheckInterval ago. Skipping a check is safe, because the decision to continue without a
// node checks again.
func (m *Members) CheckLoss(ctx context.Context) error {
	if !m.lossCheck.due(m.Ledger.Clock.Steady()) {
		return nil
	}
	ctx = requestid.Without(ctx) // the caller did not make the nodes unreachable
	return cmp.Or(m.RecordUnreachable(ctx), m.CheckMassLoss(ctx))
}

// FailoverSuspended returns why automatic failover is suspended; "" if it is not.
func FailoverSuspended(t *record.Tx) (string, error) {
	var h record.FailoverHalt
	there, err := t.Get(record.FailoverKey, &h)
	if err != nil || !there {
		return "", err
	}
	// The names are read with Peek: the decision does not depend on them, and a transaction cannot check hundreds
	// of records.
	var names []string
	for _, id := range h.Nodes[:min(len(h.Nodes), vanishedShown)] {
		n := dataset.Node{Name: id.String()}
		if _, err := t.Peek(record.NodeKey(id), &n); err != nil {
			return "", err
		}
		names = append(names, n.Name)
	}
	return haltReason(len(h.Nodes), names), nil
}

// haltReason returns why automatic failover is suspended, and after ": " what to do. names has the first of all nodes
// that vanished.
func haltReason(all int, names []string) string {
	return fmt.Sprintf("%d nodes vanished within %s (%s), so failover is halted for the whole cluster: fix the "+
		"connection to them, or confirm for each that it is off for good: drover node fence NODE",
		all, record.MassLossWindow, listNames(all, names))
}

// MassLossSoon returns a finding if the next checks will halt failover because many nodes vanished together. It returns
// none if the halt is already recorded: see FailoverSuspended. The finding is an error if the sessions of enough nodes
// have ended, and a warning if some of the nodes do not report, but still have a session. MassLossSoon counts the nodes
// without a session, whether or not that is recorded, and the silent nodes. It changes nothing, and no decision depends
// on the finding.
func (m *Members) MassLossSoon(ctx context.Context) (out condition.List, err error) {
	if !m.Ledger.Shared {
		return nil, nil
	}
	t := record.NewTx(ctx, m.Ledger.Store)
	if halted, err := t.Peek(record.FailoverKey, &record.FailoverHalt{}); err != nil || halted {
		return nil, err
	}
	nodes, err := record.ListAll[dataset.Node](t, record.NodesPrefix)
	if err != nil {
		return nil, err
	}
	live, err := m.LiveAgents(t)
	if err != nil {
		return nil, err
	}
	now, err := m.Uptime.RunTime(t)
	if err != nil {
		return nil, err
	}
	names, lost, silent := map[uuid.UUID]string{}, map[uuid.UUID]time.Duration{}, map[uuid.UUID]time.Duration{}
	for _, n := range nodes {
		if !n.Removed.IsZero() || n.Registered.IsZero() {
			continue
		}
		names[n.ID] = n.Name
		if _, lives := live[n.ID]; lives {
			if m.sessionMayEnd(n.ID) {
				silent[n.ID] = now
			}
			continue
		}
		gone := record.Unreachable{RunTime: dataset.Duration(now)} // unless that is recorded already
		if _, err := t.Peek(record.UnreachableKey(n.ID), &gone); err != nil {
			return nil, err
		}
		confirmed, err := t.Peek(record.FencedKey(n.ID), &record.Fenced{})
		if err != nil {
			return nil, err
		}
		if !confirmed {
			lost[n.ID], silent[n.ID] = time.Duration(gone.RunTime), time.Duration(gone.RunTime)
		}
	}
	if together := vanishedTogether(len(names), lost, nil); len(together) > 0 {
		text, fix, _ := strings.Cut(haltReason(len(together), namesOf(together, names)), ": ")
		out.Add(condition.FailoverHalted, "failover", fix, text)
	} else if together := vanishedTogether(len(names), silent, nil); len(together) > 0 {
		out.Add(condition.FailoverHaltsSoon, "failover", "", len(together),
			listNames(len(together), namesOf(together, names)))
	}
	return out, nil
}

// sessionMayEnd reports whether a node with a session is silent, and its session may be the one of its last report. A
// node that was silent for longer than that still renews its session: its agent runs, and only its reports do not
// reach this service.
func (m *Members) sessionMayEnd(node uuid.UUID) bool {
	now := m.Ledger.Clock.Steady()
	return m.Reports.IsSilent(node, now) && now-m.Reports.Heartbeat(node).At <= reports.MaxSilence+2*m.Timing.Session
}

// namesOf returns the names of the first nodes, at most vanishedShown.
func namesOf(ids []uuid.UUID, names map[uuid.UUID]string) (out []string) {
	for _, id := range ids[:min(len(ids), vanishedShown)] {
		out = append(out, names[id])
	}
	return out
}

// listNames lists the names of nodes in alphabetical order, and how many of all nodes are not named.
func listNames(all int, names []string) string {
	names = slices.Sorted(slices.Values(names))
	if more := all - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}
