package control

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Submit plans a request and puts its operation on record for the home's agent.
// What changes records alone is done at once.
func (s *Service) Submit(ctx context.Context, req api.Request) (out api.Outcome, err error) {
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	}
	var done *dataset.Dataset
	_, err = s.update(ctx, func(t *tx) error {
		out, done = api.Outcome{}, nil
		var recorded dataset.Operation
		if known, err := t.get(operationKey(req.ID), &recorded); err != nil {
			return err
		} else if known {
			out.Operation = &recorded
			return nil
		}
		p, err := s.plan(t, uuid.Nil, req)
		if err != nil {
			return err
		}
		if p.Done != nil {
			done = p.Done
			return nil
		}
		op := p.Operation
		out.Operation = op
		switch op.Kind {
		case dataset.OpUpdate, dataset.OpUndelete:
			return s.settle(t, op)
		case dataset.OpPurge:
			d, err := t.current(*op)
			if err != nil {
				return err
			}
			if err := s.condemn(t, d, "volume.purge"); err != nil {
				return err
			}
		}
		return s.record(t, *op)
	})
	if err != nil {
		return api.Outcome{}, err
	}
	t := newTx(ctx, s.store)
	if done == nil && out.Operation.State.Final() {
		d, derr := t.dataset(out.Operation.DatasetID)
		if derr != nil {
			return out, derr
		}
		done = &d
	}
	if done != nil {
		v, err := s.present(t, *done)
		if err != nil {
			return out, err
		}
		out.Volume = &v
	}
	return out, nil
}

// settle carries out an operation that changes records alone, and leaves it on
// record as done.
func (s *Service) settle(t *tx, op *dataset.Operation) error {
	var out api.Committed
	var err error
	if op.Kind == dataset.OpUndelete {
		err = s.commitUndelete(t, *op, &out)
	} else {
		err = s.commitUpdate(t, *op, &out)
	}
	if err != nil {
		return err
	}
	op.State, op.Ended = dataset.OpDone, s.Clock.Now()
	t.ops = append(t.ops, op.ID)
	return t.put(operationKey(op.ID), op)
}

func (s *Service) record(t *tx, op dataset.Operation) error {
	t.ops = append(t.ops, op.ID)
	t.nodes[op.Node] = true
	if err := t.put(workKey(op.Node, op.ID), claim{op.ID}); err != nil {
		return err
	}
	return t.put(operationKey(op.ID), op)
}

// Record puts an operation on record that its agent carries out already and
// that takes longer than its caller can wait. Again: nothing.
func (s *Service) Record(ctx context.Context, node uuid.UUID, r api.Report) error {
	if r.Operation.Node != node {
		return dataset.Errorf(dataset.ErrForbidden, "operation %s is node %s's, not %s's", r.Operation.ID, r.Operation.Node, node)
	}
	_, err := s.update(ctx, func(t *tx) error {
		if err := t.fresh(node, r.Incarnation); err != nil {
			return err
		}
		var recorded dataset.Operation
		known, err := t.get(operationKey(r.Operation.ID), &recorded)
		if err != nil || (known && recorded.State != dataset.OpPending) {
			return err
		}
		op := r.Operation
		op.State, op.Incarnation = dataset.OpRunning, r.Incarnation
		return s.record(t, op)
	})
	return err
}

// finish puts the end of an operation on record.
func (s *Service) finish(t *tx, op dataset.Operation) error {
	op.State, op.Ended = dataset.OpDone, s.Clock.Now()
	if op.Problem != nil {
		op.State = dataset.OpFailed
		t.events = append(t.events, api.Event{Type: "operation.fail", Volume: op.Volume, Dataset: op.DatasetID, Detail: string(op.Kind) + ": " + op.Problem.Message})
	}
	t.ops = append(t.ops, op.ID)
	t.nodes[op.Node] = true
	t.del(workKey(op.Node, op.ID))
	return t.put(operationKey(op.ID), op)
}

// forget drops the progress of an operation that ended.
func (s *Service) forget(id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.progress, id)
}

