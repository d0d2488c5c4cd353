package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/storage"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// yieldSoon answers a recall as a job, which starts once more if one is running.
func (a *Agent) yieldSoon(id uuid.UUID) {
	a.Jobs.StartAgain("yield/"+id.String(), func(ctx context.Context, _ *jobs.Job) error {
		for {
			err := a.yield(ctx, id)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			a.Log.WithError(err).WithField("dataset", id).Warn("recall was not answered; it is tried again")
			if !errors.Is(err, dataset.ErrUnavailable) {
				return nil // the next round tries again
			}
			select {
			case <-ctx.Done():
			case <-a.Clock.After(a.Limits.Retry):
			}
		}
	})
}

// yieldIfAsked has a move that waits for a dataset look at it again after its uses changed.
func (a *Agent) yieldIfAsked(id uuid.UUID) {
	if _, asked := a.leases.Recall(id); asked {
		a.yieldSoon(id)
	}
}

// yield answers a recall as far as possible: it gives the dataset up unless it is in use, takes the final
// snapshot, and notifies control. Idempotent: after a crash between any two of these it continues.
func (a *Agent) yield(ctx context.Context, id uuid.UUID) error {
	y, given := a.leases.Relinquished(id)
	if d, known := a.Cache.Dataset(id); given && (y.Told || known && d.Epoch > y.Epoch) {
		return a.settleYield(ctx, id, y)
	}
	asked, recalled := a.leases.Recall(id)
	if !given && !recalled || a.Trust.Err() != nil {
		return nil
	}
	if !given {
		op, err := a.Control.Operation(ctx, asked.Move.String(), 0)
		if err != nil {
			return fmt.Errorf("move that recalls dataset %s: %w", id, err)
		}
		if op.Loss != nil {
			return nil // it goes on without what this node has, which opens it for nobody new
		}
		y = lease.Relinquished{Epoch: asked.Epoch, Move: asked.Move, To: asked.To, Files: op.Files, Share: op.Share}
	}
	y, holders, err := a.giveUp(ctx, id, y, given)
	switch {
	case err != nil:
		return err
	case len(holders) > 0:
		return a.tellHolders(ctx, id, y, holders)
	case y.Manifest == nil:
		return nil
	}
	return a.tellYield(ctx, id, y)
}

// giveUp gives a dataset up under its lock, so that a running change ends first. It returns who or what prevents
// that.
func (a *Agent) giveUp(ctx context.Context, id uuid.UUID, y lease.Relinquished, given bool) (lease.Relinquished,
	[]string, error) {
	unlock, err := a.Locks.LockUrgent(ctx, id, "move of dataset "+id.String())
	if err != nil {
		return y, nil, err
	}
	defer unlock()
	d, known := a.Cache.Dataset(id)
	if !known || d.Home != a.NodeID || d.Epoch != y.Epoch || d.State != dataset.StateReady {
		return y, nil, nil // control has not reported all of it yet, or something else since
	}
	pool, err := a.pools.Online(ctx, d.Pool)
	if err != nil {
		return y, []string{dataset.OneLine(err)}, nil
	}
	if !given {
		if holders, err := a.holdersOf(ctx, d); err != nil || len(holders) > 0 {
			return y, holders, err
		}
		// A process that has it mounted in another mount namespace continues to write, and what it has written
		// may not be in the pool yet.
		if idler, can := pool.(backends.IdleChecker); can {
			if err := idler.Idle(ctx, id); err != nil {
				return y, []string{dataset.OneLine(err)}, nil
			}
		}
		steps.At("yield.begin")
		if err := a.dropFinal(ctx, pool, id, y); err != nil {
			return y, []string{dataset.OneLine(err)}, nil
		}
		if err := a.leases.Relinquish(ctx, id, y); err != nil {
			return y, nil, err
		}
		steps.At("yield.given-up")
		a.LogOf(d).WithField("op", y.Move).Info("given up: it is not opened here any more")
	}
	if y.Manifest == nil {
		var seen summed
		stop := a.slow(ctx, a.Limits.Lease/4, func(ctx context.Context) { a.tellGivingUp(ctx, d, y, &seen) })
		y, err = a.final(ctx, pool, d, y, &seen)
		stop()
		if err != nil {
			// Only this node knows of it yet, so the dataset continues here.
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			if ctx.Err() != nil {
				return y, nil, ctx.Err()
			}
			return y, []string{dataset.OneLine(err)}, a.leases.Drop(undo, id)
		}
	}
	return y, nil, nil
}

// dropFinal removes the final snapshot of an earlier attempt that no other node knows: it has the content of that
// time.
func (a *Agent) dropFinal(ctx context.Context, pool backends.Pool, id uuid.UUID, y lease.Relinquished) error {
	e, err := pool.Stat(ctx, id)
	if err != nil || lineage.IndexOf(e, lineage.FinalID(y.Move)) < 0 {
		return err
	}
	return storage.DiscardSnapshot(ctx, pool, dataset.Snapshot{Dataset: id, ID: lineage.FinalID(y.Move)})
}

// holdersOf returns who uses a dataset: mount IDs, or descriptions of what else on this host uses it. If nobody
// does, the dataset is unmounted and the guard forgets it. The dataset's lock is held.
func (a *Agent) holdersOf(ctx context.Context, d dataset.Dataset) ([]string, error) {
	if err := a.verifier.CheckEnded(ctx, d, "move"); err != nil {
		return []string{dataset.OneLine(err)}, nil
	}
	if ids := a.uses.Get(d.ID).SortedIDs(); len(ids) > 0 {
		return ids, nil
	}
	err := a.unmounter.FreeUnheld(ctx, d)
	if errors.Is(err, dataset.ErrInUse) {
		return []string{dataset.OneLine(err)}, nil
	}
	return nil, err
}

