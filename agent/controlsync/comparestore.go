package controlsync

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
)

// compareStore compares control's store with the records of this agent. It records the result in Trust and on disk,
// reports a change of it to control, and applies a recovery of the store. inconsistent is true if the store is
// inconsistent, for one of two reasons. A store with another identity, as after the loss of the store, does not know
// the content of the pools. A store that lacks a change which the agent has seen was restored from a backup, and may
// list existing datasets as deleted. While the store is inconsistent, nothing is destroyed until an operator has
// rebuilt the store.
func (f *Follower) compareStore(ctx context.Context, s api.Sync, knew KnownState) (inconsistent bool, err error) {
	back, err := f.undoneMove(s, knew)
	if err != nil {
		return false, err
	}
	was := f.Identity.Cluster()
	before := f.Trust.Why()
	// recovered: the store was recovered since this node last applied a recovery
	why, recovered := before, s.Full && s.Recovery != nil && s.Recovery.Done && s.Recovery.ID != f.recovery
	switch {
	case recovered && s.Recovery.ReportIncluded:
		why = ""
	case was != uuid.Nil && was != s.Cluster:
		why = "it is not the store that this node used before"
	case s.Full:
		why = missingChange(s, knew, why != "" || recovered)
		if why == "" && back != "" {
			why = olderRecord(back)
		}
	}
	if recovered && why == "" {
		if err := f.applyRecovery(ctx, s); err != nil {
			return true, err
		}
	}
	if why == "" {
		f.StoreClock.Raise(s.StoreClock)
	}
	switch {
	case why == before && (why == "" && was == s.Cluster || why != "" && !s.Full):
		return why != "", nil
	case why == "":
		if err := f.Identity.SetCluster(ctx, s.Cluster, ""); err != nil || before == "" {
			return false, err
		}
	case why != before:
		f.Trust.Set(why)
		f.Log.Errorf("control's store is inconsistent: %s; changes suspended (%s restores the volumes)", why,
			f.Trust.Remedy())
		if err := f.Identity.SetCluster(ctx, was, why); err != nil {
			f.Log.WithError(err).Error("cannot record on disk that control's store is inconsistent")
		}
	}
	return why != "", f.reportTrust(ctx, why)
}

// reportTrust reports to control why its store is inconsistent, so that control makes no decision by itself. An empty
// problem reports that the store is consistent again. This report has no status of a dataset, but control accepts
// incremental reports after it. A control that has just restarted would never get the statuses that did not change
// since, so the Reporter reports all of them again.
func (f *Follower) reportTrust(ctx context.Context, problem string) error {
	defer f.Reporter.ReportEverythingSoon()
	return f.Control.Heartbeat(ctx, f.NodeID, api.Heartbeat{
		Incarnation:  f.Incarnation,
		StoreDoubt:   problem,
		GuardRunning: f.Leases.Registrar.IsAnswering(),
	})
}

// Accept records that control's store is consistent, after it was rebuilt from this node's pools.
func (f *Follower) Accept(ctx context.Context) error {
	s, err := f.Control.Sync(ctx, f.NodeID, 0, 0)
	if err != nil {
		return err
	}
	// The indexes are also removed from disk: otherwise the next start would consider the store too old.
	f.Cache.ForgetIndexes()
	if err := f.Cache.SaveChanged(ctx, f.DB); err != nil {
		return err
	}
	f.Identity.AcceptAny()
	if err := f.Apply(ctx, s, KnownState{}); err != nil {
		return err
	}
	return f.Resolver.FindLostUses(ctx) // now with the new records
}

// applyRecovery prepares this node for a store that was rebuilt from the reports of the nodes, and records on disk that
// this recovery was applied. If the report of this node is included, it first forgets the indexes of the known records,
// so that all records of the store are applied. If applyRecovery is interrupted, the next full answer repeats it.
func (f *Follower) applyRecovery(ctx context.Context, s api.Sync) error {
	if s.Recovery.ReportIncluded {
		f.Cache.ForgetIndexes()
		if err := f.Cache.SaveChanged(ctx, f.DB); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := f.Identity.SetCluster(ctx, s.Cluster, ""); err != nil {
		return err
	}
	if err := f.DB.Put(ctx, map[string]any{recoveryKey: s.Recovery.ID}); err != nil {
		return err
	}
	f.recovery = s.Recovery.ID
	return nil
}
