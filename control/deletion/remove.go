package deletion

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/view"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
)

// NodeRemover removes nodes, and the records that concern only them. It has no state. Its methods are safe for
// concurrent use.
type NodeRemover struct {
	Admission  *membership.Admission
	Views      *view.Views
	CopyKeeper *placement.CopyKeeper
	Ledger     *record.Ledger
	Reported   *reports.Latest
	Clock      clock.Clock
	end        func(*record.Tx, dataset.Operation) error
}

// NewNodeRemover returns a NodeRemover. end records the end of an operation.
func NewNodeRemover(a *membership.Admission, v *view.Views, k *placement.CopyKeeper,
	end func(*record.Tx, dataset.Operation) error) *NodeRemover {
	return &NodeRemover{a, v, k, k.Ledger, k.Reports, k.Ledger.Clock, end}
}

// homesShown is how many of a node's volumes an error names.
const homesShown = 5

// RemoveNode removes a node: it revokes the node's certificate, and removes the records of the node and of its copies.
// Idempotent: a repeated call continues an interrupted removal.
//
// It fails with dataset.ErrInUse while datasets have their home on the node. With force it then only revokes the
// certificate. The node stays recorded as removed and cordoned, until its datasets have another home and it is removed
// again. The same applies while the node has shared mounts, until a person confirms that the node is fenced.
//
// It also fails while the node keeps the only copy of some data. With force the records of that data are removed, and
// the response and the events name the data. RemoveNode fails with dataset.ErrInvalid for an unknown node, and with
// ErrAmbiguous if ref matches several nodes. A replica that is the only one of a healthy volume does not prevent the
// removal, but the response names the volume.
//
// A dry run changes nothing. It returns and fails as the removal would.
func (m *NodeRemover) RemoveNode(ctx context.Context, ref string, how api.NodeRemoval) (out api.RemovedNode,
	err error) {
	n, force := &out.Node, how.Force
	if !force {
		if err := m.CopyKeeper.CheckNoOnlyCopy(ctx, ref); err != nil {
			return out, err
		}
	}
	if how.DryRun {
		return m.preview(ctx, ref, force)
	}
	var unprotected []string
	err = m.Ledger.View(ctx, func(t *record.Tx) (err error) {
		unprotected, err = onlyReplicas(t, ref)
		return err
	})
	if err != nil && !force { // a damaged record must not keep anybody from revoking a certificate
		return out, err
	}
	_, err = m.Ledger.Update(ctx, func(t *record.Tx) error {
		if out, err = checkRemovable(t, ref, force); err != nil {
			return err
		}
		out.Unprotected = unprotected
		return m.revokeNode(t, n)
	})
	m.Admission.ReloadRevocations()
	if err != nil {
		return out, err
	}
	for more := true; more; {
		forgotten, err := m.clearNode(ctx, n.ID)
		out.Forgotten = append(out.Forgotten, forgotten...)
		if err != nil {
			return out, err
		}
		_, err = m.Ledger.Update(ctx, func(t *record.Tx) (err error) {
			more, err = deleteIfUnused(t, *n, force)
			return err
		})
		if err != nil {
			return out, err
		}
	}
	m.forgetReports(ctx, n.ID)
	return out, nil
}

// forgetReports drops the reports of a node whose record was deleted. If it cannot read the record, it does nothing:
// the removal has succeeded and must not fail. This replica then drops the reports when it next lists the nodes, as all
// other replicas do.
func (m *NodeRemover) forgetReports(ctx context.Context, node uuid.UUID) {
	recorded, err := record.NewTx(ctx, m.Ledger.Store).Get(record.NodeKey(node), &dataset.Node{})
	if err == nil && !recorded {
		m.Reported.ForgetNode(node)
	}
}

// checkRemovable finds a node, and fails if it must not be removed. It returns the node and its homes.
func checkRemovable(t *record.Tx, ref string, force bool) (out api.RemovedNode, err error) {
	if out.Node, err = t.FindNode(ref); err != nil {
		return out, err
	}
	if out.Homes, err = homeNames(t, out.ID); err != nil {
		return out, err
	}
	if len(out.Homes) > 0 && !force {
		return out, remainingHomes(out.Node, out.Homes)
	}
	if !force {
		err = checkNoSharedMounts(t, out.Node)
	}
	return out, err
}

