package recovery

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Correct corrects the store: it writes the records that agents know to be newer, ends the operations that were in
// progress (except purges), and then ends the halt.
func (c *Comparison) Correct(ctx context.Context) error {
	if err := c.checkCorrectable(ctx); err != nil {
		return err
	}
	if err := c.releaseNames(ctx); err != nil {
		return err
	}
	for _, j := range c.All {
		if _, err := c.Update(ctx, func(t *record.Tx) error { return c.correctDataset(t, j) }); err != nil {
			return err
		}
		if j.action == api.RecordForgotten {
			j.Extra, j.Missing = nil, nil
			if err := c.forgetAllSnapshots(ctx, j.ID); err != nil {
				return err
			}
		}
		if err := c.CorrectSnapshots(ctx, j); err != nil {
			return err
		}
	}
	if err := c.EndOperations(ctx); err != nil {
		return err
	}
	_, err := c.Update(ctx, c.EndHalt)
	if err == nil {
		c.recovery.collection.end(c.ID)
	}
	return err
}

// checkCorrectable fails with dataset.ErrConflict if a person must decide about a dataset first, or if the halt could
// not end. It changes nothing.
func (c *Comparison) checkCorrectable(ctx context.Context) error {
	for _, d := range c.result.Differences {
		if d.Action == api.RecordDisputed {
			return dataset.Errorf(dataset.ErrConflict,
				"recover: volume %s (dataset %s) needs a decision: %s (bring the node back, or confirm which one "+
					"writes no more: --fenced NODE)", d.Volume, d.Dataset, d.Note)
		}
	}
	t := record.NewTx(ctx, c.recovery.Ledger.Store)
	var h record.Halt
	if _, err := t.Peek(record.HaltedKey, &h); err != nil {
		return err
	}
	return c.checkDistrustHeard(t, h)
}

// checkDistrustHeard fails with dataset.ErrConflict if a node does not trust the store and has not reported.
func (c *Comparison) checkDistrustHeard(t *record.Tx, h record.Halt) error {
	for node := range h.Nodes {
		if !c.coverage.reported[node] && !c.coverage.fenced[node] {
			name, err := t.NodeName(node)
			if err != nil {
				return err
			}
			return dataset.Errorf(dataset.ErrConflict,
				"recover: node %s does not trust the store, and did not report its holdings: start again (drover "+
					"store recover)", name)
		}
	}
	return nil
}

// Update commits one step of the recovery, if this recovery is still the current one. It fails with dataset.ErrConflict
// if another recovery has begun, or was confirmed and ended the halt while this one was paused.
func (c *Comparison) Update(ctx context.Context, decide func(*record.Tx) error) (uint64, error) {
	return c.recovery.Ledger.Update(ctx, func(t *record.Tx) error {
		t.Recovering = true
		var rec record.Recovery
		if _, err := t.Get(record.RecoveryKey, &rec); err != nil {
			return err
		}
		halted, err := t.Get(record.HaltedKey, &record.Halt{})
		if err != nil {
			return err
		}
		if rec.ID != c.ID || rec.Done || !halted {
			return dataset.Errorf(dataset.ErrConflict,
				"recover: another recovery has begun or ended meanwhile: start again (drover store recover)")
		}
		return decide(t)
	})
}

// checkFencedUnreachable fails with dataset.ErrConflict if a node that a person confirmed to be fenced is alive,
// because its volumes would be given to other nodes.
func (c *Comparison) checkFencedUnreachable(t *record.Tx) error {
	for node := range c.coverage.fenced {
		_, there, err := membership.LivingSession(t, node)
		if err != nil || !there {
			if err != nil {
				return err
			}
			continue
		}
		name, err := t.NodeName(node)
		if err != nil {
			return err
		}
		return dataset.Errorf(dataset.ErrConflict,
			"recover: node %s, confirmed as fenced, is alive (stop drover and its containers there, or switch it "+
				"off; %s later: drover store recover --fenced %s)", name, 2*c.recovery.members.Timing.Session, name)
	}
	return nil
}

