package reports

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// reportedCopy is a copy as its node reported it. at is when the node first reported the present VerifiedAtHome of the
// copy, by this service's steady clock.
type reportedCopy struct {
	dataset.Copy
	at time.Duration
}

// RecordCopy records a node's report on a copy. now is the time by the steady clock.
func (s *Latest) RecordCopy(c dataset.Copy, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.edit(c.Node).mergeCopy(c, now)
}

// mergeCopy merges a report on a copy with the one that is remembered. A report without a snapshot does not replace the
// remembered state of the copy: the node has just started, and reports only why it cannot refresh the copy.
func (r *nodeReport) mergeCopy(c dataset.Copy, now time.Duration) {
	at := now
	was, known := r.copies[c.Dataset]
	if known && c.Snapshot == uuid.Nil {
		c.Snapshot, c.Taken, c.OrderTime, c.Epoch = was.Snapshot, was.Taken, was.OrderTime, was.Epoch
		c.VerifiedAt, c.VerifiedAtHome = was.VerifiedAt, was.VerifiedAtHome
	}
	if known && was.VerifiedAtHome.Equal(c.VerifiedAtHome) {
		at = was.at
	}
	r.copies[c.Dataset] = reportedCopy{c, at}
}

// Copy returns a node's last report on its copy of a dataset.
func (s *Latest) Copy(node, id uuid.UUID) (dataset.Copy, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.of(node).copies[id]
	return c.Copy, ok
}

// CurrentCopy returns a recorded copy, updated with the last report of its node. It ignores a report about an earlier
// copy or another epoch, because the first snapshot of each copy and of each epoch is recorded in the store.
func (s *Latest) CurrentCopy(t *record.Tx, node, id uuid.UUID) (c dataset.Copy, there bool, err error) {
	if there, err = t.Get(record.CopyKey(node, id), &c); err != nil || !there {
		return c, false, err
	}
	if last, heard := s.Copy(node, id); heard && c.Snapshot != uuid.Nil && last.Epoch == c.Epoch &&
		last.At().Compare(c.At()) >= 0 {
		c.Snapshot, c.Taken, c.OrderTime, c.Epoch = last.Snapshot, last.Taken, last.OrderTime, last.Epoch
		c.VerifiedAt, c.VerifiedAtHome = last.VerifiedAt, last.VerifiedAtHome
	}
	return c, true, nil
}

// CopyAhead returns by how much VerifiedAtHome of a copy is later than what the home's clock showed when the copy was
// reported. home is the clock in the last heartbeat of the home, from which CopyAhead computes the clock at the report.
// now is the time by the steady clock. The result is negative if VerifiedAtHome is earlier, as it should be. A positive
// result of more than the time between two heartbeats shows that the clock of the home was set back since.
func (s *Latest) CopyAhead(home ReportedClock, c dataset.Copy, now time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.of(c.Node).copies[c.Dataset]; last.VerifiedAtHome.Equal(c.VerifiedAtHome) {
		now = last.at
	}
	return c.VerifiedAtHome.Sub(home.Add(now - home.At))
}

// ForgetCopy drops a node's report on a copy that it no longer has.
func (s *Latest) ForgetCopy(node, id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of(node).copies, id)
}
