package membership

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// MassLoss tells people about a loss of many nodes before the halt of failover is recorded. No decision depends on it.
type MassLoss struct {
	Text string // what happened; empty if there is no such loss
	Fix  string // the next command
	// Certain is true if the sessions of enough nodes have ended: the next check of this service halts failover. If it
	// is false, some of the nodes do not report, but still have a session.
	Certain bool
}

// MassLossSoon returns whether the next checks will halt failover because many nodes vanished together. It counts the
// nodes without a session, whether or not that is recorded, and the silent nodes. It returns the zero value if the
// halt is already recorded: see FailoverSuspended. It changes nothing.
func (m *Members) MassLossSoon(ctx context.Context) (MassLoss, error) {
	if !m.Ledger.Shared {
		return MassLoss{}, nil
	}
	t := record.NewTx(ctx, m.Ledger.Store)
	if halted, err := t.Peek(record.FailoverKey, &record.FailoverHalt{}); err != nil || halted {
		return MassLoss{}, err
	}
	nodes, err := record.ListAll[dataset.Node](t, record.NodesPrefix)
	if err != nil {
		return MassLoss{}, err
	}
	live, err := m.LiveAgents(t)
	if err != nil {
		return MassLoss{}, err
	}
	now, err := m.Uptime.RunTime(t)
	if err != nil {
		return MassLoss{}, err
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
			return MassLoss{}, err
		}
		confirmed, err := t.Peek(record.FencedKey(n.ID), &record.Fenced{})
		if err != nil {
			return MassLoss{}, err
		}
		if !confirmed {
			lost[n.ID], silent[n.ID] = time.Duration(gone.RunTime), time.Duration(gone.RunTime)
		}
	}
	if together := vanishedTogether(len(names), lost, nil); len(together) > 0 {
		text, fix, _ := strings.Cut(haltReason(len(together), namesOf(together, names)), ": ")
		return MassLoss{Text: text, Fix: fix, Certain: true}, nil
	}
	together := vanishedTogether(len(names), silent, nil)
	if len(together) == 0 {
		return MassLoss{}, nil
	}
	return MassLoss{
		Text: fmt.Sprintf("%d nodes do not report (%s): when their sessions end, failover is halted for the whole "+
			"cluster", len(together), listNames(len(together), namesOf(together, names))),
		Fix: "drover node ls; start the agents of these nodes, or fix the connection to them",
	}, nil
}

// sessionMayEnd reports whether a node with a session is silent, and its session may be the one of its last report. A
// node that was silent for longer than that still renews its session: its agent runs, and only its reports do not
// reach this service.
func (m *Members) sessionMayEnd(node uuid.UUID) bool {
	now := m.Ledger.Clock.Steady()
	return m.Reports.IsSilent(node, now) && m.Reports.Silence(node, now) <= reports.MaxSilence+2*m.Timing.Session
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
