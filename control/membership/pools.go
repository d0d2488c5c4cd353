package membership

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// reconcilePools compares the pools that a node had with those that it reports now. It keeps the record of a pool that
// is missing although no operator removed it, because its datasets are offline and not lost. It removes the records of
// the pools in gone, which the operator removed, and fails if anything is still recorded in one of them. If the node
// still reports a pool in gone, it asks only whether it may remove the pool, and the record stays.
func reconcilePools(t *record.Tx, n *dataset.Node, had, gone []uuid.UUID) error {
	for _, id := range had {
		switch {
		case slices.Contains(n.Pools, id) && slices.Contains(gone, id):
			if _, err := removablePool(t, *n, id); err != nil {
				return err
			}
		case slices.Contains(n.Pools, id):
		case slices.Contains(gone, id):
			if err := removePool(t, *n, id); err != nil {
				return err
			}
		default:
			n.Pools, n.UnreportedPools = append(n.Pools, id), append(n.UnreportedPools, id)
		}
	}
	return nil
}

func removePool(t *record.Tx, n dataset.Node, id uuid.UUID) error {
	p, err := removablePool(t, n, id)
	if err != nil || p == nil {
		return err // another node has adopted it
	}
	t.Notice.Events = append(t.Notice.Events, api.Event{
		Type:   api.EventPoolRemove,
		Node:   n.Name,
		Detail: fmt.Sprintf("pool %s (%s, backend %s at %s) was removed from the store", p.Name, id, p.Backend, p.Path),
	})
	return ForgetPool(t, n.ID, id)
}

// removablePool returns a pool of a node if its record may be removed. If the pool does not belong to the node, it
// returns nil. It fails with dataset.ErrConflict while anything but condemned datasets is recorded in the pool.
// Condemned datasets are removed with the pool.
//
// Nothing can be added to the pool concurrently. Every decision that plans something in the pool also depends on the
// record of the node, and the agent has already registered without the pool.
func removablePool(t *record.Tx, n dataset.Node, id uuid.UUID) (*dataset.Pool, error) {
	var p dataset.Pool
	there, err := t.Get(record.PoolKey(id), &p)
	if err != nil || !there || p.Node != n.ID {
		return nil, err
	}
	left, err := poolContent(t, n, id)
	if err != nil {
		return nil, err
	}
	return &p, dataset.PoolNotEmpty(p.Name, left)
}

// ForgetPool removes the record of a pool, unless another node has adopted the pool.
func ForgetPool(t *record.Tx, node, id uuid.UUID) error {
	var p dataset.Pool
	there, err := t.Get(record.PoolKey(id), &p)
	if there && p.Node == node {
		t.Delete(record.PoolKey(id))
		t.Delete(record.GenerationKey(id))
	}
	return err
}

// poolContent names the datasets that are recorded in a pool of a node, and those that are planned there.
func poolContent(t *record.Tx, n dataset.Node, pool uuid.UUID) (held []dataset.PoolContent, err error) {
	node := n.ID
	homes, err := record.ListAll[record.Claim](t, record.HomePrefix(node))
	if err != nil {
		return nil, err
	}
	work, err := record.ListAll[record.Claim](t, record.WorkPrefix(node))
	if err != nil {
		return nil, err
	}
	copies, err := record.ListAll[dataset.Copy](t, record.NodeCopies(node))
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, c := range homes {
		keys = append(keys, record.DatasetKey(c.ID))
	}
	for _, c := range work {
		keys = append(keys, record.OperationKey(c.ID))
	}
	if err := t.Prefetch(keys); err != nil {
		return nil, err
	}
	for _, c := range homes {
		var d dataset.Dataset
		if _, err := t.Peek(record.DatasetKey(c.ID), &d); err != nil {
			return nil, err
		}
		if d.Pool == pool && d.State != dataset.StatePurging {
			held = append(held, d.PoolContent())
		}
	}
	for _, c := range copies {
		if c.Pool != pool {
			continue
		}
		var d dataset.Dataset
		if _, err := t.Peek(record.DatasetKey(c.Dataset), &d); err != nil {
			return nil, err
		}
		held = append(held, c.PoolContent(d.Volume, n.Name))
	}
	for _, c := range work {
		var op dataset.Operation
		if _, err := t.Peek(record.OperationKey(c.ID), &op); err != nil {
			return nil, err
		}
		if !op.State.Final() && op.DatasetRecord != nil && op.DatasetRecord.Pool == pool && op.Kind != dataset.OpPurge {
			held = append(held, dataset.PoolContent{What: fmt.Sprintf("operation %s, the %s of volume %s",
				op.ID.String()[:8], op.Kind, op.Volume), Remedy: "try again after it ends"})
		}
	}
	return held, nil
}
