package operation

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// PendingPurge is a dataset that is being destroyed and whose data still exists, because the last attempt failed.
type PendingPurge struct {
	Dataset dataset.Dataset
	Since   time.Time // of the first attempt that failed since the agent started
	Reason  string    // why the last attempt failed
}

// pendingPurges are the datasets whose data could not be destroyed yet. The records of control say which datasets are
// condemned (in state purging), so this table is only in memory: after a start, the first attempt fills it again.
type pendingPurges struct {
	mu  sync.Mutex
	all map[uuid.UUID]*pendingPurge
}

type pendingPurge struct {
	PendingPurge
	wake    chan struct{} // closed when the purge must be tried again
	waiting bool          // a job waits for wake
}

func newPendingPurges() *pendingPurges { return &pendingPurges{all: map[uuid.UUID]*pendingPurge{}} }

// note records a failed attempt, and whether the caller waits for the next one. first is true for the first failure.
// wake is closed when the next attempt can begin.
func (p *pendingPurges) note(d dataset.Dataset, err error, now time.Time, waits bool) (first bool,
	wake <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.all[d.ID]
	if first = e == nil; first {
		e = &pendingPurge{PendingPurge: PendingPurge{Since: now}, wake: make(chan struct{})}
		p.all[d.ID] = e
	}
	e.Dataset, e.Reason = d, dataset.OneLine(err)
	e.waiting = e.waiting || waits
	return first, e.wake
}

// forget removes a dataset whose data is destroyed, or which is no longer condemned.
func (p *pendingPurges) forget(id uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.all[id]; e != nil {
		close(e.wake)
		delete(p.all, id)
	}
}

// forgetObsolete removes the datasets for which no job waits and which are no longer condemned: no later purge would
// remove them. condemned reports whether a dataset is condemned.
func (p *pendingPurges) forgetObsolete(condemned func(uuid.UUID) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.all, func(id uuid.UUID, e *pendingPurge) bool { return !e.waiting && !condemned(id) })
}

// list returns the pending purges, sorted by the names of their volumes.
func (p *pendingPurges) list() []PendingPurge {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]PendingPurge, 0, len(p.all))
	for _, e := range p.all {
		out = append(out, e.PendingPurge)
	}
	slices.SortFunc(out, func(x, y PendingPurge) int {
		return cmp.Or(cmp.Compare(x.Dataset.Volume, y.Dataset.Volume),
			cmp.Compare(x.Dataset.ID.String(), y.Dataset.ID.String()))
	})
	return out
}

// waiting returns the datasets for which a job waits, by pool.
func (p *pendingPurges) waiting() map[uuid.UUID][]uuid.UUID {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[uuid.UUID][]uuid.UUID{}
	for id, e := range p.all {
		if e.waiting {
			out[e.Dataset.Pool] = append(out[e.Dataset.Pool], id)
		}
	}
	return out
}

// wake makes the jobs that wait for these datasets try again.
func (p *pendingPurges) wake(ids []uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		if e := p.all[id]; e != nil && e.waiting {
			close(e.wake)
			e.wake, e.waiting = make(chan struct{}), false
		}
	}
}
