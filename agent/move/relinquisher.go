package move

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/internal/steps"
)

// RelinquisherDeps are the dependencies of Relinquisher.
type RelinquisherDeps struct {
	*host.Host
	Pools     *pool.Pools
	Leases    *lease.Table
	Uses      *mounting.UseTable
	Verifier  *mounting.Verifier
	Unmounter *mounting.Unmounter
	// Manifest takes and describes the final snapshot of a relinquished dataset. It writes all bytes that it reads to
	// the writer seen.
	Manifest func(ctx context.Context, pool backends.Pool, d dataset.Dataset, y lease.Relinquished,
		seen io.Writer) (dataset.Manifest, error)
	// CompareStoreSoon schedules a comparison of control's store with what this node has seen.
	CompareStoreSoon func()
}

// Relinquisher relinquishes datasets for moves to other nodes: it answers control's recalls. Its state is in
// lease.Table. Its methods are safe for concurrent use.
type Relinquisher struct{ RelinquisherDeps }

// NewRelinquisher returns a Relinquisher.
func NewRelinquisher(deps RelinquisherDeps) *Relinquisher { return &Relinquisher{deps} }

// AnswerSoon starts a job that answers a recall. If such a job is running, it runs once more.
func (r *Relinquisher) AnswerSoon(id uuid.UUID) {
	r.Jobs.StartAgain("yield/"+id.String(), func(ctx context.Context, _ *host.Job) error {
		for {
			err := r.answer(ctx, id)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			r.Log.WithError(err).WithField("dataset", id).Warn("cannot respond to a recall, retrying")
			if !errors.Is(err, dataset.ErrUnavailable) {
				return nil // the next heartbeat tries again
			}
			select {
			case <-ctx.Done():
			case <-r.Clock.After(r.Timing.Retry):
			}
		}
	})
}

// AnswerIfRecalled checks again, after the uses of a dataset changed, whether it can be relinquished for a waiting
// move.
func (r *Relinquisher) AnswerIfRecalled(id uuid.UUID) {
	if _, asked := r.Leases.Recall(id); asked {
		r.AnswerSoon(id)
	}
}

// answer answers a recall as far as possible: it relinquishes the dataset unless it is in use, takes the final
// snapshot, and notifies control. It is idempotent: after a crash between two of these steps it continues.
func (r *Relinquisher) answer(ctx context.Context, id uuid.UUID) error {
	y, relinquished := r.Leases.Relinquished(id)
	if d, known := r.Cache.Dataset(id); relinquished && (y.Reported || known && d.Epoch > y.Epoch) {
		return r.DropIfUnneeded(ctx, id, y)
	}
	asked, recalled := r.Leases.Recall(id)
	if !relinquished && !recalled || r.Trust.Err() != nil {
		return nil
	}
	if !relinquished {
		op, err := r.Control.Operation(ctx, asked.Move.String(), 0)
		if err != nil {
			return fmt.Errorf("move that recalls dataset %s: %w", id, err)
		}
		ctx = requestid.WithBy(requestid.With(ctx, op.RequestID), op.By)
		if op.Loss != nil {
			return nil // the move does not wait for this node, and the recall already prevents new uses here
		}
		y = lease.Relinquished{
			Epoch: asked.Epoch, Move: asked.Move, To: asked.To, Files: op.FileCopy, Share: op.SameShare,
		}
	}
	first := y.Manifest == nil // nothing was sent before
	y, holders, err := r.relinquish(ctx, id, y, relinquished)
	switch {
	case err != nil:
		return err
	case len(holders) > 0:
		return r.reportHolders(ctx, id, y, holders)
	case y.Manifest == nil:
		return nil
	}
	return r.report(ctx, id, y, first)
}