// preview returns what a removal would return, and changes nothing.
func (m *NodeRemover) preview(ctx context.Context, ref string, force bool) (out api.RemovedNode, err error) {
	err = m.Ledger.View(ctx, func(t *record.Tx) error {
		if out, err = checkRemovable(t, ref, force); err != nil {
			return err
		}
		if _, out.Live, err = membership.LivingSession(t, out.ID); err != nil {
			return err
		}
		if out.Unprotected, err = onlyReplicas(t, out.ID.String()); err != nil {
			return err
		}
		copies, err := record.ListAll[dataset.Copy](t, record.NodeCopies(out.ID))
		if err != nil {
			return err
		}
		for _, c := range copies {
			only, err := m.CopyKeeper.FindOnlyCopy(t, out.ID, c.Dataset)
			if err != nil {
				return err
			}
			if only.What != "" {
				out.Forgotten = append(out.Forgotten, only.What)
			}
		}
		return nil
	})
	return out, err
}

// deleteIfUnused removes the record of a node on which no other record depends. more is true if records must be removed
// first. That is so for the record of a copy, which a volume left when it moved elsewhere during the removal. It is
// also so for shared mounts, if a person has confirmed that the node is fenced. A move turns a home into a copy in one
// transaction, so the homes are read before the copies.
func deleteIfUnused(t *record.Tx, n dataset.Node, force bool) (more bool, err error) {
	homes, err := homeNames(t, n.ID)
	if err != nil || len(homes) > 0 && force {
		return false, err
	}
	if len(homes) > 0 {
		return false, remainingHomes(n, homes) // a dataset got its home here during the removal
	}
	copies, err := t.List(record.NodeCopies(n.ID), "", 1)
	if err != nil || len(copies) > 0 {
		return len(copies) > 0, err
	}
	ids, err := record.SharedMountDatasets(t, n.ID, nil)
	if err != nil {
		return false, err
	}
	if len(ids) == 0 {
		return false, DeleteNode(t, n.ID)
	}
	confirmed, err := t.Get(record.FencedKey(n.ID), &record.Fenced{})
	return confirmed, err // an unfenced node may still write to mounted volumes, without a report
}

// revokeNode marks a node as removed and revokes its certificate.
func (m *NodeRemover) revokeNode(t *record.Tx, n *dataset.Node) error {
	if !n.Removed.IsZero() {
		return nil
	}
	n.Removed, n.Cordoned = m.Clock.Now(), true
	if err := t.Put(record.NodeKey(n.ID), *n); err != nil {
		return err
	}
	if err := membership.ClearDistrust(t, n.ID); err != nil { // its report about the store does not count any more
		return err
	}
	t.Notice.Events = append(t.Notice.Events, api.Event{
		Type:   api.EventNodeRemove,
		Node:   n.Name,
		Detail: "removed; certificate revoked",
	})
	return m.Admission.Revoke(t, record.RevokedNodeKey(n.ID), record.Revocation{
		Node: n.ID, Name: n.Name, By: api.PrincipalOf(t.Context()).String(), At: n.Removed,
		Until: n.Removed.Add(pki.MemberLife + time.Hour),
	})
}

// homeNames returns the names of some datasets whose home is a node: at most one more than an error shows.
func homeNames(t *record.Tx, node uuid.UUID) (names []string, err error) {
	entries, err := t.List(record.HomePrefix(node), "", homesShown+1)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var c record.Claim
		if err := record.Decode(e.Key, e.Value, &c); err != nil {
			return nil, err
		}
		var d dataset.Dataset
		if _, err := t.Peek(record.DatasetKey(c.ID), &d); err != nil {
			return nil, err
		}
		name := d.Volume
		if d.State != dataset.StateReady {
			name += " (deleted, " + c.ID.String()[:8] + ")"
		}
		names = append(names, name)
	}
	return names, nil
}

func remainingHomes(n dataset.Node, homes []string) error {
	more := ""
	if len(homes) > homesShown {
		homes, more = homes[:homesShown], " and others"
	}
	slices.Sort(homes)
	return dataset.Errorf(dataset.ErrInUse, "node %s is the home of %s%s: move them first (drover node drain %[1]s), "+
		"or use --force to revoke its certificate now: then it stays in the store until they have another home",
		n.Name, strings.Join(homes, ", "), more)
}

