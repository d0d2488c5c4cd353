package mounting

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
)

// Quiescer flushes a mounted dataset to disk before a snapshot, and freezes its filesystem if its profile says so. It
// has no state. Its methods are safe for concurrent use.
type Quiescer struct{ QuiescerDeps }

// QuiescerDeps are the dependencies of Quiescer.
type QuiescerDeps struct {
	*host.Host
	Throttle *throttle.Throttler
	Go       func(func()) // starts a goroutine; a stop of the agent waits for it
	// FlushFailed is called if a flush of a dataset fails: the kernel reports lost writes only once.
	FlushFailed func(d dataset.Dataset, err error)
}

// NewQuiescer returns a Quiescer.
func NewQuiescer(deps QuiescerDeps) *Quiescer { return &Quiescer{deps} }

// Prepare prepares a snapshot or clone of the head of a dataset, which the caller then takes with the returned context.
// If the dataset is mounted, Prepare flushes it to disk. end releases what Prepare has set up, and reports whether the
// copy is exact: see dataset.Snapshot. The caller must call end unless Prepare fails.
func (q *Quiescer) Prepare(ctx context.Context, pool backends.Pool, d dataset.Dataset) (in context.Context,
	end func() (exact bool), err error) {
	mounted, err := host.IsMountPoint(q.MountPath(d.ID))
	if err != nil {
		return ctx, nil, err
	}
	if !mounted {
		in, end = around(ctx, func(take func() error) (bool, error) { return q.idle(ctx, pool, d), take() })
		return in, end, nil
	}
	serializer, can := pool.(backends.Serializer)
	if !can || !d.Profile.QoS.Limited() {
		return q.quiesce(ctx, pool, d)
	}
	// Suspend the limit only once no other work runs in the pool. The lock also keeps other work from running between
	// the flush and the freeze.
	in, unlock, err := serializer.Lock(ctx)
	if err != nil {
		return ctx, nil, fmt.Errorf("flush volume %s: %w", d.Volume, err)
	}
	in, release, err := q.quiesce(in, pool, d)
	if err != nil {
		unlock()
		return ctx, nil, err
	}
	return in, func() bool {
		defer unlock()
		return release()
	}, nil
}

// idle reports whether a dataset that is not mounted is in use nowhere on this host.
func (q *Quiescer) idle(ctx context.Context, pool backends.Pool, d dataset.Dataset) bool {
	checker, can := pool.(backends.IdleChecker)
	return can && checker.CheckIdle(ctx, d.ID) == nil
}

// around returns a context in which a pool copies a head inside of freeze, and the function end of Prepare.
func around(ctx context.Context, freeze backends.WhileFrozen) (in context.Context, end func() (exact bool)) {
	exact := false
	in = backends.WithFreeze(ctx, func(take func() error) (bool, error) {
		held, err := freeze(take)
		exact = held && err == nil
		return exact, err
	})
	return in, func() bool { return exact }
}

// quiesce does the work of Prepare for a mounted dataset. If the dataset has a speed limit, the caller has locked the
// pool.
func (q *Quiescer) quiesce(ctx context.Context, pool backends.Pool, d dataset.Dataset) (in context.Context,
	end func() (exact bool), err error) {
	path := q.MountPath(d.ID)
	itself := pool.Info().Exact && d.Encryption == nil // a pool cannot freeze an encrypted filesystem
	freezing := itself || d.Profile.Quiesce == dataset.QuiesceFreeze
	until := q.Clock.Steady() + throttle.SuspendForSnapshot - longStall // leaves time for the freeze
	up, err := q.Throttle.Suspend(d, throttle.SuspendForSnapshot)
	if err != nil {
		return ctx, nil, fmt.Errorf("flush volume %s: %w", d.Volume, err)
	}
	defer func() {
		if err != nil || !freezing {
			up.Resume()
		}
	}()
	written, err := q.WriteOut(path, throttle.WriteOutTime)
	if err != nil {
		return ctx, nil, fmt.Errorf("flush volume %s: %w", d.Volume, err)
	}
	if !written {
		if freezing {
			return ctx, nil, dataset.Errorf(dataset.ErrPending,
				"volume %s has more unwritten data than it can flush in %s, and a freeze would block its writers "+
					"as long: try again", d.Volume, throttle.WriteOutTime)
		}
		q.LogOf(ctx, d).Warnf("more unwritten data than can be flushed in %s: the snapshot contains what a power cut "+
			"would leave",
			throttle.WriteOutTime)
	}
	if !freezing {
		in, end = around(ctx, func(take func() error) (bool, error) { return false, take() })
		return in, end, nil
	}
	if d.Profile.QoS.Limited() {
		if err := q.FlushUntilShort(d, path, until); err != nil {
			return ctx, nil, err
		}
		up.Extend(throttle.SuspendForUnmount)
	}
	freeze := func(take func() error) (bool, error) { return q.whileFrozen(d, path, up, take) }
	if itself {
		freeze = func(take func() error) (bool, error) { return true, take() }
	}
	in, exact := around(ctx, freeze)
	return in, func() bool { up.Resume(); return exact() }, nil
}

