package agent

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// follow applies what control reports for this node until the agent stops. Each answer has the present state, so
// a change that was missed is in the next one.
func (a *Agent) follow(s api.Sync, joined bool) {
	for a.Ctx.Err() == nil {
		var err error
		if !joined {
			s, err = a.join(a.Ctx)
		} else {
			rev, was := s.Rev, known{asked: a.Cache.Moment()}
			s, err = a.Control.Sync(a.Ctx, a.NodeID, rev, host.LongPoll)
			switch {
			case err == nil && s.Full: // control does not remember changes that far back
				s, err = a.join(a.Ctx)
			case err == nil:
				err = a.take(a.Ctx, s, was)
			}
			if errors.Is(err, errOvertaken) {
				s.Rev, err = rev, nil
			}
		}
		if a.Ctx.Err() != nil {
			return
		}
		a.sayOutside(err)
		if joined = err == nil; joined {
			continue
		}
		select {
		case <-a.Ctx.Done():
		case <-a.Clock.After(a.Limits.Retry):
		}
	}
}

// errOlder says that an answer which is not full contradicts a move that this node knows: the store was restored
// from a backup. The next request asks for everything, which shows what is missing.
var errOlder = errors.New("control's store is older than what this node has heard of")

// errOvertaken says that an answer may be older than work that this node did meanwhile, and that it must be
// requested again.
var errOvertaken = errors.New("what control said may be overtaken")

// take applies one answer. was is what was known before the request. With errOvertaken the answer must be
// requested again.
func (a *Agent) take(ctx context.Context, s api.Sync, was known) error {
	a.taking.Lock()
	defer a.taking.Unlock()
	strange, err := a.meet(ctx, s, was)
	if err != nil {
		return err
	}
	if s.Recovery != nil && !s.Recovery.Done {
		a.holdSoon(s.Recovery.ID)
	}
	lost := map[uuid.UUID]bool{}
	if s.Full && !strange {
		if lost, err = a.forgetOthers(ctx, s, was); err != nil {
			return err
		}
	}
	if err := a.takeCopies(ctx, s, strange, was.asked); err != nil {
		return err
	}
	if err := a.guests.Apply(ctx, s, strange); err != nil {
		return err
	}
	var changed []api.Indexed
	for _, d := range s.Datasets {
		if _, have := a.Cache.Dataset(d.ID); s.Full && strange && (have || a.Cache.HasLeftSince(d.Dataset)) {
			continue // what it says of this dataset cannot be trusted
		}
		old, _ := a.Cache.Dataset(d.ID)
		if a.Cache.Apply(d.Dataset, d.Index) || d.State == dataset.StatePurging {
			changed = append(changed, d)
		}
		if len(old.Copies) > len(d.Copies) || old.Move != uuid.Nil && d.Move == uuid.Nil {
			a.retention.PruneSoon(d.ID)
		}
		if d.Lease != nil && !a.nodes.Knows(d.Lease.Wanted) {
			if err := a.nodes.Refresh(ctx); err != nil { // errors that refuse a request name nodes
				return err
			}
		}
		if a.leases.Apply(d) {
			a.relinquisher.AnswerSoon(d.ID)
		}
	}
	if s.Full && !strange {
		a.resolve(ctx, lost)
	}
	for _, d := range changed {
		a.converge(d)
	}
	if s.Full {
		for _, d := range s.Datasets {
			a.News.Changed(d.ID) // control may have lost the status with its process
		}
		if !strange {
			a.keyChecker.Warn()
			a.recordFiles.WriteAll()
		}
	}
	if strange {
		return nil // the outcome may have been recorded and changed since
	}
	for _, op := range s.Operations {
		if err := a.resume(ctx, op); err != nil {
			return err
		}
	}
	a.stopCancelled(ctx, s.Operations)
	return nil
}

