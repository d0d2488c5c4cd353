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

// Opener opens the pools of this node when the agent starts, opens them again while they are offline, and closes them.
// Safe for concurrent use once Open has returned.
type Opener struct {
	Deps
	pools *Pools
	maker *Maker
	node  uuid.UUID // this node; set by Open
}

// NewOpener returns an Opener for the pools of a node.
func NewOpener(deps Deps, pools *Pools, maker *Maker) *Opener {
	return &Opener{Deps: deps, pools: pools, maker: maker}
}

// Open opens the configured pools, those that were made or adopted before, and the default pool if there is no
// other. node is this node; recovered says that the agent's database was lost.
func (x *Opener) Open(ctx context.Context, node uuid.UUID, recovered bool) error {
	x.node = node
	known := map[string]Record{}
	var names []string
	err := x.DB.Each(ctx, "pools/", func(name string, v []byte) error {
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
	if len(names) == 0 && recovered {
		if names, err = x.addRecordedPools(ctx, known); err != nil {
			return err
		}
	}
	if err := x.recordPolicies(ctx, known); err != nil {
		return err
	}
	var opened []*Pool
	var unknown []Config
	configured := map[string]bool{}
	for _, c := range x.Configured {
		if err := x.cancelRemoval(ctx, c.Name, known); err != nil {
			return err
		}
		configured[c.Name] = true
		rec, known := x.maker.newRecord(c), known[c.Name]
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
		opened = append(opened, x.UnopenedPool(c.Name, rec))
	}
	for _, name := range names {
		if !configured[name] {
			opened = append(opened, x.UnopenedPool(name, known[name]))
		}
	}
	x.OpenAll(ctx, false, opened...)
	for _, c := range unknown {
		rec := x.maker.newRecord(c)
		if err := PathAnswers(ctx, x.Clock, rec.Path); err != nil {
			x.maker.addFailed(node, c, err)
		} else if _, err := x.maker.Make(ctx, c.Name, rec); err != nil {
			x.maker.addFailed(node, c, err)
		}
	}
	if len(x.pools.Order) == 0 && len(x.maker.Failed) == 0 {
		return x.maker.makeDefault(ctx)
	}
	return ctx.Err()
}

// recordPolicies applies the policies for overcommit that drover.yaml defines to the records of known pools. It writes
// a changed record at once, because the next start must know where the policy is from.
func (x *Opener) recordPolicies(ctx context.Context, known map[string]Record) error {
	configured := map[string]float64{}
	for _, c := range x.Configured {
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
	return x.DB.Put(ctx, changed)
}

// UnopenedPool returns a pool that was seen before and is not open yet.
func (x *Opener) UnopenedPool(name string, rec Record) *Pool {
	return &Pool{
		Record:   rec,
		nodeName: x.NodeName,
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
func (x *Opener) OpenAll(ctx context.Context, late bool, list ...*Pool) {
	for _, p := range list {
		x.startOpening(p)
		x.pools.Add(p)
	}
	for _, p := range x.applyOpened(ctx, StartPatience, late, list) {
		x.pools.SyncPolicy(ctx, p.ID)
	}
	for _, p := range list {
		if now, there := x.pools.ByName(p.Name); there && now.Storage == nil {
			x.Log.WithFields(map[string]any{
				"pool":    p.Name,
				"backend": p.Record.Backend,
				"error":   now.OfflineReason,
			}).Error("pool is offline")
		}
	}
}

func (x *Opener) attach(ctx context.Context, p *Pool) error {
	kind, err := x.Backends.Kind(p.Record.Backend)
	if err != nil {
		return err
	}
	if err := backends.CheckOpen(ctx, kind); err != nil {
		return err
	}
	b, err := kind.Open(ctx, p.Record.Config(p.Name, x.Keys, x.Mounts.Root()))
	if err != nil {
		return err
	}
	whyUnlocked, err := x.maker.PoolLocks.Lock(ctx, b)
	if err == nil {
		err = p.checkShare(b.Info())
	}
	if err == nil {
		p.Generation, err = b.Generation()
	}
	if err == nil {
		err = p.probeReopened(b)
	}
	if err != nil {
		return errors.Join(err, b.Close())
	}
	x.warnNotLocked(p.Name, whyUnlocked)
	p.disk = diskHealth{}
	p.Storage, p.OfflineReason, p.LockProblem, p.RaiseSoon, p.RaisedAt = b, "", whyUnlocked, true, x.Clock.Steady()
	if why := p.QuarantineReason(); why != "" {
		x.Log.WithField("pool", p.Name).Error("pool is held: " + why)
	}
	p.setInfo(x.capabilities(b), b.Info())
	return nil
}

// addRecordedPools adds the pools that control has recorded for this node, and returns their names. It is called after
// the agent's database was lost. If control is unreachable, addRecordedPools adds no pool, and only the pools of
// drover.yaml are found, at their paths.
func (x *Opener) addRecordedPools(ctx context.Context, known map[string]Record) (names []string, err error) {
	list, err := x.Control.Pools(ctx)
	if err != nil {
		x.Log.WithError(err).Warn("cannot get the list of this node's pools from control")
		return nil, nil
	}
	values := map[string]any{}
	for _, o := range list {
		if o.Node != x.node || o.ID == uuid.Nil {
			continue
		}
		if err := PathAnswers(ctx, x.Clock, o.Path); err != nil { // a pool whose path hangs cannot be identified
			return nil, fmt.Errorf("pool %s, whose record on this node was lost: %w", o.Name, err)
		}
		rec := Record{
			ID: o.ID, Backend: o.Backend, Path: o.Path, Devices: o.Devices, Default: o.Default,
			Unexamined: true, OvercommitUnknown: true,
		}
		if st, err := os.Lstat(o.Path); err == nil && st.Mode().IsRegular() {
			rec.Image = dataset.Size(st.Size())
		}
		x.maker.SetPlace(o.Name, &rec)
		known[o.Name], values["pools/"+o.Name] = rec, rec
		names = append(names, o.Name)
	}
	return names, x.DB.Put(ctx, values)
}

// cancelRemoval keeps a pool that was being removed and that drover.yaml names again. If its path may already be
// cleared in part, the pool cannot be kept. A pool is cleared only after it was found empty, so cancelRemoval drops its
// record, and the pool is made again as a new one.
func (x *Opener) cancelRemoval(ctx context.Context, name string, known map[string]Record) error {
	rec := known[name]
	log := x.Log.WithField("pool", name)
	switch {
	case rec.Leaving == NotLeaving:
		return nil
	case rec.Unrecorded && rec.Leaving == LeavingRemoved:
		log.Warn("pool was being removed and is in drover.yaml again: it was empty, and is recreated")
		delete(known, name)
		return x.DB.Put(ctx, map[string]any{"pools/" + name: nil})
	}
	log.Warn("pool was being removed and is in drover.yaml again: it is kept as it is")
	rec.Leaving, rec.Unrecorded = NotLeaving, false
	known[name] = rec
	return x.DB.Put(ctx, map[string]any{"pools/" + name: rec})
}

// Release closes a pool that is being removed, and releases its lock. The pool stays in the table, and its path stays
// as it is.
func (x *Opener) Release(id uuid.UUID) (err error) {
	p := x.pools.ByID(id)
	if p.Storage != nil {
		err = x.pools.closePool(id)
	}
	x.pools.mu.Lock()
	err = errors.Join(err, p.Opening.discard())
	x.pools.mu.Unlock()
	x.pools.Change(id, func(p *Pool) { p.Storage, p.Opening, p.OfflineReason = nil, nil, "it is being removed" })
	return errors.Join(err, x.maker.PoolLocks.Unlock(id))
}

// Drop removes a pool from this node's records. Callers that still use its UUID see that the pool is gone.
func (x *Opener) Drop(ctx context.Context, id uuid.UUID) error {
	x.pools.recording.Lock()
	defer x.pools.recording.Unlock()
	p := x.pools.ByID(id)
	if err := x.DB.Put(ctx, map[string]any{"pools/" + p.Name: nil}); err != nil {
		return fmt.Errorf("pool %s: %w", p.Name, err)
	}
	x.pools.Change(id, func(p *Pool) {
		p.Gone, p.Storage, p.Opening, p.HangReason, p.OfflineReason, p.Record.Leaving = true, nil, nil, "",
			"it was removed from this node", NotLeaving
	})
	x.pools.mu.Lock()
	x.pools.Order = slices.DeleteFunc(x.pools.Order, func(o uuid.UUID) bool { return o == id })
	x.pools.mu.Unlock()
	x.maker.RemoveMountPoint(p.Name)
	return nil
}

// Close closes all pools. It waits at most ClosePatience for the pools that are being asked or opened.
func (x *Opener) Close() error {
	x.awaitIdle(ClosePatience)
	var errs []error
	for _, p := range x.pools.All() {
		if p.Storage != nil {
			errs = append(errs, x.pools.closePool(p.ID))
		}
		x.pools.mu.Lock()
		errs = append(errs, p.Opening.discard())
		x.pools.mu.Unlock()
	}
	return errors.Join(append(errs, x.maker.PoolLocks.close())...)
}

// awaitIdle waits until no pool is being asked or opened, for patience at most. It does not wait for a pool that is
// known to hang, or that has been opening for AgainPatience or longer. It measures real time, because a stop must end
// even if the clock of a test does not move.
func (x *Opener) awaitIdle(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var done []<-chan struct{}
	for _, p := range x.pools.All() {
		if p.Question != nil && p.HangReason == "" {
			done = append(done, p.Question.Done)
		}
		if p.Opening != nil && x.Clock.Now().Sub(p.Opening.since) < AgainPatience {
			done = append(done, p.Opening.Done)
		}
	}
	WaitFor(ctx, x.Clock, patience, done)
}