// relinquish relinquishes a dataset under its lock, so that a running change ends first. If the dataset cannot be
// relinquished, it returns the users or the problem that prevents it.
func (r *Relinquisher) relinquish(ctx context.Context, id uuid.UUID, y lease.Relinquished,
	relinquished bool) (lease.Relinquished,
	[]string, error) {
	unlock, err := r.Locks.Lock(ctx, id, "move of dataset "+id.String())
	if err != nil {
		return y, nil, err
	}
	defer unlock()
	d, known := r.Cache.Dataset(id)
	if !known || d.Home != r.NodeID || d.Epoch != y.Epoch || d.State != dataset.StateReady {
		return y, nil, nil // this node's record is older or newer than the recall
	}
	pool, err := r.Pools.Online(ctx, d.Pool)
	if err != nil {
		return y, []string{dataset.OneLine(err)}, nil
	}
	if !relinquished {
		if holders, err := r.Holders(ctx, d); err != nil || len(holders) > 0 {
			return y, holders, err
		}
		// A process that has the dataset mounted in another mount namespace could continue to write, and its writes
		// may not be in the pool yet.
		if idler, can := pool.(backends.IdleChecker); can {
			if err := idler.CheckIdle(ctx, id); err != nil {
				return y, []string{dataset.OneLine(err)}, nil
			}
		}
		steps.At("yield.begin")
		if err := r.dropFinal(ctx, pool, id, y); err != nil {
			return y, []string{dataset.OneLine(err)}, nil
		}
		if err := r.Leases.Relinquish(ctx, id, y); err != nil {
			return y, nil, err
		}
		steps.At("yield.given-up")
		r.LogOf(ctx, d).WithField("op", y.Move).Info("relinquished: it is no longer opened here")
	}
	if y.Manifest == nil {
		var seen byteCounter
		stop := r.Jobs.After(ctx, r.Clock, r.Timing.InUseWait/4,
			func(ctx context.Context) { r.reportProgress(ctx, d, y, &seen) })
		y, err = r.takeFinal(ctx, pool, d, y, &seen)
		stop()
		if err != nil {
			// Only this node knows that the dataset was relinquished, so the dataset can continue here.
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			if ctx.Err() != nil {
				return y, nil, ctx.Err()
			}
			return y, []string{dataset.OneLine(err)}, r.Leases.Drop(undo, id)
		}
	}
	return y, nil, nil
}

// dropFinal removes the final snapshot of an earlier attempt, which no other node knows and which is out of date.
func (r *Relinquisher) dropFinal(ctx context.Context, pool backends.Pool, id uuid.UUID, y lease.Relinquished) error {
	e, err := pool.Stat(ctx, id)
	if err != nil || host.IndexOf(e, host.FinalSnapshotID(y.Move)) < 0 {
		return err
	}
	return host.DiscardSnapshot(ctx, pool, dataset.Snapshot{Dataset: id, ID: host.FinalSnapshotID(y.Move)})
}

// Holders returns what prevents that a dataset is relinquished: the mount IDs of its uses or, if it has none, a
// description of its holders on this host. If nothing does, Holders has unmounted the dataset, and the guard has
// forgotten it. The caller holds the dataset's lock.
func (r *Relinquisher) Holders(ctx context.Context, d dataset.Dataset) ([]string, error) {
	if err := r.Verifier.CheckEnded(ctx, d, "move"); err != nil {
		return []string{dataset.OneLine(err)}, nil
	}
	if ids := r.Uses.Get(d.ID).SortedIDs(); len(ids) > 0 {
		return ids, nil
	}
	err := r.Unmounter.UnmountAndRelease(ctx, d)
	if errors.Is(err, dataset.ErrInUse) {
		return []string{dataset.OneLine(err)}, nil
	}
	return nil, err
}

// takeFinal takes the final snapshot of a relinquished dataset. It writes the manifest of the snapshot, which the next
// home needs, to disk.
func (r *Relinquisher) takeFinal(ctx context.Context, pool backends.Pool, d dataset.Dataset, y lease.Relinquished,
	seen io.Writer) (lease.Relinquished, error) {
	m, err := r.Manifest(ctx, pool, d, y, seen)
	if err != nil {
		return y, fmt.Errorf("last snapshot of volume %s: %w", d.Volume, err)
	}
	steps.At("yield.snapshot")
	y.Manifest, y.Answered = &m, r.Clock.Now()
	if err := r.Leases.Relinquish(ctx, d.ID, y); err != nil {
		return y, err
	}
	steps.At("yield.manifest")
	return y, nil
}

// reportHolders reports to control who uses a dataset here.
func (r *Relinquisher) reportHolders(ctx context.Context, id uuid.UUID, y lease.Relinquished, holders []string) error {
	err := r.Control.Yield(ctx, r.NodeID, api.Yield{
		Incarnation: r.Incarnation,
		Operation:   y.Move,
		Dataset:     id,
		Epoch:       y.Epoch,
		InUseBy:     holders,
	})
	if errors.Is(err, dataset.ErrStale) || errors.Is(err, dataset.ErrCancelled) {
		return nil // the move has ended
	}
	return err
}

// byteCounter counts how many bytes of the relinquished dataset were read.
type byteCounter struct{ bytes atomic.Int64 }

func (s *byteCounter) Write(b []byte) (int, error) {
	s.bytes.Add(int64(len(b)))
	return len(b), nil
}

// stuckAfter is how long a computation may make no progress before the disk is assumed to hang, as a multiple of
// Timing.InUseWait: 5 minutes by default. The final snapshot may have to write out the host's memory, and may have
// many extents.
const stuckAfter = 10

