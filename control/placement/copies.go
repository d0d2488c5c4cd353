package placement

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// ReportCopy records the present state of a node's copy of a dataset. It writes to the store when the copy has its
// first complete snapshot and when its epoch changes. Other reports with a new snapshot are written at most every ten
// minutes (dataset.Copy.MustRecord). It also writes when a copy becomes superseded, when it is mounted or unmounted,
// and when it was destroyed. Idempotent.
//
// It fails with dataset.ErrForbidden for a report on the copy of another node. It fails with ErrStale if:
//   - the node must not have the copy,
//   - the node destroyed the copy without a request,
//   - the node asks whether it must still destroy the copy, and the copy must stay,
//   - the node reports the copy as superseded, and must destroy it.
func (s *CopyKeeper) ReportCopy(ctx context.Context, node uuid.UUID, c api.CopyReport) error {
	if c.Copy.Node != node {
		return dataset.Errorf(dataset.ErrForbidden, "copy of dataset %s belongs to node %s, not to %s", c.Copy.Dataset,
			c.Copy.Node, node)
	}
	var stays error
	_, err := s.Ledger.Update(ctx, func(t *record.Tx) error {
		stays = nil
		if _, err := membership.FreshNode(t, node, c.Incarnation); err != nil {
			return err
		}
		key := record.CopyKey(node, c.Copy.Dataset)
		var rec dataset.Copy
		there, err := t.Get(key, &rec)
		switch {
		case err != nil:
			return err
		case !there && c.Removed:
			return nil
		case !there:
			return dataset.Errorf(dataset.ErrStale, "node %s may not have a copy of dataset %s", node, c.Copy.Dataset)
		case c.ConfirmRemoval:
			stays, err = s.confirmDestruction(t, rec)
			return err
		case c.Removed && rec.Kind != dataset.CopyCondemned:
			return dataset.Errorf(dataset.ErrStale, "the copy of dataset %s on node %s must stay, as %s",
				c.Copy.Dataset, node, rec.Kind)
		case c.Removed:
			s.Reports.ForgetCopy(node, c.Copy.Dataset)
			return record.DropCopy(t, node, c.Copy.Dataset)
		case c.MountOnly:
			return recordShown(t, rec, c.Copy)
		case c.Copy.Kind == dataset.CopySuperseded && rec.Kind != dataset.CopySuperseded:
			return s.recordSuperseded(t, rec, c.Copy)
		case c.Copy.Epoch < rec.Epoch || c.Copy.Snapshot == rec.Snapshot || rec.Kind == dataset.CopyCondemned:
			return nil
		}
		tells, first := c.Copy.MustRecord(rec), rec.Snapshot == uuid.Nil
		rec.Snapshot, rec.Epoch = c.Copy.Snapshot, c.Copy.Epoch
		rec.Taken, rec.OrderTime = c.Copy.Taken, c.Copy.OrderTime
		rec.VerifiedAt, rec.VerifiedAtHome = c.Copy.VerifiedAt, c.Copy.VerifiedAtHome
		s.Reports.RecordCopy(rec, s.Ledger.Clock.Steady())
		if !tells {
			return nil
		}
		if first { // a surplus copy may be removed once this copy is complete
			t.NotifyDataset(rec.Dataset, node)
		}
		return t.Put(key, rec)
	})
	return cmp.Or(err, stays)
}

// recordSuperseded records that a copy has data that its volume lacks. Either the head of the node differed from the
// state that the home had relinquished, or the volume continued without the data of the node. Only an operator
// discards such a copy. If an operator has already done so, recordSuperseded returns dataset.ErrStale.
func (s *CopyKeeper) recordSuperseded(t *record.Tx, rec, now dataset.Copy) error {
	d, err := t.Dataset(rec.Dataset)
	if err != nil {
		return err
	}
	if rec.Kind == dataset.CopyCondemned &&
		(rec.PreviousKind == dataset.CopySuperseded || d.State == dataset.StatePurging) {
		return dataset.Errorf(dataset.ErrStale, "the copy of dataset %s on node %s must be destroyed", d.ID, rec.Node)
	}
	rec.Kind, rec.PreviousKind, rec.Expires, rec.RunTime = dataset.CopySuperseded, "", time.Time{}, 0
	rec.Snapshot, rec.Taken, rec.OrderTime = now.Snapshot, now.Taken, now.OrderTime
	rec.Epoch, rec.VerifiedAt = now.Epoch, now.VerifiedAt
	s.Reports.RecordCopy(rec, s.Ledger.Clock.Steady())
	return record.PutCopy(t, &d, rec)
}

