package view

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/recovery"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// Syncer answers the long polls with which agents ask for the changes of their nodes. Its methods are safe for
// concurrent use.
type Syncer struct {
	Ledger  *record.Ledger
	Reports *reports.Latest
	quit    <-chan struct{}
}

// NewSyncer returns a Syncer. quit is closed when the service must stop.
func NewSyncer(l *record.Ledger, r *reports.Latest, quit <-chan struct{}) *Syncer {
	return &Syncer{l, r, quit}
}

// Sync waits for changes of a node's datasets and operations after rev, for at most wait. If rev is 0 or is from before
// this service started, Sync returns everything at once. It also does so if the feed no longer has all changes after
// rev. It fails with dataset.ErrUnavailable if the service stops or the store is recovered meanwhile.
func (s *Syncer) Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	timeout := s.Ledger.Clock.After(wait)
	for last := false; ; {
		changed, leave := s.Ledger.Feed.Subscribe(node)
		n := s.Ledger.Feed.Since(node, rev)
		if n.Any || last {
			leave()
			return s.syncNow(ctx, node, n)
		}
		signaled, err := record.Await(ctx, s.quit, changed, timeout)
		leave()
		if err != nil {
			return api.Sync{}, err
		}
		last = !signaled
	}
}

func (s *Syncer) syncNow(ctx context.Context, node uuid.UUID, n record.ChangeSet) (out api.Sync, err error) {
	if n.Full && s.Ledger.Shared {
		return s.syncTrusted(ctx, node, n)
	}
	return s.syncRead(ctx, node, n)
}

// syncTrusted reads all records of a node, together with the store clock and the state of the recovery. From these
// two, an agent decides whether to trust the response. The store may be restored or recovered at any moment, so the
// clock is read last, and the state of the recovery is read before and after. If that state changed, syncTrusted
// fails with dataset.ErrUnavailable.
func (s *Syncer) syncTrusted(ctx context.Context, node uuid.UUID, n record.ChangeSet) (out api.Sync, err error) {
	before, _, err := s.trust(ctx, node)
	if err != nil {
		return out, err
	}
	if out, err = s.syncRead(ctx, node, n); err != nil {
		return out, err
	}
	if out.StoreClock, err = s.Ledger.ReadClock(ctx); err != nil {
		return out, err
	}
	after, halted, err := s.trust(ctx, node)
	if err == nil && after != before {
		err = dataset.Errorf(dataset.ErrUnavailable,
			"sync of node %s: the store was recovered meanwhile (try again)", node)
	}
	if after != (api.RecoveryState{}) {
		out.Recovery = &after
	}
	out.Halted = halted
	return out, err
}

// trust returns the state of the last recovery for a node, and why changes are suspended.
func (s *Syncer) trust(ctx context.Context, node uuid.UUID) (last api.RecoveryState, halted string, err error) {
	t := record.NewTx(ctx, s.Ledger.Store)
	if err := t.Prefetch([]string{record.RecoveryKey, record.HaltedKey}); err != nil {
		return last, "", err
	}
	if r, err := recovery.StateFor(t, node); err != nil {
		return last, "", err
	} else if r != nil {
		last = *r
	}
	var h record.Halt
	there, err := t.Get(record.HaltedKey, &h)
	if there {
		halted = h.Err().Error()
	}
	return last, halted, err
}

// syncRead reads the records that changed. If n.Full is set, it reads all records of the node.
func (s *Syncer) syncRead(ctx context.Context, node uuid.UUID, n record.ChangeSet) (out api.Sync, err error) {
	out = api.Sync{Revision: n.Rev, Full: n.Full}
	t := record.NewTx(ctx, s.Ledger.Store)
	ids := n.Datasets
	if s.Ledger.Shared {
		out.StoreClock = s.Ledger.HighestClock()
	}
	if n.Full {
		claims, err := record.ListAll[record.Claim](t, record.HomePrefix(node))
		if err != nil {
			return out, err
		}
		for _, c := range claims {
			ids = append(ids, c.ID)
		}
		copies, err := record.ListAll[dataset.Copy](t, record.NodeCopies(node))
		if err != nil {
			return out, err
		}
		for _, c := range copies {
			ids = append(ids, c.Dataset)
		}
		if ids, err = record.SharedMountDatasets(t, node, ids); err != nil {
			return out, err
		}
	}
	// Read the operations before the datasets: otherwise an operation that is planned between the two reads would come
	// with an older record.
	if out.Operations, err = record.OpenWork(t, node); err != nil {
		return out, err
	}
	keys := []string{record.ClusterKey, record.NodeKey(node)}
	for _, op := range out.Operations {
		keys = append(keys, record.DatasetKey(op.DatasetID))
	}
	for _, id := range ids {
		keys = append(keys, record.DatasetKey(id))
	}
	if err := t.Prefetch(keys); err != nil {
		return out, err
	}
	var cluster record.Claim
	if _, err := t.Get(record.ClusterKey, &cluster); err != nil {
		return out, err
	}
	out.Cluster = cluster.ID
	if _, err := t.Get(record.NodeKey(node), &dataset.Node{}); err != nil {
		return out, err
	}
	out.RegistrationIndex = t.Index(record.NodeKey(node))
	for _, id := range ids {
		if err := s.syncOne(t, node, id, &out); err != nil {
			return out, err
		}
	}
	return out, s.addDatasetsOfWork(t, node, ids, &out)
}

// addDatasetsOfWork adds the datasets of the node's operations that are not in included: if an operation was just
// planned, its dataset may be new to the node.
func (s *Syncer) addDatasetsOfWork(t *record.Tx, node uuid.UUID, included []uuid.UUID, out *api.Sync) error {
	for _, op := range out.Operations {
		if slices.Contains(included, op.DatasetID) {
			continue
		}
		var d dataset.Dataset
		ok, err := t.Get(record.DatasetKey(op.DatasetID), &d)
		if ok && err == nil && d.Home == node {
			err = s.syncOne(t, node, op.DatasetID, out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// syncOne adds the state of a dataset for a node that is or was its home, has a shared mount of it, or keeps a copy of
// it. If the node is not the home and has no shared mount, syncOne drops its reports about the dataset.
func (s *Syncer) syncOne(t *record.Tx, node, id uuid.UUID, out *api.Sync) error {
	var d dataset.Dataset
	ok, err := t.Get(record.DatasetKey(id), &d)
	if err != nil {
		return err
	}
	if ok && d.Home == node {
		is := api.IndexedDataset{Dataset: d, Index: t.Index(record.DatasetKey(id))}
		if d.Move != uuid.Nil {
			lease, err := t.Lease(d)
			if err != nil {
				return err
			}
			is.Lease = &lease
		}
		out.Datasets = append(out.Datasets, is)
		return nil
	}
	_, stays := d.SharedMountOf(node)
	switch {
	case !ok:
		s.Reports.ForgetDataset(id)
	case stays:
		out.SharedMounts = append(out.SharedMounts, api.IndexedDataset{
			Dataset: d, Index: t.Index(record.DatasetKey(id)),
		})
	default:
		s.Reports.ForgetDatasetOf(node, id)
	}
	k, kept, err := record.LoadAssignedCopy(t, node, id)
	if kept {
		out.Copies = append(out.Copies, k)
		return nil
	}
	out.RemovedDatasets = append(out.RemovedDatasets, id)
	return err
}
