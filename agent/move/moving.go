package move

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
	"github.com/droverhq/drover/plugin"
)

// moveRun is a move that this node, its target, executes.
type moveRun struct {
	*Moves
	jb   *host.Job
	op   *dataset.Operation
	pool backends.Pool
	home dataset.Node

	givingPool uuid.UUID          // the pool on the share in which the home has the dataset
	takenOver  *dataset.TakenOver // where the dataset still is, if its lost home never took it over; otherwise nil
}

// recall makes the home relinquish the dataset, and waits until it has. If the dataset is in use, recall waits only
// briefly.
func (m *moveRun) recall(ctx context.Context) error {
	m.jb.Step("asking node " + m.home.Name + " for it")
	op := m.op
	asked := *op
	asked.Incarnation, asked.RequestID, asked.By = m.Incarnation, "", "" // the headers have them
	now, err := host.UntilAnswered(ctx, m.Host, func() (dataset.Operation, error) {
		return m.Control.Recall(ctx, m.NodeID, api.Report{Incarnation: m.Incarnation, Operation: asked})
	})
	if err != nil {
		return fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	steps.At("move.recalled")
	until := m.Clock.Steady() + m.Timing.InUseWait
	for now.Manifest == nil {
		left := until - m.Clock.Steady()
		if left <= 0 {
			if err := m.checkRelinquishing(ctx, now); err != nil {
				return err
			}
			until, left = m.Clock.Steady()+m.Timing.InUseWait, m.Timing.InUseWait
		}
		if who := m.usersHint(now); who != "" {
			m.jb.Step("waiting for up to " + left.Round(time.Second).String() + ": " + who)
			m.News.Soon()
		} else {
			m.jb.Step("asking node " + m.home.Name + " for it")
		}
		now, err = host.UntilAnswered(ctx, m.Host, func() (dataset.Operation, error) {
			return m.Control.Operation(ctx, op.ID.String(), min(left, host.LongPoll))
		})
		switch {
		case err != nil:
			return fmt.Errorf("move of volume %s: %w", op.Volume, err)
		case now.State.Final():
			return dataset.Errorf(dataset.ErrCancelled, "move of volume %s: operation %s is %s", op.Volume, op.ID,
				now.State)
		}
	}
	op.Manifest = now.Manifest
	steps.At("move.yielded")
	return nil
}

// checkRelinquishing returns nil while the home is alive and is relinquishing the dataset. The dataset cannot be
// mounted there any more.
func (m *moveRun) checkRelinquishing(ctx context.Context, now dataset.Operation) error {
	if !slices.Equal(now.InUseBy, []string{dataset.Relinquishing}) {
		return m.refusalError(now)
	}
	away, err := m.Leases.Nodes.IsUnreachable(ctx, m.op.OtherNode)
	if away {
		err = m.unreachableError(errors.New("it became unreachable while it gave up the volume"))
	}
	return err
}

// refusalError returns the reason why the home did not relinquish the dataset.
func (m *moveRun) refusalError(now dataset.Operation) error {
	op, home := m.op, m.home.Name
	if who := m.usersHint(now); who != "" {
		return dataset.Errorf(dataset.ErrInUse, "cannot move volume %s: %s", op.Volume, who)
	}
	other := slices.DeleteFunc(slices.Clone(now.InUseBy), func(h string) bool { return !strings.Contains(h, " ") })
	if len(other) > 0 {
		return dataset.Errorf(dataset.ErrInUse, "cannot move volume %s: node %s cannot give it up: %s", op.Volume,
			home, strings.Join(other, "; "))
	}
	return m.unreachableError(errors.New("it did not respond to the recall"))
}

// usersHint returns who uses the dataset at the home and so prevents the move, and how to find those containers. It is
// empty if the dataset is not in use. This node does not know which spellings the engine of the home has used.
func (m *moveRun) usersHint(now dataset.Operation) string {
	by := map[string]plugin.Tool{}
	for _, h := range now.InUseBy {
		if !strings.Contains(h, " ") { // otherwise it is a description and not a mount ID
			by[h] = mounting.ToolByID(h)
		}
	}
	if len(by) == 0 {
		return ""
	}
	d := m.op.DatasetRecord
	spellings := []string{d.RequestedAs}
	for _, name := range d.Names() {
		spellings = append(spellings, name, name+"@"+d.Profile.Name)
	}
	slices.Sort(spellings)
	spellings = slices.DeleteFunc(slices.Compact(spellings), func(s string) bool { return s == "" })
	return fmt.Sprintf("it is %s on node %s (%s)", mounting.MountedByText(by), m.home.Name,
		mounting.HowToStop("stop its containers there first", by, d.Volume, spellings))
}

// unreachableError returns the error for an unreachable home. It lists the options of the user.
func (m *moveRun) unreachableError(why error) error {
	return dataset.Errorf(dataset.ErrOffline,
		"volume %s is on node %s, which is unreachable: %w (once that node certainly writes no more: drover "+
			"volume move %s %s --force --fenced %s continues from the last copy here)",
		m.op.Volume, m.home.Name, why, m.op.Volume, m.NodeName, m.home.Name)
}

// promote makes a head of the newest snapshot that was copied. Then it asks control to open the next epoch here.
func (m *moveRun) promote(ctx context.Context) (out api.Committed, err error) {
	op := m.op
	unlock, err := m.Locks.Lock(ctx, op.DatasetID, "move of volume "+op.Volume)
	if err != nil {
		return out, err
	}
	defer unlock()
	m.jb.Step("making it the home")
	switch {
	case op.SameShare:
		err = m.checkOnShare(ctx)
	case op.Loss != nil: // the copy may have a newer snapshot than that which control has announced
		err = m.ContinueFromBest(ctx, m.pool, op)
	}
	if err != nil {
		return out, err
	}
	rec := m.recordOf(m.headSnapshot())
	if err := m.MoveTable.Set(ctx, op.DatasetID, rec); err != nil {
		return out, err
	}
	if err := m.makeHead(ctx); err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	steps.At("move.promoted")
	m.jb.Step("recording")
	out, err = m.Commit(context.WithoutCancel(ctx), op)
	if host.InDoubt(err) {
		return out, err // the next sync shows whether it is recorded
	}
	if err != nil {
		return out, errors.Join(err, m.dropHead(ctx))
	}
	steps.At("move.recorded")
	if !m.IsHome(out) {
		// The new head is superseded already. ResumeMoves removes it.
		return out, dataset.Errorf(dataset.ErrConflict,
			"move of volume %s: it arrived here, and moved on to another node before control responded (try again)",
			op.Volume)
	}
	// This node is the home now, so the installation must be finished even if the caller no longer waits.
	ctx = context.WithoutCancel(ctx)
	return out, m.Install(ctx, *out.Dataset, rec)
}

// ContinueFromBest chooses the snapshot from which a dataset continues that is moved without its home. It replaces the
// snapshot in op.Loss by the newest snapshot in the pool. It fails with ErrCorrupt if that snapshot is older than the
// one in op.Loss.
func (m *Moves) ContinueFromBest(ctx context.Context, pool backends.Pool, op *dataset.Operation) error {
	e, err := pool.Stat(ctx, op.DatasetID)
	if err != nil {
		return fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	s, found := host.Promotable(e)
	if !found || s.At().Compare(op.Loss.At()) < 0 {
		return dataset.Errorf(dataset.ErrCorrupt,
			"move of volume %s: the copy on node %s lacks snapshot %s, from which it should continue", op.Volume,
			m.NodeName, op.Loss.Snapshot)
	}
	loss := *op.Loss
	loss.Snapshot, loss.Epoch, loss.Taken, loss.OrderTime = s.ID, s.Epoch, s.Created, s.OrderTime
	loss.SurvivingSnapshots = nil
	for _, o := range e.Snapshots {
		if o.Kind == dataset.SnapshotRestore && o.At().Compare(s.At()) > 0 {
			loss.SurvivingSnapshots = append(loss.SurvivingSnapshots, o.ID)
		}
	}
	op.Loss = &loss
	return nil
}

// headSnapshot returns the snapshot from which the head is made.
func (m *moveRun) headSnapshot() uuid.UUID {
	if m.op.Loss != nil {
		return m.op.Loss.Snapshot
	}
	return m.op.Manifest.Snapshot
}

// makeHead makes a head of the copied data, with its record. The head of a move that copies file by file is the
// dataset that was filled.
func (m *moveRun) makeHead(ctx context.Context) error {
	if m.op.SameShare {
		// Install takes the dataset over after control has recorded the move.
		return m.ClearTarget(ctx, m.pool, m.op, m.givingPool, m.takenOver)
	}
	copier, can := m.pool.(backends.Copier)
	if m.op.FileCopy {
		if beside := m.recordOf(uuid.Nil).Beside; !can && beside != uuid.Nil {
			return m.ReplaceCopy(ctx, m.pool, *m.op.DatasetRecord, beside)
		}
		return nil
	}
	if !can {
		return dataset.Errorf(dataset.ErrUnsupported, "pool %s cannot store copies",
			m.Pools.Name(m.op.DatasetRecord.Pool))
	}
	if err := copier.Promote(ctx, m.op.DatasetID, m.headSnapshot()); err != nil {
		return err
	}
	return m.pool.WriteRecord(ctx, *m.op.DatasetRecord, true)
}

// dropHead undoes makeHead for a move that is not recorded. The copy stays, so that the next attempt continues
// from it.
func (m *moveRun) dropHead(ctx context.Context) error {
	if m.op.SameShare {
		return nil // makeHead has moved nothing
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	copier, can := m.pool.(backends.Copier)
	if m.op.FileCopy {
		rec := m.recordOf(uuid.Nil)
		if can && rec.Beside != uuid.Nil { // the files are still beside the copy
			return m.DropBeside(ctx, rec)
		}
		if k, kept := m.Cache.Copy(m.op.DatasetID); kept && rec.Beside != uuid.Nil && k.Record != nil {
			return m.KeepAsCopy(ctx, m.pool, *k.Record, rec)
		}
		return errors.Join(m.pool.Delete(ctx, m.op.DatasetID), m.DropBeside(ctx, rec))
	}
	if !can {
		return nil
	}
	return copier.Demote(ctx, m.op.DatasetID, m.headSnapshot())
}

// replacesCopy reports whether the dataset that this move makes would replace a recorded copy that has data. Data of an
// earlier attempt of a move does not count, because the home has all of it. The caller holds the dataset's lock.
func (m *moveRun) replacesCopy(ctx context.Context) (bool, error) {
	if _, kept := m.Cache.Copy(m.op.DatasetID); !kept {
		return false, nil
	}
	e, err := m.pool.Stat(ctx, m.op.DatasetID)
	if errors.Is(err, dataset.ErrNotFound) {
		return false, nil
	}
	return e.State == backends.EntryReady || e.State == backends.EntryCopy && len(e.Snapshots) > 0, err
}

// recordOf returns the record of this move, with the dataset that it has made beside a copy so far.
func (m *moveRun) recordOf(snapshot uuid.UUID) MoveRecord {
	op := m.op
	rec := MoveRecord{
		Move:     op.ID,
		Pool:     op.DatasetRecord.Pool,
		Epoch:    op.DatasetRecord.Epoch,
		Files:    op.FileCopy,
		Share:    op.SameShare,
		From:     m.givingPool,
		Since:    m.Clock.Now(),
		Snapshot: snapshot,
	}
	if was, _ := m.MoveTable.Get(op.DatasetID); was.Move == op.ID {
		rec.Beside = was.Beside
	}
	return rec
}

// Move makes this node the home of a dataset whose home is another node. After a crash Move starts again: copied data
// is kept, and each step is idempotent.
func (m *Moves) Move(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed, err error) {
	pool, err := m.Pools.Online(ctx, op.DatasetRecord.Pool)
	if err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	if err := m.Pools.CheckRootSpace(ctx); err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	if err := m.Keys.CanOpen(ctx, *op.DatasetRecord); err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	if op.FileCopy || op.SameShare {
		// Both kinds remove data here. A former head may have data that no snapshot has, so reconcile it first.
		if err := m.Copies.Reconcile(ctx, op.DatasetID); err != nil {
			return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
		}
	}
	if err := m.CheckSuperseded(ctx, pool, op); err != nil {
		return out, err
	}
	run := &moveRun{Moves: m, jb: jb, op: op, pool: pool}
	defer m.MoveTable.Begin(op.DatasetID)()
	if op.SameShare {
		if err := run.findGivingPool(ctx); err != nil {
			return out, err
		}
	}
	if op.Loss != nil {
		if err := run.blockPromises(ctx); err != nil {
			return out, err
		}
		if err := run.fence(ctx); err != nil {
			return out, err
		}
		return run.promote(ctx)
	}
	if run.home, err = m.Leases.Nodes.Peer(ctx, op.OtherNode); err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	steps.At("move.begin")
	if was, _ := m.MoveTable.Get(op.DatasetID); was.Move != op.ID {
		if err := m.DropBeside(ctx, was); err != nil {
			return out, fmt.Errorf("move of volume %s: data of another move: %w", op.Volume, err)
		}
	}
	if err := m.MoveTable.Set(ctx, op.DatasetID, run.recordOf(uuid.Nil)); err != nil {
		return out, err
	}
	if err := run.copyInUse(ctx); err != nil {
		return out, err
	}
	if err := run.recall(ctx); err != nil {
		return out, err
	}
	if err := run.copyRest(ctx); err != nil {
		return out, err
	}
	return run.promote(ctx)
}

// CheckSuperseded refuses a move to a node that has data which the volume lacks, because the move would remove that
// data.
func (m *Moves) CheckSuperseded(ctx context.Context, pool backends.Pool, op *dataset.Operation) error {
	k, kept := m.Cache.Copy(op.DatasetID)
	if !kept {
		return nil
	}
	superseded := k.Kind == dataset.CopySuperseded
	if !superseded && op.Loss == nil {
		k.Record = op.DatasetRecord
		keep, err := host.UnrecordedLoss(ctx, pool, k)
		if err != nil {
			return fmt.Errorf("move of volume %s: %w", op.Volume, err)
		}
		superseded = keep.ID != uuid.Nil
	}
	if op.FileCopy && !superseded { // a superseded head may be here that control does not know yet
		e, err := pool.Stat(ctx, op.DatasetID)
		if err != nil && !errors.Is(err, dataset.ErrNotFound) {
			return fmt.Errorf("move of volume %s: %w", op.Volume, err)
		}
		_, superseded = host.Newest(e, func(s dataset.Snapshot) bool { return s.Kind == dataset.SnapshotSuperseded })
	}
	if superseded {
		return dataset.Errorf(dataset.ErrConflict,
			"move of volume %s: node %s has a superseded copy of it (drover copy ls; discard it "+
				"first)", op.Volume, m.NodeName)
	}
	return nil
}