// final takes the final snapshot of a dataset that was given up, and writes to disk what the next home must have.
func (a *Agent) final(ctx context.Context, pool backends.Pool, d dataset.Dataset, y lease.Relinquished,
	seen io.Writer) (lease.Relinquished, error) {
	m, err := a.manifest(ctx, pool, d, y, seen)
	if err != nil {
		return y, fmt.Errorf("last snapshot of volume %s: %w", d.Volume, err)
	}
	steps.At("yield.snapshot")
	y.Manifest = &m
	if err := a.leases.Relinquish(ctx, d.ID, y); err != nil {
		return y, err
	}
	steps.At("yield.manifest")
	return y, nil
}

// transferSnapshot returns the record of a snapshot for another node.
func (a *Agent) transferSnapshot(d dataset.Dataset, id, request uuid.UUID) dataset.Snapshot {
	return dataset.Snapshot{
		ID: id, Dataset: d.ID, Volume: d.Volume, Parent: d.Latest, Kind: dataset.SnapshotTransfer,
		Size: d.Size, Profile: d.Profile, Epoch: d.Epoch, Request: request,
	}
}

// tellHolders reports to control who uses a dataset here.
func (a *Agent) tellHolders(ctx context.Context, id uuid.UUID, y lease.Relinquished, holders []string) error {
	err := a.Control.Yield(ctx, a.NodeID, api.Yield{
		Incarnation: a.Incarnation,
		Operation:   y.Move,
		Dataset:     id,
		Epoch:       y.Epoch,
		Holders:     holders,
	})
	if errors.Is(err, dataset.ErrStale) || errors.Is(err, dataset.ErrCancelled) {
		return nil // nobody waits for it any more
	}
	return err
}

// summed counts how much was read of the dataset that is given up.
type summed struct{ bytes atomic.Int64 }

func (s *summed) Write(b []byte) (int, error) {
	s.bytes.Add(int64(len(b)))
	return len(b), nil
}

// stuckAfter is after how many times Limits.Lease without progress the disk is assumed to hang: 5 minutes. The
// final snapshot may have to write out what the host has in memory, and may have many extents.
const stuckAfter = 10

// tellGivingUp reports to control that the checksums of a dataset that is given up are being computed, which may
// take long, so that the move waits. Without progress it reports that, and the move ends.
func (a *Agent) tellGivingUp(ctx context.Context, d dataset.Dataset, y lease.Relinquished, seen *summed) {
	was, at, said := seen.bytes.Load(), a.Clock.Steady(), ""
	for ctx.Err() == nil {
		if is := seen.bytes.Load(); is != was {
			was, at = is, a.Clock.Steady()
		}
		say := dataset.GivingUp
		if a.Clock.Steady()-at >= stuckAfter*a.Limits.Lease {
			say = fmt.Sprintf("nothing comes of its last snapshot any more: what pool %s lies on may hang "+
				"(look at its disk: dmesg; the volume is mounted there again once that has ended)",
				a.pools.Name(d.Pool))
		}
		if say != said {
			_, err := host.UntilAnswered(ctx, a.Host, func() (struct{}, error) {
				return struct{}{}, a.tellHolders(ctx, d.ID, y, []string{say})
			})
			if err != nil && ctx.Err() == nil {
				a.LogOf(d).WithError(err).Warn("the move was not told how far this node is with giving it up")
			}
			said = say
		}
		select {
		case <-ctx.Done():
		case <-a.Clock.After(a.Limits.Lease / 4):
		}
	}
}

// tellYield reports to control what was given up.
func (a *Agent) tellYield(ctx context.Context, id uuid.UUID, y lease.Relinquished) error {
	err := a.Control.Yield(ctx, a.NodeID, api.Yield{
		Incarnation: a.Incarnation,
		Operation:   y.Move,
		Dataset:     id,
		Epoch:       y.Epoch,
		Manifest:    y.Manifest,
	})
	if errors.Is(err, dataset.ErrUnavailable) {
		return err // control may have received it
	}
	if err != nil {
		return a.settleYield(ctx, id, y)
	}
	steps.At("yield.told")
	unlock, err := a.Locks.Lock(ctx, id, "move of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	return a.leases.SetTold(ctx, id, y)
}

// settleYield removes a record that is not needed any more: the dataset is this node's again at a later epoch, or
// has left, or the move ended without the answer, so that no other node can continue from it.
func (a *Agent) settleYield(ctx context.Context, id uuid.UUID, y lease.Relinquished) error {
	if a.Trust.Err() != nil {
		return nil
	}
	op, err := a.Control.Operation(ctx, y.Move.String(), 0)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	if err == nil && !op.State.Final() {
		return nil
	}
	v, err := a.Control.Volume(ctx, id.String()) // read after the end of the move, which changes nothing from then on
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	unlock, err := a.Locks.Lock(ctx, id, "move of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	_, copied := a.Cache.Copy(id)
	_, known := a.Cache.Dataset(id)
	switch {
	case v.Home == a.NodeID && a.Cache.HasLeftSince(v.Dataset): // a store that was restored from a backup says so
		return nil
	case v.Home == a.NodeID && v.Epoch >= y.Epoch && v.Move != y.Move:
	case v.Home != a.NodeID && !copied && !known: // deleted, or what is here of it has been dealt with
		// Its record may still be on disk: a start without control would make this node its home.
		if err := a.DB.Put(ctx, map[string]any{"volumes/" + id.String(): nil}); err != nil {
			return err
		}
	default:
		return nil
	}
	return a.leases.Drop(ctx, id)
}

// yields answers all open recalls. It repeats answers that were lost.
func (a *Agent) yields() {
	for _, id := range a.leases.Pending() {
		a.yieldSoon(id)
	}
}
