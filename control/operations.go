package control

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/deletion"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/relocation"
	"github.com/droverhq/drover/control/view"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
)

// Submit plans a request and records its operation for the agent of the home. A request that changes only records is
// carried out at once. Idempotent for the same request ID: it returns the operation as it is now. It fails as Plan
// does. For a dry run, it decides and records nothing: see preview.
func (s *Service) Submit(ctx context.Context, req api.Request) (out api.Outcome, err error) {
	if err := checkCallersID(req.ID); err != nil {
		return out, err
	}
	return s.submitAny(ctx, req)
}

// checkCallersID fails with dataset.ErrInvalid for an ID of version 5. Control computes such an ID for each operation
// of a schedule, so that all replicas request it once. A caller that used the ID first would block the operation.
func checkCallersID(id uuid.UUID) error {
	if id.Version() != 5 {
		return nil
	}
	return dataset.Errorf(dataset.ErrInvalid,
		"request %s: an ID of version 5 is reserved for control (choose a random ID)", id)
}

// submitAny is Submit for requests of callers and for those of control itself.
func (s *Service) submitAny(ctx context.Context, req api.Request) (out api.Outcome, err error) {
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	}
	if req.Failover { // the state that the failover depends on may have changed just now
		if err := s.Members.CheckLoss(ctx); err != nil {
			return out, err
		}
	}
	req, req.RequestID = req.Parsed(), requestid.Of(ctx)
	if req.DryRun {
		return s.preview(ctx, req)
	}
	var done *dataset.Dataset
	_, err = s.Ledger.Update(ctx, func(t *record.Tx) error {
		out.Operation, done, err = s.submit(t, req)
		return err
	})
	if err != nil {
		return api.Outcome{}, err
	}
	err = s.Ledger.View(ctx, func(t *record.Tx) error {
		if done == nil {
			if !out.Operation.State.Final() {
				return nil
			}
			d, err := t.Dataset(out.Operation.DatasetID)
			if dataset.KindOf(err) == dataset.ErrNotFound {
				return nil // a purge, or a create that failed
			}
			if err != nil {
				return err
			}
			done = &d
		}
		v, err := s.Views.Present(t, *done)
		out.Volume = &v
		return err
	})
	return out, err
}

// submit decides on a request. It returns an operation, which this transaction records. If an operation with the same
// ID or the same move is recorded already, it returns that operation. If the dataset already is as requested, it
// returns the dataset instead.
func (s *Service) submit(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	var recorded dataset.Operation
	if known, err := t.Get(record.OperationKey(req.ID), &recorded); err != nil {
		return nil, nil, err
	} else if known {
		return &recorded, nil, checkSameRequest(recorded, req)
	}
	if req.Kind == dataset.OpImport && req.Path == "" && req.Backup == "" && req.Repository == "" {
		return nil, nil, dataset.Errorf(dataset.ErrInvalid,
			"import of volume %q: missing path of a folder (send a tar archive to "+
				"/v1/volumes/NAME/upload)", dataset.Clip(req.Volume))
	}
	if op, err := relocation.Join(t, req); err != nil || op != nil {
		return op, nil, err
	}
	p, err := s.plan(t, requestingNode(t, req.Kind), req)
	if err != nil || p.Unchanged != nil {
		return nil, p.Unchanged, err
	}
	op := p.Operation
	if err := mayRequest(t, op); err != nil {
		return nil, nil, err
	}
	k := kinds[op.Kind]
	if k.makes {
		// Set after the decision, because the decision does not depend on the caller.
		op.OtherNode = requestingNode(t, op.Kind)
	}
	if k.records && !needsHome(*op) || deletion.IsWithoutHome(*op) {
		if err := k.settle(s)(t, *op); err != nil {
			return nil, nil, err
		}
		op.State, op.Ended = dataset.OpDone, s.Clock.Now()
		t.Notice.Ops = append(t.Notice.Ops, op.ID)
		return op, nil, s.Uptime.PutEnded(t, *op)
	}
	if k.begin != nil {
		if err := k.begin(s, t, op); err != nil {
			return nil, nil, err
		}
	}
	return op, nil, s.record(t, *op)
}

