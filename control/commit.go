package control

import (
	"cmp"
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/internal/steps"
)

// Commit records the outcome of an operation in one transaction, which checks every key that the decision depends on.
// Before that, a purge removes the records of the snapshots in separate transactions. After a move, Commit removes the
// records of lost snapshots. Idempotent: the same operation gets the same response. A report with a Problem records
// only the failure. A failed purge counts as done if the dataset is not recorded any more.
//
// It fails with dataset.ErrForbidden if the operation belongs to another node, and with ErrInvalid if agents cannot
// make such a report. It fails with ErrStale if the report comes from an older incarnation, epoch or home. It fails
// with ErrCancelled if the operation was cancelled: the agent must undo what it made. It fails with ErrConflict,
// ErrNotFound, ErrExists or ErrProtected if the outcome was not recorded and can no longer be recorded. After
// ErrUnavailable, the outcome may have been recorded.
func (s *Service) Commit(ctx context.Context, node uuid.UUID, r api.Report) (out api.Committed, err error) {
	op := r.Operation
	op.Incarnation, op.RequestID, op.By = r.Incarnation, requestid.Of(ctx), requestid.By(ctx)
	if err := cmp.Or(checkReport(node, op), checkStatus(r)); err != nil {
		return out, err
	}
	if op.Kind == dataset.OpPurge && op.Problem == nil {
		if err := s.deleter.ForgetSnapshots(ctx, op); err != nil {
			return out, err
		}
	}
	// Other nodes may have become unreachable since the plan. If there are too many, failover must be suspended.
	if op.Kind == dataset.OpMove && op.Problem == nil && op.Loss != nil {
		if err := s.Members.CheckLoss(ctx); err != nil {
			return out, err
		}
	}
	var last *record.Tx
	var from uuid.UUID // the home before a move
	began := s.Clock.Steady()
	if op.Kind == dataset.OpMove {
		steps.At("commit.begin")
	}
	index, err := s.Ledger.Update(ctx, func(t *record.Tx) error {
		out, last = api.Committed{}, t
		if err := s.prefetchReport(t, op); err != nil {
			return err
		}
		if op.Kind == dataset.OpMove {
			if d, err := t.Dataset(op.DatasetID); err == nil {
				from = d.Home
			}
		}
		if err := s.conclude(t, op, r.Retry, &out); err != nil {
			return err
		}
		if op.Kind == dataset.OpBackup && op.Problem == nil {
			if err := expireBackups(t, op.ID, op.DatasetID, s.Clock.Now(), &out); err != nil {
				return err
			}
		}
		return answerReport(t, &out)
	})
	if err != nil {
		return api.Committed{}, err
	}
	s.Ledger.Nodes().Remember(last, node, began)
	if out.Dataset == nil || last.HasWrite(record.DatasetKey(out.Dataset.ID)) {
		out.Index = index // if this transaction wrote no dataset, answerReport has set the index
	}
	if op.Problem == nil && out.Dataset != nil && !out.Duplicate && out.Dataset.Home == node {
		s.noteStatus(r, from, *out.Dataset)
	}
	if op.Kind == dataset.OpPurge && op.Problem == nil {
		s.Reports.ForgetDataset(op.DatasetID)
		s.Views.Forget(op.DatasetID)
	}
	if op.Kind == dataset.OpMove && out.Dataset != nil {
		steps.At("commit.recorded")
		// If ForgetLost fails, the next round of housekeeping calls it again.
		if err := s.CopyKeeper.ForgetLost(ctx, *out.Dataset); err != nil && ctx.Err() == nil {
			s.Failed("forget snapshots that are lost", err)
		}
	}
	return out, nil
}

// answerReport puts the records that the transaction wrote into the response, including decisions on copies. The
// agent applies the response as the complete state at the index of the transaction, so the response must contain
// every record that the transaction wrote.
func answerReport(t *record.Tx, out *api.Committed) error {
	if out.Dataset == nil {
		return nil
	}
	key := record.DatasetKey(out.Dataset.ID)
	var now dataset.Dataset
	there, err := t.Get(key, &now)
	if there {
		out.Dataset, out.Index = &now, t.Index(key)
	}
	return err
}

