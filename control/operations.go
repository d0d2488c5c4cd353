package control

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Submit plans a request and puts its operation on record for the home's agent.
// What changes records alone is done at once. Again, with the same request ID:
// the operation as it is now. Errors as of Plan.
func (s *Service) Submit(ctx context.Context, req api.Request) (out api.Outcome, err error) {
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	}
	if req.Failover { // what it rests on may have happened just now
		if err := s.lookForLoss(ctx); err != nil {
			return out, err
		}
	}
	var done *dataset.Dataset
	_, err = s.update(ctx, func(t *tx) error {
		out.Operation, done, err = s.submit(t, req)
		return err
	})
	if err != nil {
		return api.Outcome{}, err
	}
	err = s.view(ctx, func(t *tx) error {
		if done == nil {
			if !out.Operation.State.Final() {
				return nil
			}
			d, err := t.dataset(out.Operation.DatasetID)
			if dataset.KindOf(err) == dataset.ErrNotFound {
				return nil // a purge, or what failed to be made
			}
			if err != nil {
				return err
			}
			done = &d
		}
		v, err := s.present(t, *done)
		out.Volume = &v
		return err
	})
	return out, err
}

// submit decides on a request: an operation, on record with this transaction,
// or the dataset that is already as asked.
func (s *Service) submit(t *tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	var recorded dataset.Operation
	if known, err := t.get(record.OperationKey(req.ID), &recorded); err != nil {
		return nil, nil, err
	} else if known {
		return &recorded, nil, asked(recorded, req)
	}
	if req.Kind == dataset.OpImport && req.Path == "" {
		return nil, nil, dataset.Errorf(dataset.ErrInvalid,
			"import of volume %q: from which folder? (say its path; a tar archive is sent to "+
				"/v1/volumes/NAME/upload)", dataset.Clip(req.Volume))
	}
	if op, err := s.joinMove(t, req); err != nil || op != nil {
		return op, nil, err
	}
	p, err := s.plan(t, t.asking(req.Kind), req)
	if err != nil || p.Done != nil {
		return nil, p.Done, err
	}
	op := p.Operation
	if err := t.may(op); err != nil {
		return nil, nil, err
	}
	if makes(op.Kind) {
		op.From = t.asking(op.Kind) // not before: who asks has no part in it
	}
	if alone(op.Kind) || withoutHome(*op) {
		return op, nil, s.settle(t, op)
	}
	switch op.Kind {
	case dataset.OpMove:
		if err := s.beginMove(t, op); err != nil {
			return nil, nil, err
		}
		if err := t.announce(*op); err != nil {
			return nil, nil, err
		}
	case dataset.OpPurge:
		d, err := t.current(*op)
		if err != nil {
			return nil, nil, err
		}
		if err := s.condemn(t, &d, "volume.purge", "destroyed"); err != nil {
			return nil, nil, err
		}
	}
	return op, nil, s.record(t, *op)
}

// asked fails unless an operation on record is what a request with its ID asks
// for.
func asked(rec dataset.Operation, req api.Request) error {
	if rec.Asked == digest(req) {
		return nil
	}
	return dataset.Errorf(dataset.ErrExists, "operation %s is on record as another %s, of volume %s, and "+
		"cannot be this %.40s as well (choose another ID)", rec.ID, rec.Kind, rec.Volume, req.Kind)
}

// settle carries out an operation that changes records alone, and leaves it on
// record as done.
func (s *Service) settle(t *tx, op *dataset.Operation) error {
	settle := s.settleUpdate
	switch op.Kind {
	case dataset.OpDelete:
		settle = s.settleDelete
	case dataset.OpUndelete:
		settle = s.settleUndelete
	case dataset.OpDiscard:
		settle = s.settleDiscard
	case dataset.OpShow, dataset.OpHide:
		settle = s.settleShow
	}
	if err := settle(t, *op); err != nil {
		return err
	}
	op.State, op.Ended = dataset.OpDone, s.Clock.Now()
	t.ops = append(t.ops, op.ID)
	return s.putEnded(t, *op)
}

