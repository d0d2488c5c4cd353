// Package pool keeps the storage pools of this node: it makes and opens them, watches whether they answer and whether
// their disks fail, and reports how full they are.
//
// Pools has all pools, by UUID. It opens them when the agent starts, and again while they are offline, makes new
// pools, finds out whether a disk fails, and adds a hint on how to free space to the error of a full pool. Config has
// the pools of drover.yaml. Work on a dataset gets its pool from Get or Online. Status returns the state of each pool.
// Warnings, Hint and RootHint are texts for findings and errors. Package pooladmin makes and removes pools as an
// operator asks, and finds pools whose disk was restored from an older backup.
//
// The package owns the table of pools in memory, and the keys pools/ and making/ of the agent's database;
// pooladmin.Admin also writes the record of an adopted pool to pools/. Pools.mu protects the pools in memory. Once Open
// has returned, recording serializes the changes and removals of existing records on disk. A new record is written
// without it. identities serializes the writes of a pool's identity. No backend is called while mu is held, because a
// disk may hang. Calls that must survive a hanging disk go through Ask. Locks keeps other drover processes on this host
// away from the pools. Failed does not change after Open.
//
// Where to change what: which places a new pool may have is in paths.go and devices.go. When a pool counts as offline
// is in questions.go (it hangs), prober.go (its disk fails) and Pool.CheckServed. The remedy for a full pool is in
// space.go. The requests of operators, such as creating and removing a pool, are in package pooladmin.
package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Pools are the pools of this node, open or not, by their UUID. A pool that this node has seen once stays in the table.
// If the pool is absent, or if another pool is at its path, it is offline. Safe for concurrent use once Open has
// returned.
//
// mu protects byID, Order and readings. No backend is called while mu is held. To change a Pool, a method replaces it
// by a modified copy, so that readers need no lock once they have a *Pool.
type Pools struct {
	*host.Host
	Throttle   *throttle.Throttler
	Keys       backends.Keys
	Backends   *backends.Registry
	Configured []Config // from drover.yaml
	// Uses is set before the agent starts.
	Uses throttle.Uses

	PoolLocks Locks      // keep other drover processes on this host from opening the pools
	Failed    []api.Pool // pools of drover.yaml that could not be made, without a UUID; set by Open

	mu    sync.RWMutex
	Order []uuid.UUID
	byID  map[uuid.UUID]*Pool
	// readings has the readings of a status that have not begun, by pool; protected by mu
	readings map[uuid.UUID]*statusReading

	recording    sync.Mutex // held while an existing record is changed or removed
	identities   host.Set   // held while the identity of a pool is written
	reservations reservations
}

// New returns the pools of a node. There are none until Open is called.
func New(h *host.Host, t *throttle.Throttler, keys backends.Keys, b *backends.Registry, configured []Config) *Pools {
	return &Pools{
		Host: h, Throttle: t, Keys: keys, Backends: b, Configured: configured,
		byID: map[uuid.UUID]*Pool{}, readings: map[uuid.UUID]*statusReading{},
		reservations: reservations{byPool: map[uuid.UUID]map[uuid.UUID]dataset.Size{}},
	}
}

// ReadStatus asks an open pool for its status, and reads its generation again, because its disk may have been restored
// from an older backup. A *Pool that the caller read before ReadStatus does not show the result. ReadStatus fails with
// dataset.ErrOffline if the pool hangs, and the status says so too.
//
// All callers that wait for an earlier question to the pool share one reading, which begins when that question has
// ended. Each caller waits only until its ctx ends. The reading continues for the others.
func (t *Pools) ReadStatus(ctx context.Context, id uuid.UUID) (dataset.PoolStatus, error) {
	r := t.joinReading(id)
	select {
	case <-r.done:
		if r.err != nil && t.Ctx.Err() != nil {
			// The reading ended because the agent stops. That says nothing about the pool.
			return t.readStatus(ctx, id, func() {})
		}
		return r.status, r.err
	case <-ctx.Done():
		return dataset.PoolStatus{ID: id, Reason: ctx.Err().Error()}, ctx.Err()
	}
}

// statusReading is a request for the status of a pool, for all callers that joined it before it began.
type statusReading struct {
	done   chan struct{}
	status dataset.PoolStatus // the result; read it once done is closed
	err    error              // the error; read it once done is closed
}

// joinReading returns a reading of the status of a pool that begins after this call. It starts one unless there is one
// that waits for an earlier question.
func (t *Pools) joinReading(id uuid.UUID) *statusReading {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.readings[id]; r != nil {
		return r
	}
	r := &statusReading{done: make(chan struct{})}
	t.readings[id] = r
	begin := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.readings[id] == r {
			delete(t.readings, id)
		}
	}
	go func() {
		r.status, r.err = t.readStatus(t.Ctx, id, begin)
		begin() // the pool was not asked
		close(r.done)
	}()
	return r
}

