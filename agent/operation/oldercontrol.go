package operation

import (
	"strings"
	"sync"
	"time"

	"github.com/droverhq/drover/dataset"
)

// olderControl remembers that control, or one of its replicas, has an earlier version that does not know the key status
// of a report. Control refuses requests with unknown keys. It is safe for concurrent use.
type olderControl struct {
	mu      sync.Mutex
	refused bool
	at      time.Duration // when control last refused the key, by the steady clock
}

// askNewerAfter is how long reports are sent without the key after a refusal. Control may be upgraded meanwhile.
const askNewerAfter = 10 * time.Minute

// statusToSend returns the status to send with a report: nil if control has refused the key lately.
func (o *olderControl) statusToSend(status *dataset.DatasetStatus, now time.Duration) *dataset.DatasetStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refused && now-o.at < askNewerAfter {
		return nil
	}
	return status
}

// noteRefusal records that control has refused the key.
func (o *olderControl) noteRefusal(now time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused, o.at = true, now
}

// refusesStatus reports whether an error is the refusal of a report because of its key status. It examines the text,
// because control refuses each bad request with the same code.
func refusesStatus(err error) bool {
	return err != nil && (strings.Contains(err.Error(), `unknown field "status"`) ||
		strings.Contains(err.Error(), "unknown field body.status"))
}

// withoutNewKeys returns an operation to send to control without the keys that a control of an earlier version refuses.
// Control does not need them: the request has its ID and its caller in headers, and control's records of the
// operation and of the dataset have the other keys.
func withoutNewKeys(op dataset.Operation) dataset.Operation {
	op.RequestID, op.By, op.Change, op.Check, op.Scheduled, op.Push = "", "", "", "", false, nil
	if op.Kind != dataset.OpBackup && op.Kind != dataset.OpPush { // their reports have the result
		op.Repository, op.Backup = "", ""
	}
	if d := op.DatasetRecord; d != nil && (!d.ScheduleSince.IsZero() || d.BasedOn != nil) {
		d := *d
		d.ScheduleSince, d.BasedOn = time.Time{}, nil
		op.DatasetRecord = &d
	}
	return op
}
