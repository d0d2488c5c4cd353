package housekeeping

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Schedule is the state of the scheduled snapshots of a volume.
type Schedule struct {
	Volume string
	// Age is the time since the newest scheduled snapshot, or since the volume was created if it has none.
	Age time.Duration
	// Overdue is the time since the next scheduled snapshot became due. It is 0 if the snapshot is not due yet.
	Overdue time.Duration
}

// schedules remembers, for each volume with a schedule, when the last scheduled snapshot was taken and when the next
// one is due. Housekeeper.Run writes it. It is safe for concurrent use.
type schedules struct {
	mu sync.Mutex
	of map[uuid.UUID]plannedSnapshot
}

// plannedSnapshot is when the last scheduled snapshot of a volume was taken, and when the next one is due.
type plannedSnapshot struct {
	volume     string
	last, next time.Time // next is zero if the schedule is not valid
}

func (s *schedules) set(id uuid.UUID, is plannedSnapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[uuid.UUID]plannedSnapshot{}
	}
	s.of[id] = is
}

func (s *schedules) remove(id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, id)
}

// clear forgets all volumes: another control replica does the background work now.
func (s *schedules) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of = nil
}

// Schedules returns the state of the volumes whose profile has a schedule, by name. It is empty while another control
// replica does the background work.
func (k *Housekeeper) Schedules() []Schedule {
	k.schedules.mu.Lock()
	defer k.schedules.mu.Unlock()
	now := k.Ledger.Clock.Now()
	out := make([]Schedule, 0, len(k.schedules.of))
	for _, is := range k.schedules.of {
		s := Schedule{Volume: is.volume, Age: max(0, now.Sub(is.last))}
		if !is.next.IsZero() {
			s.Overdue = max(0, now.Sub(is.next))
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Schedule) int { return cmp.Compare(a.Volume, b.Volume) })
	return out
}