// confirmDestruction decides, right before a node destroys a condemned copy, whether the copy must still be
// destroyed. The node may have been unreachable for a long time, and the home may have been lost since the copy was
// condemned. If the home is unhealthy (see checkHome), the volume may have to continue from the copy. So the copy gets
// its previous kind again.
//
// stays is the dataset.ErrStale error that tells the node to keep the copy. It is nil if the node may destroy the copy.
func (s *CopyKeeper) confirmDestruction(t *record.Tx, c dataset.Copy) (stays, err error) {
	stays = dataset.Errorf(dataset.ErrStale, "the copy of dataset %s on node %s stays: it may be the last good one",
		c.Dataset, c.Node)
	if c.Kind != dataset.CopyCondemned {
		return stays, nil
	}
	if err := t.Halted(); err != nil {
		return nil, err
	}
	d, err := t.Dataset(c.Dataset)
	// In these cases a person has decided to destroy the copy or the whole dataset, so it is destroyed in any case.
	if err != nil || c.PreviousKind == dataset.CopySuperseded || d.State == dataset.StatePurging {
		return nil, err
	}
	unhealthy, known, err := s.checkHome(t, d)
	if err == nil && unhealthy {
		c.Kind, c.PreviousKind = c.PreviousKind, ""
		err = record.PutCopy(t, &d, c)
	}
	if !unhealthy && known {
		stays = nil
	}
	return stays, err
}

// Expire condemns the copies that moves left behind, once their time has passed: see ExpireOne.
func (s *CopyKeeper) Expire(ctx context.Context) error {
	for e, err := range record.Entries(record.NewTx(ctx, s.Ledger.Store), record.CopiesPrefix, readSize) {
		if err != nil {
			return err
		}
		var c dataset.Copy
		if err := record.Decode(e.Key, e.Value, &c); err != nil {
			return err
		}
		if c.Kind != dataset.CopyLeft || s.Uptime.LastRunTime()-time.Duration(c.RunTime) < LeftCopyRetention {
			continue
		}
		if _, err := s.Ledger.Update(ctx, func(t *record.Tx) error { return s.ExpireOne(t, c) }); err != nil {
			return err
		}
	}
	return nil
}

// moveDestination returns the target node of a dataset's move; uuid.Nil if none is in progress.
func moveDestination(t *record.Tx, d dataset.Dataset) (uuid.UUID, error) {
	if d.Move == uuid.Nil {
		return uuid.Nil, nil
	}
	var op dataset.Operation
	_, err := t.Get(record.OperationKey(d.Move), &op)
	return op.Node, err
}

func (s *CopyKeeper) isHomeLost(t *record.Tx, d dataset.Dataset) (bool, error) {
	if !s.Ledger.Shared {
		return false, nil
	}
	_, alive, err := membership.LivingSession(t, d.Home)
	return !alive, err
}

// mayBeLast reports whether a copy of a dataset may be the last good one. If it is not known whether the copy is the
// last one, mayBeLast returns true, so that the copy is kept.
func (s *CopyKeeper) mayBeLast(t *record.Tx, d dataset.Dataset) (bool, error) {
	unhealthy, known, err := s.checkHome(t, d)
	return unhealthy || !known, err
}

// checkHome reports whether the home of a dataset is unhealthy: it is lost, it cannot open the dataset, or its pool is
// quarantined or offline. known is false if the home has not reported the dataset and the pool to this service lately,
// so that unhealthy is not certain.
func (s *CopyKeeper) checkHome(t *record.Tx, d dataset.Dataset) (unhealthy, known bool, err error) {
	st, pool := s.Reports.Dataset(d.ID, d.Home), s.Reports.Pool(d.Pool)
	if st != nil && st.IsUnusable() || pool != nil && !pool.Online {
		return true, true, nil
	}
	known = !s.Ledger.Shared ||
		st != nil && pool != nil && s.Ledger.Clock.Steady()-s.Reports.Heartbeat(d.Home).At <= s.MaxReportAge
	unhealthy, err = s.isHomeLost(t, d)
	return unhealthy, known, err
}