// Operations lists those on record by their UUIDs: the ones that are not final
// and those that ended within the last day.
func (s *Service) Operations(ctx context.Context, p api.Page) (api.List[dataset.Operation], error) {
	t := newTx(ctx, s.store)
	limit := pageLimit(p)
	entries, err := t.store.List(ctx, "operations/", after("operations/", p), limit)
	if err != nil {
		return api.List[dataset.Operation]{}, unavailable(err)
	}
	out := api.List[dataset.Operation]{Items: make([]dataset.Operation, len(entries))}
	for i, e := range entries {
		if err := decode(e.Key, e.Value, &out.Items[i]); err != nil {
			return out, err
		}
		s.addProgress(&out.Items[i])
	}
	if len(entries) == limit {
		out.Next = out.Items[limit-1].ID.String()
	}
	return out, nil
}

func (s *Service) addProgress(op *dataset.Operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.progress[op.ID]; ok && !op.State.Final() {
		op.Progress = p
	}
}

// Operation returns one, by UUID or a unique prefix of it. With wait it waits so
// long for it to end or its progress to change.
func (s *Service) Operation(ctx context.Context, ref string, wait time.Duration) (dataset.Operation, error) {
	timeout := s.Clock.After(wait)
	first, err := s.operation(ctx, ref)
	for op := first; ; op, err = s.operation(ctx, first.ID.String()) {
		changed := s.feed.changed()
		if err != nil || op.State.Final() || op.Progress != first.Progress || op.State != first.State || wait <= 0 {
			return op, err
		}
		if op, err = s.operation(ctx, first.ID.String()); err != nil || op.State.Final() {
			return op, err
		}
		select {
		case <-changed:
		case <-timeout:
			return op, nil
		case <-ctx.Done():
			return op, ctx.Err()
		}
	}
}

func (s *Service) operation(ctx context.Context, ref string) (op dataset.Operation, err error) {
	if dataset.CheckPrefix(ref) != nil {
		return op, noOperation(ref)
	}
	entries, err := s.store.List(ctx, "operations/"+ref, "", 2)
	if err != nil {
		return op, unavailable(err)
	}
	switch len(entries) {
	case 0:
		return op, noOperation(ref)
	case 2:
		return op, dataset.Errorf(dataset.ErrAmbiguous, "%q matches several operations (say more of the UUID)", ref)
	}
	err = decode(entries[0].Key, entries[0].Value, &op)
	s.addProgress(&op)
	return op, err
}

func noOperation(ref string) error {
	return dataset.Errorf(dataset.ErrNotFound, "no such operation: %q (drover operation ls shows those of the last day)", clip(ref))
}

// CancelOperation ends an operation that is not final. Its agent stops as soon
// as it learns of it and takes back what it made.
func (s *Service) CancelOperation(ctx context.Context, ref string) (op dataset.Operation, err error) {
	found, err := s.operation(ctx, ref)
	if err != nil {
		return found, err
	}
	_, err = s.update(ctx, func(t *tx) error {
		op = dataset.Operation{}
		ok, err := t.get(operationKey(found.ID), &op)
		switch {
		case err != nil:
			return err
		case !ok:
			return noOperation(ref)
		case op.State == dataset.OpCancelled:
			return nil
		case op.State.Final():
			return dataset.Errorf(dataset.ErrConflict, "operation %s is %s already", op.ID, op.State)
		case op.Kind == dataset.OpPurge || op.Kind == dataset.OpDelete:
			return dataset.Errorf(dataset.ErrUnsupported, "operation %s: a %s cannot be cancelled", op.ID, op.Kind)
		}
		op.State, op.Ended = dataset.OpCancelled, s.Clock.Now()
		op.Problem = &dataset.Problem{Code: dataset.ErrCancelled.Code, Message: "cancelled by request"}
		t.del(workKey(op.Node, op.ID))
		t.ops = append(t.ops, op.ID)
		t.nodes[op.Node] = true
		return t.put(operationKey(op.ID), op)
	})
	if err == nil {
		s.forget(op.ID)
	}
	return op, err
}
