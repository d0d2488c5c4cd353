package operation

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// room has the bytes that the running restores and verifications need in each pool. It is safe for concurrent use.
type room struct {
	mu      sync.Mutex
	pools   map[uuid.UUID]demand
	changes int           // how often pools has changed
	changed chan struct{} // closed at the next change of pools
}

// demand is what the running restores need in one pool.
type demand struct {
	needed        dataset.Size
	verifications int // how many of them are verifications
	// changes is how often the demand in any pool has changed, and changed is closed at the next change.
	changes int
	changed <-chan struct{}
}

func newRoom() *room { return &room{pools: map[uuid.UUID]demand{}, changed: make(chan struct{})} }

// others returns what the restores in a pool need.
func (r *room) others(pool uuid.UUID) demand {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.pools[pool]
	d.changes, d.changed = r.changes, r.changed
	return d
}

// share is what one restore needs in a pool.
type share struct {
	room *room
	pool uuid.UUID
	demand
}

// add adds the share of an operation of the given kind, whose files need a number of bytes, until release is called. If
// the demand has changed since others returned it, add does nothing, and ok is false.
func (r *room) add(pool uuid.UUID, kind dataset.OpKind, need dataset.Size, since demand) (s *share, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changes != since.changes {
		return nil, false
	}
	s = &share{room: r, pool: pool, demand: demand{needed: need}}
	if kind == dataset.OpVerify {
		s.verifications = 1
	}
	r.change(pool, s.demand, 1)
	return s, true
}

func (s *share) release() {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	s.room.change(s.pool, s.demand, -1)
}

// change adds a share to the demand in a pool, or removes it if sign is -1. The caller holds mu.
func (r *room) change(pool uuid.UUID, by demand, sign int) {
	d := r.pools[pool]
	d.needed += by.needed * dataset.Size(sign)
	d.verifications += by.verifications * sign
	r.pools[pool] = d
	r.changes++
	close(r.changed)
	r.changed = make(chan struct{})
}

// measureAndTake asks the repository how many bytes a restore of the backup of an operation writes, and reserves them
// in a pool. It calls noteRead with the error of that request, and fails if noteRead or takeRoom does.
func (i *Importer) measureAndTake(ctx context.Context, jb *host.Job, pool backends.Pool, op *dataset.Operation,
	noteRead func(error) error) (*share, error) {
	jb.Step("measuring the backup")
	need, err := i.backups.Size(ctx, op.Repository, op.Backup, op.Kind == dataset.OpVerify)
	if err := noteRead(err); err != nil {
		return nil, err
	}
	return i.takeRoom(ctx, jb, pool, op, need)
}

// takeRoom reserves the space that the files of a backup need in a pool. If checkRoom fails, takeRoom returns its error
// and reserves nothing. Of two restores that begin together, the second one to reserve counts the first one. So if only
// one of them fits, only the second one is refused.
//
// The pool is not examined under the mutex of the room, because a slow pool would delay the restores to all others. If
// another restore was accepted or has ended meanwhile, takeRoom checks again. A verification that does not fit beside
// another one waits until that one ends.
func (i *Importer) takeRoom(ctx context.Context, jb *host.Job, pool backends.Pool, op *dataset.Operation,
	need dataset.Size) (*share, error) {
	for {
		others := i.room.others(pool.ID())
		err := i.checkRoom(ctx, pool, op.Kind, need, others.needed)
		if err == nil {
			if part, ok := i.room.add(pool.ID(), op.Kind, need, others); ok {
				return part, nil
			}
			continue
		}
		if !errors.Is(err, dataset.ErrNoSpace) || op.Kind != dataset.OpVerify || others.verifications == 0 {
			return nil, err
		}
		jb.Step(waitingToVerify)
		select {
		case <-others.changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// waitingToVerify is the step of a verification that waits until another one ends.
const waitingToVerify = "waiting for another verification"

// checkRoom fails with dataset.ErrNoSpace if a pool has no room for the files of a backup besides its reserve and the
// other restores. A full pool would make the writers of its volumes fail. If the pool is not online, making the dataset
// fails. The bytes that another restore has written so far count twice: they are no longer free, and they are still in
// others. So a restore can be refused now, and fit after the other one has ended.
//
// The reserve protects the datasets of the pool and Drover's own files. If a pool has neither, checkRoom ignores the
// reserve.
//
// need is the size of the uncompressed files. In a pool that compresses, the files need less. So a check of need could
// refuse an import to a disk as large as the one that the volume was on. Therefore need is not checked for an import
// into a pool that can compress, has nothing to protect, and is not the target of another restore. Such an import fails
// when the pool is full. A verification is always checked: a failed one would have filled the pool for nothing.
func (i *Importer) checkRoom(ctx context.Context, pool backends.Pool, kind dataset.OpKind, need,
	others dataset.Size) error {
	st := pool.Status(ctx)
	reserve := backends.Reserve(st.Size)
	if !st.Online || st.Free-reserve-others >= need {
		return nil
	}
	c, can := pool.(backends.Compressor)
	unchecked := kind == dataset.OpImport && others == 0 && can && c.Compresses()
	if (unchecked || st.Free-others >= need) && i.isUnused(ctx, pool, uuid.Nil) {
		return nil
	}
	wait, option := "", "-o pool=NAME"
	if others > 0 {
		wait = "wait for the other restores, "
	}
	if kind == dataset.OpVerify {
		option = "--profile"
	}
	return dataset.Errorf(dataset.ErrNoSpace, "its files have %s, and its pool has %s free, of which %s are reserved "+
		"for its existing volumes and for restores that run now (%sfree some space, or use another pool: %s)",
		need.Human(), st.Free.Human(), (reserve + others).Human(), wait, option)
}

// isUnused reports whether a pool has nothing that its reserve protects: no dataset except one, which may be uuid.Nil,
// and not Drover's own files.
func (i *Importer) isUnused(ctx context.Context, pool backends.Pool, except uuid.UUID) bool {
	if i.Pools.SharesRootDisk(ctx, pool.ID()) {
		return false
	}
	entries, err := pool.List(ctx)
	return err == nil && !slices.ContainsFunc(entries, func(e backends.Entry) bool { return e.ID != except })
}