func (s *Service) record(t *tx, op dataset.Operation) error {
	t.ops = append(t.ops, op.ID)
	t.wakeNode(op.Node)
	if err := t.put(record.WorkKey(op.Node, op.ID), record.Claim{ID: op.ID}); err != nil {
		return err
	}
	return t.put(record.OperationKey(op.ID), op)
}

// Record puts an operation on record that its agent carries out already and
// that takes longer than its caller can wait. Again, or for one whose outcome
// is on record: nothing. One whose outcome left nothing on record, as a create that lost its name, would
// be begun again: see api.Report, Again. Errors as of Commit.
func (s *Service) Record(ctx context.Context, node uuid.UUID, r api.Report) error {
	op := r.Operation
	op.State, op.Incarnation, op.Problem = dataset.OpRunning, r.Incarnation, nil
	if err := reportable(node, op); err != nil {
		return err
	}
	_, err := s.update(ctx, func(t *tx) error {
		rec, known, err := t.recorded(op)
		if err != nil || (known && rec.State != dataset.OpPending) {
			return err
		}
		// A Record that was overtaken by its operation's Commit must not have
		// the agent do it all again: a restore would throw away what was
		// written since.
		if over, err := t.over(op); err != nil || over {
			return err
		}
		if err := s.ownProfiles(t, rec, op); err != nil {
			return err
		}
		if known { // with what others have said of it since, as what the home of a move gave up
			rec.State, rec.Incarnation = op.State, op.Incarnation
			return s.record(t, rec)
		}
		return s.record(t, op)
	})
	return err
}

// over reports whether an operation is on record as done, by what it leaves.
func (t *tx) over(op dataset.Operation) (bool, error) {
	var d dataset.Dataset
	there, err := t.get(record.DatasetKey(op.DatasetID), &d)
	if err != nil {
		return false, err
	}
	if makes(op.Kind) {
		return there, nil
	}
	if !there || d.Request == op.ID {
		return true, nil
	}
	switch op.Kind {
	case dataset.OpDelete:
		return d.State != dataset.StateReady, nil
	case dataset.OpSnapshot, dataset.OpRestore:
		if op.Snapshot == nil { // only in the report of a failure
			return false, nil
		}
		return t.get(record.SnapshotKey(d.ID, op.Snapshot.ID), &dataset.Snapshot{})
	case dataset.OpSnapshotDelete:
		if op.Snapshot == nil {
			return false, nil
		}
		there, err := t.get(record.SnapshotKey(d.ID, op.Snapshot.ID), &dataset.Snapshot{})
		return !there, err
	}
	return false, nil
}

// finish puts the end of an operation on record.
func (s *Service) finish(t *tx, op dataset.Operation) error {
	op.State, op.Ended = dataset.OpDone, s.Clock.Now()
	if op.Problem != nil {
		op.State = dataset.OpFailed
		t.events = append(t.events, api.Event{
			Type:    "operation.fail",
			Volume:  op.Volume,
			Dataset: op.DatasetID,
			Detail:  string(op.Kind) + ": " + op.Problem.Message,
		})
	}
	return s.end(t, op)
}

// end writes an operation that is final and takes it off its node's work. A move that
// did not come to its end gives the lease back.
func (s *Service) end(t *tx, op dataset.Operation) error {
	if op.Kind == dataset.OpMove && op.State != dataset.OpDone {
		if err := t.release(op); err != nil {
			return err
		}
	}
	t.ops = append(t.ops, op.ID)
	t.wakeNode(op.Node)
	t.del(record.WorkKey(op.Node, op.ID))
	return s.putEnded(t, op)
}

