package agent

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

// PoolConfig is a pool that the operator named in drover.yaml.
type PoolConfig struct {
	Name    string
	Backend string
	Path    string
	Image   dataset.Size // > 0: Path is an image file of that size
	Devices []string     // block devices that it is made of; Path may be empty then
	// Trim is how often they are told what of them is free; 0: TrimEvery, less: never.
	Trim time.Duration
}

// pools is the pools of this node. A pool that was seen once is known by its
// UUID: when it is absent or another lies in its place it is offline, and never
// made again.
type pools struct {
	poolDeps
	node  uuid.UUID // this one; set by open
	mu    sync.RWMutex
	order []uuid.UUID
	byID  map[uuid.UUID]*openPool
	holds holds

	recording  sync.Mutex // held while what is on record of one is changed
	identities locks.Set  // held while the identity of one is written

	unmade []api.Pool // of drover.yaml, without a UUID; set when the agent starts
}

type openPool struct {
	dataset.Pool
	rec     poolRecord
	backend backends.Pool // nil while offline
	why     string        // it is offline
	gone    bool          // it was removed, and is kept in mind for who still asks about it
	stuck   string        // why it is not yet, as the log says
	opening *opening      // while it is being opened
	asked   *question     // what it is asked now, while open
	hung    string        // it is open, and does not answer that in time
	disk    diskHealth    // whether its disk takes writes: see pooldisk.go
	back    bool          // it answers, or its disk works, again, and what it missed is to be done
	warned  []string      // what it warned of when it was last looked at
	unheld  string        // why another drover is not kept from it; empty: it is

	memory     string // that it lies in, such as tmpfs; "": none
	on         string // the node's name
	generation uint64 // that the pool says it is of; see held
	late       bool   // it was opened while others are served, and control is being asked of it
	heard      bool   // control has said of which it was since drover opened it; see given
	due        bool   // it is to be raised soon
	used       bool   // since it was raised; changed: the store is to hear of the next time
	changed    bool
	raising    bool          // it is being raised
	unstored   bool          // it was raised, and the store has not heard of that
	raised     time.Duration // when that was last, or it was opened, by the steady clock
}

