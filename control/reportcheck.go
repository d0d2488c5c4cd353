package control

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

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

// hasRecord reports whether a report has the record of its dataset.
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
