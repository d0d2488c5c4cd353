package controlsync

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Follower applies what control decides for this node. Its methods are safe for concurrent use.
type Follower struct {
	*Sync
	compare  atomic.Bool // Run must request all records next
	applying sync.Mutex  // held while an answer of control is applied
	recovery uuid.UUID   // the last recovery of control's store that was applied; protected by applying
}

// recoveryKey is the key of the last recovery of control's store that this node has applied.
const recoveryKey = "recovery"

// Load reads from disk which recovery was applied last.
func (f *Follower) Load(ctx context.Context) error {
	_, err := f.DB.Get(ctx, recoveryKey, &f.recovery)
	return err
}

// Run applies control's answers until the agent stops. Each answer has the present state, so a change that one answer
// missed is in the next one.
func (f *Follower) Run(s api.Sync, joined bool) {
	for f.Ctx.Err() == nil {
		var err error
		if f.compare.Swap(false) || !joined {
			s, err = f.Join(f.Ctx)
		} else {
			rev, was := s.Revision, KnownState{Moment: f.Cache.Moment()}
			s, err = f.Control.Sync(f.Ctx, f.NodeID, rev, host.LongPoll)
			switch {
			case err == nil && s.Full: // control does not remember changes that far back
				s, err = f.Join(f.Ctx)
			case err == nil:
				err = f.Apply(f.Ctx, s, was)
			}
			if errors.Is(err, ErrAnswerOutdated) {
				s.Revision, err = rev, nil
			}
		}
		if f.Ctx.Err() != nil {
			return
		}
		f.Registration.SetRefusal(err)
		if joined = err == nil; joined {
			continue
		}
		select {
		case <-f.Ctx.Done():
		case <-f.Clock.After(f.Timing.Retry):
		}
	}
}

// CompareStoreSoon makes Run request all records after the answer that it waits for, and compare control's store with
// what this node has seen.
func (f *Follower) CompareStoreSoon() { f.compare.Store(true) }

// ErrStoreOlder says that an answer which is not full contradicts a move that this node knows: the store was restored
// from a backup. The next request asks for all records, so missing ones are noticed.
var ErrStoreOlder = errors.New("control's store is older than what this node has seen")

// ErrAnswerOutdated says that an answer may be older than work that this node did meanwhile, and that it must be
// requested again.
var ErrAnswerOutdated = errors.New("the state that control sent may be outdated")

// Apply applies one answer. was is the value of KnownState before the request. If Apply returns ErrAnswerOutdated,
// the answer must be requested again.
func (f *Follower) Apply(ctx context.Context, s api.Sync, was KnownState) error {
	f.applying.Lock()
	defer f.applying.Unlock()
	inconsistent, err := f.compareStore(ctx, s, was)
	if err != nil {
		return err
	}
	if s.Recovery != nil && !s.Recovery.Done {
		f.Holdings.SendSoon(s.Recovery.ID)
	}
	lost := map[uuid.UUID]bool{}
	if s.Full && !inconsistent {
		if lost, err = f.forgetUnnamed(ctx, s, was); err != nil {
			return err
		}
	}
	if err := f.applyCopies(ctx, s, inconsistent, was.Moment); err != nil {
		return err
	}
	if err := f.SharedMounts.Apply(ctx, s, inconsistent); err != nil {
		return err
	}
	var changed []api.IndexedDataset
	for _, d := range s.Datasets {
		if _, have := f.Cache.Dataset(d.ID); s.Full && inconsistent && (have || f.Cache.HasLeftSince(d.Dataset)) {
			continue // the store's record of this dataset cannot be trusted
		}
		old, _ := f.Cache.Dataset(d.ID)
		if f.Cache.Apply(d.Dataset, d.Index) || d.State == dataset.StatePurging {
			changed = append(changed, d)
		}
		if len(old.Copies) > len(d.Copies) || old.Move != uuid.Nil && d.Move == uuid.Nil {
			f.Retention.PruneSoon(d.ID)
		}
		if d.Lease != nil && !f.Leases.Nodes.Knows(d.Lease.WantedBy) {
			if err := f.Leases.Nodes.Refresh(ctx); err != nil { // error texts show the name of the node
				return err
			}
		}
		if f.Leases.Apply(d) {
			f.AnswerRecallSoon(d.ID)
		}
	}
	if s.Full && !inconsistent {
		f.cleaner.CleanUp(ctx, lost)
	}
	for _, d := range changed {
		f.converge(ctx, d)
	}
	if s.Full {
		for _, d := range s.Datasets {
			f.News.Changed(d.ID) // control may have restarted and lost the status
		}
		if !inconsistent {
			f.keys.WarnOfKeys()
			f.Operations.WriteAllRecords()
		}
	}
	if inconsistent {
		return nil // the operations may have ended already, and their effects may have been changed since
	}
	for _, op := range s.Operations {
		if err := f.resume(ctx, op); err != nil {
			return err
		}
	}
	f.stopCancelled(ctx, s.Operations)
	return nil
}

