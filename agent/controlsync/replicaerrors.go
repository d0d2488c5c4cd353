package controlsync

import (
	"context"
	"sync"
	"time"

	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

// replicaErrors records which control replicas did not answer the last heartbeat. The zero value is empty. Safe for
// concurrent use.
type replicaErrors struct {
	mu        sync.Mutex
	byReplica map[int]error // the error of the last heartbeat, by index in Leases.Replicas
	// answered is when a replica last accepted a heartbeat, possibly before this start of the agent. A refusal does not
	// count. saved is the value on disk.
	answered, saved time.Time
}

// set records the result err of a heartbeat that ended at the time at. replica is the index of the control replica.
func (s *replicaErrors) set(replica int, at time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if dataset.KindOf(err) != dataset.ErrUnavailable { // it answered
		delete(s.byReplica, replica)
		if err == nil {
			s.answered = at
		}
		return
	}
	if s.byReplica == nil {
		s.byReplica = map[int]error{}
	}
	s.byReplica[replica] = err
}

const answeredKey = "answered"

// saveAnswerEvery is how often the time of the last answer is written to disk. After a crash, the time on disk can be
// too early by this much. Answers that this node gives without control then look older than they are.
const saveAnswerEvery = 10 * time.Minute

// LoadAnswer reads from disk when control last answered. It is called once, before the other methods.
func (r *Reporter) LoadAnswer(ctx context.Context) error {
	r.replicaErrors.mu.Lock()
	defer r.replicaErrors.mu.Unlock()
	_, err := r.DB.Get(ctx, answeredKey, &r.replicaErrors.answered)
	r.replicaErrors.saved = r.replicaErrors.answered
	return err
}

// SaveAnswer writes to disk when control last answered. It does nothing unless that time is later than the time on
// disk, by at least the duration in the argument after.
func (r *Reporter) SaveAnswer(ctx context.Context, after time.Duration) error {
	at := r.LastAnswer()
	r.replicaErrors.mu.Lock()
	saved := r.replicaErrors.saved
	r.replicaErrors.mu.Unlock()
	if !at.After(saved) || at.Sub(saved) < after {
		return nil
	}
	if err := r.DB.Put(ctx, map[string]any{answeredKey: at}); err != nil {
		return err
	}
	r.replicaErrors.mu.Lock()
	defer r.replicaErrors.mu.Unlock()
	r.replicaErrors.saved = at
	return nil
}

// LastAnswer returns when control last accepted a heartbeat, or the zero time if it has never accepted one.
func (r *Reporter) LastAnswer() time.Time {
	r.replicaErrors.mu.Lock()
	defer r.replicaErrors.mu.Unlock()
	return r.replicaErrors.answered
}

// Check adds a warning for each control replica that did not answer the last heartbeat. If there is only one replica,
// Check adds nothing, because doctor asks that replica itself.
func (r *Reporter) Check(list *condition.List) {
	if len(r.Leases.Replicas) < 2 {
		return
	}
	r.replicaErrors.mu.Lock()
	defer r.replicaErrors.mu.Unlock()
	for i, replica := range r.Leases.Replicas {
		err, silent := r.replicaErrors.byReplica[i]
		if !silent {
			continue
		}
		name := "one of the control replicas"
		if e, ok := replica.(interface{ Endpoint() string }); ok {
			name = e.Endpoint()
		}
		list.Add(condition.ControlReplicaUnreachable, "control "+name, "", err)
	}
}