// open opens the pools that are configured, those that were made or adopted
// before, and the default pool when there is no other. node is this node;
// recovered says that the agent's own database was lost.
func (p *pools) open(ctx context.Context, node uuid.UUID, recovered bool) error {
	p.node = node
	known := map[string]poolRecord{}
	var names []string
	err := p.db.Each(ctx, "pools/", func(name string, v []byte) error {
		var r poolRecord
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
	var opened []*openPool
	var unknown []PoolConfig
	configured := map[string]bool{}
	for _, c := range p.config {
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
			return dataset.Errorf(dataset.ErrInvalid, "pool %s: drover.yaml says backend %s, but it was made with %s", c.Name, rec.Backend, known.Backend)
		}
		rec.ID, rec.Share, rec.Found, rec.Doubtful, rec.Generation, rec.Trimmed = known.ID, known.Share, known.Found, known.Doubtful, known.Generation, known.Trimmed
		opened = append(opened, p.known(c.Name, rec))
	}
	for _, name := range names {
		if !configured[name] {
			opened = append(opened, p.known(name, known[name]))
		}
	}
	p.openAll(ctx, false, opened...)
	for _, c := range unknown {
		rec := p.configured(c)
		if err := p.answers(ctx, rec.Path); err != nil {
			p.missing(c, err)
		} else if _, err := p.make(ctx, c.Name, rec); err != nil {
			p.missing(c, err)
		}
	}
	if len(p.order) == 0 && len(p.unmade) == 0 {
		return p.makeDefault(ctx)
	}
	return ctx.Err()
}

// configured is the record of a pool of drover.yaml that is not known yet.
func (p *pools) configured(c PoolConfig) poolRecord {
	rec := poolRecord{Backend: c.Backend, Path: c.Path, Image: c.Image, Devices: c.Devices}
	p.place(c.Name, &rec)
	return rec
}

// known is a pool that was seen before, and is not open yet.
func (p *pools) known(name string, rec poolRecord) *openPool {
	return &openPool{rec: rec, on: p.nodeName, Pool: dataset.Pool{ID: rec.ID, Name: name, Backend: rec.Backend, Path: rec.Path, Devices: rec.Devices, Reach: dataset.ReachNode, Default: rec.Default}}
}

// openAll opens known pools; those that cannot be opened are offline. For late see settle.
func (p *pools) openAll(ctx context.Context, late bool, list ...*openPool) {
	for _, op := range list {
		p.begin(op)
		p.enlist(op)
	}
	p.settle(ctx, startPatience, late, list)
	for _, op := range list {
		if now, there := p.byName(op.Name); there && now.backend == nil {
			p.log.WithFields(map[string]any{"pool": op.Name, "backend": op.rec.Backend, "error": now.why}).Error("pool is offline")
		}
	}
}

func (p *pools) attach(ctx context.Context, op *openPool) error {
	kind, err := p.backends.Kind(op.rec.Backend)
	if err != nil {
		return err
	}
	if err := backends.Serves(ctx, kind); err != nil {
		return err
	}
	b, err := kind.Open(ctx, op.rec.config(op.Name, p.keys))
	if err != nil {
		return err
	}
	unheld, err := p.holds.take(ctx, b)
	if err == nil {
		err = op.sameShare(b.Info())
	}
	if err == nil {
		op.generation, err = b.Generation()
	}
	if err == nil {
		err = op.prove(b)
	}
	if err != nil {
		return errors.Join(err, b.Close())
	}
	p.warnUnheld(op.Name, unheld)
	op.disk = diskHealth{}
	op.backend, op.why, op.unheld, op.due, op.raised = b, "", unheld, true, p.clock.Steady()
	if why := op.held(); why != "" {
		p.log.WithField("pool", op.Name).Error("pool is held: " + why)
	}
	op.inform(p.can(b), b.Info())
	return nil
}

// make makes a pool and puts it on record. With no UUID a pool that lies there
// already is taken as it is: a first start may have been cut short, or this node
// may have forgotten it. With one it is a new pool: see intend.
func (p *pools) make(ctx context.Context, name string, rec poolRecord) (*openPool, error) {
	kind, err := p.backends.Kind(rec.Backend)
	if err != nil {
		return nil, err
	}
	if err := kind.Available(ctx); err != nil {
		return nil, ofPool(name, err)
	}
	if err := p.formable(ctx, name, rec, kind); err != nil {
		return nil, err
	}
	if err := p.foreign(rec); err != nil {
		return nil, ofPool(name, err)
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
	cfg := rec.config(name, p.keys)
	cfg.Make = true
	b, err := kind.Open(ctx, cfg)
	if err != nil {
		return nil, ofPool(name, p.whose(rec, err))
	}
	rec.ID, rec.Share, rec.Found = b.ID(), b.Info().Share, rec.ID == uuid.Nil
	if len(rec.Devices) > 0 {
		rec.Trimmed = p.clock.Now() // mkfs does that
	}
	unheld, err := p.holds.take(ctx, b)
	generation, gerr := b.Generation()
	if err := errors.Join(p.single(rec.ID, name), err, gerr); err != nil {
		return nil, errors.Join(ofPool(name, err), b.Close())
	}
	if err := p.db.Put(ctx, map[string]any{"pools/" + name: rec, making + name: nil}); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	p.warnUnheld(name, unheld)
	op := &openPool{rec: rec, on: p.nodeName, backend: b, unheld: unheld, generation: generation, due: true, raised: p.clock.Steady(), Pool: dataset.Pool{
		ID: rec.ID, Name: name, Backend: rec.Backend, Path: rec.Path, Devices: rec.Devices, Reach: dataset.ReachNode, Default: rec.Default,
	}}
	op.inform(p.can(b), b.Info())
	p.enlist(op)
	p.log.WithFields(map[string]any{"pool": name, "backend": rec.Backend, "path": rec.Path}).Info("pool is ready: " + op.Note)
	return op, nil
}

// single refuses a copy of a pool that is there under another name.
func (p *pools) single(id uuid.UUID, name string) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if o := p.byID[id]; o != nil && !o.gone && o.Name != name {
		return dataset.Errorf(dataset.ErrExists, "what lies there is pool %s (at %s), or a copy of it", o.Name, o.rec.Path)
	}
	return nil
}

// disjoint refuses a pool inside another one's path, or around it.
func (p *pools) disjoint(name string, rec poolRecord) error {
	if err := p.unclaimed(name); err != nil {
		return err
	}
	all := p.all()
	for _, o := range all {
		if o.Name == name {
			return dataset.Errorf(dataset.ErrExists, "pool %s exists (backend %s at %s)", name, o.rec.Backend, o.rec.Path)
		}
	}
	for _, o := range all {
		if overlap(rec, o.rec) {
			return dataset.Errorf(dataset.ErrInvalid, "pool %s: %s overlaps with pool %s at %s: give a path outside of it", name, rec.Path, o.Name, o.rec.Path)
		}
	}
	return nil
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && (rel == "." || (rel != ".." && !hasDotDot(rel)))
}

func hasDotDot(rel string) bool { return len(rel) >= 3 && rel[:3] == "../" }

// get returns an open pool that is not held; ErrOffline says why it is not.
func (p *pools) get(id uuid.UUID) (backends.Pool, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	op := p.byID[id]
	if op == nil {
		return nil, notOurs(id)
	}
	if err := op.serves(); err != nil {
		return nil, err
	}
	return op.backend, nil
}

// online is get for a pool that must also be in its place now, and not have been put back
// since a heartbeat looked.
func (p *pools) online(ctx context.Context, id uuid.UUID) (backends.Pool, error) {
	b, err := p.get(id)
	if err != nil {
		return nil, err
	}
	st, err := p.see(ctx, id)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !st.Online:
		return nil, offline(p.name(id), st.Reason)
	case err != nil:
		return nil, err
	}
	return b, p.one(id).serves()
}