// prefetchReport reads the records that the decision on a report needs, in one call. For a create, the first attempt
// reads nothing: the create was planned a moment ago, so prefetchReport assumes that none of its records exists. If
// one exists, the commit fails, and the next attempt reads them.
func (s *Service) prefetchReport(t *record.Tx, op dataset.Operation) error {
	keys := []string{record.OperationKey(op.ID), record.DatasetKey(op.DatasetID)}
	if e, ok := s.Ledger.Nodes().Entry(op.Node); ok && t.FirstTry {
		t.UseCached(e)
	} else {
		keys = append(keys, record.NodeKey(op.Node))
	}
	if kinds[op.Kind].makes && op.Problem == nil {
		keys = append(keys, record.NameKey(op.DatasetRecord.Volume))
	}
	if op.Kind == dataset.OpCreate && op.Problem == nil && t.FirstTry {
		for _, key := range keys[:2] {
			t.UseCached(store.Entry{Key: key})
		}
		t.UseCached(store.Entry{Key: record.NameKey(op.DatasetRecord.Volume)})
		return nil
	}
	return t.Prefetch(keys)
}

// conclude decides on the report of an operation. It always records the end of a recorded operation. It records the
// end of an operation that is not recorded only if retry is set and an earlier report may still arrive: see
// mayArriveLater.
func (s *Service) conclude(t *record.Tx, op dataset.Operation, retry bool, out *api.Committed) error {
	recorded, known, err := membership.RecordedOperation(t, op)
	if err = cmp.Or(err, checkPlanned(op, known)); err != nil {
		return err
	}
	if known { // the agent that reports is not the one who requested it
		t.By = recorded.By
	}
	if known && recorded.State.Final() {
		return repeatResponse(t, recorded, op, out)
	}
	if op.Problem != nil && op.Kind == dataset.OpPurge {
		// Another purge of the same dataset may have ended first.
		there, err := t.Get(record.DatasetKey(op.DatasetID), &dataset.Dataset{})
		if err != nil {
			return err
		}
		if !there {
			op.Problem = nil
		}
	}
	if op.Problem == nil {
		if err := s.vetted.Check(t, recorded, op); err != nil {
			return err
		}
		completeReport(&op, recorded)
		if err := s.apply(t, op, out); err != nil {
			return err
		}
	}
	if !known {
		if retry, err = mayArriveLater(t, op, retry); err != nil || !retry {
			return err
		}
		recorded, t.Notice.InResponse = dataset.Operation{
			ID: op.ID, Kind: op.Kind, Node: op.Node, Volume: op.Volume, DatasetID: op.DatasetID, Epoch: op.Epoch,
			Created: op.Created, RequestID: op.RequestID, By: op.By,
		}, false
		if op.Problem != nil {
			op.DatasetRecord, op.Snapshot, op.Progress = nil, nil, dataset.Progress{}
		}
	}
	switch {
	case !out.Duplicate:
	case !known: // no agent waits for this operation, and a repeated report gets the same response
		recorded.DatasetID, recorded.Discarded, op.DatasetRecord = out.Dataset.ID, op.DatasetID, out.Dataset
	default:
		if op.Problem, err = s.mismatch(t, op, *out.Dataset); err != nil {
			return err
		}
		if op.Problem == nil { // callers that wait for this operation get the dataset that exists
			recorded.DatasetID, recorded.Discarded, op.DatasetRecord = out.Dataset.ID, op.DatasetID, out.Dataset
		}
	}
	if err := noteResult(t, &recorded, &op, *out); err != nil {
		return err
	}
	// Control has recorded the request. The report only adds how the operation ended.
	recorded.Problem, recorded.DatasetRecord, recorded.Snapshot = op.Problem, op.DatasetRecord, op.Snapshot
	recorded.Progress, recorded.Incarnation = op.Progress, op.Incarnation
	return s.finish(t, recorded)
}

// noteResult copies to the recorded operation what its result needs from the report op, and corrects the record of the
// dataset in the report.
func noteResult(t *record.Tx, recorded, op *dataset.Operation, out api.Committed) (err error) {
	if op.Kind == dataset.OpVerify && op.BackupOf != recorded.BackupOf && !recorded.Scheduled {
		recorded.BackupOf = uuid.Nil // the agent has read that the backup is of another dataset
	}
	if op.Kind == dataset.OpVerify {
		recorded.Taken, recorded.Refused = op.Taken, op.Refused
	}
	switch {
	case op.Problem != nil && op.Kind == dataset.OpVerify:
		failVerify(t, *recorded, *op.Problem)
	case op.Problem != nil:
	case op.Kind == dataset.OpDelete:
		op.DatasetRecord = out.Dataset // callers that wait for the delete learn whether the data is destroyed
	case kinds[op.Kind].writes:
		recorded.Backup, recorded.BytesAdded = op.Backup, op.BytesAdded
		recorded.Parent, recorded.ReadsAll, recorded.Lacks = op.Parent, op.ReadsAll, dataset.Cut(op.Lacks)
	case op.Kind == dataset.OpVerify:
		commitVerify(t, *recorded)
		op.DatasetRecord = nil // it does not exist any more
	}
	return err
}