// clearNode ends the operations of a node that was removed, and removes the records of its copies, because the node
// cannot come back. It returns descriptions of the data that no other node has.
func (m *NodeRemover) clearNode(ctx context.Context, node uuid.UUID) (forgotten []string, err error) {
	work, err := record.OpenWork(record.NewTx(ctx, m.Ledger.Store), node)
	if err != nil {
		return nil, err
	}
	for _, op := range work {
		if _, err := m.Ledger.Update(ctx, func(t *record.Tx) error {
			return m.endOperation(t, op.ID, node)
		}); err != nil {
			return nil, err
		}
	}
	if err := m.clearCondemned(ctx, node, uuid.Nil); err != nil {
		return nil, err
	}
	if err := m.clearSharedMounts(ctx, node); err != nil {
		return nil, err
	}
	copies, err := record.ListAll[dataset.Copy](record.NewTx(ctx, m.Ledger.Store), record.NodeCopies(node))
	if err != nil {
		return nil, err
	}
	for _, c := range copies {
		var only placement.OnlyCopy
		if _, err := m.Ledger.Update(ctx, func(t *record.Tx) (err error) {
			if only, err = m.CopyKeeper.FindOnlyCopy(t, node, c.Dataset); err != nil {
				return err
			}
			if only.What != "" {
				t.Event(api.EventVolumeForget, only.Dataset,
					only.What+", was removed from the store: its data is in pool "+c.Pool.String())
			}
			return record.DropCopy(t, node, c.Dataset)
		}); err != nil {
			return forgotten, err
		}
		if only.What != "" {
			forgotten = append(forgotten, only.What)
		}
	}
	return forgotten, nil
}

// clearCondemned removes the records of datasets that a removed node had to destroy, because no node will report that.
// If pool is not uuid.Nil, it removes only those in that pool, which was removed.
func (m *NodeRemover) clearCondemned(ctx context.Context, node, pool uuid.UUID) error {
	entries, err := record.NewTx(ctx, m.Ledger.Store).List(record.HomePrefix(node), "", 0)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var c record.Claim
		if err := record.Decode(e.Key, e.Value, &c); err != nil {
			return err
		}
		gone := false
		for more := true; more; {
			_, err := m.Ledger.Update(ctx, func(t *record.Tx) error {
				more, gone = false, false
				var d dataset.Dataset
				there, err := t.Get(record.DatasetKey(c.ID), &d)
				if err != nil || !there || d.Home != node || d.State != dataset.StatePurging || pool != uuid.Nil &&
					d.Pool != pool {
					return err
				}
				if more, err = DeleteSnapshots(t, d); err != nil || more {
					return err
				}
				gone = true
				return ClearHome(t, d)
			})
			if err != nil {
				return err
			}
		}
		if gone {
			m.Reported.ForgetDataset(c.ID)
			m.Views.Forget(c.ID)
		}
	}
	return nil
}

// endOperation ends an operation whose node was removed.
func (m *NodeRemover) endOperation(t *record.Tx, id, node uuid.UUID) error {
	var op dataset.Operation
	ok, err := t.Get(record.OperationKey(id), &op)
	if err != nil || !ok || op.State.Final() {
		return err
	}
	op.State, op.Ended = dataset.OpFailed, m.Clock.Now()
	op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrOffline,
		"node %s was removed before it could do this", node))
	return m.end(t, op)
}

// DeleteNode removes the records of a node and of its pools. No other record may depend on the node any more.
func DeleteNode(t *record.Tx, id uuid.UUID) error {
	var n dataset.Node
	ok, err := t.Get(record.NodeKey(id), &n)
	if err != nil || !ok {
		return err
	}
	for _, pool := range n.Pools {
		if err := membership.ForgetPool(t, id, pool); err != nil {
			return err
		}
	}
	for _, key := range record.NodeKeys(id) {
		t.Delete(key)
	}
	return nil
}

