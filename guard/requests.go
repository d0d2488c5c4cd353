package guard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/linux/mount"
)

// flushTime bounds how long a registration or a release waits for its flush.
const flushTime = 10 * time.Second

// Register adds a dataset to the table, durably. Call it before anything of the dataset is mounted. A restarted agent
// registers its datasets again, so that the guard knows the new agent. Idempotent: a registered dataset gets the newer
// epoch, paths and policy, and the later deadline. If a dataset is already mounted and its deadline has passed, for
// instance because the table was lost, Register fences the dataset at once and returns ErrStale.
//
// Register returns these errors:
//
//   - ErrInvalid if the dataset cannot be fenced,
//   - ErrUnsupported if this host cannot enforce the policy,
//   - ErrStale if the deadline has passed, if a newer epoch is registered, or if the dataset is fenced (call Thaw or
//     Supersede first),
//   - ErrInUse if the dataset is superseded and its holders have not ended (call Supersede again),
//   - ErrNoSpace if the table is full,
//   - ErrConflict while another request changes the entry,
//   - another error if the record is not flushed within flushTime: a new dataset is then not registered.
func (g *Guard) Register(ctx context.Context, r Registration) (Entry, error) {
	var mounted *mount.Filesystem
	if r.Deadline <= g.Clock.Boottime() {
		fsys, err := g.Hand.Bind(ctx, hand.Target{Dataset: r.Dataset, Paths: r.Paths, Own: r.Own, Agent: r.agent})
		if !errors.Is(err, dataset.ErrNotFound) {
			mounted = &fsys
		}
	}
	e, was, err := g.addEntry(r, mounted)
	if err != nil {
		return Entry{}, err
	}
	g.mu.Lock()
	flushed := g.save(e)
	g.mu.Unlock()
	err = waitFor(ctx, flushed, flushTime)
	g.mu.Lock()
	defer g.mu.Unlock()
	e.busy = false
	if err != nil {
		if was == nil && e.State == StateArmed {
			delete(g.table, r.Dataset)
			_, _ = g.records.drop(r.Dataset) // if a record remains, it only causes a needless fence
			err = errors.Join(err, g.releaseWatchdog())
		}
		return Entry{}, fmt.Errorf("register volume %s with the guard: %w", r.Volume, err)
	}
	if e.State != StateArmed {
		return Entry{}, e.notArmedError()
	}
	g.wake()
	return e.copy(), nil
}

// addEntry checks a registration and adds it to the table as a busy entry. was is the entry that it replaces. If the
// deadline has passed and the dataset may be mounted, mounted is the filesystem of the dataset, and addEntry fences the
// dataset at once. Otherwise mounted is nil.
func (g *Guard) addEntry(r Registration, mounted *mount.Filesystem) (e *entry, was *Entry, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.Clock.Boottime()
	if err := r.check(now); err != nil && (mounted == nil || !errors.Is(err, dataset.ErrStale)) {
		return nil, nil, err
	}
	e = g.table[r.Dataset]
	if e != nil && e.State != StateRebooted && e.State != StateSuperseded {
		if err := g.checkChangeable(e, r.Epoch, now); err != nil {
			return nil, nil, err
		}
	}
	if e != nil && e.State == StateSuperseded && !e.isAbandoned() {
		return nil, nil, e.notAbandonedError()
	}
	if e == nil && len(g.table) >= MaxDatasets {
		return nil, nil, dataset.Errorf(dataset.ErrNoSpace, "the guard already has %d datasets, its maximum: "+
			"release one",
			MaxDatasets)
	}
	if e != nil && e.busy {
		return nil, nil, e.busyError()
	}
	if r.Policy == PolicyWatchdog {
		if err := g.watchdog.open(g.OpenWatchdog); err != nil {
			return nil, nil, err
		}
	}
	next := Entry{
		Volume:   r.Volume,
		Epoch:    r.Epoch,
		Policy:   r.Policy,
		Deadline: r.Deadline,
		Boot:     g.boot,
		State:    StateArmed,
	}
	next.Target = hand.Target{Dataset: r.Dataset, Paths: r.Paths, Own: r.Own, Agent: r.agent}
	next.Bound = g.bound(next, g.rungTime())
	if mounted != nil {
		next.Filesystem = *mounted
	}
	if e == nil {
		e = &entry{}
		g.table[r.Dataset] = e
	} else {
		old := e.Entry
		was = &old
		if old.State == StateArmed {
			next.Deadline = max(next.Deadline, old.Deadline)
			next.Filesystem = old.Filesystem
		}
		next.Fence = old.Fence
	}
	if e.Entry, e.maxFenceTime, e.busy = next, next.Bound, true; next.Deadline <= now {
		g.startFence(e)
	}
	return e, was, nil
}

// checkChangeable returns an error unless an entry is armed and the request has its epoch or a later one. If the
// deadline of the entry has passed, checkChangeable fences it. The lock is held.
func (g *Guard) checkChangeable(e *entry, epoch uint64, now time.Duration) error {
	if e.State == StateArmed && e.Deadline <= now {
		g.startFence(e)
	}
	if e.State != StateArmed {
		return e.notArmedError()
	}
	if epoch < e.Epoch {
		return e.outdatedError(epoch)
	}
	return nil
}

func (e *entry) notArmedError() error {
	return dataset.Errorf(dataset.ErrStale, "volume %s is %s since its deadline passed at epoch %d", e.Volume,
		e.State, e.Epoch)
}

// isAbandoned reports whether a superseded entry has no holders left and none of its processes is stopped.
func (e *entry) isAbandoned() bool {
	n := len(e.Steps)
	return n > 0 && e.Steps[n-1].Act == ActSupersede && e.Steps[n-1].Done
}

