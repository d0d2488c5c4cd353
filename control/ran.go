package control

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// What is destroyed or forgotten after a time goes by the time that services were
// seen to run, not by the clock: a host can boot with its clock years ahead, and
// nothing in a clock says that it is right. Late does no harm.
const (
	// unseenMost is how much of the time between two services counts: as much as one
	// can have run since its last mark.
	unseenMost = time.Hour
	markEvery  = unseenMost / 2
)

// ran counts that time, in the store's life. mu guards it.
type ran struct {
	mu     sync.Mutex
	known  bool
	before time.Duration // at the moment since of the steady clock, when this service read it
	since  time.Duration
	unseen time.Duration // that the clock has passed over since the last mark, and does not count
	stored bool          // a count is in the store
	marked time.Duration // the last one
}

// mark is the value of ranKey.
type mark struct {
	At  time.Time        `json:"at"` // by the clock
	Ran dataset.Duration `json:"ran"`
}

// hasRun returns for how long services have run on the store, at least. It goes on from
// when the mark was read: a service may first do so long after it was started, and what it
// ran until then is in the mark already, by whoever kept house.
func (s *Service) hasRun(ctx context.Context) (time.Duration, error) {
	s.ran.mu.Lock()
	defer s.ran.mu.Unlock()
	if !s.ran.known {
		var m mark
		there, err := newTx(ctx, s.store).peek(ranKey, &m)
		if err != nil {
			return 0, err
		}
		if there {
			gap := max(s.Clock.Now().Sub(m.At), 0)
			s.ran.before = time.Duration(m.Ran) + min(gap, unseenMost)
			s.ran.unseen = gap - min(gap, unseenMost)
		}
		s.ran.since = s.Clock.Steady()
		s.ran.known, s.ran.stored, s.ran.marked = true, there, time.Duration(m.Ran)
	}
	return s.ran.before + s.Clock.Steady() - s.ran.since, nil
}

// markRan puts the count in the store, seldom.
func (s *Service) markRan(ctx context.Context) error {
	now, err := s.hasRun(ctx)
	if err != nil {
		return err
	}
	s.ran.mu.Lock()
	fresh := s.ran.stored && now-s.ran.marked < markEvery
	s.ran.mu.Unlock()
	if fresh {
		return nil
	}
	_, err = s.update(ctx, func(t *tx) error {
		var m mark
		if _, err := t.get(ranKey, &m); err != nil {
			return err
		}
		// Another service may have counted further.
		return t.put(ranKey, mark{At: s.Clock.Now(), Ran: max(dataset.Duration(now), m.Ran)})
	})
	if err != nil {
		return err
	}
	s.ran.mu.Lock()
	defer s.ran.mu.Unlock()
	s.ran.stored, s.ran.marked = true, now
	return nil
}

// inTrash is the value of a key of the trash: when that count began.
type inTrash struct {
	dataset.Trash
	Ran dataset.Duration `json:"ran,omitempty"`
}

// of reports whether a dataset was put in the trash then.
func (tr inTrash) of(d dataset.Dataset) bool {
	return d.Trash.At.Equal(tr.At) && d.Trash.Until.Equal(tr.Until)
}

// left returns how much of its time in the trash a dataset still has.
func (tr inTrash) left(ran time.Duration) time.Duration {
	return tr.Until.Sub(tr.At) - (ran - time.Duration(tr.Ran))
}

// putInTrash writes the index of what is in the trash.
func (s *Service) putInTrash(t *tx, id uuid.UUID, tr dataset.Trash) error {
	now, err := s.hasRun(t.ctx)
	if err != nil {
		return err
	}
	return t.put(trashKey(id), inTrash{tr, dataset.Duration(now)})
}

// ended is the value of an operation's key once it is final.
type ended struct {
	dataset.Operation
	Ran dataset.Duration `json:"ran,omitempty"`
}

func (s *Service) putEnded(t *tx, op dataset.Operation) error {
	now, err := s.hasRun(t.ctx)
	if err != nil {
		return err
	}
	return t.put(operationKey(op.ID), ended{op, dataset.Duration(now)})
}

// passedOver returns, once, by how much the clock has gone further than the time
// that was seen to pass, when that is more than clocks are set by: since the last
// service, and since the last round of this one.
func (s *Service) passedOver(h *house) time.Duration {
	s.ran.mu.Lock()
	defer s.ran.mu.Unlock()
	steady, over := s.Clock.Steady(), s.ran.unseen
	s.ran.unseen = 0
	if !h.wall.IsZero() {
		over += h.now.Sub(h.wall) - (steady - h.steady)
	}
	h.wall, h.steady = h.now, steady
	if over < unseenMost {
		return 0
	}
	return over
}

// tellHeld says that trash stays for longer than the clock says.
func (s *Service) tellHeld(over time.Duration) {
	s.events.publish(api.Event{
		Time: s.Clock.Now(), Type: "trash.hold",
		Detail: fmt.Sprintf("the clock went %s further than the time that drover ran: that does not count for what is in the trash (drover trash purge does not wait)", over.Round(time.Minute)),
	})
}
