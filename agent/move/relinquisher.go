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
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/internal/steps"
)

// AnswerRecallSoon starts a job that answers a recall. If such a job is running, it runs once more.
func (m *Moves) AnswerRecallSoon(id uuid.UUID) {
	m.Jobs.StartAgain("yield/"+id.String(), func(ctx context.Context, _ *host.Job) error {
		for {
			err := m.answerRecall(ctx, id)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			m.Log.WithError(err).WithField("dataset", id).Warn("cannot respond to a recall, retrying")
			if !errors.Is(err, dataset.ErrUnavailable) {
				return nil // the next heartbeat tries again
			}
			select {
			case <-ctx.Done():
			case <-m.Clock.After(m.Timing.Retry):
			}
		}
	})
}

// AnswerIfRecalled checks again, after the uses of a dataset changed, whether it can be relinquished for a waiting
// move.
func (m *Moves) AnswerIfRecalled(id uuid.UUID) {
	if _, asked := m.Leases.Recall(id); asked {
		m.AnswerRecallSoon(id)
	}
}

// answerRecall answers a recall as far as possible: it relinquishes the dataset unless it is in use, takes the final
// snapshot, and notifies control. It is idempotent: after a crash between two of these steps it continues.
func (m *Moves) answerRecall(ctx context.Context, id uuid.UUID) error {
	y, relinquished := m.Leases.Relinquished(id)
	if d, known := m.Cache.Dataset(id); relinquished && (y.Reported || known && d.Epoch > y.Epoch) {
		return m.DropIfUnneeded(ctx, id, y)
	}
	asked, recalled := m.Leases.Recall(id)
	if !relinquished && !recalled || m.Trust.Err() != nil {
		return nil
	}
	if !relinquished {
		op, err := m.Control.Operation(ctx, asked.Move.String(), 0)
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
	y, holders, err := m.relinquish(ctx, id, y, relinquished)
	switch {
	case err != nil:
		return err
	case len(holders) > 0:
		return m.reportHolders(ctx, id, y, holders)
	case y.Manifest == nil:
		return nil
	}
	return m.reportRelinquished(ctx, id, y, first)
}

// relinquish relinquishes a dataset under its lock, so that a running change ends first. If the dataset cannot be
// relinquished, it returns the users or the problem that prevents it.
func (m *Moves) relinquish(ctx context.Context, id uuid.UUID, y lease.Relinquished,
	relinquished bool) (lease.Relinquished,
	[]string, error) {
	unlock, err := m.Locks.Lock(ctx, id, "move of dataset "+id.String())
	if err != nil {
		return y, nil, err
	}
	defer unlock()
	d, known := m.Cache.Dataset(id)
	if !known || d.Home != m.NodeID || d.Epoch != y.Epoch || d.State != dataset.StateReady {
		return y, nil, nil // this node's record is older or newer than the recall
	}
	pool, err := m.Pools.Online(ctx, d.Pool)
	if err != nil {
		return y, []string{dataset.OneLine(err)}, nil
	}
	if !relinquished {
		if holders, err := m.CheckRelinquishable(ctx, d); err != nil || len(holders) > 0 {
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
		if err := m.dropFinal(ctx, pool, id, y); err != nil {
			return y, []string{dataset.OneLine(err)}, nil
		}
		if err := m.Leases.Relinquish(ctx, id, y); err != nil {
			return y, nil, err
		}
		steps.At("yield.given-up")
		m.LogOf(ctx, d).WithField("op", y.Move).Info("relinquished: it is no longer opened here")
	}
	if y.Manifest == nil {
		var seen byteCounter
		stop := m.Jobs.After(ctx, m.Clock, m.Timing.InUseWait/4,
			func(ctx context.Context) { m.reportProgress(ctx, d, y, &seen) })
		y, err = m.takeFinal(ctx, pool, d, y, &seen)
		stop()
		if err != nil {
			// Only this node knows that the dataset was relinquished, so the dataset can continue here.
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			if ctx.Err() != nil {
				return y, nil, ctx.Err()
			}
			return y, []string{dataset.OneLine(err)}, m.Leases.Drop(undo, id)
		}
	}
	return y, nil, nil
}

// dropFinal removes the final snapshot of an earlier attempt, which no other node knows and which is out of date.
func (m *Moves) dropFinal(ctx context.Context, pool backends.Pool, id uuid.UUID, y lease.Relinquished) error {
	e, err := pool.Stat(ctx, id)
	if err != nil || host.IndexOf(e, host.FinalSnapshotID(y.Move)) < 0 {
		return err
	}
	return host.DiscardSnapshot(ctx, pool, dataset.Snapshot{Dataset: id, ID: host.FinalSnapshotID(y.Move)})
}

// CheckRelinquishable returns what prevents that a dataset is relinquished: the mount IDs of its uses or, if it has
// none, a description of its holders on this host. If nothing does, CheckRelinquishable has unmounted the dataset, and
// the guard has forgotten it. The caller holds the dataset's lock.
func (m *Moves) CheckRelinquishable(ctx context.Context, d dataset.Dataset) ([]string, error) {
	if err := m.Verifier.CheckEnded(ctx, d, "move"); err != nil {
		return []string{dataset.OneLine(err)}, nil
	}
	if ids := m.Uses.Get(d.ID).SortedIDs(); len(ids) > 0 {
		return ids, nil
	}
	err := m.Unmounter.UnmountAndRelease(ctx, d)
	if errors.Is(err, dataset.ErrInUse) {
		return []string{dataset.OneLine(err)}, nil
	}
	return nil, err
}

// takeFinal takes the final snapshot of a relinquished dataset. It writes the manifest of the snapshot, which the next
// home needs, to disk.
func (m *Moves) takeFinal(ctx context.Context, pool backends.Pool, d dataset.Dataset, y lease.Relinquished,
	seen io.Writer) (lease.Relinquished, error) {
	manifest, err := m.TransferSource.Manifest(ctx, pool, d, y, seen)
	if err != nil {
		return y, fmt.Errorf("last snapshot of volume %s: %w", d.Volume, err)
	}
	steps.At("yield.snapshot")
	manifest.Usage = m.usages.Last(d.ID)
	y.Manifest, y.Answered = &manifest, m.Clock.Now()
	if err := m.Leases.Relinquish(ctx, d.ID, y); err != nil {
		return y, err
	}
	steps.At("yield.manifest")
	return y, nil
}

// reportHolders reports to control who uses a dataset here.
func (m *Moves) reportHolders(ctx context.Context, id uuid.UUID, y lease.Relinquished, holders []string) error {
	err := m.Control.Yield(ctx, m.NodeID, api.Yield{
		Incarnation: m.Incarnation,
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
func (m *Moves) reportProgress(ctx context.Context, d dataset.Dataset, y lease.Relinquished, seen *byteCounter) {
	was, at, said := seen.bytes.Load(), m.Clock.Steady(), ""
	for ctx.Err() == nil {
		if is := seen.bytes.Load(); is != was {
			was, at = is, m.Clock.Steady()
		}
		say := dataset.Relinquishing
		if m.Clock.Steady()-at >= stuckAfter*m.Timing.InUseWait {
			say = fmt.Sprintf("its last snapshot does not finish: the disk of pool %s may hang (check it: dmesg; "+
				"the volume is mounted there again once the snapshot has ended)",
				m.Pools.Name(d.Pool))
		}
		if say != said {
			_, err := host.UntilAnswered(ctx, m.Host, func() (struct{}, error) {
				return struct{}{}, m.reportHolders(ctx, d.ID, y, []string{say})
			})
			if err != nil && ctx.Err() == nil {
				m.LogOf(ctx, d).WithError(err).Warn("cannot report the progress of giving up a volume to the move")
			}
			said = say
		}
		select {
		case <-ctx.Done():
		case <-m.Clock.After(m.Timing.InUseWait / 4):
		}
	}
}

// reportRelinquished has control record that a dataset was relinquished, with its manifest. first is true if the
// manifest was not sent before.
func (m *Moves) reportRelinquished(ctx context.Context, id uuid.UUID, y lease.Relinquished, first bool) error {
	err := m.Control.Yield(ctx, m.NodeID, api.Yield{
		Incarnation: m.Incarnation,
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
		return m.DropIfUnneeded(ctx, id, y)
	}
	steps.At("yield.told")
	unlock, err := m.Locks.Lock(ctx, id, "move of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	return m.Leases.SetReported(ctx, id, y)
}

// DropIfUnneeded removes the record of a relinquished epoch once it is not needed any more. It removes nothing while
// the move runs, or while control's store is inconsistent. The record is not needed if this node is the home again at a
// later epoch, or if the dataset and its copy here are gone. It is not needed either if the move ended without the
// answer of this node, because then no other node can continue from the relinquished epoch. Once control has recorded
// the answer, this node can become the home again only at a later epoch. Control may have recorded the answer although
// its reply was lost. So if control has lost the move within a day after the answer, and gives this node the same
// epoch, DropIfUnneeded marks the record as reported, which halts the store. After that day, it waits for the target
// of the move, as described at lostAnswer.
func (m *Moves) DropIfUnneeded(ctx context.Context, id uuid.UUID, y lease.Relinquished) error {
	if m.Trust.Err() != nil {
		return nil
	}
	op, err := m.Control.Operation(ctx, y.Move.String(), 0)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	unknown := err != nil
	if !unknown && !op.State.Final() {
		return nil
	}
	v, err := m.Control.Volume(ctx, id.String()) // read after the end of the move: the move changes nothing any more
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	var restored bool
	var keep string
	if unknown && v.Home == m.NodeID && v.Epoch == y.Epoch {
		if restored, keep, err = m.lostAnswer(ctx, id, y); err != nil {
			return err
		}
	}
	unlock, err := m.Locks.Lock(ctx, id, "move of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	_, copied := m.Cache.Copy(id)
	_, known := m.Cache.Dataset(id)
	switch {
	case v.Home == m.NodeID && m.Cache.HasLeftSince(v.Dataset): // the store was restored from a backup
		return nil
	case restored:
		// The store was restored from a backup of before the move. If the lost store had recorded the answer, another
		// node may have opened the next epoch. Marked as reported, the epoch makes the Follower halt the store.
		if err := m.Leases.SetReported(ctx, id, y); err != nil {
			return err
		}
		m.store.CompareStoreSoon()
		return nil
	case keep != "":
		if m.Leases.SetKept(id, keep) {
			m.Log.WithField("dataset", id).Warn(m.Leases.MayChange(v.Dataset, "use"))
		}
		return nil
	case v.Home == m.NodeID && v.Move != y.Move && (v.Epoch > y.Epoch || v.Epoch == y.Epoch && !y.Reported):
	case v.Home != m.NodeID && !copied && !known: // the dataset was deleted, or its copy here was destroyed
		// The record of the dataset may still be on disk. A start without control would read it, and make this node the
		// home.
		if err := m.DB.Put(ctx, map[string]any{"volumes/" + id.String(): nil}); err != nil {
			return err
		}
	default:
		return nil
	}
	return m.Leases.Drop(ctx, id)
}

// AnswerRecalls answers all open recalls. It repeats answers that were lost.
func (m *Moves) AnswerRecalls() {
	for _, id := range m.Leases.Unanswered() {
		m.AnswerRecallSoon(id)
	}
}
