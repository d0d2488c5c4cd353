package operation

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// A pool is examined at intervals of minSpaceTick to spaceTick for a clone, and of spaceTick to maxSpaceTick for a new
// dataset: such an examination can flush files, so the interval is ten times as long as the last one took.
const (
	minSpaceTick = 10 * time.Millisecond
	spaceTick    = 250 * time.Millisecond
	maxSpaceTick = 2 * time.Second
)

// fastWriter is how many bytes users may write in a millisecond without taking the reserve between two examinations.
const fastWriter = 2 * dataset.GiB / 1000

// spaceWatch ends an import, a restore, a verification or the copy of files for a move before it fills its pool. The
// size of an import is not known, and the size that a repository or another node reports can be a lie. Nothing else
// protects a pool that does not enforce the sizes of its datasets, or whose datasets are larger than the pool in total:
// the writers of other volumes would lose data that they have not synced.
type spaceWatch struct {
	*Importer
	pool backends.Pool
	id   uuid.UUID // of the dataset that is written
	root *os.File  // of the dataset
	part *share    // what a restore has reserved; nil for an import

	// The pool had free bytes free, and the filesystem of root had used bytes used, when the writing began. If the
	// status of either was not known then, the values are those of a later time, right after a flush.
	free, used dataset.Size
	known      bool         // whether free and used are set
	size       dataset.Size // of the pool, or 0
	checked    dataset.Size // what usedBytes returned when the pool was last examined
	// sync writes out the filesystem of root. Tests replace it.
	sync func(root *os.File) error
}

// KeepReserve calls work, which reads a clone or snapshot of source that only Drover needs. Such a clone is a copy, or
// keeps the blocks that users of the volume overwrite. Once the pool has less free space than backends.Reserve,
// KeepReserve cancels the context of work with an error of the kind dataset.ErrNoSpace, and returns that error. Work
// must then end at once: until the clone or snapshot is removed, users take the reserve.
//
// Work does not end while its clone keeps nothing: see keepsNothing. Otherwise the writers of other volumes could end
// it again and again.
func (o *Operations) KeepReserve(ctx context.Context, pool backends.Pool, source dataset.Source,
	work func(ctx context.Context) error) error {
	begun, _ := o.Cache.Dataset(source.Dataset)
	keeps, asked := !pool.Info().Capabilities.InstantSnapshot, false
	working, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := o.examine(working, func(ctx context.Context) (time.Duration, error) {
		start := o.Clock.Steady()
		st := pool.Status(ctx)
		err := checkClone(pool, st)
		keeps = keeps || source.Snapshot == uuid.Nil && len(o.Uses.Get(source.Dataset).IDs) > 0
		if !keeps && (err != nil || !asked) {
			keeps, asked = !o.keepsNothing(ctx, pool, source, begun.Content), true
		}
		took := o.Clock.Steady() - start
		if err != nil && !keeps {
			return max(spaceTick, 10*took), nil
		}
		room := (st.Free - backends.Reserve(st.Size)) / fastWriter
		return max(min(time.Duration(room)*time.Millisecond, spaceTick), took), err
	}, cancel)
	err := work(working)
	stop()
	if err != nil && ctx.Err() == nil && working.Err() != nil {
		return o.Pools.AddHint(ctx, pool.ID(), context.Cause(working))
	}
	return err
}

// keepsNothing reports whether a clone of source, which had the given content, shares all blocks with it: the snapshot
// is still there, or the volume has the content and is not in use. A process can use a volume without a recorded use,
// for example by a descriptor that a container sent to it. The pool knows of it, but with millions of open files it can
// take a minute to answer, in which users can fill the pool. Without an answer after a second, the volume is in use.
func (o *Operations) keepsNothing(ctx context.Context, pool backends.Pool, source dataset.Source, content uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	e, err := pool.Stat(ctx, source.Dataset)
	if err != nil {
		return false
	}
	if source.Snapshot != uuid.Nil {
		return slices.ContainsFunc(e.Snapshots, func(s dataset.Snapshot) bool { return s.ID == source.Snapshot })
	}
	d, known := o.Cache.Dataset(source.Dataset)
	return known && d.Content == content && backends.IsIdle(ctx, pool, source.Dataset)
}

