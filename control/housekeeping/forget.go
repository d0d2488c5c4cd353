package housekeeping

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// The limits for the records of ended operations, by age, number and size, and how often they are applied: after
// ForgetInterval, or earlier after ForgetAfter changes. Without the limits by number and size, five operations a second
// would leave 432,000 records of about 2.4 kB each in a day.
const (
	OperationRetention = api.OperationRetention
	scheduledRetention = time.Hour // of scheduled snapshots, see operationRetention
	MaxEndedOperations = 10_000
	maxEndedBytes      = 32 << 20 // of their records

	ForgetInterval = time.Hour
	ForgetAfter    = 2000 // changes of operations; an operation usually makes two, when it begins and when it ends
	forgetBatch    = 100  // operations in one transaction
)

// operationRetention returns how long the record of an ended operation stays. The record of a successful operation of
// a schedule stays for a shorter time, because there are some hundreds of them a day for each volume.
func operationRetention(op dataset.Operation) time.Duration {
	if op.State == dataset.OpDone && op.Snapshot != nil && op.Snapshot.Kind == dataset.SnapshotScheduled &&
		(op.Kind == dataset.OpSnapshot || op.Kind == dataset.OpSnapshotDelete) {
		return scheduledRetention
	}
	return OperationRetention
}

// endedRecord has the fields that decide how long the record of an operation stays.
type endedRecord struct {
	key      string
	bytes    int
	runTime  time.Duration // how long drover had run when the operation ended (record.RunMark)
	ended    time.Time
	kept     time.Duration
	keptLast bool // an agent may still have to learn how the operation ended
}

// ForgetOperations removes the records of operations that ended long ago. It also removes the oldest records beyond
// MaxEndedOperations in number, or maxEndedBytes in size. Among these, the records of cancelled operations and of
// failed moves are removed last. While such a record exists, an agent that did not learn earlier how the operation
// ended still undoes its work.
func (k *Housekeeper) ForgetOperations(ctx context.Context) error {
	records, err := k.endedRecords(ctx)
	if err != nil {
		return err
	}
	tooMany := map[string]bool{}
	for _, r := range surplus(records, MaxEndedOperations, maxEndedBytes) {
		tooMany[r.key] = true
	}
	now := k.Uptime.LastRunTime()
	gone := slices.DeleteFunc(records, func(r endedRecord) bool { return !tooMany[r.key] && now-r.runTime < r.kept })
	for some := range slices.Chunk(gone, forgetBatch) {
		_, err := k.Ledger.Update(ctx, func(t *record.Tx) error {
			ran, err := k.Uptime.RunTime(t) // an older mark may have been restored with the store
			if err != nil {
				return err
			}
			for _, r := range some {
				if tooMany[r.key] || ran-r.runTime >= r.kept {
					t.Delete(r.key) // a final record is not written again, so no check is needed
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// endedRecords reads the operations that have ended.
func (k *Housekeeper) endedRecords(ctx context.Context) (list []endedRecord, err error) {
	for e, err := range record.Entries(record.NewTx(ctx, k.Ledger.Store), record.OperationsPrefix, forgetBatch) {
		if err != nil {
			return nil, err
		}
		var op record.EndedOperation
		if err := record.Decode(e.Key, e.Value, &op); err != nil {
			return nil, err
		}
		if op.State.Final() {
			list = append(list, endedRecord{
				key: e.Key, bytes: len(e.Value), runTime: time.Duration(op.RunTime), ended: op.Ended,
				kept: operationRetention(op.Operation),
				keptLast: op.State == dataset.OpCancelled ||
					op.State == dataset.OpFailed && op.Kind == dataset.OpMove,
			})
		}
	}
	return list, nil
}

// surplus returns the records beyond a number and a size: the oldest ones. The records that are kept last are included
// only if they alone exceed the limits. It is a pure function.
func surplus(records []endedRecord, most, mostBytes int) []endedRecord {
	sorted := slices.SortedFunc(slices.Values(records), func(x, y endedRecord) int { // records that stay come first
		switch {
		case x.keptLast && !y.keptLast:
			return -1
		case y.keptLast && !x.keptLast:
			return 1
		}
		return cmp.Or(cmp.Compare(y.runTime, x.runTime), y.ended.Compare(x.ended), cmp.Compare(x.key, y.key))
	})
	bytes := 0
	for i, r := range sorted {
		if bytes += r.bytes; i >= most || bytes > mostBytes {
			return sorted[i:]
		}
	}
	return nil
}
