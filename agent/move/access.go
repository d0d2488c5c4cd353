package move

import (
	"context"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
)

// Access decides which nodes may read the datasets of this node. It caches the targets of running moves, so that it
// need not ask control for each request. Its methods are safe for concurrent use.
type Access struct {
	host *host.Host

	mu      sync.Mutex
	targets map[uuid.UUID]target // by dataset
}

// target is a running move of a dataset, and the node that the move takes the dataset to.
type target struct{ move, node uuid.UUID }

// Check returns ErrForbidden unless a node may read a dataset of this node. A node may read it if it has a recorded
// copy, or if it is the target of a running move of the dataset. Check returns ErrNotFound if this node does not have
// the dataset. If the records of this node do not allow the request, Check asks control, and can return the errors of
// control.
func (c *Access) Check(ctx context.Context, peer, ds uuid.UUID) error {
	d, known := c.host.Cache.DatasetOrCopy(ds)
	if !known {
		return dataset.Errorf(dataset.ErrNotFound, "dataset %s is not on node %s", ds, c.host.NodeName)
	}
	if slices.Contains(d.Copies, peer) || c.isTarget(d, peer) {
		return nil
	}
	v, err := c.host.Control.Volume(ctx, ds.String()) // the record here may be older than the move
	if err != nil {
		return err
	}
	if slices.Contains(v.Copies, peer) {
		return nil
	}
	if v.Move != uuid.Nil {
		op, err := c.host.Control.Operation(ctx, v.Move.String(), 0)
		if err != nil {
			return err
		}
		if op.Node == peer && !op.State.Final() {
			c.mu.Lock()
			c.targets[ds] = target{op.ID, peer}
			c.mu.Unlock()
			return nil
		}
	}
	return dataset.Errorf(dataset.ErrForbidden, "node %s may not have dataset %s", peer, ds)
}

// isTarget reports whether a node is the target of a running move of a dataset that control has confirmed earlier.
func (c *Access) isTarget(d dataset.Dataset, node uuid.UUID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, known := c.targets[d.ID]
	if known && m.move != d.Move {
		delete(c.targets, d.ID)
		return false
	}
	return known && m.node == node
}

// Forget removes the target of a dataset whose home is no longer this node.
func (c *Access) Forget(ds uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.targets, ds)
}
