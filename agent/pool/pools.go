// Package pool keeps the storage pools of this node: it makes and opens them, watches whether they answer and whether
// their disks fail, and reports how full they are.
//
// Pools has all pools, by UUID, and asks them for their status. Opener opens the pools when the agent starts, and again
// while they are offline. Maker makes new pools. Prober finds out whether a disk fails. Space compares free space with
// the space that new data needs, and adds a hint on how to free space to the error of a full pool.
//
// Package agent makes these types. Operations, moves and mounts get a pool from Pools, and packages cleanup, handover,
// doctor and registration read its table. Prober is called after a disk error, by packages mounting and generation and
// through a function by operation.Runner, and at each heartbeat. Packages operation, move, replication and doctor ask
// Space, and operation reserves sizes in Provisioning. Packages backup, lostwrites, offline and volume ask Pools
// through functions or an interface. The daemon passes the pools of drover.yaml (Config). Package controlsync reports
// the pools with each heartbeat, pooladmin makes and removes pools as an operator asks, and generation finds pools
// whose disk was restored from an older backup.
//
// The package owns the table of pools in memory (see table and Pool), and the keys pools/ and making/ of the agent's
// database; pooladmin.Creator also writes the record of an adopted pool to pools/. The mutex of the table protects the
// pools in memory, table.recording protects their records on disk, and table.identities serializes the writes of a
// pool's identity. No backend is called while the mutex is held, because a disk may hang. Calls that must survive a
// hanging disk go through Ask. Locks keeps other drover processes on this host away from the pools, and Provisioning
// has the sizes that running operations have reserved; each has its own mutex. Maker.Failed has the pools of
// drover.yaml that could not be made; it does not change after Opener.Open.
//
// Where to change what: which places a new pool may have is in paths.go and devices.go. When a pool counts as offline
// is in questions.go (it hangs), prober.go (its disk fails) and Pool.CheckServed. The remedy for a full pool is in
// space.go. The requests of operators, such as creating and removing a pool, are in package pooladmin.
package pool

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Pools are the pools of this node, open or not. Safe for concurrent use.
type Pools struct {
	*table
	prober *Prober
}

// New returns the pools of a node, and the Prober that probes their disks. There are no pools until Opener.Open is
// called.
func New(deps Deps) (*Pools, *Prober) {
	t := &table{Deps: deps, byID: map[uuid.UUID]*Pool{}, readings: map[uuid.UUID]*statusReading{}}
	prober := &Prober{Deps: deps, pools: t}
	return &Pools{table: t, prober: prober}, prober
}

// ReadStatus asks an open pool for its status, and reads its generation again, because its disk may have been restored
// from an older backup. A *Pool that the caller read before ReadStatus does not show the result. ReadStatus fails with
// dataset.ErrOffline if the pool hangs, and the status says so too.
//
// All callers that wait for an earlier question to the pool share one reading, which begins when that question has
// ended. Each caller waits only until its ctx ends. The reading continues for the others.
func (p *Pools) ReadStatus(ctx context.Context, id uuid.UUID) (dataset.PoolStatus, error) {
	r := p.joinReading(id)
	select {
	case <-r.done:
		if r.err != nil && p.Ctx.Err() != nil {
			// The reading ended because the agent stops. That says nothing about the pool.
			return p.readStatus(ctx, id, func() {})
		}
		return r.status, r.err
	case <-ctx.Done():
		return dataset.PoolStatus{ID: id, Reason: ctx.Err().Error()}, ctx.Err()
	}
}

// hangReason returns why a pool counts as hanging, or "" if it does not, or was removed.
func (p *Pools) hangReason(id uuid.UUID) string {
	if now := p.ByID(id); now != nil {
		return now.HangReason
	}
	return ""
}

// statusReading is a request for the status of a pool, for all callers that joined it before it began.
type statusReading struct {
	done   chan struct{}
	status dataset.PoolStatus // the result; read it once done is closed
	err    error              // the error; read it once done is closed
}