// reportProgress reports to control that the checksums of a relinquished dataset are being computed. The computation
// may take long, and the move waits for it as long as it makes progress. If it makes no progress, reportProgress
// reports that it is stuck, and the move ends.
func (r *Relinquisher) reportProgress(ctx context.Context, d dataset.Dataset, y lease.Relinquished, seen *byteCounter) {
	was, at, said := seen.bytes.Load(), r.Clock.Steady(), ""
	for ctx.Err() == nil {
		if is := seen.bytes.Load(); is != was {
			was, at = is, r.Clock.Steady()
		}
		say := dataset.Relinquishing
		if r.Clock.Steady()-at >= stuckAfter*r.Timing.InUseWait {
			say = fmt.Sprintf("its last snapshot does not finish: the disk of pool %s may hang (check it: dmesg; "+
				"the volume is mounted there again once the snapshot has ended)",
				r.Pools.Name(d.Pool))
		}
		if say != said {
			_, err := host.UntilAnswered(ctx, r.Host, func() (struct{}, error) {
				return struct{}{}, r.reportHolders(ctx, d.ID, y, []string{say})
			})
			if err != nil && ctx.Err() == nil {
				r.LogOf(ctx, d).WithError(err).Warn("cannot report the progress of giving up a volume to the move")
			}
			said = say
		}
		select {
		case <-ctx.Done():
		case <-r.Clock.After(r.Timing.InUseWait / 4):
		}
	}
}

// report has control record that a dataset was relinquished, with its manifest. first is true if the manifest was not
// sent before.
func (r *Relinquisher) report(ctx context.Context, id uuid.UUID, y lease.Relinquished, first bool) error {
	err := r.Control.Yield(ctx, r.NodeID, api.Yield{
		Incarnation: r.Incarnation,
		Operation:   y.Move,
		Dataset:     id,
		Epoch:       y.Epoch,
		Manifest:    y.Manifest,
	})
	if errors.Is(err, dataset.ErrUnavailable) {
		return err // control may have received it
	}
	if err != nil {
		if first {
			y.Manifest = nil // control has refused it, so it has not recorded it
		}
		return r.DropIfUnneeded(ctx, id, y)
	}
	steps.At("yield.told")
	unlock, err := r.Locks.Lock(ctx, id, "move of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	return r.Leases.SetReported(ctx, id, y)
}

// DropIfUnneeded removes the record of a relinquished epoch once it is not needed any more. It removes nothing while
// the move runs, or while control's store is inconsistent. The record is not needed if this node is the home again at a
// later epoch, or if the dataset and its copy here are gone. It is not needed either if the move ended without the
// answer of this node, because then no other node can continue from the relinquished epoch. Once control has recorded
// the answer, this node can become the home again only at a later epoch. Control may have recorded the answer although
// its reply was lost. So if control has lost the move within a day after the answer, and gives this node the same
// epoch, DropIfUnneeded marks the record as reported, which halts the store. After that day, it waits for the target
// of the move, as described at lostAnswer.
func (r *Relinquisher) DropIfUnneeded(ctx context.Context, id uuid.UUID, y lease.Relinquished) error {
	if r.Trust.Err() != nil {
		return nil
	}
	op, err := r.Control.Operation(ctx, y.Move.String(), 0)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	unknown := err != nil
	if !unknown && !op.State.Final() {
		return nil
	}
	v, err := r.Control.Volume(ctx, id.String()) // read after the end of the move: the move changes nothing any more
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	var restored bool
	var keep string
	if unknown && v.Home == r.NodeID && v.Epoch == y.Epoch {
		if restored, keep, err = r.lostAnswer(ctx, id, y); err != nil {
			return err
		}
	}
	unlock, err := r.Locks.Lock(ctx, id, "move of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	_, copied := r.Cache.Copy(id)
	_, known := r.Cache.Dataset(id)
	switch {
	case v.Home == r.NodeID && r.Cache.HasLeftSince(v.Dataset): // the store was restored from a backup
		return nil
	case restored:
		// The store was restored from a backup of before the move. If the lost store had recorded the answer, another
		// node may have opened the next epoch. Marked as reported, the epoch makes the Follower halt the store.
		if err := r.Leases.SetReported(ctx, id, y); err != nil {
			return err
		}
		r.CompareStoreSoon()
		return nil
	case keep != "":
		if r.Leases.SetKept(id, keep) {
			r.Log.WithField("dataset", id).Warn(r.Leases.MayChange(v.Dataset, "use"))
		}
		return nil
	case v.Home == r.NodeID && v.Move != y.Move && (v.Epoch > y.Epoch || v.Epoch == y.Epoch && !y.Reported):
	case v.Home != r.NodeID && !copied && !known: // the dataset was deleted, or its copy here was destroyed
		// The record of the dataset may still be on disk. A start without control would read it, and make this node the
		// home.
		if err := r.DB.Put(ctx, map[string]any{"volumes/" + id.String(): nil}); err != nil {
			return err
		}
	default:
		return nil
	}
	return r.Leases.Drop(ctx, id)
}

// AnswerAll answers all open recalls. It repeats answers that were lost.
func (r *Relinquisher) AnswerAll() {
	for _, id := range r.Leases.Unanswered() {
		r.AnswerSoon(id)
	}
}