// readStatus does the work of ReadStatus for all who joined a reading. It calls begin when it asks the pool.
func (t *Pools) readStatus(ctx context.Context, id uuid.UUID, begin func()) (dataset.PoolStatus, error) {
	var is dataset.PoolStatus
	var g uint64
	var gerr error
	var warned []string
	was := t.ByID(id)
	err := t.Ask(ctx, id, func(b backends.Pool) {
		begin()
		is, warned = b.Status(ctx), Warnings(b)
		g, gerr = b.Generation()
	})
	if err != nil {
		is = dataset.PoolStatus{ID: id, Reason: err.Error()}
		if now := t.ByID(id); now != nil && now.HangReason != "" {
			is.Reason = now.HangReason
		}
		return is, err
	}
	is.ID = id
	is.Provisioned, is.Overcommit = t.Cache.Provisioned(id), t.ByID(id).Record.Overcommit
	if was.Storage != nil {
		is.DefaultSize = backends.DefaultSize(was.Storage.Info(), is)
	}
	switch why := t.ByID(id).disk.failing; {
	case why != "":
		is.Online, is.Reason = false, why
	case !is.Online && IsDiskError(errors.New(is.Reason)):
		// Only the request for the status has failed, and no operation yet. Give the reason the same text as after a
		// probe.
		is.Reason = diskProblem(was.Name, errors.New(is.Reason))
	}
	var before []string
	t.Change(id, func(pl *Pool) { before, pl.warned = pl.warned, warned })
	for _, line := range warned {
		if !slices.Contains(before, line) { // it is new since the pool was last asked
			t.Log.WithField("pool", t.Name(id)).Warn("pool: " + line)
		}
	}
	if gerr != nil {
		t.Suspect(id, gerr)
		return is, WithPoolName(was.Name, gerr)
	}
	if g != was.Generation {
		t.Change(id, func(now *Pool) {
			if now.Generation == was.Generation { // otherwise it was raised while the pool was asked
				now.Generation = g
			}
		})
	}
	return is, nil
}

// Status returns the status of each pool. All pools are asked at the same time.
func (t *Pools) Status(ctx context.Context) []dataset.PoolStatus {
	all := t.All()
	out := make([]dataset.PoolStatus, len(all))
	var wg sync.WaitGroup
	for i, pl := range all {
		out[i] = dataset.PoolStatus{ID: pl.ID, Reason: pl.OfflineReason}
		if pl.Storage != nil {
			wg.Go(func() { out[i], _ = t.ReadStatus(ctx, pl.ID) }) // the status has the error
		}
	}
	wg.Wait()
	for i := range out {
		pl, st := t.ByID(all[i].ID), &out[i]
		if st.Online && pl.QuarantineReason() != "" {
			st.Online, st.Quarantined, st.Reason = false, true, pl.QuarantineReason()
		}
		st.Reason = dataset.Cut(st.Reason) // control rejects longer reasons
	}
	return out
}

// Online is like Get. Unlike Get, it also fails if the pool is not at its path now, or if its disk was restored from
// an older backup since the last heartbeat.
func (t *Pools) Online(ctx context.Context, id uuid.UUID) (backends.Pool, error) {
	b, err := t.Get(id)
	if err != nil {
		return nil, err
	}
	st, err := t.ReadStatus(ctx, id)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !st.Online:
		return nil, OfflineError(t.Name(id), st.Reason)
	case err != nil:
		return nil, err
	}
	return b, t.ByID(id).CheckServed()
}

// Warnings returns the warnings of an open pool; see backends.Warner.
func Warnings(b backends.Pool) []string {
	if w, ok := b.(backends.Warner); ok {
		return w.Warnings()
	}
	return nil
}

// Config is a pool as drover.yaml defines it.
type Config struct {
	Name    string
	Backend string
	Path    string
	Image   dataset.Size // if above 0, Path is an image file of this size
	Devices []string     // block devices to make the pool of; Path may be empty then
	// Trim is the interval at which the free blocks of the devices are discarded. If 0, it is TrimEvery. If negative,
	// free blocks are never discarded.
	Trim time.Duration
	// Overcommit is the highest ratio of the total size of its volumes to its own size. 0 means not limited.
	Overcommit float64
}

// TrimEvery is the interval at which the free blocks of a pool's devices are discarded, unless drover.yaml sets another
// one.
const TrimEvery = 7 * 24 * time.Hour

// WithPoolName adds the name of the pool to an error. Errors of backends may have it already.
func WithPoolName(name string, err error) error {
	if WithoutPoolName(name, err) != err.Error() {
		return err
	}
	return fmt.Errorf("pool %s: %w", name, err)
}

// WithoutPoolName returns the text of an error without the pool's name at its beginning, for callers that name the pool
// themselves.
func WithoutPoolName(name string, err error) string {
	return strings.TrimPrefix(err.Error(), "pool "+name+": ")
}

// OfflineError is the error for work on a pool that is offline.
func OfflineError(name, why string) error {
	if strings.HasPrefix(why, "pool "+name+" is offline: ") {
		return dataset.Errorf(dataset.ErrOffline, "%s", why)
	}
	return dataset.Errorf(dataset.ErrOffline, "pool %s is offline: %s", name, why)
}

func unknownPool(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrOffline, "pool %s is not one of this node's (drover pool ls)", id)
}

// NoAnswerReason returns the reason that is shown for a pool that has not answered since a moment.
func NoAnswerReason(since time.Time) string {
	return fmt.Sprintf("does not respond, since %s: its disk hangs (check it: dmesg; the pool is used again when "+
		"it responds)", since.UTC().Format(time.RFC3339))
}
