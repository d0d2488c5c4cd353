package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Open opens the configured pools, those that were made or adopted before, and the default pool if there is no
// other.
func (t *Pools) Open(ctx context.Context) error {
	known := map[string]Record{}
	var names []string
	err := t.DB.Each(ctx, "pools/", func(name string, v []byte) error {
		var r Record
		if err := dataset.DecodeRecord(v, &r); err != nil {
			return err
		}
		known[name] = r
		names = append(names, name)
		return nil
	})
	if err != nil {
		return err
	}
	if len(names) == 0 && t.Recovered {
		if names, err = t.addRecordedPools(ctx, known); err != nil {
			return err
		}
	}
	if err := t.recordPolicies(ctx, known); err != nil {
		return err
	}
	var opened []*Pool
	var unknown []Config
	configured := map[string]bool{}
	for _, c := range t.Configured {
		if err := t.cancelRemoval(ctx, c.Name, known); err != nil {
			return err
		}
		configured[c.Name] = true
		rec, known := t.newRecord(c), known[c.Name]
		if known.ID == uuid.Nil {
			unknown = append(unknown, c)
			continue
		}
		if known.Backend != rec.Backend {
			return dataset.Errorf(dataset.ErrInvalid,
				"pool %s: drover.yaml says backend %s, but it was made with %s", c.Name, rec.Backend, known.Backend)
		}
		rec.ID, rec.Share, rec.Unexamined, rec.Doubtful, rec.Generation, rec.Trimmed = known.ID, known.Share,
			known.Unexamined, known.Doubtful, known.Generation, known.Trimmed
		rec.Overcommit, rec.OvercommitConfigured, rec.OvercommitUnknown = known.Overcommit, known.OvercommitConfigured,
			known.OvercommitUnknown
		opened = append(opened, t.UnopenedPool(c.Name, rec))
	}
	for _, name := range names {
		if !configured[name] {
			opened = append(opened, t.UnopenedPool(name, known[name]))
		}
	}
	t.OpenAll(ctx, false, opened...)
	for _, c := range unknown {
		rec := t.newRecord(c)
		if err := PathAnswers(ctx, t.Clock, rec.Path); err != nil {
			t.addFailed(c, err)
		} else if _, err := t.Make(ctx, c.Name, rec); err != nil {
			t.addFailed(c, err)
		}
	}
	if len(t.Order) == 0 && len(t.Failed) == 0 {
		return t.makeDefault(ctx)
	}
	return ctx.Err()
}

