package record

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// The time until data is destroyed or removed is the running time of services, and not a difference of clock times: a
// host can boot with its clock years ahead, and nothing shows whether a clock is right. A count that is too low does
// no harm, because it only keeps data longer.
const (
	// MaxUnseen limits how much of the time since the last mark is counted. It is not known whether services ran in
	// that time.
	MaxUnseen = time.Hour
	// MarkInterval is the interval at which the count is written to the store.
	MarkInterval = MaxUnseen / 2
)

// lastMark is the mark as this service saw it last. mu protects it.
type lastMark struct {
	mu     sync.Mutex
	known  bool
	entry  store.Entry // Index is 0 if there is none
	mark   RunMark
	before time.Duration // time from the mark until it was read, by the clock
	since  time.Duration // when the mark was read, by the steady clock
	begun  bool          // a mark was read since this service started
	unseen time.Duration // what TakeUnseen returns
}

// remember remembers a mark that was read.
func (r *lastMark) remember(e store.Entry, m RunMark, now time.Time, steady time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known && e.Index == r.entry.Index {
		return
	}
	r.known, r.entry, r.mark, r.since, r.before = true, e, m, steady, 0
	if m.Runs {
		r.before = max(now.Sub(m.At), 0)
		if !r.begun {
			r.unseen = max(r.before-MaxUnseen, 0)
		}
	}
	r.begun = true
}

// last returns the mark that was read last, and the present count. known is false if no mark was read.
func (r *lastMark) last(steady time.Duration) (e store.Entry, m RunMark, count time.Duration, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count = time.Duration(r.mark.RunTime)
	if r.mark.Runs {
		count += min(r.before+steady-r.since, MaxUnseen)
	}
	return r.entry, r.mark, count, r.known
}

// forget drops the mark, so that it is read again: the store was restored from a backup, and may assign an index a
// second time.
func (r *lastMark) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = false
}

// MassLossWindow is the time within which nodes count as lost at once: see package membership.
const MassLossWindow = 5 * time.Minute

// Uptime counts how long services have run on the store, in total. Its methods are safe for concurrent use.
type Uptime struct {
	Ledger *Ledger
	mark   lastMark
}

// NewUptime returns an Uptime that has read nothing.
func NewUptime(l *Ledger) *Uptime { return &Uptime{Ledger: l} }

// Forget drops the remembered mark, so that it is read again: the store was restored from a backup.
func (u *Uptime) Forget() { u.mark.forget() }

// RunTime returns the count: a lower bound of how long services have run on the store.
func (u *Uptime) RunTime(t *Tx) (time.Duration, error) {
	if e, _, _, known := u.mark.last(u.Ledger.Clock.Steady()); known {
		t.UseCached(e)
	}
	var m RunMark
	if _, err := t.Get(RunMarkKey, &m); err != nil {
		return 0, err
	}
	u.mark.remember(t.Entry(RunMarkKey), m, u.Ledger.Clock.Now(), u.Ledger.Clock.Steady())
	return u.LastRunTime(), nil
}

// LastRunTime returns the count by the last mark that was seen. The result may be outdated, so a transaction that
// depends on the count must call RunTime.
func (u *Uptime) LastRunTime() time.Duration {
	_, _, count, _ := u.mark.last(u.Ledger.Clock.Steady())
	return count
}

// Mark writes the count to the store once in each MarkInterval, and stops the count while nothing waits for it. While
// the count is stopped, Mark looks for waiting entries only if changed is true. So it may notice an entry of another
// service late. That entry is then kept longer, which does no harm.
func (u *Uptime) Mark(ctx context.Context, changed bool) error {
	fresh := func(m RunMark, count time.Duration) bool {
		return m.Runs && count-time.Duration(m.RunTime) < MarkInterval
	}
	if _, m, count, known := u.mark.last(u.Ledger.Clock.Steady()); known && (fresh(m, count) || !m.Runs && !changed) {
		return nil
	}
	var e store.Entry
	var m RunMark
	index, err := u.Ledger.Update(ctx, func(t *Tx) error {
		count, err := u.RunTime(t)
		if err != nil {
			return err
		}
		_, was, _, _ := u.mark.last(u.Ledger.Clock.Steady())
		if fresh(was, count) { // another service has written the mark
			return nil
		}
		m = RunMark{At: u.Ledger.Clock.Now(), RunTime: dataset.Duration(count)}
		if m.Runs, err = isAwaited(t, count); err != nil || !m.Runs && !was.Runs {
			return err
		}
		err = t.Put(RunMarkKey, m)
		e = store.Entry{Key: RunMarkKey, Value: t.Writes()[len(t.Writes())-1].Value}
		return err
	})
	if err == nil && index != 0 {
		e.Index = index
		u.mark.remember(e, m, m.At, u.Ledger.Clock.Steady())
	}
	return err
}

// isAwaited reports whether any entry waits for the count. A damaged entry counts as waiting.
func isAwaited(t *Tx, count time.Duration) (bool, error) {
	if entries, err := t.List(OperationsPrefix, "", 1); err != nil || len(entries) > 0 {
		return true, err
	}
	for prefix, does := range map[string]func(store.Entry) bool{
		TrashPrefix: func(e store.Entry) bool {
			var tr TrashEntry
			return Decode(e.Key, e.Value, &tr) != nil || !tr.Expires.IsZero()
		},
		// without the count, nodes that are lost later would seem to be lost at the same moment: see
		// membership.vanishedTogether
		UnreachablePrefix: func(e store.Entry) bool {
			var gone Unreachable
			return Decode(e.Key, e.Value, &gone) != nil ||
				count-time.Duration(gone.RunTime) <= MassLossWindow
		},
		CopiesPrefix: func(e store.Entry) bool {
			var c dataset.Copy
			return Decode(e.Key, e.Value, &c) != nil || c.Kind == dataset.CopyLeft
		},
	} {
		entries, err := t.List(prefix, "", 0)
		if err != nil || slices.ContainsFunc(entries, does) {
			return true, err
		}
	}
	return false, nil
}

// PutInTrash writes the entry of a dataset in the trash, with the present count.
func (u *Uptime) PutInTrash(t *Tx, id uuid.UUID, tr dataset.Trash) error {
	now, err := u.RunTime(t)
	if err != nil {
		return err
	}
	return t.Put(TrashKey(id), TrashEntry{Trash: tr, RunTime: dataset.Duration(now)})
}

// PutEnded writes the record of an operation that has ended, with the present count.
func (u *Uptime) PutEnded(t *Tx, op dataset.Operation) error {
	now, err := u.RunTime(t)
	if err != nil {
		return err
	}
	return t.Put(OperationKey(op.ID), EndedOperation{Operation: op, RunTime: dataset.Duration(now)})
}

// TakeUnseen returns how much of the time before this service started is not counted. That is the time by the clock
// from the last mark until this service first read the mark, minus MaxUnseen. Later calls return 0.
func (u *Uptime) TakeUnseen() time.Duration {
	u.mark.mu.Lock()
	defer u.mark.mu.Unlock()
	over := u.mark.unseen
	u.mark.unseen = 0
	return over
}