// ExpireOne condemns a copy that a move left, if all of these conditions hold:
//
//   - the record of the copy has not changed,
//   - the time of the copy has passed,
//   - the home is alive and healthy, and has a later epoch open,
//   - the copy cannot be the last good one,
//   - the node of the copy is neither the home nor the target of a move in progress.
func (s *CopyKeeper) ExpireOne(t *record.Tx, was dataset.Copy) error {
	var c dataset.Copy
	there, err := t.Get(record.CopyKey(was.Node, was.Dataset), &c)
	if err != nil || !there || c != was {
		return err
	}
	if ran, err := s.Uptime.RunTime(t); err != nil || ran-time.Duration(c.RunTime) < LeftCopyRetention {
		return err
	}
	d, err := t.Dataset(c.Dataset)
	if err != nil || d.Home == c.Node || d.Epoch <= c.Epoch {
		return err
	}
	if last, err := s.mayBeLast(t, d); err != nil || last {
		return err
	}
	if target, err := moveDestination(t, d); err != nil || target == c.Node {
		return err
	}
	return record.CondemnCopy(t, c.Node, c.Dataset)
}

// recordShown records where a node has mounted a superseded head, or why not. It ignores a report that is older than
// the last request.
func recordShown(t *record.Tx, rec, now dataset.Copy) error {
	now.Problem = dataset.Cut(now.Problem)
	if rec.Kind != dataset.CopySuperseded || rec.MountReadOnly != now.MountReadOnly || rec.Path == now.Path &&
		rec.Problem == now.Problem {
		return nil
	}
	rec.Path, rec.Problem = now.Path, now.Problem
	t.NotifyDataset(rec.Dataset, rec.Node)
	return t.Put(record.CopyKey(rec.Node, rec.Dataset), rec)
}

// AddLoss records a loss in a dataset, and sets HeadParent to the newest snapshot that is not lost. It drops an
// earlier loss if no recorded copy can be older than that loss.
func AddLoss(t *record.Tx, next *dataset.Dataset, loss dataset.Loss) error {
	behind := loss.EndedEpoch
	for _, node := range next.Copies {
		var c dataset.Copy
		if _, err := t.Get(record.CopyKey(node, next.ID), &c); err != nil {
			return err
		}
		behind = min(behind, c.Epoch)
	}
	next.Losses = slices.DeleteFunc(slices.Clone(next.Losses),
		func(l dataset.Loss) bool { return l.SnapshotsForgotten && l.EndedEpoch < behind })
	next.Losses = append(next.Losses, loss)
	var newest dataset.Snapshot
	err := record.EachSnapshot(t, next.ID, func(s dataset.Snapshot) {
		if !next.Lost(s) && s.At().Compare(newest.At()) > 0 {
			newest = s
		}
	})
	next.HeadParent = newest.ID
	return err
}

