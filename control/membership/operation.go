package membership

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// RecordedOperation reads the record of an operation that an agent reports. It fails with dataset.ErrStale if the
// operation belongs to another agent, or if its kind or object differ from the record.
func RecordedOperation(t *record.Tx, op dataset.Operation) (rec dataset.Operation, known bool, err error) {
	if _, err := FreshNode(t, op.Node, op.Incarnation); err != nil {
		return rec, false, err
	}
	known, err = t.Get(record.OperationKey(op.ID), &rec)
	about := rec.DatasetID
	if rec.Discarded != uuid.Nil { // the agent still reports the dataset that was discarded as a duplicate
		about = rec.Discarded
	}
	if err == nil && known && (rec.Node != op.Node || rec.Kind != op.Kind || about != op.DatasetID) {
		err = dataset.Errorf(dataset.ErrStale, "operation %s is recorded as another one: a %s of dataset %s", op.ID,
			rec.Kind, rec.DatasetID)
	}
	return rec, known, err
}