// completeReport adds to the report of an operation what only the record of the operation has.
func completeReport(op *dataset.Operation, recorded dataset.Operation) {
	switch {
	case kinds[op.Kind].writes:
		op.Repository, op.Push, op.Content = recorded.Repository, recorded.Push, recorded.Content
		if recorded.ID != op.ID { // its plan, and so Content, is not known
			op.ExactSession = ""
		}
	case kinds[op.Kind].makes && op.DatasetRecord != nil:
		d := *op.DatasetRecord
		d.BasedOn = nil // a node is not believed on which versions a volume is based
		if recorded.DatasetRecord != nil {
			d.BasedOn = recorded.DatasetRecord.BasedOn
		}
		op.DatasetRecord = &d
	}
}

// mismatch compares the volume of an operation with the volume of the same name that another request created first.
// It returns how the two differ, or nil if they do not.
func (s *Service) mismatch(t *record.Tx, op dataset.Operation, winner dataset.Dataset) (*dataset.Problem, error) {
	asked := api.Request{
		Kind: op.Kind, Volume: op.DatasetRecord.RequestedAs, Options: op.Options,
		Engine: op.DatasetRecord.RequestedBy != uuid.Nil,
	}
	w, err := parseCreate(asked.Parsed())
	if err == nil {
		err = s.checkMatches(t, winner, w)
	}
	switch dataset.KindOf(err) {
	case dataset.ErrExists, dataset.ErrAmbiguous, dataset.ErrInvalid:
		return dataset.ProblemOf(err), nil
	}
	return nil, err
}

// apply writes the changes of a finished operation.
func (s *Service) apply(t *record.Tx, op dataset.Operation, out *api.Committed) error {
	if op.Kind != dataset.OpPurge { // a purge has an event of its own
		if err := t.Halted(); err != nil {
			return err
		}
	}
	return kinds[op.Kind].commit(s)(t, op, out) // checkReport refuses kinds without this function
}

// noteStatus notes the status of a dataset that was made here or moved here, until the next heartbeat of its home
// reports it.
func (s *Service) noteStatus(r api.Report, from uuid.UUID, d dataset.Dataset) {
	if r.Status != nil {
		s.Reports.RecordDataset(d.Home, *r.Status)
	}
	if from != uuid.Nil && from != d.Home {
		s.Reports.RecordMoved(d.ID, from, d.Home)
	}
}

// repeatResponse answers a report of an operation whose end is already recorded.
func repeatResponse(t *record.Tx, rec, op dataset.Operation, out *api.Committed) error {
	switch {
	case rec.State != dataset.OpDone && op.Problem != nil:
		return nil
	case rec.State == dataset.OpCancelled:
		return dataset.Errorf(dataset.ErrCancelled, "operation %s was cancelled meanwhile", op.ID)
	case rec.State != dataset.OpDone:
		return dataset.Errorf(dataset.ErrConflict, "operation %s is recorded as %s", op.ID, rec.State)
	case kinds[op.Kind].bare:
		return nil
	}
	d, err := t.Dataset(op.DatasetID)
	if err == nil {
		out.Dataset = &d
		return nil
	}
	if !kinds[op.Kind].makes || dataset.KindOf(err) != dataset.ErrNotFound {
		return err
	}
	winner, ok, err := t.VolumeByName(rec.Volume)
	if err == nil && !ok {
		err = dataset.Errorf(dataset.ErrConflict, "volume %s was deleted meanwhile", rec.Volume)
	}
	if err == nil {
		out.Dataset, out.Duplicate = &winner, true
	}
	return err
}

// checkReport fails unless an agent can make the report: it must be about an operation of the agent's node, of a kind
// that agents carry out, and have all fields that the kind needs.
func checkReport(node uuid.UUID, op dataset.Operation) error {
	bad := func(what string) error {
		return dataset.Errorf(dataset.ErrInvalid, "report of operation %s (%.40s): %s", op.ID, op.Kind, what)
	}
	switch {
	case op.Node != node:
		return dataset.Errorf(dataset.ErrForbidden, "operation %s belongs to node %s, not to %s", op.ID, op.Node, node)
	case op.ID == uuid.Nil || op.DatasetID == uuid.Nil:
		return bad("missing operation or dataset")
	case op.Discarded != uuid.Nil:
		return bad("only control can discard a dataset")
	case op.Problem != nil && len(op.Problem.Message) > dataset.MaxLine:
		return bad(fmt.Sprintf("why it failed takes %d bytes (%d at most)", len(op.Problem.Message), dataset.MaxLine))
	case op.Problem != nil && !op.Problem.Holders.IsBounded():
		return bad("the list of the holders is too long")
	case kinds[op.Kind].commit == nil:
		return bad("agents do not report operations of this kind")
	case op.Problem != nil || kinds[op.Kind].check == nil:
		return nil
	}
	if what := kinds[op.Kind].check(node, op); what != "" {
		return bad(what)
	}
	if kinds[op.Kind].makes {
		return dataset.CheckName(op.DatasetRecord.Volume)
	}
	return nil
}

