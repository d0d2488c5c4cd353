package agent

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// settleTime is how long a report waits for further changes, so that they are reported together.
const settleTime = 50 * time.Millisecond

// heartbeats reports to control what this node sees: changes soon after they happen, and everything at each
// heartbeat, which also repeats work that requests could not finish. It calls begun when it has reported all that
// the start found.
func (a *Agent) heartbeats(begun func()) {
	all := newTellers(a.apart)
	a.tell(a.Ctx, all, a.News.Take())
	a.tellFacts(a.Ctx)
	begun()
	purgeAt := a.Clock.Steady() + purgeEvery
	round := a.Clock.After(0)
	var looks rota
	for {
		select {
		case <-a.Ctx.Done():
			return
		case <-round:
			round = a.Clock.After(a.Limits.Heartbeat)
			back := a.rounds(a.Ctx)
			if now := a.Clock.Steady(); back || now >= purgeAt {
				a.purgeCondemned()
				purgeAt = now + purgeEvery
			}
			all.tryAgain()
			a.tell(a.Ctx, all, slices.Concat(a.uses.InUse(), all.told(), looks.next(a.Cache.IDs)))
			a.tellFacts(a.Ctx)
			if err := errors.Join(a.flush(a.Ctx), a.keepClock(a.Ctx)); err != nil && a.Ctx.Err() == nil {
				a.Log.WithError(err).Error("the agent's copy of its records was not written")
			}
		case <-a.News.Wanted():
			select {
			case <-a.Ctx.Done():
				return
			case <-a.Clock.After(settleTime):
			}
			a.tell(a.Ctx, all, a.News.Take())
		}
	}
}

// leaveTime bounds how long a stop waits for control.
const leaveTime = 2 * time.Second

// leave notifies control that this agent stops, so that nobody waits for it. Control that is unreachable notices
// by itself.
func (a *Agent) leave(ctx context.Context) {
	if a.config.Address == "" {
		return
	}
	select {
	case <-a.isIn:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	if err := a.Control.Heartbeat(ctx, a.NodeID, api.Heartbeat{Incarnation: a.Incarnation, Leaving: true}); err != nil {
		a.Log.WithError(err).Info("control was not told that this agent stops")
	}
}

// purgeEvery is the interval at which the destruction of datasets is repeated: a dataset may have been in use, or
// its pool offline.
const purgeEvery = 10 * time.Minute

func (a *Agent) purgeCondemned() {
	for _, id := range a.Cache.IDs() {
		if d, ok := a.Cache.Dataset(id); ok && d.State == dataset.StatePurging && d.Home == a.NodeID {
			a.executor.PurgeLater(d)
		}
	}
}

// rounds does the work of each heartbeat besides the report, and reports whether a pool is online again.
func (a *Agent) rounds(ctx context.Context) (back bool) {
	if back = a.pools.Retry(ctx); back {
		if err := a.takeLate(ctx); err != nil {
			a.Log.WithError(err).Warn("pool is back, but control does not answer")
		}
		a.recordFiles.WriteAll()
	}
	a.leavePools()
	a.pools.ProbeSuspects()
	a.raisePools()
	a.trimPools()
	a.unmounter.UnmountForgotten()
	a.verifier.CheckIfDue(ctx)
	a.relinquisher.AnswerAll()
	a.copies.SettleAll()
	a.guests.SettleUnmounted()
	a.repairer.RepairAll()
	a.Jobs.Start("pulls", func(ctx context.Context, _ *jobs.Job) error {
		a.installer.Resume(ctx)
		a.sizes.Retry(ctx)
		a.promises.Unswear(ctx)
		return nil
	})
	return back
}

func sameStatus(x, y dataset.DatasetStatus) bool {
	return x.Mounted == y.Mounted && x.Used == y.Used && x.Problem == y.Problem && slices.Equal(x.Mounts, y.Mounts)
}

// filled returns how much of a size is used in a filesystem, computed as df computes Use%: if all of it is used,
// nothing can be written, whatever the filesystem reserves for itself.
func filled(fs unix.Statfs_t, size dataset.Size) dataset.Size {
	taken, left := dataset.Size(fs.Blocks-fs.Bfree), dataset.Size(fs.Bavail)
	if size <= 0 || taken+left <= 0 {
		return taken * dataset.Size(fs.Bsize)
	}
	return dataset.Size(float64(size) * float64(taken) / float64(taken+left))
}

// datasetStatus returns the present status of a dataset.
func (a *Agent) datasetStatus(ctx context.Context, d dataset.Dataset) (st dataset.DatasetStatus) {
	st.ID = d.ID
	defer func() { st.Problem = dataset.Cut(st.Problem) }() // 	control accepts no longer text
	if r := a.uses.Get(d.ID); len(r.IDs) > 0 {
		st.Mounts = a.engines.MountsOf(r)
	}
	path := a.MountPath(d.ID)
	mounted, err := host.IsMountPoint(path)
	st.Mounted = mounted
	if err != nil {
		st.Problem = err.Error()
		return st
	}
	pool, err := a.pools.Get(d.Pool)
	if err != nil {
		st.Problem = err.Error()
		return st
	}
	caps := pool.Info().Capabilities
	walks := !caps.OwnFilesystem && !caps.KnowsUsed // 	it would walk through the files to find what is used
	var used dataset.Size
	var stopped, uerr error
	if err = a.pools.Ask(ctx, d.Pool, func(b backends.Pool) {
		var fs unix.Statfs_t
		if mounted {
			stopped = a.disks.Look(d, path)
		}
		switch {
		case stopped != nil || walks && mounted:
		case walks:
			_, uerr = b.Stat(ctx, d.ID)
		case mounted && caps.OwnFilesystem && unix.Statfs(path, &fs) == nil:
			used = filled(fs, d.Size)
		default:
			used, uerr = b.Used(ctx, d.ID)
		}
	}); err == nil {
		st.Used, err = used, cmp.Or(stopped, uerr)
		a.disks.Note(d, err)
	}
	switch {
	case err != nil:
		st.Problem = err.Error()
	case walks && mounted:
	default:
		st.Problem = cmp.Or(a.sizes.Problem(d), a.limits.Problems(d))
	}
	return st
}

// flushAtOnce is the maximum number of records in one write to the agent's own store.
const flushAtOnce = 60

// flush writes the records that changed to disk. A start without control needs them.
func (a *Agent) flush(ctx context.Context) error {
	for {
		dirty := a.Cache.TakeChanged(flushAtOnce)
		if len(dirty) == 0 {
			return nil
		}
		values := map[string]any{}
		for id, d := range dirty {
			values["volumes/"+id.String()] = nil
			if d != nil {
				values["volumes/"+id.String()] = d
			}
		}
		if err := a.DB.Put(ctx, values); err != nil {
			a.Cache.ReturnChanged(dirty)
			return err
		}
	}
}