// takeCopies applies what control reports of the datasets here whose home is another node, and removes copies
// that this node neither has nor shall have, unless one came here after the request.
func (a *Agent) takeCopies(ctx context.Context, s api.Sync, strange bool, asked uint64) error {
	if strange {
		return nil // an inconsistent store may name another home for a dataset of this node
	}
	for _, k := range s.Copies {
		if err := a.copies.Take(ctx, k); err != nil {
			return err
		}
	}
	for _, d := range s.Datasets {
		if err := a.copies.Forget(ctx, d.ID); err != nil {
			return err
		}
	}
	if s.Full {
		return nil // forgetOthers has done it
	}
	for _, id := range s.Removed {
		if !a.Cache.RemoveAsOf(id, asked) {
			return errOvertaken
		}
		a.leases.EndRecall(id)
		a.forgetGiven(id)
		if err := a.copies.Forget(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// meet compares control's store with what this agent knows. A store with another identity, as after its loss,
// does not know what is in the pools. A store in which a change is missing that the agent has seen was restored
// from a backup, and may list existing datasets as deleted. Neither is trusted: nothing is destroyed because of
// it until an operator has the store rebuilt.
func (a *Agent) meet(ctx context.Context, s api.Sync, knew known) (strange bool, err error) {
	back, err := a.takenBack(s, knew)
	if err != nil {
		return false, err
	}
	a.mu.Lock()
	was := a.cluster
	a.mu.Unlock()
	before := a.Trust.Why()
	why, recovered := before, a.newRecovery(s)
	switch {
	case recovered && s.Recovery.Heard:
		why = ""
	case was != uuid.Nil && was != s.Cluster:
		why = "it is another one than this node worked with before"
	case s.Full:
		why = missing(s, knew, why != "" || recovered)
		if why == "" && back != "" {
			why = older(back)
		}
	}
	if recovered && why == "" {
		if err := a.takeRecovery(ctx, s); err != nil {
			return true, err
		}
	}
	if why == "" {
		a.raiseClock(s.Clock)
	}
	switch {
	case why == before && (why == "" && was == s.Cluster || why != "" && !s.Full):
		return why != "", nil
	case why == "":
		if err := a.belong(ctx, s.Cluster, ""); err != nil || before == "" {
			return false, err
		}
	case why != before:
		a.Trust.Set(why)
		a.Log.Errorf("control's store is not to be believed: %s; nothing is made, changed or destroyed (%s "+
			"brings the volumes back)", why, a.mendStore())
		if err := a.belong(ctx, was, why); err != nil {
			a.Log.WithError(err).Error("that control's store is not to be believed was not put on disk")
		}
	}
	return why != "", a.tellTrust(ctx, why)
}

// tellTrust notifies control that its store is inconsistent, so that control decides nothing before it is asked
// to.
func (a *Agent) tellTrust(ctx context.Context, strange string) error {
	return a.Control.Heartbeat(ctx, a.NodeID, api.Heartbeat{
		Incarnation: a.Incarnation,
		Distrust:    strange,
		Guard:       a.registrar.IsAnswering(),
	})
}

// forgetOthers drops what a full answer does not name, and returns it. What was made or changed here after the
// request, which the answer may be older than, is requested again.
func (a *Agent) forgetOthers(ctx context.Context, s api.Sync, was known) (gone map[uuid.UUID]bool, err error) {
	named := map[uuid.UUID]bool{}
	for _, d := range s.Datasets {
		named[d.ID] = true
	}
	for _, k := range s.Copies {
		named[k.Dataset] = true
	}
	for _, id := range a.Cache.CopyIDs() {
		if !named[id] {
			err = errors.Join(err, a.copies.Forget(ctx, id))
		}
	}
	gone = map[uuid.UUID]bool{}
	asked := a.Cache.Moment()
	for id, now := range a.Cache.Revisions() {
		if named[id] {
			continue
		}
		if was.datasets != nil && now.Index > was.datasets[id].Index { // the index is 0 after a recovery
			switch d, err := a.FetchDataset(ctx, id); {
			case err == nil && d.Home == a.NodeID:
				continue
			case err != nil && !errors.Is(err, dataset.ErrNotFound):
				return gone, err
			}
		}
		if a.Cache.RemoveAsOf(id, asked) { // otherwise it came here meanwhile
			gone[id] = true
			a.leases.EndRecall(id)
			a.forgetGiven(id)
		}
	}
	return gone, err
}

// converge acts on a record that changed: it writes the record beside the data, and destroys a dataset of state
// purging.
func (a *Agent) converge(d api.Indexed) {
	if d.Home != a.NodeID {
		return
	}
	a.News.Changed(d.ID)
	if d.State == dataset.StatePurging {
		a.executor.PurgeLater(d.Dataset)
		return
	}
	if a.operations.IsRunning(d.Request) {
		return // that operation does it
	}
	a.recordFiles.WriteLater(d)
}

// resume executes a recorded operation unless it is running. An operation that is not running may have ended
// after the answer was read, so its record is read again: an import that is executed twice would discard what was
// written in between.
func (a *Agent) resume(ctx context.Context, op dataset.Operation) error {
	if a.operations.NoteRecorded(op.ID) {
		return nil
	}
	now, err := a.Control.Operation(ctx, op.ID.String(), 0)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err != nil || now.State.Final() {
		return err
	}
	now.State = dataset.OpRunning
	a.executor.Start("op/"+op.ID.String(), now)
	return nil
}

// stopCancelled stops the operations that control has cancelled: they run here, and are no longer among those
// that are not final.
func (a *Agent) stopCancelled(ctx context.Context, open []dataset.Operation) {
	still := map[uuid.UUID]bool{}
	for _, op := range open {
		still[op.ID] = true
	}
	for _, id := range a.operations.Recorded() {
		if still[id] {
			continue
		}
		op, known := a.operations.Lookup(ctx, id)
		if !known || op.State != dataset.OpCancelled {
			continue // it ended by itself
		}
		a.operations.Cancel(id)
	}
}
