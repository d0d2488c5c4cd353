// Package pool keeps the storage pools of this node: it makes, opens, adopts and removes them, watches whether
// they answer and whether their disks fail, and reports how full they are.
//
// Pools has all of them, by UUID. Its mutex protects the map and the fields of each Pool; calls of a backend are
// made without it.
package pool

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/locks"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Config is a pool as drover.yaml names it.
type Config struct {
	Name    string
	Backend string
	Path    string
	Image   dataset.Size // above 0: Path is an image file of that size
	Devices []string     // block devices to make the pool of; Path may be empty then
	// Trim is how often the devices are told which blocks are free. 0: TrimEvery; negative: never.
	Trim time.Duration
}

// Pools are the pools of this node. A pool that was seen once is known by its UUID. If it is absent, or if
// another pool is at its path, it is offline; it is never made again.
type Pools struct {
	Deps
	node  uuid.UUID // this node; set by Open
	mu    sync.RWMutex
	Order []uuid.UUID
	byID  map[uuid.UUID]*Pool
	Holds holds

	recording  sync.Mutex // held while the record of a pool is changed
	identities locks.Set  // held while the identity of a pool is written

	Unmade []api.Pool // pools of drover.yaml that could not be made, without a UUID; set by Open
}

// Pool is one pool of this node. The mutex of Pools protects its fields.
type Pool struct {
	dataset.Pool
	Record        Record
	Storage       backends.Pool // nil while offline
	OfflineReason string        // why the pool is offline
	Gone          bool          // the pool was removed; kept for callers that still ask about it
	Stuck         string        // why the pool cannot be removed yet, as the log says
	Opening       *opening      // while it is being opened
	Asked         *question     // the present request to the open pool
	Hung          string        // why the pool is offline although it is open: it does not answer in time
	disk          diskHealth    // whether its disk takes writes: see disk.go
	back          bool          // it answers again, or its disk works again, and the missed work must be done
	warned        []string      // its warnings when it was last asked
	Unheld        string        // why other drover processes are not kept away from it; "" if they are

	Memory     string // the kind of memory that the pool is in, such as tmpfs; "" for none
	on         string // the name of its node
	Generation uint64 // the generation that the pool itself has; see Held
	Late       bool   // it was opened while others were served, and control is being asked about it
	Heard      bool   // control has reported its generation since drover opened it
	Due        bool   // its generation must be raised soon
	Used       bool   // it was used since the last raise; changed: the next raise is reported to the store
	changed    bool
	Raising    bool          // its generation is being raised
	Unstored   bool          // its generation was raised, and the store does not have it yet
	RaisedAt   time.Duration // when it was last raised or opened, by the steady clock
}

