package control

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// What is destroyed or forgotten after a time goes by the time that services were
// seen to run, not by the clock: a host can boot with its clock years ahead, and
// nothing in a clock says that it is right. Late does no harm.
const (
	// unseenMost is how much of the time since the last mark counts, which services may
	// have run or not.
	unseenMost = time.Hour
	markEvery  = unseenMost / 2
)

// ran is the mark as this service has seen it last. mu guards it.
type ran struct {
	mu     sync.Mutex
	known  bool
	entry  store.Entry // Index 0: there is none
	mark   record.RunMark
	before time.Duration // from the mark to since, by the clock
	since  time.Duration // by the steady clock
	begun  bool
	unseen time.Duration // that the clock had passed over when this service began, and does not count
}

// see takes in a mark that was read.
func (r *ran) see(e store.Entry, m record.RunMark, now time.Time, steady time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known && e.Index == r.entry.Index {
		return
	}
	r.known, r.entry, r.mark, r.since, r.before = true, e, m, steady, 0
	if m.Runs {
		r.before = max(now.Sub(m.At), 0)
		if !r.begun {
			r.unseen = max(r.before-unseenMost, 0)
		}
	}
	r.begun = true
}

// last returns the mark that was seen, and the count; false: none was.
func (r *ran) last(steady time.Duration) (e store.Entry, m record.RunMark, count time.Duration, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count = time.Duration(r.mark.Ran)
	if r.mark.Runs {
		count += min(r.before+steady-r.since, unseenMost)
	}
	return r.entry, r.mark, count, r.known
}

// forget has the mark read anew: the store went back, and may give an index a second time.
func (r *ran) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = false
}

// hasRun returns for how long services have run on the store, at least.
func (s *Service) hasRun(t *tx) (time.Duration, error) {
	if e, _, _, known := s.ran.last(s.Clock.Steady()); known {
		t.suppose(e)
	}
	var m record.RunMark
	if _, err := t.get(record.RanKey, &m); err != nil {
		return 0, err
	}
	s.ran.see(t.read[record.RanKey], m, s.Clock.Now(), s.Clock.Steady())
	return s.counted(), nil
}

// counted is the count by the mark that was seen last, for a look that a transaction decides on.
func (s *Service) counted() time.Duration {
	_, _, count, _ := s.ran.last(s.Clock.Steady())
	return count
}

// markRan puts the count in the store, seldom, and has it stand while nothing waits for it.
// What others put there may be seen late, by changed: what waits is kept for longer then.
func (s *Service) markRan(ctx context.Context, changed bool) error {
	fresh := func(m record.RunMark, count time.Duration) bool {
		return m.Runs && count-time.Duration(m.Ran) < markEvery
	}
	if _, m, count, known := s.ran.last(s.Clock.Steady()); known && (fresh(m, count) || !m.Runs && !changed) {
		return nil
	}
	var e store.Entry
	var m record.RunMark
	index, err := s.update(ctx, func(t *tx) error {
		count, err := s.hasRun(t)
		if err != nil {
			return err
		}
		_, was, _, _ := s.ran.last(s.Clock.Steady())
		if fresh(was, count) { // another service put it there
			return nil
		}
		m = record.RunMark{At: s.Clock.Now(), Ran: dataset.Duration(count)}
		if m.Runs, err = s.waits(t, count); err != nil || !m.Runs && !was.Runs {
			return err
		}
		err = t.put(record.RanKey, m)
		e = store.Entry{Key: record.RanKey, Value: t.writes[len(t.writes)-1].Value}
		return err
	})
	if err == nil && index != 0 {
		e.Index = index
		s.ran.see(e, m, m.At, s.Clock.Steady())
	}
	return err
}

// waits reports whether there is anything whose time goes by the count. What is damaged may
// be.
func (s *Service) waits(t *tx, count time.Duration) (bool, error) {
	if entries, err := t.list(record.OperationsPrefix, "", 1); err != nil || len(entries) > 0 {
		return true, err
	}
	for prefix, does := range map[string]func(store.Entry) bool{
		record.TrashPrefix: func(e store.Entry) bool {
			var tr inTrash
			return record.Decode(e.Key, e.Value, &tr) != nil || !tr.Until.IsZero()
		},
		// What is lost later is not to be of the same moment by it, see vanished.
		record.AwayPrefix: func(e store.Entry) bool {
			var gone away
			return record.Decode(e.Key, e.Value, &gone) != nil || count-time.Duration(gone.Ran) <= massTime
		},
		record.CopiesPrefix: func(e store.Entry) bool {
			var c dataset.Copy
			return record.Decode(e.Key, e.Value, &c) != nil || c.Kind == dataset.CopyLeft
		},
	} {
		entries, err := t.list(prefix, "", 0)
		if err != nil || slices.ContainsFunc(entries, does) {
			return true, err
		}
	}
	return false, nil
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
	now, err := s.hasRun(t)
	if err != nil {
		return err
	}
	return t.put(record.TrashKey(id), inTrash{tr, dataset.Duration(now)})
}

func (s *Service) putEnded(t *tx, op dataset.Operation) error {
	now, err := s.hasRun(t)
	if err != nil {
		return err
	}
	return t.put(record.OperationKey(op.ID), record.EndedOperation{Operation: op, Ran: dataset.Duration(now)})
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
	s.events.Publish(api.Event{
		Time: s.Clock.Now(), Type: "trash.hold",
		Detail: fmt.Sprintf("the clock went %s further than the time that drover ran: that does not count "+
			"for what is in the trash (drover trash purge does not wait)", over.Round(time.Minute)),
	})
}
