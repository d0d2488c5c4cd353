package control

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Plan decides on a request that the node itself will carry out. Nothing is
// written.
func (s *Service) Plan(ctx context.Context, node uuid.UUID, req api.Request) (p api.Plan, err error) {
	err = s.view(ctx, func(t *tx) error {
		p, err = s.plan(t, node, req)
		return err
	})
	return p, err
}

// plan is the decision: pure, but for what it reads through t.
func (s *Service) plan(t *tx, node uuid.UUID, req api.Request) (api.Plan, error) {
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	}
	op, done, err := s.decide(t, node, req)
	if err != nil || done != nil {
		return api.Plan{Done: done}, err
	}
	if op.Kind == "" {
		op.Kind = req.Kind
	}
	op.ID, op.State, op.Created = req.ID, dataset.OpPending, s.Clock.Now()
	if op.Dataset != nil {
		op.Dataset.Request = req.ID
	}
	if op.Snapshot != nil {
		op.Snapshot.Request = req.ID
	}
	return api.Plan{Operation: op}, nil
}

// decide returns the operation that a request comes to, or the dataset that is
// already as asked.
func (s *Service) decide(t *tx, node uuid.UUID, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	switch req.Kind {
	case dataset.OpCreate, dataset.OpClone, dataset.OpImport:
		return s.planCreate(t, node, req)
	case dataset.OpSnapshot:
		return s.planSnapshot(t, req)
	case dataset.OpSnapshotDelete:
		return s.planSnapshotDelete(t, req)
	case dataset.OpRestore:
		return s.planRestore(t, req)
	case dataset.OpResize:
		return s.planResize(t, req)
	case dataset.OpUpdate:
		return s.planUpdate(t, req)
	case dataset.OpDelete:
		return s.planDelete(t, req)
	case dataset.OpUndelete:
		return s.planUndelete(t, req)
	case dataset.OpPurge:
		return s.planPurge(t, req)
	}
	return nil, nil, dataset.Errorf(dataset.ErrInvalid, "unknown kind of operation %q", clip(string(req.Kind)))
}

// on makes an operation for the home of an existing dataset.
func on(d dataset.Dataset) *dataset.Operation {
	return &dataset.Operation{Node: d.Home, Volume: d.Volume, DatasetID: d.ID, Epoch: d.Epoch}
}

// Commit puts the outcome of an operation on record. Again, for the same
// operation: the same answer.
func (s *Service) Commit(ctx context.Context, node uuid.UUID, r api.Report) (out api.Committed, err error) {
	op := r.Operation
	if op.Node != node {
		return out, dataset.Errorf(dataset.ErrForbidden, "operation %s is node %s's, not %s's", op.ID, op.Node, node)
	}
	if op.Kind == dataset.OpPurge && op.Problem == nil {
		if err := s.forgetSnapshots(ctx, op); err != nil {
			return out, err
		}
	}
	out.Index, err = s.update(ctx, func(t *tx) error {
		out = api.Committed{}
		if err := t.fresh(node, r.Incarnation); err != nil {
			return err
		}
		var recorded dataset.Operation
		known, err := t.get(operationKey(op.ID), &recorded)
		if err != nil {
			return err
		}
		if known && recorded.State == dataset.OpDone {
			return s.repeat(t, op, &out)
		}
		if known && recorded.State.Final() {
			return dataset.Errorf(dataset.ErrCancelled, "operation %s was %s meanwhile", op.ID, recorded.State)
		}
		if op.Problem == nil {
			if err := s.apply(t, op, &out); err != nil {
				return err
			}
		}
		if known || op.Problem != nil {
			return s.finish(t, op)
		}
		return nil
	})
	if err == nil {
		s.forget(op.ID)
	}
	return out, err
}

// apply writes what a finished operation changes.
func (s *Service) apply(t *tx, op dataset.Operation, out *api.Committed) error {
	switch op.Kind {
	case dataset.OpCreate, dataset.OpClone, dataset.OpImport:
		return s.commitCreate(t, op, out)
	case dataset.OpSnapshot:
		return s.commitSnapshot(t, op, out)
	case dataset.OpSnapshotDelete:
		return s.commitSnapshotDelete(t, op, out)
	case dataset.OpRestore:
		return s.commitRestore(t, op, out)
	case dataset.OpResize, dataset.OpUpdate:
		return s.commitUpdate(t, op, out)
	case dataset.OpDelete:
		return s.commitDelete(t, op, out)
	case dataset.OpPurge:
		return s.commitPurge(t, op, out)
	}
	return dataset.Errorf(dataset.ErrInvalid, "operation %s: kind %q is not one that an agent reports", op.ID, op.Kind)
}

// repeat answers the report of an operation that is already on record as done.
func (s *Service) repeat(t *tx, op dataset.Operation, out *api.Committed) error {
	var d dataset.Dataset
	ok, err := t.get(datasetKey(op.DatasetID), &d)
	if err == nil && ok {
		out.Dataset = &d
	}
	return err
}

// fresh fails with ErrStale unless the report comes from the agent that
// registered last for its node.
func (t *tx) fresh(node, incarnation uuid.UUID) error {
	var n dataset.Node
	ok, err := t.get(nodeKey(node), &n)
	switch {
	case err != nil:
		return err
	case !ok:
		return dataset.Errorf(dataset.ErrStale, "node %s is not registered", node)
	case n.Incarnation != incarnation:
		return dataset.Errorf(dataset.ErrStale, "node %s: report of incarnation %s, but %s registered since", n.Name, incarnation, n.Incarnation)
	}
	return nil
}

// current reads the dataset of an operation and fails with ErrStale unless it is
// still at the epoch, and home, that the operation was planned for.
func (t *tx) current(op dataset.Operation) (dataset.Dataset, error) {
	d, err := t.dataset(op.DatasetID)
	if err != nil {
		return d, err
	}
	if d.Epoch != op.Epoch || d.Home != op.Node {
		return d, dataset.Errorf(dataset.ErrStale, "volume %s: report of epoch %d on node %s, but it is at epoch %d on %s", d.Volume, op.Epoch, op.Node, d.Epoch, d.Home)
	}
	return d, nil
}
