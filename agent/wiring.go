package agent

import (
	"context"
	"errors"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
)

// connect gives the lower components the upper ones that they call. It is called before the agent starts.
func (a *components) connect() {
	a.Throttle.Uses, a.Throttle.Fences = a.Uses, a.Leases.Registrar
	a.Pools.Uses = a.Uses
	a.Leases.Registration, a.Leases.Homes = a.Registration, a.Follower
	a.Leases.Repairer, a.Leases.Arrivals = a.Mounts, a.MoveTable
	a.Mounts.Connect(a.Moves, a.Copies, a.Status)
	a.Sync.Connect(a.Generations, a.Cleaner, a.Doctor, a.Watcher, a)
	a.Moves.Connect(a.Generations, a.Follower, a.Status)
	a.Runner.Ended = a.Config.OperationEnded
	a.Operations.Connect(a.Status, a.Reporter, a.Moves, a.Backups)
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

// components contains the parts of an agent. Its methods create and connect them. Its fields do not change after New.
type components struct {
	*host.Host
	Config          Config
	controlReplicas []api.Service // each control replica separately

	*doctor.Doctor

	Programs *host.Programs

	Backups         *backup.Backups
	*backup.Catalog // answers the requests of api.Local about backups

	// leaseCtx is the context of renewals and deadlines, and leaseWork waits for them. They continue until an agent
	// that stops has finished its work. If they ended earlier, a dataset could be fenced while work on it still runs,
	// and could not be repaired.
	leaseCtx  context.Context
	endLeases context.CancelFunc
	leaseWork sync.WaitGroup

	Cancel context.CancelFunc
	wg     sync.WaitGroup
}

// load reads the agent's database into the components.
func (a *components) load(ctx context.Context) error {
	for _, load := range []func(context.Context) error{
		a.Identity.Load, a.Membership.Load, a.Registration.Load, a.StoreClock.Load, a.Follower.Load,
	} {
		if err := load(ctx); err != nil {
			return err
		}
	}
	err := host.EachDataset(ctx, a.DB, "volumes/", func(_ uuid.UUID, d api.IndexedDataset) error {
		a.Cache.Load(d)
		return nil
	})
	if err != nil {
		return err // the others remove what belongs to no dataset of the cache
	}
	return errors.Join(
		a.Status.LoadUsages(ctx), a.Reporter.LoadAnswer(ctx),
		a.Mounts.Load(ctx),
		a.Copies.Load(ctx),
		a.Leases.Load(ctx),
		a.MoveTable.Table.Load(ctx), a.Sizes.Load(ctx),
	)
}
