package agent

import (
	"context"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
)

// connect gives the lower components the upper ones that they call. It is called before the agent starts.
func (a *components) connect() {
	a.Throttle.Uses, a.Throttle.Fences = a.Uses, a.Leases.Registrar
	a.Pools.Uses = a.Uses
	a.Leases.Membership, a.Leases.Homes = a.Registration, a.Follower
	a.Leases.Repairer, a.Leases.Arrivals = a.Moves, a.MoveTable
	a.Mounts.Connect(a.Operations, a.Spellings, a.Moves, a.Copies, a.Registration, a.Status)
	a.Sync.Connect(a.Generations, a.Cleaner, a.Doctor, a.Watcher, a)
	a.Moves.Connect(a.Generations, a.Follower, a.Status)
	a.Runner.Ended = a.Config.OperationEnded
	a.Operations.Connect(a.Registration, a.Status, a.Reporter, a.Moves, a.Backups)
}

// replicas returns each control replica separately, or s if there is only one.
func replicas(s api.Service) []api.Service {
	several, ok := s.(interface{ PerServer() []*client.Client })
	if !ok {
		return []api.Service{s}
	}
	var out []api.Service
	for _, c := range several.PerServer() {
		out = append(out, c)
	}
	return out
}

// DoHeartbeatWork does the work of each heartbeat other than the report. It returns true if a pool has come online
// again.
func (a *components) DoHeartbeatWork(ctx context.Context) (back bool) {
	if back = a.Pools.Retry(ctx); back {
		if err := a.Generations.AnnounceLate(ctx); err != nil {
			a.Log.WithError(err).Warn("pool is online again, but control does not respond")
		}
		a.WriteAllRecords()
		a.Follower.CompareStoreSoon() // with the records beside the data in this pool
	}
	a.ContinueRemovals()
	a.Pools.ProbeSuspects()
	a.Generations.RaiseDue()
	a.TrimDue()
	a.Unmounter.UnmountIdle()
	a.Verifier.CheckIfDue(ctx)
	a.AnswerRecalls()
	a.Copies.ReconcileAll()
	a.SharedMounts.ReconcileUnmounted()
	a.RepairAll()
	a.Jobs.Start("pulls", func(ctx context.Context, _ *host.Job) error {
		a.ResumeMoves(ctx)
		a.Sizes.Retry(ctx)
		a.Leases.AllowPromises(ctx)
		return nil
	})
	return back
}