// Operations lists those on record by their UUIDs: the ones that are not final
// and those that ended within the last day, at most the last endedMost; of
// scheduled snapshots and their removals that went well, those of the last hour.
func (s *Service) Operations(ctx context.Context, p api.Page) (out api.List[dataset.Operation], err error) {
	limit := pageLimit(p)
	entries, err := newTx(ctx, s.store).list(record.OperationsPrefix, after(record.OperationsPrefix, p), limit)
	if err != nil {
		return out, err
	}
	out.Items = make([]dataset.Operation, len(entries))
	for i, e := range entries {
		if err := record.Decode(e.Key, e.Value, &out.Items[i]); err != nil {
			return api.List[dataset.Operation]{}, err
		}
		out.Items[i] = s.seen.withProgress(out.Items[i])
	}
	if len(entries) == limit {
		out.Next = out.Items[limit-1].ID.String()
	}
	return out, nil
}

// Operation returns one, by UUID or a unique prefix of it. With wait it waits so
// long for it to end or its state or progress to change. ErrNotFound,
// ErrAmbiguous.
func (s *Service) Operation(ctx context.Context, ref string, wait time.Duration) (dataset.Operation, error) {
	first, err := s.operation(ctx, ref)
	if err != nil || first.State.Final() || wait <= 0 {
		return first, err
	}
	timeout := s.Clock.After(wait)
	for {
		rung, leave := s.feed.Hear(first.ID)
		op, err := s.operation(ctx, first.ID.String())
		if err != nil || op.State != first.State || op.Progress != first.Progress ||
			(op.Manifest == nil) != (first.Manifest == nil) || !slices.Equal(op.Holders, first.Holders) {
			leave()
			return op, err
		}
		rang, err := s.await(ctx, rung, timeout)
		leave()
		if err != nil || !rang {
			return op, err
		}
	}
}

func (s *Service) operation(ctx context.Context, ref string) (op dataset.Operation, err error) {
	prefix := strings.ToLower(ref)
	if dataset.CheckPrefix(prefix) != nil {
		return op, noOperation(ref)
	}
	entries, err := newTx(ctx, s.store).list(record.OperationsPrefix+prefix, "", 2)
	if err != nil {
		return op, err
	}
	switch len(entries) {
	case 0:
		return op, noOperation(ref)
	case 2:
		return op, dataset.Errorf(dataset.ErrAmbiguous, "%q matches several operations (say more of the UUID)", ref)
	}
	err = record.Decode(entries[0].Key, entries[0].Value, &op)
	return s.seen.withProgress(op), err
}

func noOperation(ref string) error {
	return dataset.Errorf(dataset.ErrNotFound,
		"no such operation: %q (drover operation ls shows those of the last day, at most the last 10,000)",
		dataset.Clip(ref))
}

// CancelOperation ends an operation that is not final. Its agent stops as soon
// as it learns of it and takes back what it made; so only what makes something
// new can be cancelled: ErrUnsupported for the rest. ErrConflict for one that
// has ended, ErrNotFound, ErrAmbiguous. Again: nothing.
func (s *Service) CancelOperation(ctx context.Context, ref string) (op dataset.Operation, err error) {
	found, err := s.operation(ctx, ref)
	if err != nil {
		return found, err
	}
	_, err = s.update(ctx, func(t *tx) error {
		op = dataset.Operation{}
		ok, err := t.get(record.OperationKey(found.ID), &op)
		switch {
		case err != nil:
			return err
		case !ok:
			return noOperation(ref)
		}
		if err := t.mayCancel(op); err != nil {
			return err
		}
		switch {
		case op.State == dataset.OpCancelled:
			return nil
		case op.State.Final():
			return dataset.Errorf(dataset.ErrConflict, "operation %s is %s already", op.ID, op.State)
		case !makes(op.Kind) && op.Kind != dataset.OpSnapshot && op.Kind != dataset.OpMove:
			return dataset.Errorf(dataset.ErrUnsupported,
				"operation %s: a %s cannot be taken back once it has begun, so it cannot be cancelled", op.ID, op.Kind)
		}
		op.State, op.Ended = dataset.OpCancelled, s.Clock.Now()
		op.Problem = &dataset.Problem{Code: dataset.ErrCancelled.Code, Message: "cancelled by request"}
		return s.end(t, op)
	})
	return op, err
}