// joinReading returns a reading of the status of a pool that begins after this call. It starts one unless there is one
// that waits for an earlier question.
func (p *Pools) joinReading(id uuid.UUID) *statusReading {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.readings[id]; r != nil {
		return r
	}
	r := &statusReading{done: make(chan struct{})}
	p.readings[id] = r
	begin := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.readings[id] == r {
			delete(p.readings, id)
		}
	}
	go func() {
		r.status, r.err = p.readStatus(p.Ctx, id, begin)
		begin() // the pool was not asked
		close(r.done)
	}()
	return r
}

// readStatus does the work of ReadStatus for all who joined a reading. It calls begin when it asks the pool.
func (p *Pools) readStatus(ctx context.Context, id uuid.UUID, begin func()) (dataset.PoolStatus, error) {
	var is dataset.PoolStatus
	var g uint64
	var gerr error
	var warned []string
	was := p.ByID(id)
	err := p.Ask(ctx, id, func(b backends.Pool) {
		begin()
		is, warned = b.Status(ctx), Warnings(b)
		g, gerr = b.Generation()
	})
	if err != nil {
		return dataset.PoolStatus{ID: id, Reason: cmp.Or(p.hangReason(id), err.Error())}, err
	}
	is.ID = id
	is.Provisioned, is.Overcommit = p.Cache.Provisioned(id), p.ByID(id).Record.Overcommit
	if was.Storage != nil {
		is.DefaultSize = backends.DefaultSize(was.Storage.Info(), is)
	}
	switch why := p.ByID(id).disk.failing; {
	case why != "":
		is.Online, is.Reason = false, why
	case !is.Online && IsDiskError(errors.New(is.Reason)):
		// Only the request for the status has failed, and no operation yet. Give the reason the same text as after a
		// probe.
		is.Reason = diskProblem(was.Name, errors.New(is.Reason))
	}
	p.warn(id, warned)
	if gerr != nil {
		p.prober.Suspect(id, gerr)
		return is, WithPoolName(was.Name, gerr)
	}
	if g != was.Generation {
		p.Change(id, func(now *Pool) {
			if now.Generation == was.Generation { // otherwise it was raised while the pool was asked
				now.Generation = g
			}
		})
	}
	return is, nil
}

// Status returns the status of each pool. All pools are asked at the same time.
func (p *Pools) Status(ctx context.Context) []dataset.PoolStatus {
	all := p.All()
	out := make([]dataset.PoolStatus, len(all))
	var wg sync.WaitGroup
	for i, pl := range all {
		out[i] = dataset.PoolStatus{ID: pl.ID, Reason: pl.OfflineReason}
		if pl.Storage != nil {
			wg.Go(func() { out[i], _ = p.ReadStatus(ctx, pl.ID) }) // the status has the error
		}
	}
	wg.Wait()
	for i := range out {
		pl, st := p.ByID(all[i].ID), &out[i]
		if st.Online && pl.QuarantineReason() != "" {
			st.Online, st.Quarantined, st.Reason = false, true, pl.QuarantineReason()
		}
		st.Reason = dataset.Cut(st.Reason) // control rejects longer reasons
	}
	return out
}

// Online is like Get. Unlike Get, it also fails if the pool is not at its path now, or if its disk was restored from
// an older backup since the last heartbeat.
func (p *Pools) Online(ctx context.Context, id uuid.UUID) (backends.Pool, error) {
	b, err := p.Get(id)
	if err != nil {
		return nil, err
	}
	st, err := p.ReadStatus(ctx, id)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !st.Online:
		return nil, OfflineError(p.Name(id), st.Reason)
	case err != nil:
		return nil, err
	}
	return b, p.ByID(id).CheckServed()
}

// warn logs the warnings of a pool that are new since the pool was last asked.
func (p *Pools) warn(id uuid.UUID, now []string) {
	var before []string
	p.Change(id, func(pl *Pool) { before, pl.warned = pl.warned, now })
	for _, line := range now {
		if !slices.Contains(before, line) {
			p.Log.WithField("pool", p.Name(id)).Warn("pool: " + line)
		}
	}
}

// Warnings returns the warnings of an open pool; see backends.Warner.
func Warnings(b backends.Pool) []string {
	if w, ok := b.(backends.Warner); ok {
		return w.Warnings()
	}
	return nil
}