// checkClone fails with dataset.ErrNoSpace if a pool with the status st has hardly any inodes, or less free space than
// its reserve.
func checkClone(pool backends.Pool, st dataset.PoolStatus) error {
	reserve := backends.Reserve(st.Size)
	const why = ", which its existing volumes need: the clone or snapshot that it reads is a copy, or keeps the " +
		"blocks that the volume overwrites (free some space, or enlarge the pool, and repeat it while less is written)"
	switch {
	case !st.Online:
		return nil
	case st.Free < reserve:
		return dataset.Errorf(dataset.ErrNoSpace, "it was ended, because less than %s would be free in its pool"+why,
			reserve.Human())
	case hasFewInodes(pool):
		return dataset.Errorf(dataset.ErrNoSpace, "it was ended, because hardly any inodes would be free in its pool"+
			why)
	}
	return nil
}

// WatchSpace calls write, which writes a new dataset, and flushes the files.
func (i *Importer) WatchSpace(ctx context.Context, pool backends.Pool, id uuid.UUID, root *os.File,
	write func(ctx context.Context, wrote func()) error) error {
	return i.watchSpace(ctx, pool, id, root, nil, write)
}

// watchSpace calls write, and flushes the files. Once the pool has less free space than backends.Reserve, watchSpace
// cancels the context of write, and fails with dataset.ErrNoSpace. Like checkRoom, it ignores a reserve that protects
// nothing.
//
// An import calls the function that write gets from time to time. The pool is examined within this call, whenever the
// files have taken an eighth of the reserve: a writer that continued during the flush of an examination could fill the
// pool. The program of a restore makes no such calls, so its pool is examined at intervals. Its share of the space is
// reserved.
func (i *Importer) watchSpace(ctx context.Context, pool backends.Pool, id uuid.UUID, root *os.File, part *share,
	write func(ctx context.Context, wrote func()) error) error {
	w := &spaceWatch{Importer: i, pool: pool, id: id, root: root, part: part, sync: fsctl.Sync}
	w.begin(pool.Status(ctx))
	writing, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop, wrote := func() {}, func() {
		used, known := w.usedBytes()
		if writing.Err() != nil || known && used-w.checked < backends.Reserve(w.size)/8 && !hasFewInodes(pool) {
			return
		}
		w.checked = used
		if err := w.check(ctx); err != nil {
			cancel(err)
		}
	}
	if part != nil {
		check := func(ctx context.Context) (time.Duration, error) {
			start := i.Clock.Steady()
			err := w.check(ctx)
			return min(max(spaceTick, 10*(i.Clock.Steady()-start)), maxSpaceTick), err
		}
		stop, wrote = i.examine(writing, check, cancel), func() {}
	}
	err := write(writing, wrote)
	stop()
	switch {
	case ctx.Err() == nil && writing.Err() != nil:
		return context.Cause(writing)
	case err != nil:
		return err
	}
	if err := w.check(ctx); err != nil {
		return err
	}
	return w.flush(backends.Reserve(w.size))
}

// flush writes out the filesystem of root. It fails with dataset.ErrNoSpace if the pool is full.
func (w *spaceWatch) flush(reserve dataset.Size) error {
	err := w.sync(w.root) // the kernel reports an error only once to each descriptor
	if errors.Is(err, unix.ENOSPC) {
		return w.fullError(reserve)
	}
	return err
}

// begin sets the values with which later examinations compare, unless the status of the pool is not known.
func (w *spaceWatch) begin(st dataset.PoolStatus) {
	if used, known := w.usedBytes(); known && st.Online {
		w.free, w.used, w.checked, w.size, w.known = st.Free, used, used, st.Size, true
	}
}

// examine calls check at intervals until stop is called. check returns how long to wait for the next call, at least
// minSpaceTick. If check fails, examine calls end with the error, and no more check. stop waits for the check that
// runs.
func (o *Operations) examine(ctx context.Context, check func(context.Context) (time.Duration, error),
	end context.CancelCauseFunc) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		wait := minSpaceTick
		for {
			select {
			case <-o.Clock.After(wait):
			case <-ctx.Done():
				return
			}
			next, err := check(ctx)
			if err != nil {
				end(err)
				return
			}
			wait = max(next, minSpaceTick)
		}
	})
	return func() { cancel(); running.Wait() }
}

