package guard

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard/hand"
)

const (
	// deathTime is how long killed holders may take to end after the thaw.
	deathTime = 5 * time.Second
	// condemnTime is how long it may take to send SIGKILL to all holders, and to examine all other
	// processes, before the filesystem is thawed.
	condemnTime = 5 * time.Second
)

// Thaw lets the writers of a fenced dataset continue until a new deadline. The caller must have verified that its epoch
// is still the current one, by a consistent read under a new session. The guard trusts the caller. Idempotent: if the
// dataset is armed at that epoch, Thaw feeds it.
//
// It returns ErrNotFound if the dataset is not registered. It returns ErrStale for another epoch, for a deadline that
// has passed, and for a superseded dataset, whose holders were killed. It returns ErrInvalid for a deadline that is too
// far ahead, and ErrConflict while another request changes the entry. After any other error the dataset is still
// fenced.
func (g *Guard) Thaw(ctx context.Context, id uuid.UUID, epoch uint64, deadline time.Duration) (Entry, error) {
	e, armed, err := g.beginThaw(id, epoch, deadline)
	if err != nil {
		return Entry{}, err
	}
	if armed != nil {
		return *armed, nil
	}
	began := g.Clock.Boottime()
	g.stopLadder(e)
	err = g.Hand.Undo(ctx, e.Target)
	g.mu.Lock()
	defer g.mu.Unlock()
	e.busy = false
	s := Step{Act: ActThaw, Began: began, Ended: g.Clock.Boottime(), Done: err == nil}
	if err != nil {
		err = fmt.Errorf("thaw volume %s: %w", e.Volume, err)
		s.Note = dataset.OneLine(err)
	}
	e.add(s)
	if err == nil {
		e.State, e.Deadline = StateArmed, deadline
		g.log(e.Entry).Warn("thawed: its agent confirmed the epoch")
	} else {
		e.State = StateFencing // a part of the fence may be undone
		g.startLadder(e)
	}
	g.save(e)
	g.wake()
	return e.copy(), err
}

// beginThaw marks a fenced entry as busy. If the entry is armed, beginThaw feeds it and returns it as armed.
func (g *Guard) beginThaw(id uuid.UUID, epoch uint64, deadline time.Duration) (e *entry, armed *Entry, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e, err = g.find(id, epoch); err != nil {
		return nil, nil, err
	}
	now := g.Clock.Boottime()
	if err := checkDeadline(deadline, now); err != nil {
		return nil, nil, err
	}
	if e.State == StateArmed && e.Deadline > now {
		if err := g.feedOne(Feed{Dataset: id, Epoch: epoch, Deadline: deadline}, g.rungTime()); err != nil {
			return nil, nil, err
		}
		c := e.copy()
		return nil, &c, nil
	}
	if e.State == StateArmed {
		g.startFence(e)
	}
	if e.State != StateFencing && e.State != StateFenced {
		return nil, nil, e.notArmedError()
	}
	e.busy = true
	return e, nil, nil
}

// find returns an entry that no other request is changing. It returns ErrNotFound if there is none, ErrStale for
// another epoch, and ErrConflict if the entry is busy. The lock is held.
func (g *Guard) find(id uuid.UUID, epoch uint64) (*entry, error) {
	e := g.table[id]
	if e == nil {
		return nil, dataset.Errorf(dataset.ErrNotFound, "dataset %s is not registered with the guard", id)
	}
	if epoch != e.Epoch {
		return nil, e.outdatedError(epoch)
	}
	if e.busy {
		return nil, e.busyError()
	}
	return e, nil
}