// ClearRemoved removes the records of the condemned datasets in the pools that a node has removed. The node can no
// longer destroy them.
func (m *NodeRemover) ClearRemoved(ctx context.Context, r api.Registration) error {
	for _, id := range r.RemovedPools {
		if slices.ContainsFunc(r.Pools, func(p dataset.Pool) bool { return p.ID == id }) {
			continue // the node still has the pool and asked only whether it may remove it
		}
		if err := m.clearCondemned(ctx, r.Node.ID, id); err != nil {
			return err
		}
	}
	return nil
}

// checkNoSharedMounts fails with dataset.ErrInUse while a node has shared mounts, unless a person
// confirms that it is fenced.
func checkNoSharedMounts(t *record.Tx, n dataset.Node) error {
	if confirmed, err := t.Get(record.FencedKey(n.ID), &record.Fenced{}); err != nil || confirmed {
		return err
	}
	ids, err := record.SharedMountDatasets(t, n.ID, nil)
	if err != nil || len(ids) == 0 {
		return err
	}
	var names []string
	for _, id := range ids[:min(len(ids), homesShown)] {
		d, err := t.Dataset(id)
		if err != nil {
			return err
		}
		names = append(names, d.Volume)
	}
	if len(ids) > homesShown {
		names = append(names, "others")
	}
	slices.Sort(names)
	return dataset.Errorf(dataset.ErrInUse, "node %s uses %s, whose home is another node: stop its containers "+
		"there or, once it is off for good: drover node fence %s", n.Name,
		strings.Join(names, ", "), n.Name)
}

// clearSharedMounts removes the shared mounts of a removed node once a person has confirmed that the node is fenced.
// Until then, the node may still have the datasets mounted.
func (m *NodeRemover) clearSharedMounts(ctx context.Context, node uuid.UUID) error {
	t := record.NewTx(ctx, m.Ledger.Store)
	if confirmed, err := t.Get(record.FencedKey(node), &record.Fenced{}); err != nil || !confirmed {
		return err
	}
	ids, err := record.SharedMountDatasets(t, node, nil)
	for _, id := range ids {
		if err != nil {
			break
		}
		_, err = m.Ledger.Update(ctx, func(t *record.Tx) error {
			var d dataset.Dataset
			there, err := t.Get(record.DatasetKey(id), &d)
			if err != nil {
				return err
			}
			t.Delete(record.SharedMountKey(node, id))
			if _, stays := d.SharedMountOf(node); !there || !stays {
				return nil
			}
			record.RemoveSharedMount(t, &d, node)
			return t.PutDataset(d)
		})
	}
	return err
}

// onlyReplicas returns the sorted names of the volumes that have one replica, if a node has it. The homes of these
// volumes have the data too. It leaves out volumes in the trash, and replicas that are not complete.
func onlyReplicas(t *record.Tx, ref string) (volumes []string, err error) {
	n, err := t.FindNode(ref)
	if err != nil {
		return nil, err
	}
	copies, err := record.ListAll[dataset.Copy](t, record.NodeCopies(n.ID))
	if err != nil {
		return nil, err
	}
	for _, c := range copies {
		if !isReplica(c) {
			continue
		}
		var d dataset.Dataset
		there, err := t.Peek(record.DatasetKey(c.Dataset), &d)
		if err != nil {
			return nil, err
		}
		if !there || d.State != dataset.StateReady {
			continue
		}
		another, err := hasReplica(t, d.ID, record.WithoutNode(d.Copies, n.ID))
		if err != nil {
			return nil, err
		}
		if !another {
			volumes = append(volumes, d.Volume)
		}
	}
	slices.Sort(volumes)
	return volumes, nil
}

// hasReplica reports whether one of the nodes has a complete replica of a dataset.
func hasReplica(t *record.Tx, id uuid.UUID, nodes []uuid.UUID) (bool, error) {
	for _, node := range nodes {
		var c dataset.Copy
		if _, err := t.Peek(record.CopyKey(node, id), &c); err != nil {
			return false, err
		}
		if isReplica(c) {
			return true, nil
		}
	}
	return false, nil
}

// isReplica reports whether a copy is a complete replica, and not one that expires after a move.
func isReplica(c dataset.Copy) bool { return c.Promotable() && c.Kind == dataset.CopyReplica }
