package pooladmin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// A pool is removed in these steps:
//
// 1. It is recorded as leaving: no new work starts in it. Control gets the list of the node's pools without it, and
// plans nothing there.
// 2. The remover waits for work that began before.
// 3. The pool is examined once more.
// 4. Control removes its record. Control refuses this while it records anything in the pool. Then the pool is kept.
// 5. The path is cleared.
// 6. The agent's own record is removed.
//
// If the agent starts and finds a pool that is leaving, it resumes these steps.

const (
	// removalTime bounds a removal, whether or not the caller still waits. LVM takes seconds, the other backends less.
	removalTime = 2 * time.Minute
	// workTime is how long a removal waits for work that may be in the pool.
	workTime = 20 * time.Second
)

// RemovePool removes an empty pool of this node. The files that Drover made at its path are removed, and its name and
// path can be used again. With forget, only the record is removed. The path, which may be absent, stays as it is.
//
// It fails with ErrNotFound for a pool that is not on this node, and with ErrOffline for a pool that cannot be
// examined. It fails with ErrConflict while the pool contains anything, while control records anything in it, and for
// a pool that the next start would make again. Idempotent: after a crash it resumes. A dry run changes nothing, and
// fails as the removal would.
func (a *Admin) RemovePool(ctx context.Context, name string, how api.PoolRemoval) (out api.RemovedPool, err error) {
	p, known := a.Pools.ByName(name)
	if !known {
		return out, cmp.Or(a.checkRemovable(name, nil), a.unknownPoolError(ctx, name))
	}
	unlock, err := a.lockPool(ctx, p)
	if err != nil {
		return out, err
	}
	defer unlock()
	if p = a.Pools.ByID(p.ID); p.Gone { // another request removed it meanwhile
		return out, a.unknownPoolError(ctx, name)
	}
	if err := a.checkRemovable(name, p); err != nil {
		return out, err
	}
	if !how.Forget && p.Record.Leaving == pool.NotLeaving {
		if err := a.checkEmpty(ctx, p, how.DryRun); err != nil {
			return out, err
		}
	}
	out.Pool, out.Notes = p.Pool, a.configNotes(ctx, p)
	var asked []uuid.UUID // control decides while the pool is still served: if it refuses, nothing has changed
	if p.Record.Leaving == pool.NotLeaving {
		asked = append(asked, p.ID)
	}
	if err := a.Registration.Register(ctx, asked...); err != nil { // control may refuse, so it must answer
		return out, err
	}
	if how.DryRun {
		return out, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removalTime)
	defer cancel() // the removal is finished, whether or not the caller waits
	if err := a.setLeaving(ctx, p, how.Forget); err != nil {
		return out, err
	}
	left, err := a.finish(ctx, p.ID)
	if err != nil {
		return out, err
	}
	if left != "" {
		out.Notes = append([]string{left}, out.Notes...)
	}
	defer a.News.Soon()
	a.Reporter.ReportPools(ctx)
	return out, nil
}

// lockPool serializes the requests to remove a pool. While the pool is examined, only this lock is held. The disk of
// the pool may hang, and other pools can be made and adopted meanwhile.
func (a *Admin) lockPool(ctx context.Context, p *pool.Pool) (unlock func(), err error) {
	return a.Locks.Lock(ctx, p.ID, "removal of pool "+p.Name)
}

