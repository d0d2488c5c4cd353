package agent

import (
	"context"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
)

// resolve finishes what a crash left, for each pool beside other work, because a pool's disk may hang. A start
// waits for it for some time: a backend does not check what is in use, so it is best done before other work on
// the same datasets. lost are the datasets that this agent knew to be recorded: they stay, and so do those of
// which it cannot know. It is called only while control answers and its store is consistent.
func (a *Agent) resolve(ctx context.Context, lost map[uuid.UUID]bool) {
	a.mu.Lock()
	maps.Copy(a.lost, lost)
	a.mu.Unlock()
	waitFor := func(all ...*jobs.Job) {
		select {
		case <-a.registration.Joined():
		default:
			pool.WaitFor(ctx, a.Clock, pool.StartPatience, jobs.Ends(all))
		}
	}
	waitFor(a.Jobs.Start("pulls", func(ctx context.Context, _ *jobs.Job) error {
		a.takeAgain(ctx)
		a.installer.Resume(ctx)
		return nil
	}))
	var all []*jobs.Job
	for _, p := range a.pools.All() {
		all = append(all, a.Jobs.StartAgain("incoming/"+p.ID.String(), func(ctx context.Context, _ *jobs.Job) error {
			if now, there := a.pools.ByName(p.Name); there {
				a.resolveIncoming(ctx, now)
			}
			return nil
		}))
	}
	waitFor(all...)
}

// resolveIncoming finishes what a crash left in a pool. A recorded dataset is put in its place. A dataset that
// was never recorded was not acknowledged, and is destroyed. What cannot be destroyed is left to the next start,
// and doctor names it.
func (a *Agent) resolveIncoming(ctx context.Context, p *pool.Pool) {
	if p.Serves() != nil {
		return
	}
	log := a.Log.WithField("pool", p.Name)
	if err := a.settleDoubts(ctx, p); err != nil {
		log.WithError(err).Error("what a crash left was not cleaned up")
		return
	}
	torn, err := a.torn(ctx, p)
	if err != nil {
		log.WithError(err).Error("what a crash left was not cleaned up")
		return
	}
	var promote []uuid.UUID
	n, err := p.Storage.Reap(ctx, func(id uuid.UUID) bool {
		making := a.making(id) // this is asked first, because a dataset that was made meanwhile is recorded
		if _, onRecord := a.Cache.Dataset(id); onRecord {
			if !making {
				promote = append(promote, id)
			}
			return false
		}
		return !making && !a.wasLost(id) && !a.pools.IsDistrusted(p.ID, id) && !a.goesOnElsewhere(ctx, p, id, torn)
	})
	if err != nil {
		log.WithError(err).Error("not all that a crash left was cleaned up")
	}
	for _, id := range promote {
		if err := p.Storage.Commit(ctx, id); err != nil {
			log.WithError(err).WithField("dataset", id).Error("dataset was not put in its place")
		}
	}
	if n > 0 {
		log.WithField("count", n).Info("cleaned up what a crash left")
	}
}

// wasLost reports whether this agent knew a dataset to be recorded that is not recorded any more.
func (a *Agent) wasLost(id uuid.UUID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lost[id]
}

// settleDoubts records on disk which incoming datasets of a pool are doubtful. A dataset is put in its place
// without a flush, so after a power cut an acknowledged one may be incoming again. For a dataset that was
// recorded, the record shows that. If the pool was found without a record, or the store was lost, it cannot be
// distinguished from one that was never acknowledged: it stays until it is recorded again (drover store rebuild)
// or an operator has it destroyed.
func (a *Agent) settleDoubts(ctx context.Context, p *pool.Pool) error {
	if !p.Record.Found && len(p.Record.Doubtful) == 0 {
		return nil
	}
	entries, err := p.Storage.List(ctx)
	if err != nil {
		return err
	}
	var left []uuid.UUID
	for _, e := range entries {
		_, onRecord := a.Cache.Dataset(e.ID)
		if e.State == backends.EntryIncoming && !onRecord && !a.making(e.ID) && a.pools.IsDistrusted(p.ID, e.ID) {
			left = append(left, e.ID)
		}
	}
	if !p.Record.Found && slices.Equal(left, p.Record.Doubtful) {
		return nil
	}
	if len(left) > 0 {
		a.Log.WithField("pool", p.Name).Warnf("%d datasets may have been acknowledged before the records "+
			"were lost, and are kept (drover doctor names them)", len(left))
	}
	return a.pools.Distrust(ctx, p.ID, false, left)
}