func (e *entry) notAbandonedError() error {
	return dataset.Errorf(dataset.ErrInUse, "volume %s is superseded, and its holders have not ended: give it up "+
		"again", e.Volume)
}

func (e *entry) outdatedError(epoch uint64) error {
	return dataset.Errorf(dataset.ErrStale, "the guard has volume %s at epoch %d: the request for epoch %d is "+
		"outdated", e.Volume, e.Epoch, epoch)
}

func (e *entry) busyError() error {
	return dataset.Errorf(dataset.ErrConflict, "the guard is busy with volume %s: try again", e.Volume)
}

func (e *entry) copy() Entry {
	c := e.Entry
	c.Paths, c.Steps = slices.Clone(c.Paths), slices.Clone(c.Steps)
	return c
}

func waitFor(ctx context.Context, flushed <-chan error, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	select {
	case err := <-flushed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the disk with the guard's records does not respond: %w", ctx.Err())
	}
}

// Feed extends the deadline of a dataset.
type Feed struct {
	Dataset  uuid.UUID     `json:"dataset"`
	Epoch    uint64        `json:"epoch"`
	Deadline time.Duration `json:"deadline"`
	// MaxFenceTime is the longest time from Deadline until the fence is complete. Other nodes rely on it. If 0, the
	// bound that the registration returned is used.
	MaxFenceTime time.Duration `json:"most,omitempty"`
}

// Feed sets later deadlines. An earlier deadline changes nothing. It returns the errors by dataset: ErrNotFound if the
// dataset is not registered; ErrStale if it is fenced, if its deadline has passed already, or for another epoch;
// ErrInvalid for a deadline that is too far ahead. Feed also works while another request changes the entry.
//
// Feed also computes Entry.Bound again, because the host may have more processes than at the registration. If a fence
// can now take longer than Feed.MaxFenceTime, the guard shortens the deadline by the difference.
func (g *Guard) Feed(feeds []Feed) map[uuid.UUID]error {
	refused := map[uuid.UUID]error{}
	rung := g.rungTime()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range feeds {
		if err := g.feedOne(f, rung); err != nil {
			refused[f.Dataset] = err
		}
	}
	return refused
}

func (g *Guard) feedOne(f Feed, rung time.Duration) error {
	e := g.table[f.Dataset]
	if e == nil {
		return dataset.Errorf(dataset.ErrNotFound, "dataset %s is not registered with the guard", f.Dataset)
	}
	now := g.Clock.Boottime()
	if err := g.checkChangeable(e, f.Epoch, now); err != nil {
		return err
	}
	if f.Epoch != e.Epoch {
		return dataset.Errorf(dataset.ErrStale,
			"the guard has volume %s at epoch %d and not at %d: register it", e.Volume, e.Epoch, f.Epoch)
	}
	e.Bound = g.bound(e.Entry, rung)
	if f.MaxFenceTime != 0 {
		e.maxFenceTime = f.MaxFenceTime
	}
	f.Deadline -= max(e.Bound-e.maxFenceTime, 0)
	if f.Deadline > e.Deadline {
		if err := checkDeadline(f.Deadline, now); err != nil {
			return err
		}
		e.Deadline = f.Deadline
		if err := g.records.putDeadline(e.Dataset, e.Epoch, e.Deadline); err != nil {
			// This guard uses the new deadline although it is not saved. The next guard would read an earlier one,
			// and fence early.
			g.log(e.Entry).WithError(err).Error("cannot save a deadline")
		}
	}
	return nil
}

// Check verifies that a mounted dataset may be written to: it is armed at that epoch, and its deadline has not passed.
// Check also records the mounted filesystem. Call it after the mount, before the mount is reported to any caller. After
// an error, unmount the dataset.
//
// Check returns ErrNotFound if the dataset is not registered or nothing is mounted, ErrStale if the dataset must not be
// written to, and ErrInvalid if it is mounted in a way that does not allow the fence that was registered.
func (g *Guard) Check(ctx context.Context, id uuid.UUID, epoch uint64) (Entry, error) {
	ask := func() (*entry, error) {
		e := g.table[id]
		if e == nil {
			return nil, dataset.Errorf(dataset.ErrNotFound, "dataset %s is not registered with the guard", id)
		}
		if err := g.checkChangeable(e, epoch, g.Clock.Boottime()); err != nil {
			return nil, err
		}
		if epoch != e.Epoch {
			return nil, dataset.Errorf(dataset.ErrStale,
				"the guard has volume %s at epoch %d and not at %d: register it", e.Volume, e.Epoch, epoch)
		}
		return e, nil
	}
	g.mu.Lock()
	e, err := ask()
	if err != nil {
		g.mu.Unlock()
		return Entry{}, err
	}
	target, volume := e.copy().Target, e.Volume
	g.mu.Unlock()
	fsys, err := g.Hand.Bind(ctx, target)
	if err != nil {
		return Entry{}, fmt.Errorf("check volume %s: %w", volume, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if e, err = ask(); err != nil {
		return Entry{}, err
	}
	if e.Filesystem != fsys {
		e.Filesystem = fsys
		g.save(e)
	}
	return e.copy(), nil
}

// Status returns the state of the guard and all entries.
func (g *Guard) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Status{
		PID: os.Getpid(), Version: g.Version, Boot: g.boot, Now: g.Clock.Boottime(), Since: g.since,
		Missing: slices.Clone(g.missing), Watchdog: g.watchdog.timeout, Datasets: make([]Entry, 0, len(g.table)),
	}
	for _, id := range slices.SortedFunc(maps.Keys(g.table),
		func(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) }) {
		s.Datasets = append(s.Datasets, g.table[id].copy())
	}
	return s
}
