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

// resolve finishes what a crash left, as work beside the other, for each pool, since the disk
// of one may hang. A start waits for it for a while: a backend does not look at what is in use,
// so it is best done before there is work on the same datasets. lost are those that this
// agent had seen on record: they stay, and so do those of which it cannot know. It is called
// only while control's store is to be believed, and answers.
func (a *Agent) resolve(ctx context.Context, lost map[uuid.UUID]bool) {
	a.mu.Lock()
	maps.Copy(a.lost, lost)
	a.mu.Unlock()
	waitFor := func(all ...*jobs.Job) {
		select {
		case <-a.isIn:
		default:
			pool.WaitFor(ctx, a.Clock, pool.StartPatience, ends(all))
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

// resolveIncoming finishes what a crash left in a pool: a dataset that is on record takes its
// place, one that never was is not acknowledged and goes. What a pool does not let go is left
// to the next start, and named by doctor.
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
		making := a.making(id) // asked first: what was just made is on record
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

// wasLost reports whether a dataset was on record, as this agent has seen, and is not.
func (a *Agent) wasLost(id uuid.UUID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lost[id]
}

// settleDoubts puts on disk what is incoming and doubtful in a pool. A dataset goes
// to its place without a flush: after a power cut one that was acknowledged may be
// incoming again. Who had it on record is told of that by the record. Where the
// pool was found without one, or the store was lost, nobody can tell it from one
// that was never acknowledged: it stays, until it is on record again (drover store
// rebuild) or a person has it destroyed.
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