// setLeaving records that a pool is leaving. While setLeaving runs, no other pool is made, adopted or removed.
func (a *Admin) setLeaving(ctx context.Context, p *pool.Pool, forget bool) error {
	unlock, err := lockPools(ctx, a.Host, "removal of pool "+p.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.checkRemovable(p.Name, p); err != nil {
		return err
	}
	how := pool.LeavingRemoved
	if forget || p.Record.Leaving == pool.LeavingForgotten { // the removal continues
		how = pool.LeavingForgotten
	}
	return a.Pools.UpdateRecord(ctx, p.ID, func(rec *pool.Record) { rec.Leaving = how })
}

// checkRemovable refuses to remove a pool that a start would make again. p is nil for an unknown pool.
func (a *Admin) checkRemovable(name string, p *pool.Pool) error {
	if slices.ContainsFunc(a.Pools.Configured, func(c pool.Config) bool { return c.Name == name }) {
		return dataset.Errorf(dataset.ErrConflict,
			"pool %s is in drover.yaml, and would be created again: remove it from that file and restart drover "+
				"first", name)
	}
	others := slices.ContainsFunc(a.Pools.All(),
		func(o *pool.Pool) bool { return o.Name != name && o.Record.Leaving == pool.NotLeaving })
	if p != nil && p.Record.Leaving == pool.NotLeaving && !others && len(a.Pools.Configured) == 0 &&
		(p.Default || name == "default") {
		return dataset.Errorf(dataset.ErrConflict,
			"pool %s is the only one of this node, and drover would create it again at its next start: create "+
				"another one first (drover pool create)", name)
	}
	return nil
}

// checkEmpty fails with ErrConflict unless a pool holds nothing, and with ErrOffline if it cannot be examined. It
// finishes removals of datasets first, unless it is a dry run: then it ignores datasets that are being removed.
func (a *Admin) checkEmpty(ctx context.Context, p *pool.Pool, dryRun bool) error {
	b, err := a.Pools.Online(ctx, p.ID)
	if err != nil {
		return dataset.Errorf(dataset.ErrOffline,
			"cannot check whether pool %s is empty: %w (bring it online; drover pool rm %s --forget "+
				"--dry-run shows whether its record alone could be removed)", p.Name, err, p.Name)
	}
	if dryRun {
		return a.checkOpenPoolEmpty(ctx, p, b, true)
	}
	if _, err := b.Reap(ctx, func(uuid.UUID) bool { return false }); err != nil {
		return pool.WithPoolName(p.Name, err)
	}
	return a.checkOpenPoolEmpty(ctx, p, b, false)
}

// checkOpenPoolEmpty is checkEmpty for an open pool. With skipDeleting, datasets that are being removed do not count.
func (a *Admin) checkOpenPoolEmpty(ctx context.Context, p *pool.Pool, b backends.Pool, skipDeleting bool) error {
	entries, err := b.List(ctx)
	if err != nil {
		return pool.WithPoolName(p.Name, err)
	}
	var there []dataset.PoolContent
	for _, e := range entries {
		if skipDeleting && e.State == backends.EntryDeleting {
			continue
		}
		h := a.blocker(p, e)
		if n := len(e.Snapshots); n == 1 {
			h.What += " with 1 snapshot"
		} else if n > 1 {
			h.What += fmt.Sprintf(" with %d snapshots", n)
		}
		there = append(there, h)
	}
	sandboxes, _ := trialdir.Find(b.Info().Path) // a pool that is not a folder has none
	for _, c := range sandboxes {
		switch {
		case c.Foreign != "": // it is listed as foreign
		case c.Busy:
			there = append(there, dataset.PoolContent{What: c.Path + ", of a drover backend verify that is running",
				Remedy: "try again after it ends"})
		default:
			there = append(there, dataset.PoolContent{What: c.Path + ", of drover backend verify",
				Remedy: "drover backend verify " + p.Name + " removes it"})
		}
	}
	return dataset.PoolNotEmpty(p.Name, there)
}

// blocker describes an entry of a pool that prevents the removal of the pool. It prefers control's record, because the
// record beside the data may be older.
func (a *Admin) blocker(p *pool.Pool, e backends.Entry) dataset.PoolContent {
	if e.State == backends.EntryForeign {
		return dataset.PoolContent{What: e.Path + ", which is not drover's", Remedy: "remove it yourself"}
	}
	d, known := a.Cache.Dataset(e.ID)
	volume := d.Volume
	switch {
	case known:
	case e.Record != nil:
		volume = e.Record.Volume
	default:
		volume = e.ID.String()
	}
	k, kept := a.Cache.Copy(e.ID)
	switch {
	case known && d.Pool == p.ID && e.State == backends.EntryReady:
		return d.PoolContent()
	case e.State == backends.EntryDeleting || known && d.State == dataset.StatePurging:
		return dataset.Dataset{ID: e.ID, Volume: volume, State: dataset.StatePurging}.PoolContent()
	case kept && k.Pool == p.ID:
		return k.PoolContent(volume, a.NodeName)
	case a.Cleaner.IsNeeded(e.ID) || a.Copies.IsRecorded(e.ID):
		return dataset.PoolContent{What: "volume " + volume + " (" + string(e.State) + ")",
			Remedy: "it is being changed, try again later"}
	case e.State == backends.EntryIncoming && !a.Pools.IsDoubtful(p.ID, e.ID):
		return dataset.PoolContent{What: "volume " + volume + " (incoming)",
			Remedy: "was interrupted, is removed at the next start of drover"}
	}
	return dataset.PoolContent{What: "volume " + volume + " (" + e.ID.String()[:8] + ", not recorded here)",
		Remedy: "drover doctor says what it is"}
}

// configNotes returns the profiles that name a pool, and the effect of its removal on them.
func (a *Admin) configNotes(ctx context.Context, pl *pool.Pool) (notes []string) {
	list, _ := a.Control.Profiles(ctx) // it is only a hint
	for _, p := range list {
		if p.Pool == pl.Name {
			notes = append(notes, fmt.Sprintf("profile %s requires pool %s: its volumes need another pool of "+
				"that name", p.Name, pl.Name))
		}
	}
	if !slices.ContainsFunc(a.Pools.All(), func(o *pool.Pool) bool { return o.ID != pl.ID }) {
		notes = append(notes, "this node has no pool left: drover creates the pool default at its next start, "+
			"unless there is another one by then")
	}
	return notes
}

// finish completes the removal of a pool that is recorded as leaving. left names the files that are still at its path.
// The pool's lock is held.
//
// If a step fails before control has removed its record, and control cannot have removed it (see host.InDoubt), the
// pool is kept and stops leaving: for example, because work in the pool does not end in time, the pool holds something,
// or control records something in it. The same applies if the backend finds data in the pool when it clears the path.
// After any other error the pool stays leaving, and the removal is tried again.
func (a *Admin) finish(ctx context.Context, id uuid.UUID) (left string, err error) {
	p := a.Pools.ByID(id)
	how := p.Record.Leaving
	steps.At("pool-remove.begun")
	if !p.Record.Unrecorded {
		err = a.removeRecord(ctx, p)
	}
	if err != nil && !host.InDoubt(err) {
		return "", errors.Join(err, a.cancelLeaving(ctx, id))
	}
	if err != nil {
		return "", removalPending(p.Name, err)
	}
	steps.At("pool-remove.recorded")
	if how == pool.LeavingRemoved {
		left, err = a.clearPath(ctx, id)
	} else {
		left, err = "the data at "+p.Record.Path+" was not changed (drover pool adopt "+p.Record.AdoptPath()+
			" adopts it again)", a.Pools.Release(id)
	}
	if errors.Is(err, dataset.ErrConflict) { // something was put into it nevertheless
		return "", errors.Join(err, a.cancelLeaving(ctx, id))
	}
	if err != nil {
		return "", removalPending(p.Name, err)
	}
	steps.At("pool-remove.cleared")
	// From here on, another pool may use the name and the path.
	unlock, err := lockPools(ctx, a.Host, "removal of pool "+p.Name)
	if err != nil {
		return "", removalPending(p.Name, err)
	}
	defer unlock()
	if err := a.Pools.Drop(ctx, id); err != nil {
		return "", removalPending(p.Name, err)
	}
	a.Log.WithFields(map[string]any{
		"pool":    p.Name,
		"backend": p.Record.Backend,
		"path":    p.Record.Path,
		"left":    left,
	}).Infof("pool is %s, as requested", how)
	return left, nil
}

// removeRecord waits until no work runs in a pool, checks that the pool is empty, and makes control remove the record
// of the pool.
func (a *Admin) removeRecord(ctx context.Context, p *pool.Pool) error {
	err := a.awaitWork(ctx, p)
	if err == nil && p.Record.Leaving == pool.LeavingRemoved && p.Storage != nil {
		err = a.checkOpenPoolEmpty(ctx, p, p.Storage, false)
	}
	if err == nil { // register without the pool first: then control records nothing more in it
		err = a.Registration.Register(ctx)
	}
	if err == nil {
		err = a.Registration.Register(ctx, p.ID)
	}
	if err == nil {
		err = a.Pools.UpdateRecord(ctx, p.ID, func(rec *pool.Record) { rec.Unrecorded = true })
	}
	return err
}

func removalPending(name string, err error) error {
	return fmt.Errorf("pool %s is being removed, and the removal continues automatically: %w (drover pool "+
		"inspect %s)", name, err, name)
}

// cancelLeaving records that a pool is no longer leaving.
func (a *Admin) cancelLeaving(ctx context.Context, id uuid.UUID) error {
	err := a.Pools.UpdateRecord(ctx, id, func(rec *pool.Record) {
		rec.Leaving, rec.Unrecorded = pool.NotLeaving, false
	})
	if err != nil {
		return err
	}
	defer a.News.Soon()
	return a.Registration.Register(ctx)
}

// awaitWork waits for work that may have begun in a pool before the pool was leaving. If the work takes longer than
// workTime, awaitWork fails with ErrPending and names it.
func (a *Admin) awaitWork(ctx context.Context, p *pool.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, workTime)
	defer cancel()
	for _, id := range a.Locks.Locked() {
		if id == uuid.Nil || !a.mayUse(id, p.ID) {
			continue
		}
		unlock, err := a.Locks.Lock(ctx, id, "removal of pool "+p.Name)
		if err != nil {
			return err
		}
		unlock()
	}
	nothing := func(context.Context, *host.Job) error { return nil }
	for _, key := range []string{"generation/" + p.ID.String(), "trim of pool " + p.Name} {
		select {
		case <-a.Jobs.Start(key, nothing).Ended():
		case <-ctx.Done():
			return dataset.Errorf(dataset.ErrPending,
				"removal of pool %s: the %s in progress did not end in time: try again", p.Name, key)
		}
	}
	return nil
}

// mayUse reports whether work on a dataset may be in a pool. It may be if the dataset is known to be in the pool, or
// if the dataset is unknown.
func (a *Admin) mayUse(id, pool uuid.UUID) bool {
	if a.Pools.ByID(id) != nil { // the lock belongs to a pool and not to a dataset
		return false
	}
	var in []uuid.UUID
	if d, known := a.Cache.Dataset(id); known {
		in = append(in, d.Pool)
	}
	if k, kept := a.Cache.Copy(id); kept {
		in = append(in, k.Pool)
	}
	if p, comes := a.MoveTable.Get(id); comes {
		in = append(in, p.Pool, p.From)
	}
	in = append(in, a.Runner.PoolsOf(id)...)
	return len(in) == 0 || slices.Contains(in, pool)
}