// Open opens the configured pools, those that were made or adopted before, and the default pool if there is no
// other. node is this node; recovered says that the agent's database was lost.
func (p *Pools) Open(ctx context.Context, node uuid.UUID, recovered bool) error {
	p.node = node
	known := map[string]Record{}
	var names []string
	err := p.DB.Each(ctx, "pools/", func(name string, v []byte) error {
		var r Record
		if err := json.Unmarshal(v, &r); err != nil {
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
		if names, err = p.recall(ctx, known); err != nil {
			return err
		}
	}
	var opened []*Pool
	var unknown []Config
	configured := map[string]bool{}
	for _, c := range p.Configured {
		if err := p.wanted(ctx, c.Name, known); err != nil {
			return err
		}
		configured[c.Name] = true
		rec, known := p.configured(c), known[c.Name]
		if known.ID == uuid.Nil {
			unknown = append(unknown, c)
			continue
		}
		if known.Backend != rec.Backend {
			return dataset.Errorf(dataset.ErrInvalid,
				"pool %s: drover.yaml says backend %s, but it was made with %s", c.Name, rec.Backend, known.Backend)
		}
		rec.ID, rec.Share, rec.Found, rec.Doubtful, rec.Generation, rec.Trimmed = known.ID, known.Share,
			known.Found, known.Doubtful, known.Generation, known.Trimmed
		opened = append(opened, p.Known(c.Name, rec))
	}
	for _, name := range names {
		if !configured[name] {
			opened = append(opened, p.Known(name, known[name]))
		}
	}
	p.OpenAll(ctx, false, opened...)
	for _, c := range unknown {
		rec := p.configured(c)
		if err := p.Answers(ctx, rec.Path); err != nil {
			p.missing(c, err)
		} else if _, err := p.Make(ctx, c.Name, rec); err != nil {
			p.missing(c, err)
		}
	}
	if len(p.Order) == 0 && len(p.Unmade) == 0 {
		return p.makeDefault(ctx)
	}
	return ctx.Err()
}

// configured returns the record of a pool of drover.yaml that is not known yet.
func (p *Pools) configured(c Config) Record {
	rec := Record{Backend: c.Backend, Path: c.Path, Image: c.Image, Devices: c.Devices}
	p.Place(c.Name, &rec)
	return rec
}

// Known returns a pool that was seen before and is not open yet.
func (p *Pools) Known(name string, rec Record) *Pool {
	return &Pool{
		Record: rec,
		on:     p.NodeName,
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

// OpenAll opens known pools. Pools that cannot be opened are offline. For late see settle.
func (p *Pools) OpenAll(ctx context.Context, late bool, list ...*Pool) {
	for _, op := range list {
		p.begin(op)
		p.Enlist(op)
	}
	p.settle(ctx, StartPatience, late, list)
	for _, op := range list {
		if now, there := p.ByName(op.Name); there && now.Storage == nil {
			p.Log.WithFields(map[string]any{
				"pool":    op.Name,
				"backend": op.Record.Backend,
				"error":   now.OfflineReason,
			}).Error("pool is offline")
		}
	}
}

func (p *Pools) attach(ctx context.Context, op *Pool) error {
	kind, err := p.Backends.Kind(op.Record.Backend)
	if err != nil {
		return err
	}
	if err := backends.Serves(ctx, kind); err != nil {
		return err
	}
	b, err := kind.Open(ctx, op.Record.Configured(op.Name, p.Keys))
	if err != nil {
		return err
	}
	unheld, err := p.Holds.Take(ctx, b)
	if err == nil {
		err = op.sameShare(b.Info())
	}
	if err == nil {
		op.Generation, err = b.Generation()
	}
	if err == nil {
		err = op.prove(b)
	}
	if err != nil {
		return errors.Join(err, b.Close())
	}
	p.warnUnheld(op.Name, unheld)
	op.disk = diskHealth{}
	op.Storage, op.OfflineReason, op.Unheld, op.Due, op.RaisedAt = b, "", unheld, true, p.Clock.Steady()
	if why := op.Held(); why != "" {
		p.Log.WithField("pool", op.Name).Error("pool is held: " + why)
	}
	op.inform(p.can(b), b.Info())
	return nil
}

// Make makes a pool and records it. Without a UUID in the record, a pool that is already at the path is taken as
// it is: a first start may have been interrupted, or this node may have lost its record. With a UUID it is a new
// pool: see intend.
func (p *Pools) Make(ctx context.Context, name string, rec Record) (*Pool, error) {
	kind, err := p.Backends.Kind(rec.Backend)
	if err != nil {
		return nil, err
	}
	if err := kind.Available(ctx); err != nil {
		return nil, WithPoolName(name, err)
	}
	if err := p.Formable(ctx, name, rec, kind); err != nil {
		return nil, err
	}
	if err := p.foreign(rec); err != nil {
		return nil, WithPoolName(name, err)
	}
	if err := p.disjoint(name, rec); err != nil {
		return nil, err
	}
	if err := p.placed(name, rec); err != nil {
		return nil, err
	}
	if rec.ID != uuid.Nil {
		if err := p.intend(ctx, name, &rec); err != nil {
			return nil, err
		}
	}
	cfg := rec.Configured(name, p.Keys)
	cfg.Make = true
	b, err := kind.Open(ctx, cfg)
	if err != nil {
		return nil, WithPoolName(name, p.whose(rec, err))
	}
	rec.ID, rec.Share, rec.Found = b.ID(), b.Info().Share, rec.ID == uuid.Nil
	if len(rec.Devices) > 0 {
		rec.Trimmed = p.Clock.Now() // mkfs has discarded the free blocks
	}
	unheld, err := p.Holds.Take(ctx, b)
	generation, gerr := b.Generation()
	if err := errors.Join(p.single(rec.ID, name), err, gerr); err != nil {
		return nil, errors.Join(WithPoolName(name, err), b.Close())
	}
	if err := p.DB.Put(ctx, map[string]any{"pools/" + name: rec, Making + name: nil}); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	p.warnUnheld(name, unheld)
	op := &Pool{Record: rec, on: p.NodeName, Storage: b, Unheld: unheld, Generation: generation, Due: true,
		RaisedAt: p.Clock.Steady(), Pool: dataset.Pool{
			ID: rec.ID, Name: name, Backend: rec.Backend, Path: rec.Path, Devices: rec.Devices,
			Reach: dataset.ReachNode, Default: rec.Default,
		}}
	op.inform(p.can(b), b.Info())
	p.Enlist(op)
	p.Log.WithFields(map[string]any{"pool": name, "backend": rec.Backend, "path": rec.Path}).
		Info("pool is ready: " + op.Note)
	return op, nil
}

// single refuses a copy of a pool that this node already has under another name.
func (p *Pools) single(id uuid.UUID, name string) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if o := p.byID[id]; o != nil && !o.Gone && o.Name != name {
		return dataset.Errorf(dataset.ErrExists, "what lies there is pool %s (at %s), or a copy of it", o.Name,
			o.Record.Path)
	}
	return nil
}

// disjoint refuses a pool inside the path of another one, or around it.
func (p *Pools) disjoint(name string, rec Record) error {
	if err := p.unclaimed(name); err != nil {
		return err
	}
	all := p.All()
	for _, o := range all {
		if o.Name == name {
			return dataset.Errorf(dataset.ErrExists, "pool %s exists (backend %s at %s)", name, o.Record.Backend,
				o.Record.Path)
		}
	}
	for _, o := range all {
		if Overlap(rec, o.Record) {
			return dataset.Errorf(dataset.ErrInvalid,
				"pool %s: %s overlaps with pool %s at %s: give a path outside of it", name, rec.Path, o.Name,
				o.Record.Path)
		}
	}
	return nil
}

// Within reports whether path is dir or below it. Both are clean.
func Within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && (rel == "." || (rel != ".." && !hasDotDot(rel)))
}

func hasDotDot(rel string) bool { return len(rel) >= 3 && rel[:3] == "../" }

// Get returns an open pool that is not quarantined; dataset.ErrOffline says why there is none.
func (p *Pools) Get(id uuid.UUID) (backends.Pool, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	op := p.byID[id]
	if op == nil {
		return nil, notOurs(id)
	}
	if err := op.Serves(); err != nil {
		return nil, err
	}
	return op.Storage, nil
}

// Online is Get for a pool that must also be at its path now, and must not have been restored from an older
// backup since the last heartbeat.
func (p *Pools) Online(ctx context.Context, id uuid.UUID) (backends.Pool, error) {
	b, err := p.Get(id)
	if err != nil {
		return nil, err
	}
	st, err := p.See(ctx, id)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !st.Online:
		return nil, Offline(p.Name(id), st.Reason)
	case err != nil:
		return nil, err
	}
	return b, p.One(id).Serves()
}

func notOurs(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrOffline, "pool %s is not one of this node's (drover pool ls)", id)
}