// releaseNames removes the claims of the names that one volume loses and another one gets. This is necessary because
// two volumes can have exchanged their names: whichever is corrected first, the other one still claims the name that it
// needs. If the recovery is interrupted, the next one releases the names again: the records do not change here.
func (c *Comparison) releaseNames(ctx context.Context) error {
	wanted := map[string]uuid.UUID{}
	for _, j := range c.All {
		if j.renames() {
			for _, name := range j.Record.Names() {
				wanted[name] = j.ID
			}
		}
	}
	for _, j := range c.All {
		if j.stored == nil || j.stored.State != dataset.StateReady || !j.renames() {
			continue
		}
		lost := slices.DeleteFunc(j.stored.Names(), func(name string) bool {
			id, is := wanted[name]
			return !is || id == j.ID || j.Record.HasName(name)
		})
		if len(lost) == 0 {
			continue
		}
		_, err := c.Update(ctx, func(t *record.Tx) error {
			if err := c.checkFencedUnreachable(t); err != nil {
				return err
			}
			return releaseClaims(t, j.ID, lost)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// renames reports whether the correction gives the names in the report to the volume.
func (j *Difference) renames() bool {
	switch j.action {
	case api.RecordForgotten, api.RecordCopies, api.RecordMissing, api.RecordSnapshots:
		return false
	}
	return j.Record.State == dataset.StateReady
}

// correctDataset corrects the record of one dataset, unless the record has changed since the decision.
func (c *Comparison) correctDataset(t *record.Tx, j Difference) error {
	if err := c.checkFencedUnreachable(t); err != nil {
		return err
	}
	var was dataset.Dataset
	there, err := t.Get(record.DatasetKey(j.ID), &was)
	if err != nil {
		return err
	}
	if there != (j.stored != nil) || there && t.Index(record.DatasetKey(j.ID)) != j.index {
		return dataset.Errorf(dataset.ErrConflict,
			"recover: dataset %s was changed meanwhile: start again (drover store recover)", j.ID)
	}
	if j.action == api.RecordSnapshots {
		return nil
	}
	stays := j.action == api.RecordCopies || j.action == api.RecordMissing
	if there && !stays {
		if err := releaseState(t, was); err != nil {
			return err
		}
		t.Delete(record.HomeKey(was.Home, j.ID))
	}
	if j.action == api.RecordForgotten {
		for _, node := range was.Copies {
			t.Delete(record.CopyKey(node, j.ID))
		}
		t.Event(api.EventStoreRecover, was, string(j.action))
		t.NotifyDataset(j.ID, was.Home)
		record.ForgetDataset(t, was)
		return nil
	}
	d := j.Record
	d.Copies, d.SupersededCopies, d.SharedMounts = was.Copies, was.SupersededCopies, was.SharedMounts
	record.RemoveSharedMount(t, &d, d.Home)
	record.RemoveCopyNode(&d, d.Home)
	t.Delete(record.CopyKey(d.Home, j.ID))
	for _, k := range j.keptCopies {
		if err := record.PutCopyIn(t, &d, k); err != nil {
			return err
		}
	}
	for _, nodes := range [][]uuid.UUID{d.Copies, d.SupersededCopies} {
		slices.SortFunc(nodes, func(x, y uuid.UUID) int { return slices.Compare(x[:], y[:]) })
	}
	if stays {
		was.Copies, was.SupersededCopies = d.Copies, d.SupersededCopies
		return t.PutDataset(was)
	}
	d.Profile = c.recovery.vetted.WithKnownSettings(d.Profile, was.Profile)
	d.Epoch, d.Move = d.Epoch+1, uuid.Nil
	r := api.Rebuilt{Action: string(j.action)}
	if err := c.recovery.restoreName(t, &d, &r); err != nil {
		return err
	}
	t.Event(api.EventStoreRecover, d, r.Action)
	return record.AddDataset(t, d, uuid.Nil)
}

// CorrectSnapshots adds records of the snapshots that the home has, and removes those of snapshots that it does not
// have.
func (c *Comparison) CorrectSnapshots(ctx context.Context, j Difference) error {
	if len(j.Missing) > 0 {
		found := api.FoundDataset{Dataset: j.Record, Snapshots: j.Missing}
		if err := c.recovery.rebuildSnapshots(ctx, c.Update, found); err != nil {
			return err
		}
	}
	for rest := j.Extra; len(rest) > 0; {
		some := rest[:min(len(rest), record.SnapshotsAtOnce)]
		rest = rest[len(some):]
		if _, err := c.Update(ctx, func(t *record.Tx) error {
			for _, snap := range some {
				if there, err := t.Get(record.SnapshotKey(j.ID, snap.ID), &dataset.Snapshot{}); err != nil {
					return err
				} else if there {
					record.DeleteSnapshot(t, snap)
				}
			}
			return renewRequest(t, j.ID)
		}); err != nil {
			return err
		}
	}
	return nil
}

// renewRequest writes a dataset with a new Request, if the dataset is recorded, because its snapshots have changed. The
// record then has another index, so services count the snapshots again, and retention examines them.
func renewRequest(t *record.Tx, id uuid.UUID) error {
	var d dataset.Dataset
	there, err := t.Get(record.DatasetKey(id), &d)
	if err != nil || !there {
		return err
	}
	d.Request = uuid.New()
	return t.PutDataset(d)
}

// forgetAllSnapshots removes the records of the snapshots of a dataset that has no record any more.
func (c *Comparison) forgetAllSnapshots(ctx context.Context, id uuid.UUID) error {
	left, err := record.ListAll[dataset.Snapshot](record.NewTx(ctx, c.recovery.Ledger.Store), record.SnapshotPrefix(id))
	if err != nil {
		return err
	}
	return c.CorrectSnapshots(ctx, Difference{Evidence: &Evidence{ID: id}, Extra: left})
}

// EndOperations ends the operations that are in progress according to the store, except purges. They may have been
// carried out since the backup, and repeating them could overwrite later writes.
func (c *Comparison) EndOperations(ctx context.Context) error {
	ops, err := record.ListAll[dataset.Operation](record.NewTx(ctx, c.recovery.Ledger.Store), record.OperationsPrefix)
	if err != nil {
		return err
	}
	for _, op := range ops {
		// repeating a purge is safe: it finds nothing, or a dataset that is still condemned
		if op.State.Final() || op.Kind == dataset.OpPurge {
			continue
		}
		if _, err := c.Update(ctx, func(t *record.Tx) error {
			var now dataset.Operation
			if there, err := t.Get(record.OperationKey(op.ID), &now); err != nil || !there || now.State.Final() {
				return err
			}
			now.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrConflict,
				"the store was restored from a backup while operation %s was running: check whether it was "+
					"carried out", now.ID))
			return c.recovery.finish(t, now)
		}); err != nil {
			return err
		}
	}
	return nil
}

// clockMargin is added to the highest reported clock: a node that did not report may have seen a higher one.
const clockMargin = 1 << 20

// maxRaise is by how much raiseClock raises the store clock at most. The certificate of a node may be stolen, and a
// clock near the largest integer could never be raised again. A store that has lost more changes is recovered twice.
const maxRaise = 1 << 40

// raiseClock raises the store clock above an earlier one, if it is not above it already, but by maxRaise at most.
func raiseClock(t *record.Tx, earlier uint64) error {
	entries, err := t.List(record.RevPrefix, "", 0)
	if err != nil {
		return err
	}
	clock, err := record.StoreClockOf(entries, nil)
	if err != nil || clock > earlier {
		return err
	}
	var dropped record.LaneValue
	if _, err := t.Get(record.RemovedLanesKey, &dropped); err != nil {
		return err
	}
	dropped.Count += min(earlier-clock, maxRaise) + clockMargin
	return t.Put(record.RemovedLanesKey, dropped)
}

// EndHalt ends the halt. From then on the store counts as up to date. It fails with dataset.ErrConflict if a fenced
// node is alive, or if a node that does not trust the store has not reported.
func (c *Comparison) EndHalt(t *record.Tx) error {
	var rec record.Recovery
	if _, err := t.Get(record.RecoveryKey, &rec); err != nil {
		return err
	}
	if err := c.checkFencedUnreachable(t); err != nil {
		return err
	}
	var h record.Halt
	if _, err := t.Get(record.HaltedKey, &h); err != nil {
		return err
	}
	if err := c.checkDistrustHeard(t, h); err != nil {
		return err
	}
	if err := raiseClock(t, max(h.HighestClock, c.clock, c.recovery.Ledger.HighestClock())); err != nil {
		return err
	}
	for node := range c.coverage.reported {
		rec.ReportedNodes = append(rec.ReportedNodes, node)
	}
	rec.Done = true
	t.Delete(record.HaltedKey)
	t.Notice.All = true
	t.Notice.Events = append(t.Notice.Events, api.Event{Type: api.EventStoreRecover,
		Detail: "the store is up to date again: decisions resume"})
	return t.Put(record.RecoveryKey, rec)
}
