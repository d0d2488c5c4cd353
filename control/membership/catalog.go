package membership

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/facts"
)

// The kinds of services in the catalog.
const (
	kindControl = "control"
	kindAgent   = "agent"
)

// PublishMembers writes the replicas and agents to the catalog. If this service lacks the right to change the catalog,
// PublishMembers sets denied to true. While denied is true, it does nothing unless everything is true.
func (m *Members) PublishMembers(ctx context.Context, denied *bool, everything bool) error {
	if m.Catalog == nil || *denied && !everything {
		return nil
	}
	all, err := m.members(ctx)
	if err != nil {
		return err
	}
	err = m.Catalog.Publish(ctx, all, everything)
	*denied = dataset.KindOf(err) == dataset.ErrForbidden
	return err
}

// members returns the live replicas, and the recorded nodes that say where they can be reached.
func (m *Members) members(ctx context.Context) (all []store.Service, err error) {
	t := record.NewTx(ctx, m.Ledger.Store)
	replicas, err := record.ListAll[Replica](t, record.LiveServicesPrefix)
	if err != nil {
		return nil, err
	}
	for _, r := range replicas {
		if r.Address != "" {
			all = append(all, r.catalogEntry())
		}
	}
	nodes, err := NodesWithFacts(t)
	if err != nil {
		return nil, err
	}
	live, err := m.LiveAgents(t)
	if err != nil {
		return nil, err
	}
	left, err := stoppedNodes(t)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		if n.Address == "" || !n.Removed.IsZero() || left[n.ID] {
			continue
		}
		v := store.Service{Kind: kindAgent, ID: n.ID.String(), Address: n.Address, Meta: serviceMeta(n.Name, n.Version)}
		if m.PublishFacts && n.Facts != nil {
			v.Tags, v.Meta = facts.Tags(n.Node, *n.Facts), facts.Meta(n.Node, *n.Facts)
		}
		if _, v.Alive = live[n.ID]; !v.Alive {
			if v.Note, err = formatUnreachable(t, n.ID); err != nil {
				return nil, err
			}
		}
		all = append(all, v)
	}
	return all, nil
}

// catalogEntry returns the catalog entry of a replica. Its address identifies it, because it has another UUID after
// each start.
func (r Replica) catalogEntry() store.Service {
	return store.Service{
		Kind:    kindControl,
		ID:      r.Address,
		Address: r.Address,
		Meta:    serviceMeta(r.Name, r.Version),
		Alive:   true,
	}
}

// stoppedNodes reads which nodes' agents were stopped properly.
func stoppedNodes(t *record.Tx) (map[uuid.UUID]bool, error) {
	list, err := record.ListAll[record.Claim](t, record.StoppedPrefix)
	out := map[uuid.UUID]bool{}
	for _, c := range list {
		out[c.ID] = true
	}
	return out, err
}

// formatUnreachable formats the time since when a node is unreachable.
func formatUnreachable(t *record.Tx, node uuid.UUID) (string, error) {
	var gone record.Unreachable
	known, err := t.Peek(record.UnreachableKey(node), &gone)
	if err != nil || !known {
		return "its agent has not been heard from", err
	}
	return "its agent has not been heard from since " + gone.Since.UTC().Format(time.RFC3339), nil
}

// Withdraw removes this replica from the catalog when it stops, if no other replica is alive. Otherwise it does
// nothing: the replica that does the background work writes the entries of all replicas, and removes this one in its
// next round.
func (m *Members) Withdraw(ctx context.Context) error {
	if m.Catalog == nil || m.Replica.Address == "" {
		return nil
	}
	others, err := record.ListAll[Replica](record.NewTx(ctx, m.Ledger.Store), record.LiveServicesPrefix)
	if err != nil || len(others) > 0 {
		return err
	}
	err = m.Catalog.Withdraw(ctx, kindControl, m.Replica.Address)
	if dataset.KindOf(err) == dataset.ErrForbidden {
		return nil // it was never listed
	}
	return err
}

// recordStopped records that an agent was stopped properly. The catalog does not list the agent until it registers
// again. The session of the agent does not end earlier than usual, because the containers on its host continue to
// write.
func (m *Members) recordStopped(ctx context.Context, n dataset.Node) error {
	if !m.Ledger.Shared {
		return nil
	}
	_, err := m.Ledger.Update(ctx, func(t *record.Tx) error {
		is, err := FreshNode(t, n.ID, n.Incarnation)
		if err != nil {
			return err
		}
		if known, err := t.Get(record.StoppedKey(is.ID), &record.Claim{}); err != nil || known {
			return err
		}
		t.Notice.Events = append(t.Notice.Events, api.Event{Type: api.EventNodeLeave, Node: is.Name})
		return t.Put(record.StoppedKey(is.ID), record.Claim{ID: is.ID})
	})
	return err
}

// serviceMeta returns the metadata with which a service is listed in Consul's catalog.
func serviceMeta(name, version string) map[string]string {
	return map[string]string{"drover_node": name, "drover_version": version}
}