// checkSameRequest fails unless a recorded operation matches the request that has the operation's ID.
func checkSameRequest(rec dataset.Operation, req api.Request) error {
	if rec.RequestDigest == digest(req) {
		return nil
	}
	return dataset.Errorf(dataset.ErrExists, "operation %s is recorded as a %s of volume %s, not as this %.40s "+
		"(choose another ID)", rec.ID, rec.Kind, rec.Volume, req.Kind)
}

// record writes the record of an operation that has not ended, and its key under work/. It wakes the agent of its node.
func (s *Service) record(t *record.Tx, op dataset.Operation) error {
	t.Notice.Ops = append(t.Notice.Ops, op.ID)
	t.WakeNode(op.Node)
	if err := t.Put(record.WorkKey(op.Node, op.ID), record.Claim{ID: op.ID}); err != nil {
		return err
	}
	return t.Put(record.OperationKey(op.ID), op)
}

// Record records an operation that an agent carries out and that takes longer than its caller can wait. Idempotent.
// If the end of the operation is already recorded, Record changes nothing.
//
// Some operations leave no record when they end, such as a create that did not get its name. If a delayed call of
// Record arrives after that, it records the operation as running again. So if a call of Record was not answered, the
// agent sets Retry in its later reports, and control then records the end in any case: see api.Report. The errors are
// those of Commit.
func (s *Service) Record(ctx context.Context, node uuid.UUID, r api.Report) error {
	op := r.Operation
	op.State, op.Incarnation, op.Problem = dataset.OpRunning, r.Incarnation, nil
	op.RequestID, op.By = requestid.Of(ctx), requestid.By(ctx)
	if err := checkReport(node, op); err != nil {
		return err
	}
	_, err := s.Ledger.Update(ctx, func(t *record.Tx) error {
		rec, known, err := membership.RecordedOperation(t, op)
		err = cmp.Or(err, checkPlanned(op, known))
		if err != nil || (known && rec.State != dataset.OpPending) {
			return err
		}
		// A Record that arrives after the Commit of its operation must not have the agent do everything
		// again: a restore would discard later writes.
		if over, err := hasTakenEffect(t, op); err != nil || over {
			return err
		}
		if err := s.vetted.Check(t, rec, op); err != nil {
			return err
		}
		if known { // keep what other nodes reported since, such as the manifest from the home of a move
			rec.State, rec.Incarnation = op.State, op.Incarnation
			return s.record(t, rec)
		}
		return s.record(t, op)
	})
	return err
}

// hasTakenEffect reports whether the records show the effect of an operation.
func hasTakenEffect(t *record.Tx, op dataset.Operation) (bool, error) {
	var d dataset.Dataset
	there, err := t.Get(record.DatasetKey(op.DatasetID), &d)
	k := kinds[op.Kind]
	switch {
	case err != nil || k.temporary:
		return false, err
	case k.makes:
		return there, nil
	case !there || d.Request == op.ID:
		return true, nil
	case k.hasEffect == nil:
		return false, nil
	}
	return k.hasEffect(t, d, op)
}

func (s *Service) finish(t *record.Tx, op dataset.Operation) error {
	op.State, op.Ended = dataset.OpDone, s.Clock.Now()
	if op.Problem != nil {
		op.State = dataset.OpFailed
		t.Notice.Events = append(t.Notice.Events, api.Event{
			Type:    api.EventOperationFail,
			Volume:  op.Volume,
			Dataset: op.DatasetID,
			Detail:  op.Action() + ": " + op.Problem.Message,
		})
	}
	return s.endOperation(t, op)
}

// endOperation writes the record of an operation that has ended, and deletes its key under work/.
func (s *Service) endOperation(t *record.Tx, op dataset.Operation) error {
	if end := kinds[op.Kind].end; end != nil {
		if err := end(t, op); err != nil {
			return err
		}
	}
	t.Notice.Ops = append(t.Notice.Ops, op.ID)
	t.WakeNode(op.Node)
	t.Delete(record.WorkKey(op.Node, op.ID))
	return s.Uptime.PutEnded(t, op)
}

