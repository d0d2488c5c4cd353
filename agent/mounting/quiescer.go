package mounting

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/freezer"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
)

// Quiescer flushes a mounted dataset to disk before a snapshot, and freezes its filesystem while the snapshot is taken.
// It has no state. Its methods are safe for concurrent use.
type Quiescer struct{ *Mounts }

// Prepare prepares a snapshot or clone of the head of a dataset, which the caller then takes with the returned context.
// A dataset that is mounted is flushed to disk, and its filesystem is frozen while the pool copies the head. If that is
// not possible, the copy is taken nevertheless. end releases what Prepare has set up, and reports whether the copy is
// exact: see dataset.Snapshot. The caller must call end unless Prepare fails.
func (q *Quiescer) Prepare(ctx context.Context, pool backends.Pool, d dataset.Dataset) (in context.Context,
	end func() (exact bool), err error) {
	mounted, err := host.IsMountPoint(q.MountPath(d.ID))
	if err != nil {
		return ctx, nil, err
	}
	if !mounted {
		exact := false
		in = backends.WithFreeze(ctx, func(take func() error) (bool, error) {
			idle, err := backends.IsIdle(ctx, pool, d.ID), take()
			exact = idle && err == nil
			return exact, err
		})
		return in, func() bool { return exact }, nil
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

// preparation is what Prepare has set up for the copy of a mounted dataset.
type preparation struct {
	*Quiescer
	log     logrus.FieldLogger
	root    *os.File         // of the filesystem; nil if freezer is nil
	freezer *freezer.Freezer // nil: the filesystem is not frozen by the agent
	up      throttle.Suspension
	byPool  bool // the pool makes exact copies by itself
	exact   bool
	took    time.Duration // how long writers may have been blocked
}

// quiesce does the work of Prepare for a mounted dataset. If the dataset has a speed limit, the caller has locked the
// pool.
func (q *Quiescer) quiesce(ctx context.Context, pool backends.Pool, d dataset.Dataset) (in context.Context,
	end func() (exact bool), err error) {
	path, info := q.MountPath(d.ID), pool.Info()
	p := &preparation{Quiescer: q, log: q.LogOf(ctx, d)}
	p.byPool = info.Exact && d.Encryption == nil // a pool cannot freeze an encrypted filesystem
	freezes := !p.byPool && info.Capabilities.OwnFilesystem && d.Profile.Quiesce != dataset.QuiesceFlush &&
		len(q.Freezer) > 0
	if freezes {
		p.startFreezer(path) // the child starts while the filesystem is flushed
	}
	if p.up, err = q.Throttle.Suspend(d, throttle.SuspendForSnapshot); err != nil {
		p.release()
		return ctx, nil, fmt.Errorf("flush volume %s: %w", d.Volume, err)
	}
	written, short, err := q.flush(path, freezes || p.byPool)
	if err != nil {
		p.release()
		return ctx, nil, fmt.Errorf("flush volume %s: %w", d.Volume, err)
	}
	if !written {
		p.log.Warnf("more unwritten data than can be flushed in %s: the snapshot may lack the rest",
			throttle.WriteOutTime)
	}
	if !short && !p.byPool {
		if freezes {
			p.log.Infof("not frozen for the snapshot: it is written to so fast that each flush takes more than %s",
				shortStall)
		}
		p.release()
	}
	return backends.WithFreeze(ctx, p.copy), func() bool {
		p.release()
		p.reportStall(ctx, pool, d)
		return p.exact
	}, nil
}

// startFreezer starts the freezer. If that fails, the filesystem will not be frozen.
func (p *preparation) startFreezer(path string) {
	var err error
	if p.root, err = os.Open(path); err == nil {
		p.freezer, err = freezer.Start(p.Freezer, p.root)
	}
	if err != nil {
		p.log.WithError(err).Warn("the filesystem will not be frozen for the snapshot")
	}
}

// release ends the freezer, and restores the speed limit. Idempotent.
func (p *preparation) release() {
	if p.freezer != nil {
		p.freezer.Close()
		p.freezer = nil
	}
	if p.root != nil {
		_ = p.root.Close()
		p.root = nil
	}
	p.up.Resume()
}

// copy runs take while the filesystem is frozen, if possible.
func (p *preparation) copy(take func() error) (exact bool, err error) {
	began := p.Clock.Steady()
	frozen := false
	if p.freezer != nil {
		if err := p.freezer.Freeze(); err != nil {
			p.log.WithError(err).Warn("the filesystem is not frozen for the snapshot")
		} else {
			frozen = true
			steps.At("snapshot.frozen")
		}
	}
	err = take()
	p.up.Resume() // before any process writes again
	p.exact = p.byPool
	if frozen {
		held, thawErr := p.freezer.Thaw()
		p.exact, err = held, errors.Join(err, thawErr)
	}
	p.exact = p.exact && err == nil
	p.took = p.Clock.Steady() - began
	return p.exact, err
}

// reportStall logs that the copy has blocked writers for long, and why.
func (p *preparation) reportStall(ctx context.Context, pool backends.Pool, d dataset.Dataset) {
	if p.took <= backends.LongStall {
		return
	}
	why := ""
	if predictor, can := pool.(backends.StallPredictor); can {
		if nanos, cause, err := predictor.PredictStall(ctx, d.ID); err == nil {
			why = fmt.Sprintf(", of which about %s are for %s", time.Duration(nanos).Round(time.Millisecond), cause)
		}
	}
	p.log.Warnf("the snapshot may have blocked writers for %s%s", p.took.Round(time.Millisecond), why)
}

// WriteOut flushes the filesystem that is mounted on path, and reports whether the flush ended within the given time. A
// slower flush continues in the background. It is not delayed by a flush of another filesystem.
func (q *Quiescer) WriteOut(path string, within time.Duration) (done bool, err error) {
	root, err := mount.View(path) // a slow flush must not prevent an unmount
	if err != nil {
		return false, err
	}
	ended := make(chan error, 1)
	q.Jobs.Go(func() {
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
		q.LostWrites.Failed(q.Ctx, d, err)
	}
}

// flush flushes the filesystem that is mounted on path, for WriteOutTime at most. If again is set, it flushes
// repeatedly until a flush takes at most shortStall, so that a freeze blocks writers only briefly. While the speed
// limit of the volume is suspended, writers can fill the memory faster than the disk accepts the data, so the flushes
// may never become short. written reports whether a flush ended.
func (q *Quiescer) flush(path string, again bool) (written, short bool, err error) {
	until := q.Clock.Steady() + throttle.WriteOutTime
	for range maxFlushes {
		began := q.Clock.Steady()
		if began >= until {
			break
		}
		done, err := q.WriteOut(path, until-began)
		if err != nil || !done {
			return written, false, err
		}
		written = true
		if short = q.Clock.Steady()-began <= shortStall; short || !again {
			return true, short, nil
		}
	}
	return written, false, nil
}

const (
	// shortStall is how long the last flush before a freeze may take. The freeze itself then flushes only the data that
	// was written since.
	shortStall = time.Second
	maxFlushes = 5
)
