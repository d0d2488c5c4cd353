package membership

import (
	"context"
	"maps"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/selector"
)

// factsEvery is the minimum time between two writes of the facts of a node. The load of a host changes all the time,
// and each write costs work on every server of the store.
const factsEvery = time.Minute

// Facts records the facts that a node reports about its host, and returns the recorded facts. It writes a report only
// if it differs enough from the record, and if at least a minute (factsEvery) has passed since the last write. It fails
// with dataset.ErrStale for an agent that is not the node's newest. Idempotent.
func (m *Members) Facts(ctx context.Context, node uuid.UUID, r api.FactsReport) (on dataset.Facts, err error) {
	_, err = m.Ledger.Update(ctx, func(t *record.Tx) error {
		if n, err := FreshNode(t, node, r.Incarnation); err != nil {
			return err
		} else if err := reports.CheckRecord("facts of node "+n.Name, "the report", r.Facts); err != nil {
			return err
		}
		on = dataset.Facts{}
		known, err := t.Get(record.FactsKey(node), &on)
		if err != nil {
			return err
		}
		is, now := r.Facts, m.Ledger.Clock.Now()
		is.Node, is.Taken = node, now
		// if the clock was set back, passed is negative and the facts are written
		if passed := now.Sub(on.Taken); known && (!on.Differ(is) || passed >= 0 && passed < factsEvery) {
			return nil
		}
		on = is
		return t.Put(record.FactsKey(node), is)
	})
	return on, err
}

// NodeList lists the nodes that match a filter, an expression over facts. A node matches if the expression is true for
// at least one of its pools. If the filter is empty, all nodes match. If the filter has a mistake, NodeList fails with
// dataset.ErrInvalid. NodeList also drops the reports of nodes that are no longer recorded, because another replica may
// have removed them.
func (m *Members) NodeList(ctx context.Context, filter string) ([]api.Node, error) {
	var want selector.Expr
	if filter != "" {
		var err error
		if want, err = selector.Parse(filter); err != nil {
			return nil, dataset.Errorf(dataset.ErrInvalid, "filter %q: %w", dataset.Clip(filter), err)
		}
	}
	began := m.Ledger.Clock.Steady()
	nodes, err := NodesWithFacts(record.NewTx(ctx, m.Ledger.Store))
	if err != nil {
		return nil, err
	}
	ids := make([]uuid.UUID, len(nodes))
	for i, n := range nodes {
		ids[i] = n.ID
	}
	m.Reports.RetainNodes(ids, began)
	out := []api.Node{}
	for _, n := range nodes {
		if filter == "" || matchesFilter(want, n) {
			out = append(out, n)
		}
	}
	if err := m.addDrained(ctx, out); err != nil {
		return nil, err
	}
	return out, m.addReachability(ctx, out)
}

// matchesFilter reports whether an expression is true for a node and at least one of its pools. A node without facts
// matches nothing. It is a pure function.
func matchesFilter(e selector.Expr, n api.Node) bool {
	if n.Facts == nil {
		return false
	}
	env := selector.Env{Node: n.Node, Facts: *n.Facts}
	if !e.OfPool() {
		return e.Mismatch(env) == ""
	}
	for _, env.Pool = range n.Facts.Pools {
		if e.Mismatch(env) == "" {
			return true
		}
	}
	return false
}

// NodesWithFacts reads all nodes with their facts.
func NodesWithFacts(t *record.Tx) ([]api.Node, error) {
	nodes, err := record.ListAll[dataset.Node](t, record.NodesPrefix)
	if err != nil {
		return nil, err
	}
	facts, err := record.ListAll[dataset.Facts](t, record.FactsPrefix)
	if err != nil {
		return nil, err
	}
	of := map[uuid.UUID]*dataset.Facts{}
	for i := range facts {
		of[facts[i].Node] = &facts[i]
	}
	out := make([]api.Node, len(nodes))
	for i, n := range nodes {
		out[i] = api.Node{Node: n, Facts: of[n.ID]}
	}
	return out, nil
}

// LabelNode sets and removes live labels of a node. A live label replaces the label of the node's drover.yaml with the
// same key. If it is removed, the label of drover.yaml applies again, if there is one. It fails with
// dataset.ErrNotFound or ErrInvalid.
func (m *Members) LabelNode(ctx context.Context, node uuid.UUID, change dataset.LabelChange) (n dataset.Node,
	err error) {
	_, err = m.Ledger.Update(ctx, func(t *record.Tx) error {
		n = dataset.Node{}
		ok, err := t.Get(record.NodeKey(node), &n)
		if err != nil {
			return err
		}
		if !ok {
			return dataset.Errorf(dataset.ErrNotFound, "no such node: %s (drover node ls lists the nodes)", node)
		}
		configured := n.LabelsOfFile()
		for _, key := range change.Remove {
			_, live := n.LiveLabels[key]
			if _, file := configured[key]; file && !live {
				return dataset.Errorf(dataset.ErrInvalid,
					"node %s: label %s comes from drover.yaml (remove it there and restart drover, or set another "+
						"value: drover node label %s %s=VALUE)", n.Name, key, n.Name, key)
			}
		}
		live, err := change.Apply("node "+n.Name, n.LiveLabels)
		if err != nil || maps.Equal(live, n.LiveLabels) {
			return err
		}
		n.SetLabels(configured, live)
		if err := reports.CheckRecord("labels of node "+n.Name, "its record", n); err != nil {
			return err
		}
		t.Notice.Events = append(t.Notice.Events, api.Event{Type: api.EventNodeLabel, Node: n.Name})
		t.Notice.Housekeeping = true
		return t.Put(record.NodeKey(node), n)
	})
	return n, err
}

// Cordon sets whether new volumes may be placed on a node, and whether its volumes must move elsewhere. Idempotent. It
// fails with dataset.ErrNotFound or ErrInvalid.
func (m *Members) Cordon(ctx context.Context, node uuid.UUID, set api.Cordoned) (n dataset.Node, err error) {
	_, err = m.Ledger.Update(ctx, func(t *record.Tx) error {
		n = dataset.Node{}
		ok, err := t.Get(record.NodeKey(node), &n)
		switch {
		case err != nil:
			return err
		case !ok:
			return dataset.Errorf(dataset.ErrNotFound, "no such node: %s (drover node ls lists the nodes)", node)
		case set.Draining && !set.Cordoned:
			return dataset.Errorf(dataset.ErrInvalid, "node %s: a drained node must be cordoned as well", n.Name)
		case n.Cordoned == set.Cordoned && n.Draining == set.Draining:
			return nil
		}
		n.Cordoned, n.Draining = set.Cordoned, set.Draining
		what := api.EventNodeUncordon
		switch {
		case set.Draining:
			what = api.EventNodeDrain
		case set.Cordoned:
			what = api.EventNodeCordon
		}
		t.Notice.Events, t.Notice.Housekeeping = append(t.Notice.Events, api.Event{Type: what, Node: n.Name}), true
		return t.Put(record.NodeKey(node), n)
	})
	return n, err
}