// Operations lists the recorded operations by their UUIDs. It lists all that have not ended, and those that ended
// within the last day. Of the ended ones, at most the last MaxEndedOperations and at most 32 MiB of records are kept
// (package housekeeping). Scheduled snapshots that succeeded, and the removals of such snapshots, are listed for an
// hour only.
func (s *Service) Operations(ctx context.Context, p api.Page) (out api.List[dataset.Operation], err error) {
	limit := p.Size()
	from := view.After(record.OperationsPrefix, p)
	entries, err := record.NewTx(ctx, s.Ledger.Store).List(record.OperationsPrefix, from, limit)
	if err != nil {
		return out, err
	}
	out.Items = make([]dataset.Operation, len(entries))
	for i, e := range entries {
		if err := record.Decode(e.Key, e.Value, &out.Items[i]); err != nil {
			return api.List[dataset.Operation]{}, err
		}
		out.Items[i] = s.Reports.WithProgress(out.Items[i])
	}
	if len(entries) == limit {
		out.Next = out.Items[limit-1].ID.String()
	}
	return out, nil
}

// Operation returns an operation by its UUID or a unique prefix. If wait is positive, it waits at most that long for a
// change: of the state or the progress, or of the answer of the home to a recall. It fails with dataset.ErrNotFound or
// ErrAmbiguous.
func (s *Service) Operation(ctx context.Context, ref string, wait time.Duration) (dataset.Operation, error) {
	first, err := s.operation(ctx, ref)
	if err != nil || first.State.Final() || wait <= 0 {
		return first, err
	}
	timeout := s.Clock.After(wait)
	for {
		changed, leave := s.Feed.Subscribe(first.ID)
		op, err := s.operation(ctx, first.ID.String())
		if err != nil || op.State != first.State || op.Progress != first.Progress ||
			(op.Manifest == nil) != (first.Manifest == nil) || !slices.Equal(op.InUseBy, first.InUseBy) {
			leave()
			return op, err
		}
		signaled, err := record.Await(ctx, s.quit, changed, timeout)
		leave()
		if err != nil || !signaled {
			return op, err
		}
	}
}

func (s *Service) operation(ctx context.Context, ref string) (op dataset.Operation, err error) {
	prefix := strings.ToLower(ref)
	if dataset.CheckPrefix(prefix) != nil {
		return op, operationNotFound(ref)
	}
	entries, err := record.NewTx(ctx, s.Ledger.Store).List(record.OperationsPrefix+prefix, "", 2)
	if err != nil {
		return op, err
	}
	switch len(entries) {
	case 0:
		return op, operationNotFound(ref)
	case 2:
		return op, dataset.Errorf(dataset.ErrAmbiguous, "%q matches several operations (use more digits of the "+
			"UUID)", ref)
	}
	err = record.Decode(entries[0].Key, entries[0].Value, &op)
	return s.Reports.WithProgress(op), err
}

func operationNotFound(ref string) error {
	return dataset.Errorf(dataset.ErrNotFound,
		"no such operation: %q (drover operation ls lists those of the last day; what an engine requested and "+
			"the agent finished at once is only in its log and in drover events)",
		dataset.Clip(ref))
}

// CancelOperation ends an operation that has not ended. Its agent stops as soon as it learns of the cancellation, and
// undoes its work. So only an operation that makes something new can be cancelled. For any other operation, it fails
// with dataset.ErrUnsupported. It fails with ErrConflict for an operation that has ended, and with ErrNotFound or
// ErrAmbiguous. Idempotent.
func (s *Service) CancelOperation(ctx context.Context, ref string) (op dataset.Operation, err error) {
	found, err := s.operation(ctx, ref)
	if err != nil {
		return found, err
	}
	_, err = s.Ledger.Update(ctx, func(t *record.Tx) error {
		op = dataset.Operation{}
		ok, err := t.Get(record.OperationKey(found.ID), &op)
		switch {
		case err != nil:
			return err
		case !ok:
			return operationNotFound(ref)
		}
		if err := mayCancel(t, op); err != nil {
			return err
		}
		switch {
		case op.State == dataset.OpCancelled:
			return nil
		case op.State.Final():
			return dataset.Errorf(dataset.ErrConflict, "operation %s is already %s", op.ID, op.State)
		case !kinds[op.Kind].cancels:
			return dataset.Errorf(dataset.ErrUnsupported,
				"operation %s: a %s cannot be undone once it has begun, so it cannot be cancelled", op.ID, op.Kind)
		}
		op.State, op.Ended = dataset.OpCancelled, s.Clock.Now()
		op.Problem = &dataset.Problem{Code: dataset.ErrCancelled.Code, Message: "cancelled by request"}
		return s.endOperation(t, op)
	})
	return op, err
}