// whileFrozen runs take while the filesystem of a volume is frozen.
func (q *Quiescer) whileFrozen(d dataset.Dataset, path string, up throttle.Suspension, take func() error) (held bool,
	err error) {
	root, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("freeze volume %s: %w", d.Volume, err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := fsctl.Freeze(root); err != nil {
		return false, fmt.Errorf("freeze volume %s: %w", d.Volume, err)
	}
	steps.At("snapshot.frozen")
	err = take()
	up.Resume() // before any process writes again
	thawed := fsctl.Thaw(root)
	return thawed == nil, errors.Join(err, thawed)
}

// WriteOut flushes the filesystem that is mounted on path, and reports whether the flush ended within the given time. A
// slower flush continues in the background. It is not delayed by a flush of another filesystem.
func (q *Quiescer) WriteOut(path string, within time.Duration) (done bool, err error) {
	root, err := mount.View(path) // a slow flush must not prevent an unmount
	if err != nil {
		return false, err
	}
	ended := make(chan error, 1)
	q.Go(func() {
		err := fsctl.Sync(root)
		if err != nil {
			q.reportFailure(path, err)
		}
		ended <- errors.Join(err, root.Close())
	})
	select {
	case err := <-ended:
		return err == nil, err
	case <-q.Clock.After(within):
		return false, nil
	}
}

// reportFailure reports that a flush of the dataset that is mounted on path failed.
func (q *Quiescer) reportFailure(path string, err error) {
	id, perr := uuid.Parse(filepath.Base(path))
	if perr != nil {
		return // a test flushes another filesystem
	}
	if d, known := q.Cache.Dataset(id); known {
		q.FlushFailed(d, err)
	}
}

// FlushUntilShort flushes the filesystem that is mounted on path repeatedly until a flush takes at most shortStall, so
// that a freeze blocks writers only briefly. It fails with ErrPending after maxFlushes flushes, or at until, a time of
// the steady clock. While the speed limit of the volume is suspended, writers can fill the memory faster than the disk
// accepts the data, so the flushes may never become short.
func (q *Quiescer) FlushUntilShort(d dataset.Dataset, path string, until time.Duration) error {
	var took time.Duration
	for range maxFlushes {
		began := q.Clock.Steady()
		if began+shortStall > until {
			break
		}
		done, err := q.WriteOut(path, until-began)
		if err != nil {
			return fmt.Errorf("flush volume %s: %w", d.Volume, err)
		}
		if took = q.Clock.Steady() - began; done && took <= shortStall {
			return nil
		}
	}
	return dataset.Errorf(dataset.ErrPending,
		"volume %s is written faster than its disk can store: flushing its unsaved data takes %s, and a "+
			"freeze would block its writers for that time (%s at most): try again", d.Volume,
		took.Round(100*time.Millisecond), longStall)
}

const (
	// shortStall is how long the last flush before a freeze may take: the freeze itself then flushes only the data that
	// was written since. longStall is how long writers may wait for a freeze.
	shortStall = time.Second
	longStall  = 2 * time.Second
	maxFlushes = 5
)