func hasRecord(op dataset.Operation) bool {
	return op.DatasetRecord != nil && op.DatasetRecord.ID == op.DatasetID
}

func checkNewVolume(node uuid.UUID, op dataset.Operation) string {
	switch {
	case !hasRecord(op) || op.Epoch != 1 || !isNewDataset(*op.DatasetRecord, node):
		return "the dataset is not a new one of this node"
	case op.DatasetRecord.Profile.Encryption.Wanted() != (op.DatasetRecord.Encryption != nil):
		return "the data key does not match the encryption of its profile"
	}
	return ""
}

func checkSnapshot(_ uuid.UUID, op dataset.Operation) string {
	if op.Snapshot == nil || op.Snapshot.Dataset != op.DatasetID || op.Snapshot.ID == uuid.Nil {
		return "its snapshot is missing, or belongs to another dataset"
	}
	return ""
}

func checkRestore(node uuid.UUID, op dataset.Operation) string {
	if !hasRecord(op) || op.Source == nil || op.Source.Dataset != op.DatasetID {
		return "the restored snapshot is missing, or belongs to another dataset"
	}
	return checkSnapshot(node, op)
}

func checkSize(_ uuid.UUID, op dataset.Operation) string {
	if !hasRecord(op) || op.DatasetRecord.Size <= 0 {
		return "missing size"
	}
	return ""
}

func checkDataKey(_ uuid.UUID, op dataset.Operation) string {
	if !hasRecord(op) || op.DatasetRecord.Encryption == nil {
		return "missing data key"
	}
	return ""
}

func checkUpdate(_ uuid.UUID, op dataset.Operation) string {
	if !hasRecord(op) {
		return "missing dataset"
	}
	return ""
}

// isNewDataset reports whether a record can be that of a dataset that its node has just made.
func isNewDataset(d dataset.Dataset, node uuid.UUID) bool {
	return d.ID != uuid.Nil && d.Home == node && d.Epoch == 1 && d.State == dataset.StateReady && d.Trash == nil &&
		len(d.SharedMounts) == 0
}

// checkStatus fails unless the status in a report is that of the dataset of the operation.
func checkStatus(r api.Report) error {
	if r.Status == nil {
		return nil
	}
	if r.Status.ID != r.Operation.DatasetID {
		return dataset.Errorf(dataset.ErrInvalid, "report of operation %s (%.40s): %s", r.Operation.ID,
			r.Operation.Kind, "its status belongs to another dataset")
	}
	return reports.CheckDataset("report of operation "+r.Operation.ID.String(), *r.Status)
}

// checkPlanned fails with dataset.ErrInvalid for an update, a backup, a push or a verification that control has not
// recorded: an agent carries out only those that control has planned. It also fails if the ID of an
// operation that is not recorded is one of control: see checkCallersID.
func checkPlanned(op dataset.Operation, known bool) error {
	switch {
	case known:
		return nil
	case !kinds[op.Kind].planned:
		return checkCallersID(op.ID)
	}
	return dataset.Errorf(dataset.ErrInvalid, "report of operation %s: control has planned no such %s", op.ID, op.Kind)
}

// mayArriveLater reports whether an earlier Record or Commit of an operation that is not recorded may still arrive and
// change something.
//
// It returns false in two cases. In the first case, the agent reports a failure, but the records show the effect of
// the operation: the earlier report has arrived. In the second case, the operation is a move. Submit has recorded it,
// so a Record of the agent adds nothing.
func mayArriveLater(t *record.Tx, op dataset.Operation, retry bool) (bool, error) {
	if !retry || op.Kind == dataset.OpMove {
		return false, nil
	}
	if op.Problem == nil {
		return true, nil
	}
	if err := dataset.CheckName(op.Volume); err != nil {
		return false, err
	}
	if op.Kind == dataset.OpDelete { // only a delete by this request counts, and not one by another request
		var d dataset.Dataset
		there, err := t.Get(record.DatasetKey(op.DatasetID), &d)
		return !there || d.Request != op.ID, err
	}
	over, err := hasTakenEffect(t, op)
	return !over, err
}