// Free fails with dataset.ErrOffline while a pool is quarantined.
func (p *Pools) Free(id uuid.UUID) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if op := p.byID[id]; op != nil {
		return op.free()
	}
	return nil
}

// Name returns the name of a pool, or its UUID if this node has none with it.
func (p *Pools) Name(id uuid.UUID) string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if op := p.byID[id]; op != nil {
		return op.Name
	}
	return id.String()
}

// Records returns the pools for control, in their order, without those that are being removed.
func (p *Pools) Records() []dataset.Pool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]dataset.Pool, 0, len(p.Order))
	for _, id := range p.Order {
		if op := p.byID[id]; op.Record.Leaving == Staying {
			out = append(out, op.Pool)
		}
	}
	return out
}

// All returns the pools in the order of drover.yaml, open or not.
func (p *Pools) All() []*Pool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]*Pool, 0, len(p.Order))
	for _, id := range p.Order {
		out = append(out, p.byID[id])
	}
	return out
}

// Close closes all pools. It waits ClosePatience at most for those that are being asked or opened.
func (p *Pools) Close() error {
	p.finish(ClosePatience)
	var errs []error
	for _, op := range p.All() {
		if op.Storage != nil {
			errs = append(errs, p.letGo(op.ID))
		}
		p.mu.Lock()
		errs = append(errs, op.Opening.drop())
		p.mu.Unlock()
	}
	return errors.Join(append(errs, p.Holds.release())...)
}

// ByName returns the pool with a name, open or not.
func (p *Pools) ByName(name string) (*Pool, bool) {
	list := p.All()
	i := slices.IndexFunc(list, func(o *Pool) bool { return o.Name == name })
	if i < 0 {
		return nil, false
	}
	return list[i], true
}