func notOurs(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrOffline, "pool %s is not one of this node's (drover pool ls)", id)
}

// free fails with ErrOffline while a pool is held.
func (p *pools) free(id uuid.UUID) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if op := p.byID[id]; op != nil {
		return op.free()
	}
	return nil
}

func (p *pools) name(id uuid.UUID) string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if op := p.byID[id]; op != nil {
		return op.Name
	}
	return id.String()
}

// records returns the pools for control, in their order, but for those that are being removed.
func (p *pools) records() []dataset.Pool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]dataset.Pool, 0, len(p.order))
	for _, id := range p.order {
		if op := p.byID[id]; op.rec.Leaving == staying {
			out = append(out, op.Pool)
		}
	}
	return out
}

func (p *pools) all() []*openPool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]*openPool, 0, len(p.order))
	for _, id := range p.order {
		out = append(out, p.byID[id])
	}
	return out
}

func (p *pools) close() error {
	p.finish(closePatience)
	var errs []error
	for _, op := range p.all() {
		if op.backend != nil {
			errs = append(errs, p.letGo(op.ID))
		}
		p.mu.Lock()
		errs = append(errs, op.opening.drop())
		p.mu.Unlock()
	}
	return errors.Join(append(errs, p.holds.release())...)
}

func (p *pools) byName(name string) (*openPool, bool) {
	list := p.all()
	i := slices.IndexFunc(list, func(o *openPool) bool { return o.Name == name })
	if i < 0 {
		return nil, false
	}
	return list[i], true
}