// applyCopies applies control's records of the copies on this node. A copy is the data of a dataset whose home is
// another node. For an answer that is not full, it also removes the records of the datasets and copies that have left
// this node. If such a dataset came here after the request, it returns ErrAnswerOutdated. asked is host.Cache.Moment
// before the request.
func (f *Follower) applyCopies(ctx context.Context, s api.Sync, inconsistent bool, asked uint64) error {
	if inconsistent {
		return nil // an inconsistent store may name another home for a dataset of this node
	}
	for _, k := range s.Copies {
		if err := f.Copies.Apply(ctx, k); err != nil {
			return err
		}
		if k.Record != nil {
			f.followNames(ctx, *k.Record)
		}
	}
	for _, d := range s.Datasets {
		if err := f.Copies.Forget(ctx, d.ID); err != nil {
			return err
		}
	}
	if s.Full {
		return nil // forgetUnnamed has done this
	}
	for _, id := range s.RemovedDatasets {
		if !f.Cache.RemoveIfUnchanged(id, asked) {
			return ErrAnswerOutdated
		}
		f.Leases.EndRecall(id)
		f.ForgetSent(id)
		if err := f.Copies.Forget(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// forgetUnnamed drops the records of the datasets and copies that a full answer does not name. It returns the dropped
// datasets, without the copies. It keeps a dataset that was made or changed here after the request, because the answer
// may be older than the change.
func (f *Follower) forgetUnnamed(ctx context.Context, s api.Sync, was KnownState) (gone map[uuid.UUID]bool, err error) {
	named := map[uuid.UUID]bool{}
	for _, d := range s.Datasets {
		named[d.ID] = true
	}
	for _, k := range s.Copies {
		named[k.Dataset] = true
	}
	for _, id := range f.Cache.CopyIDs() {
		if !named[id] {
			err = errors.Join(err, f.Copies.Forget(ctx, id))
		}
	}
	gone = map[uuid.UUID]bool{}
	asked := f.Cache.Moment()
	for id, now := range f.Cache.Revisions() {
		if named[id] {
			continue
		}
		if was.Datasets != nil && now.Index > was.Datasets[id].Index { // the index is 0 after a recovery
			switch d, err := f.FetchDataset(ctx, id); {
			case err == nil && d.Home == f.NodeID:
				continue
			case err != nil && !errors.Is(err, dataset.ErrNotFound):
				return gone, err
			}
		}
		if f.Cache.RemoveIfUnchanged(id, asked) { // otherwise it came here meanwhile
			gone[id] = true
			f.Leases.EndRecall(id)
			f.ForgetSent(id)
		}
	}
	return gone, err
}

// converge acts on a record that changed. It records the spellings under a new name, and starts jobs that write the
// record beside the data and destroy a dataset in state purging.
func (f *Follower) converge(ctx context.Context, d api.IndexedDataset) {
	if d.Home != f.NodeID {
		return
	}
	f.News.Changed(d.ID)
	f.followNames(ctx, d.Dataset)
	if d.State == dataset.StatePurging {
		f.Operations.PurgeLater(d.Dataset)
		return
	}
	if f.Runner.IsRunning(d.Request) {
		return // the operation writes the record itself
	}
	f.Operations.WriteRecordLater(d)
}

// followNames calls host.Spellings.FollowNames. If that fails, docker volume ls lists the former state of the
// volume.
func (f *Follower) followNames(ctx context.Context, d dataset.Dataset) {
	if err := f.Spellings.FollowNames(ctx, d); err != nil {
		f.LogOf(ctx, d).WithError(err).Warn("cannot record the volume's names for the engine")
	}
}

// resume executes a recorded operation unless it is running. The operation may have ended after control's answer was
// read, so resume first reads its record again: an import that is executed twice would discard the data that was
// written in between.
func (f *Follower) resume(ctx context.Context, op dataset.Operation) error {
	if f.Runner.MarkRecorded(op.ID) {
		return nil
	}
	now, err := f.Control.Operation(ctx, op.ID.String(), 0)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err != nil || now.State.Final() {
		return err
	}
	now.State = dataset.OpRunning
	f.Operations.ExecuteSoon("op/"+op.ID.String(), now)
	return nil
}

// stopCancelled stops the operations that run here although control has cancelled them. open lists the operations that
// are not final according to control.
func (f *Follower) stopCancelled(ctx context.Context, open []dataset.Operation) {
	still := map[uuid.UUID]bool{}
	for _, op := range open {
		still[op.ID] = true
	}
	for _, id := range f.Runner.Recorded() {
		if still[id] {
			continue
		}
		op, known := f.Runner.Lookup(ctx, id)
		if !known || op.State != dataset.OpCancelled {
			continue // it ended by itself
		}
		f.Runner.Cancel(id)
	}
}

// Join registers this node, asks for the generations of its pools if they are not known, and applies everything that
// control has for this node. It fails with ErrUnavailable if control does not answer, and with ErrAnswerOutdated as
// Apply does.
func (f *Follower) Join(ctx context.Context) (s api.Sync, err error) {
	known := f.KnownState() // before the registration, whose index is compared with the known indexes
	if err := f.Registration.Register(ctx); err != nil {
		return s, err
	}
	if !f.Pools.GenerationsKnown() { // before anything is done in the pools
		if _, err := f.generations.Ask(ctx); err != nil {
			return s, err
		}
	}
	known.Beside = f.Holdings.revisionsBeside(ctx)
	if s, err = f.Control.Sync(ctx, f.NodeID, 0, 0); err != nil {
		return s, err
	}
	if err := f.Apply(ctx, s, known); err != nil {
		return s, err
	}
	if err := f.Resolver.FindLostUses(ctx); err != nil {
		return s, err
	}
	f.Facts.ReportAgain()
	f.Leases.Keeper.SetReady()
	f.Membership.SetJoined()
	return s, nil
}