// ForgetLost removes the records of the snapshots that were lost when a dataset continued without its home. It works
// in several transactions. The data of these snapshots stays on the superseded home. Idempotent: a repeated call
// continues with the remaining records.
func (s *CopyKeeper) ForgetLost(ctx context.Context, d dataset.Dataset) error {
	for more := slices.ContainsFunc(d.Losses, lossesToForget); more; {
		_, err := s.Ledger.Update(ctx, func(t *record.Tx) (err error) {
			more, err = forgetSomeLost(t, d.ID)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func lossesToForget(l dataset.Loss) bool { return !l.SnapshotsForgotten }

// forgetSomeLost removes the records of some lost snapshots of a dataset. It reports whether more are left.
func forgetSomeLost(t *record.Tx, id uuid.UUID) (more bool, err error) {
	var d dataset.Dataset
	there, err := t.Get(record.DatasetKey(id), &d)
	i := slices.IndexFunc(d.Losses, lossesToForget)
	if err != nil || !there || i < 0 {
		return false, err
	}
	var lost []dataset.Snapshot
	if err := record.EachSnapshot(t, id, func(s dataset.Snapshot) {
		if d.Losses[i].Includes(s) {
			lost = append(lost, s)
		}
	}); err != nil {
		return false, err
	}
	for _, s := range lost[:min(len(lost), record.SnapshotsAtOnce)] {
		record.DeleteSnapshot(t, s)
	}
	if len(lost) <= record.SnapshotsAtOnce {
		d.Losses = slices.Clone(d.Losses)
		d.Losses[i].SnapshotsForgotten = true
		if err := t.PutDataset(d); err != nil {
			return false, err
		}
	}
	return len(lost) > record.SnapshotsAtOnce || slices.ContainsFunc(d.Losses, lossesToForget), nil
}

// OnlyCopy describes a node's copy of a dataset that is the only one with some data. If What is "", the node has no
// such copy.
type OnlyCopy struct {
	Dataset dataset.Dataset
	What    string
	Command string // how to inspect or save the data, for errors
}

// FindOnlyCopy returns the copy of a dataset on a node if it is the only one with some data. That is a superseded head,
// or the last known complete copy of a volume whose home is lost or unhealthy.
func (s *CopyKeeper) FindOnlyCopy(t *record.Tx, node, id uuid.UUID) (o OnlyCopy, err error) {
	var c dataset.Copy
	there, err := t.Get(record.CopyKey(node, id), &c)
	if err != nil || !there {
		return o, err
	}
	d, err := t.Dataset(id)
	if err != nil || d.State == dataset.StatePurging {
		return o, err
	}
	name, err := t.NodeName(node)
	if err != nil {
		return o, err
	}
	if c.Kind == dataset.CopySuperseded {
		return OnlyCopy{d, "the superseded head of " + d.Volume + " on node " + name,
			"drover copy mount " + record.RefTo(d) + " " + name + " shows it"}, nil
	}
	if c.SupersededForGood() || c.Snapshot == uuid.Nil || d.Home == uuid.Nil {
		return o, nil
	}
	if unhealthy, _, err := s.checkHome(t, d); err != nil || !unhealthy {
		return o, err
	}
	var others []dataset.Copy
	for _, n := range record.WithoutNode(d.Copies, node) {
		var other dataset.Copy
		if _, err := t.Get(record.CopyKey(n, id), &other); err != nil {
			return o, err
		}
		if other.Promotable() {
			others = append(others, other)
		}
	}
	if _, usable, err := s.usableFirst(t, others); err != nil || usable > 0 {
		return o, err
	}
	home, err := t.NodeName(d.Home)
	return OnlyCopy{d, "the last complete copy of " + d.Volume + ", whose home " + home + " is lost or cannot open it",
		"drover volume move " + record.RefTo(d) + " --force --fenced " + home}, err
}

// CheckNoOnlyCopy fails with dataset.ErrInUse while a node has the only copy of some data. It does not fail for a
// node that was removed already, because the data there cannot be reached any more.
func (s *CopyKeeper) CheckNoOnlyCopy(ctx context.Context, ref string) error {
	t := record.NewTx(ctx, s.Ledger.Store)
	n, err := t.FindNode(ref)
	if err != nil || !n.Removed.IsZero() {
		return err
	}
	copies, err := record.ListAll[dataset.Copy](t, record.NodeCopies(n.ID))
	if err != nil {
		return err
	}
	var what, then []string
	for _, c := range copies {
		o, err := s.FindOnlyCopy(record.NewTx(ctx, s.Ledger.Store), n.ID, c.Dataset)
		if err != nil {
			return err
		}
		if o.What == "" {
			continue
		}
		if len(what) == copiesShown {
			what = append(what, "and more")
			break
		}
		what, then = append(what, o.What), append(then, o.Command)
	}
	if len(what) == 0 {
		return nil
	}
	return dataset.Errorf(dataset.ErrInUse, "node %s has data that no other node has: %s (%s; --force "+
		"--dry-run shows what would be removed from the store)", n.Name, strings.Join(what, ", "),
		strings.Join(then, "; "))
}