// Supersede ends the use of a dataset that has a newer epoch on another node. It kills the holders and then thaws the
// dataset, so that the dataset can be unmounted and kept as a superseded copy. Before the thaw, every process that
// could write was sent SIGKILL, and every other process was examined. The last write of a killed process may still
// reach the old copy. A container engine that writes into the dataset (docker cp) is not killed: it continues to
// write into the old copy. Idempotent.
//
// It returns ErrNotFound if the dataset is not registered, ErrStale for another epoch, and ErrConflict while another
// request changes the entry. It returns ErrInUse if processes cannot be examined, or if killed holders do not end: the
// error names them, and the caller must call Supersede again. Until every process that could write was sent SIGKILL,
// the dataset stays fenced, and the guard keeps checking the fence.
func (g *Guard) Supersede(ctx context.Context, id uuid.UUID, epoch uint64) (Entry, error) {
	e, err := g.beginSupersede(id, epoch)
	if err != nil {
		return Entry{}, err
	}
	g.stopLadder(e)
	began := g.Clock.Boottime()
	o := g.Hand.Condemn(ctx, e.Target, condemnTime)
	if !o.Done {
		err = dataset.Errorf(dataset.ErrInUse,
			"it is still fenced: not every process that could write was killed: %s", leftText(o))
	} else if err = g.markSuperseded(ctx, e); err == nil {
		o = g.Hand.KillHolders(ctx, e.Target, deathTime)
		err = g.Hand.Undo(ctx, e.Target) // an engine was stopped
		if err == nil && !o.Done {
			err = dataset.Errorf(dataset.ErrInUse, "processes do not end: %s", leftText(o))
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	e.busy = false
	s := Step{Act: ActSupersede, Began: began, Ended: g.Clock.Boottime(), Done: err == nil, Left: o.Left}
	if err != nil {
		err = fmt.Errorf("give up superseded volume %s: %w", e.Volume, err)
		s.Note = dataset.OneLine(err)
	}
	if !o.Done {
		g.resumeFence(e)
	}
	e.add(s)
	g.save(e)
	return e.copy(), err
}

// markSuperseded marks an entry as superseded, because its holders were sent SIGKILL, and thaws its dataset. If the
// deadline has passed meanwhile, a fence has started. That fence must end before the thaw: otherwise it would freeze
// the dataset again and stop the users of the next epoch. Once the entry is superseded, no deadline starts another
// fence.
func (g *Guard) markSuperseded(ctx context.Context, e *entry) error {
	mark := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if e.State != StateRebooted { // a reboot has ended all holders
			e.State = StateSuperseded
		}
		g.save(e)
	}
	mark()
	g.stopLadder(e)
	mark() // the fence may have recorded an outcome before it ended
	return g.Hand.Undo(ctx, e.Target)
}

// resumeFence resumes the fence of an entry that could not be superseded, unless its deadline has started a fence
// already. The lock is held.
func (g *Guard) resumeFence(e *entry) {
	if e.end != nil {
		return
	}
	switch e.State {
	case StateArmed: // another node has a newer epoch, so the deadline does not matter any more
		g.startFence(e)
	case StateFencing, StateFenced:
		if g.ctx != nil { // before Run is called there is no context: Run then starts the ladder
			g.startLadder(e)
		}
	}
}

// beginSupersede marks an entry that Supersede will change as busy. The entry stays fenced until its holders are
// killed.
func (g *Guard) beginSupersede(id uuid.UUID, epoch uint64) (*entry, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e, err := g.find(id, epoch)
	if err != nil {
		return nil, err
	}
	e.busy = true
	return e, nil
}

func leftText(o hand.Outcome) string {
	if len(o.Left) == 0 {
		return o.Note
	}
	var all []string
	for _, p := range o.Left {
		all = append(all, fmt.Sprintf("%s (PID %d)", p.Comm, p.PID))
	}
	return strings.Join(all, ", ")
}

// Release removes a dataset from the table, durably. Call it once the dataset is unmounted, or once its lease is no
// longer bounded in time. It returns nil if the dataset is not registered. It returns ErrInUse if the dataset is fenced
// (call Thaw or Supersede first), or superseded with holders that have not ended (call Supersede again). It returns
// ErrStale for another epoch, and ErrConflict while another request changes the entry.
func (g *Guard) Release(ctx context.Context, id uuid.UUID, epoch uint64) error {
	return g.release(ctx, id, epoch, false)
}

// Dismiss is Release for callers other than the dataset's agent. The agent may have opened the dataset again
// meanwhile, so Dismiss fails with ErrConflict unless the dataset is superseded.
func (g *Guard) Dismiss(ctx context.Context, id uuid.UUID, epoch uint64) error {
	return g.release(ctx, id, epoch, true)
}

func (g *Guard) release(ctx context.Context, id uuid.UUID, epoch uint64, superseded bool) error {
	g.mu.Lock()
	if e := g.table[id]; superseded && e != nil && e.State != StateSuperseded {
		g.mu.Unlock()
		return dataset.Errorf(dataset.ErrConflict, "volume %s is %s, not superseded: its agent controls it again",
			e.Volume, e.State)
	}
	flushed, err := g.drop(id, epoch)
	g.mu.Unlock()
	if err != nil || flushed == nil {
		return err
	}
	if err := waitFor(ctx, flushed, flushTime); err != nil {
		return fmt.Errorf("release dataset %s: %w", id, err)
	}
	return nil
}

// drop removes an entry from the table. The lock is held.
func (g *Guard) drop(id uuid.UUID, epoch uint64) (flushed <-chan error, err error) {
	e := g.table[id]
	switch {
	case e == nil:
		return nil, nil
	case e.busy:
		return nil, e.busyError()
	case epoch != e.Epoch:
		return nil, e.outdatedError(epoch)
	}
	if e.State == StateArmed && e.Deadline <= g.Clock.Boottime() {
		g.startFence(e)
	}
	if e.State == StateFencing || e.State == StateFenced {
		return nil, dataset.Errorf(dataset.ErrInUse,
			"volume %s is %s: thaw it, or give it up as superseded, before it is released", e.Volume, e.State)
	}
	if e.State == StateSuperseded && !e.isAbandoned() {
		return nil, e.notAbandonedError()
	}
	if flushed, err = g.records.drop(id); err != nil {
		return nil, fmt.Errorf("release volume %s: %w", e.Volume, err)
	}
	delete(g.table, id)
	return flushed, g.releaseWatchdog()
}

// releaseWatchdog disarms and closes the watchdog unless a dataset in the table needs it. The lock is held.
func (g *Guard) releaseWatchdog() error {
	for _, e := range g.table {
		if e.Policy == PolicyWatchdog && e.State != StateRebooted {
			return nil
		}
	}
	if g.watchdog.feedingStopped {
		return nil
	}
	return g.watchdog.close(true)
}