// check fails with dataset.ErrNoSpace if the pool is too full. The data that a filesystem in an image or block device
// has not written yet take no space of the pool. Therefore check flushes them if the pool could be too full with them.
// It flushes those of an import each time, because other imports can run, and what these have not written is not known.
// Blocks that restic has allocated and not written count as used. So after a flush, more data can follow in these
// blocks: check flushes again each time.
func (w *spaceWatch) check(ctx context.Context) error {
	st := w.pool.Status(ctx)
	reserve := backends.Reserve(st.Size)
	used, known := w.usedBytes()
	own := w.part == nil && w.pool.Info().Capabilities.OwnFilesystem
	if st.Online && (own || !w.known || !known || st.Free >= reserve && w.free-(used-w.used) < reserve) {
		if err := w.flush(reserve); err != nil {
			return err
		}
		if st = w.pool.Status(ctx); !w.known {
			w.begin(st)
		}
	}
	few := hasFewInodes(w.pool)
	switch {
	case !st.Online, st.Free >= reserve && !few, w.isUnused(ctx, w.pool, w.id):
		return nil
	case st.Free >= reserve:
		return dataset.Errorf(dataset.ErrNoSpace, "it was ended, because the filesystem of its pool has hardly any "+
			"inodes left, and the existing volumes need them to make files (remove files, or use another pool)")
	}
	return w.fullError(reserve)
}

// hasFewInodes reports whether the volumes of a pool share a filesystem, such as ext4, with a fixed number of inodes,
// and less than a hundredth of these is free.
func hasFewInodes(pool backends.Pool) bool {
	var st unix.Statfs_t
	info := pool.Info()
	return !info.Capabilities.OwnFilesystem && unix.Statfs(info.Path, &st) == nil && st.Ffree < st.Files/100
}

func (w *spaceWatch) fullError(reserve dataset.Size) error {
	const ended = "it was ended, because less than %s would be free in its pool, which are reserved for the existing " +
		"volumes"
	if w.part == nil {
		return dataset.Errorf(dataset.ErrNoSpace, ended+" (free some space, or use another pool)", reserve.Human())
	}
	return dataset.Errorf(dataset.ErrNoSpace, ended+": the repository says that the backup has %s (free some space, "+
		"or use another pool; if the backup is larger than that, do not trust the repository)",
		reserve.Human(), w.part.needed.Human())
}

// usedBytes returns how many bytes the filesystem of the dataset has in use, including those that it has not written to
// its device yet. If the datasets of the pool share a filesystem, this includes the others. known is false if it cannot
// be read.
func (w *spaceWatch) usedBytes() (used dataset.Size, known bool) {
	n, err := fsctl.Used(w.root)
	return dataset.Size(n), err == nil
}

// room has the shares of the running restores and verifications in the pools. It is safe for concurrent use.
type room struct {
	mu      sync.Mutex
	shares  map[*share]bool
	changed chan struct{} // closed and replaced at each change of shares
}

// share is what one restore or verification needs in a pool.
type share struct {
	room     *room
	pool     uuid.UUID
	needed   dataset.Size
	verifies bool
}

// others returns the bytes that the shares in a pool need, and whether one of them is of a verification. changed is
// closed at the next change of any share.
func (r *room) others(pool uuid.UUID) (needed dataset.Size, verify bool, changed chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.shares {
		if s.pool == pool {
			needed, verify = needed+s.needed, verify || s.verifies
		}
	}
	return needed, verify, r.changed
}

// add adds a share until release is called. If any share has changed since others returned since, add does nothing, and
// returns false.
func (r *room) add(s *share, since chan struct{}) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed != since {
		return false
	}
	s.room, r.shares[s] = r, true
	r.change()
	return true
}

func (s *share) release() {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	delete(s.room.shares, s)
	s.room.change()
}

// change reports a change of the shares. The caller holds mu.
func (r *room) change() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// measureAndTake asks the repository how many bytes a restore of the backup of an operation writes, and reserves them
// in a pool. It calls noteRead with the error of that request. It fails if noteRead or takeRoom fails.
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
	s := &share{pool: pool.ID(), needed: need, verifies: op.Kind == dataset.OpVerify}
	for {
		others, verify, changed := i.room.others(s.pool)
		err := i.checkRoom(ctx, pool, op.Kind, need, others)
		if err == nil {
			if i.room.add(s, changed) {
				return s, nil
			}
			continue
		}
		if !errors.Is(err, dataset.ErrNoSpace) || !s.verifies || !verify {
			return nil, err
		}
		jb.Step(waitingToVerify)
		select {
		case <-changed:
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
	if st.Online && st.Free-reserve-others < need { // XFS frees the blocks of removed files in the background
		_ = fsctl.FreeRemoved(pool.Info().Path)
		st = pool.Status(ctx)
	}
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
		wait = "drover operation ls shows these, and drover operation cancel ends one; "
	}
	if kind == dataset.OpVerify {
		option = "--profile"
	}
	return dataset.Errorf(dataset.ErrNoSpace, "its files have %s, and its pool has %s free, of which %s are reserved "+
		"for its existing volumes, and for restores and verifications that run now (%sfree some space, or use "+
		"another pool: %s)",
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