// recordPolicies applies the policies for overcommit that drover.yaml defines to the records of known pools. It writes
// a changed record at once, because the next start must know where the policy is from.
func (t *Pools) recordPolicies(ctx context.Context, known map[string]Record) error {
	configured := map[string]float64{}
	for _, c := range t.Configured {
		configured[c.Name] = c.Overcommit
	}
	changed := map[string]any{}
	for name, was := range known {
		rec := was.withOvercommit(configured[name])
		if rec.Overcommit != was.Overcommit || rec.OvercommitConfigured != was.OvercommitConfigured {
			known[name], changed["pools/"+name] = rec, rec
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return t.DB.Put(ctx, changed)
}

// UnopenedPool returns a pool that was seen before and is not open yet.
func (t *Pools) UnopenedPool(name string, rec Record) *Pool {
	return &Pool{
		Record:   rec,
		nodeName: t.NodeName,
		Pool: dataset.Pool{
			ID:      rec.ID,
			Name:    name,
			Backend: rec.Backend,
			Path:    rec.Path,
			Devices: rec.Devices,
			Reach:   dataset.ReachNode,
			Default: rec.Default,
		},
	}
}

// OpenAll opens known pools. Pools that cannot be opened are offline. If late is true, other pools are served already:
// see applyOpened.
func (t *Pools) OpenAll(ctx context.Context, late bool, list ...*Pool) {
	for _, p := range list {
		t.startOpening(p)
		t.Add(p)
	}
	for _, p := range t.applyOpened(ctx, StartPatience, late, list) {
		t.SyncPolicy(ctx, p.ID)
	}
	for _, p := range list {
		if now, there := t.ByName(p.Name); there && now.Storage == nil {
			t.Log.WithFields(map[string]any{
				"pool":    p.Name,
				"backend": p.Record.Backend,
				"error":   now.OfflineReason,
			}).Error("pool is offline")
		}
	}
}

func (t *Pools) attach(ctx context.Context, p *Pool) error {
	kind, err := t.Backends.Kind(p.Record.Backend)
	if err != nil {
		return err
	}
	if err := backends.CheckOpen(ctx, kind); err != nil {
		return err
	}
	b, err := kind.Open(ctx, p.Record.Config(p.Name, t.Keys, t.MountRoot()))
	if err != nil {
		return err
	}
	whyUnlocked, err := t.PoolLocks.Lock(ctx, b)
	if err == nil {
		err = p.checkShare(b.Info())
	}
	if err == nil {
		p.Generation, err = b.Generation()
	}
	if err == nil && p.disk.closed { // a probe: it was closed because its disk failed
		err = b.Raise(p.Generation)
	}
	if err != nil {
		return errors.Join(err, b.Close())
	}
	t.warnNotLocked(p.Name, whyUnlocked)
	p.disk = diskHealth{}
	p.Storage, p.OfflineReason, p.LockProblem, p.RaiseSoon, p.RaisedAt = b, "", whyUnlocked, true, t.Clock.Steady()
	if why := p.QuarantineReason(); why != "" {
		t.Log.WithField("pool", p.Name).Error("pool is held: " + why)
	}
	p.setInfo(t.capabilities(b), b.Info())
	return nil
}

// addRecordedPools adds the pools that control has recorded for this node, and returns their names. It is called after
// the agent's database was lost. If control is unreachable, addRecordedPools adds no pool, and only the pools of
// drover.yaml are found, at their paths.
func (t *Pools) addRecordedPools(ctx context.Context, known map[string]Record) (names []string, err error) {
	list, err := t.Control.Pools(ctx)
	if err != nil {
		t.Log.WithError(err).Warn("cannot get the list of this node's pools from control")
		return nil, nil
	}
	values := map[string]any{}
	for _, o := range list {
		if o.Node != t.NodeID || o.ID == uuid.Nil {
			continue
		}
		if err := PathAnswers(ctx, t.Clock, o.Path); err != nil { // a pool whose path hangs cannot be identified
			return nil, fmt.Errorf("pool %s, whose record on this node was lost: %w", o.Name, err)
		}
		rec := Record{
			ID: o.ID, Backend: o.Backend, Path: o.Path, Devices: o.Devices, Default: o.Default,
			Unexamined: true, OvercommitUnknown: true,
		}
		if st, err := os.Lstat(o.Path); err == nil && st.Mode().IsRegular() {
			rec.Image = dataset.Size(st.Size())
		}
		t.SetPlace(o.Name, &rec)
		known[o.Name], values["pools/"+o.Name] = rec, rec
		names = append(names, o.Name)
	}
	return names, t.DB.Put(ctx, values)
}

// cancelRemoval keeps a pool that was being removed and that drover.yaml names again. If its path may already be
// cleared in part, the pool cannot be kept. A pool is cleared only after it was found empty, so cancelRemoval drops its
// record, and the pool is made again as a new one.
func (t *Pools) cancelRemoval(ctx context.Context, name string, known map[string]Record) error {
	rec := known[name]
	log := t.Log.WithField("pool", name)
	switch {
	case rec.Leaving == NotLeaving:
		return nil
	case rec.Unrecorded && rec.Leaving == LeavingRemoved:
		log.Warn("pool was being removed and is in drover.yaml again: it was empty, and is recreated")
		delete(known, name)
		return t.DB.Put(ctx, map[string]any{"pools/" + name: nil})
	}
	log.Warn("pool was being removed and is in drover.yaml again: it is kept as it is")
	rec.Leaving, rec.Unrecorded = NotLeaving, false
	known[name] = rec
	return t.DB.Put(ctx, map[string]any{"pools/" + name: rec})
}

// Release closes a pool that is being removed, and releases its lock. The pool stays in the table, and its path stays
// as it is.
func (t *Pools) Release(id uuid.UUID) (err error) {
	p := t.ByID(id)
	if p.Storage != nil {
		err = t.closePool(id)
	}
	t.mu.Lock()
	err = errors.Join(err, p.Opening.discard())
	t.mu.Unlock()
	t.Change(id, func(p *Pool) { p.Storage, p.Opening, p.OfflineReason = nil, nil, "it is being removed" })
	return errors.Join(err, t.PoolLocks.Unlock(id))
}

// Drop removes a pool from this node's records. Callers that still use its UUID see that the pool is gone.
func (t *Pools) Drop(ctx context.Context, id uuid.UUID) error {
	t.recording.Lock()
	defer t.recording.Unlock()
	p := t.ByID(id)
	if err := t.DB.Put(ctx, map[string]any{"pools/" + p.Name: nil}); err != nil {
		return fmt.Errorf("pool %s: %w", p.Name, err)
	}
	t.Change(id, func(p *Pool) {
		p.Gone, p.Storage, p.Opening, p.HangReason, p.OfflineReason, p.Record.Leaving = true, nil, nil, "",
			"it was removed from this node", NotLeaving
	})
	t.mu.Lock()
	t.Order = slices.DeleteFunc(t.Order, func(o uuid.UUID) bool { return o == id })
	t.mu.Unlock()
	t.RemoveMountPoint(p.Name)
	return nil
}

// Close closes all pools. It waits at most ClosePatience for the pools that are being asked or opened.
func (t *Pools) Close() error {
	t.awaitIdle(ClosePatience)
	var errs []error
	for _, p := range t.All() {
		if p.Storage != nil {
			errs = append(errs, t.closePool(p.ID))
		}
		t.mu.Lock()
		errs = append(errs, p.Opening.discard())
		t.mu.Unlock()
	}
	return errors.Join(append(errs, t.PoolLocks.close())...)
}

// awaitIdle waits until no pool is being asked or opened, for patience at most. It does not wait for a pool that is
// known to hang, or that has been opening for AgainPatience or longer. It measures real time, because a stop must end
// even if the clock of a test does not move.
func (t *Pools) awaitIdle(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var done []<-chan struct{}
	for _, p := range t.All() {
		if p.Question != nil && p.HangReason == "" {
			done = append(done, p.Question.Done)
		}
		if p.Opening != nil && t.Clock.Now().Sub(p.Opening.since) < AgainPatience {
			done = append(done, p.Opening.Done)
		}
	}
	WaitFor(ctx, t.Clock, patience, done)
}

// capabilities returns the capabilities of a pool on this host.
func (t *Pools) capabilities(b backends.Pool) dataset.Capabilities {
	c := b.Info().Capabilities
	if c.OwnDevice {
		c.Limits = t.Throttle.Kind()
	}
	return c
}

func (t *Pools) warnNotLocked(name, whyUnlocked string) {
	if whyUnlocked != "" {
		t.Log.WithField("pool", name).Warnf("pool is not locked against another drover: %s", whyUnlocked)
	}
}
