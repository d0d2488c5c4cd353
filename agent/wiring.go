package agent

import (
	"context"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/pooladmin"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// newPrograms returns the runner of the programs that profiles name. They run on this host unless cfg.Runner is set.
func newPrograms(cfg Config) *host.Programs {
	if cfg.Runner == nil {
		cfg.Runner = &run.System{}
	}
	return &host.Programs{Runner: cfg.Runner, Allowed: cfg.FencePrograms}
}

// connect gives the lower components the upper ones that they call. It is called before the agent starts.
func (a *components) connect() {
	a.Throttle.Uses, a.Throttle.Fences = a.Uses, a.Leases.Registrar
	a.Pools.Uses = a.Uses
	a.Leases.Membership, a.Leases.Homes = a.Registration, a.Follower
	a.Leases.Repairer, a.Leases.Arrivals = a.Repairer, a.MoveTable
	a.Mounts.Connect(a.Operations, a.Spellings, struct {
		*move.Bringer
		*move.Installer
		*move.Relinquisher
	}{a.Bringer, a.Installer, a.Relinquisher}, a.Copies, a.Registration, a.Status)
	a.Sync.Moves = controlsync.Moves{
		Copies: a.Copies, Retention: a.Retention, Access: a.Access, Replicas: a.Replicas, Relinquisher: a.Relinquisher,
	}
	a.Sync.Connect(a.Generations, a.Cleaner, a.KeyChecker, a.Watcher, a)
	o := a.Operations
	o.Keys.Moved = a.MoveTable
	o.Runner.Ended = a.Config.OperationEnded
	o.Connect(a.Registration, a.Status, a.Reporter, struct {
		*move.Mover
		*move.Bounder
	}{a.Mover, a.Bounder}, struct {
		*backup.Creator
		*backup.Restorer
		*backup.CheckRunner
	}{a.Backups, a.Restorer, backup.NewCheckRunner(a.Programs, a.Root, mounting.OpenTree)})
}

func (a *components) retentionDeps() move.RetentionDeps {
	return move.RetentionDeps{
		Host: a.Host, Pools: a.Pools, Transfers: a.TransferServer,
		RelinquishedSnapshots: a.Leases.RelinquishedSnapshots,
		WorksSolo:             a.Config.PeerHTTP == nil,
	}
}

func (a *components) replicasDeps() move.ReplicasDeps {
	return move.ReplicasDeps{
		Host: a.Host, Pools: a.Pools, Space: a.Pools, Moves: a.MoveTable, TransferClient: a.TransferClient,
		Peer:      a.Leases.Nodes.Peer,
		Copies:    a.Copies,
		WorksSolo: a.Config.PeerHTTP == nil,
	}
}

func (a *components) installerDeps() move.InstallerDeps {
	return move.InstallerDeps{
		Host: a.Host, Pools: a.Pools, Moves: a.MoveTable, Retention: a.Retention, Copies: a.Copies,
		DropRelinquished: a.Leases.Drop, Resize: a.Sizes.ResizeAsRecorded, WriteRecord: a.WriteRecord,
	}
}

func (a *components) inspectionsDeps() move.InspectionsDeps {
	return move.InspectionsDeps{
		Host: a.Host, MakeMountPoint: mounting.MakeMountPoint, RemoveMountPoint: mounting.RemoveMountPoint,
		Mount: a.Mounter.MountDataset,
	}
}

func (a *components) copiesDeps() move.CopiesDeps {
	return move.CopiesDeps{
		Host: a.Host, Pools: a.Pools, Moves: a.MoveTable, Inspections: a.Inspections,
		CopyApplied: func() { a.Replicas.Wake() },
		ForgetHome:  a.forgetHome, DropRelinquished: a.Leases.Drop, EnsureUnused: a.Verifier.EnsureUnused,
		EndFencedUses: a.Unmounter.Supersede,
		UpdateKey:     a.Keys.UpdateCopyKey, DropMounts: a.Uses.Drop, MarkIdle: a.Uses.MarkIdle,
		RemoveMountPoint: mounting.RemoveMountPoint,
	}
}

// forgetHome drops the state that only the home of a dataset needs. It is called when this node is no longer the home.
func (a *components) forgetHome(ds uuid.UUID) {
	a.Leases.EndRecall(ds)
	a.Sync.ForgetSent(ds)
}

// makeMoves creates the components that move datasets between nodes and clean up after moves.
func (a *components) makeMoves() {
	a.Bounder = move.NewBounder(move.BounderDeps{
		Host: a.Host, Datasets: a.Operations, Records: a.Operations, Deadlines: a.Leases.Deadlines,
		Registrar:    a.Leases.Registrar,
		EnsureUnused: a.Verifier.EnsureUnused,
	})
	a.Mover = move.NewMover(move.MoverDeps{
		Host: a.Host, Pools: a.Pools, Space: a.Pools, Keys: a.Keys, Nodes: a.Leases.Nodes, Keeper: a.Leases.Keeper,
		Programs: a.Programs,
		Moves:    a.MoveTable, Copies: a.Copies, Installer: a.Installer, Datasets: a.Operations,
		TransferClient: a.TransferClient,
		PeerHTTP:       a.Config.PeerHTTP, Session: a.Leases.Deadlines.Session,
	})
	a.TransferSource = move.NewTransferSource(move.TransferSourceDeps{
		Host: a.Host, Pools: a.Pools, Keys: a.Keys, Leases: a.Leases, Uses: a.Uses, Quiescer: a.Mounts.Quiescer,
		Sizes: a.Sizes, Snapshotter: a.Operations, Retention: a.Retention,
		AskGenerations: a.askGenerations,
		TransferServer: func() *move.Server { return a.TransferServer },
	})
	a.TransferServer.Source = a.TransferSource
	a.Bringer = move.NewBringer(move.BringerDeps{
		Host: a.Host, Pools: a.Pools, Nodes: a.Leases.Nodes, Failover: a.Failover, Mover: a.Mover,
		TransferClient: a.TransferClient,
		PeerHTTP:       a.Config.PeerHTTP,
	})
	a.Cleaner = pooladmin.NewCleaner(pooladmin.CleanerDeps{
		Host: a.Host, Pools: a.Pools, Keys: a.Keys, Moves: a.MoveTable, Installer: a.Installer,
		Datasets: a.Operations, Registration: a.Registration,
	})
}

// askGenerations calls pooladmin.Keeper.Ask, for callers that need only the error.
func (a *components) askGenerations(ctx context.Context) error {
	_, err := a.Generations.Ask(ctx)
	return err
}

// makePoolAdmin creates the components with which an operator manages the pools of this node.
func (a *components) makePoolAdmin() {
	a.PoolCreator = pooladmin.NewCreator(pooladmin.CreatorDeps{
		Host: a.Host, Backends: a.Config.Backends, Pools: a.Pools, Opener: a.Pools, Maker: a.Pools,
		Keys: a.Keys, Registration: a.Registration,
		Generations: a.Generations, Reporter: a.Reporter, Holdings: a.Holdings,
	})
	a.PoolRemover = pooladmin.NewRemover(pooladmin.RemoverDeps{
		Host: a.Host, Backends: a.Config.Backends, Configured: a.Config.Pools, Pools: a.Pools, Opener: a.Pools,
		Maker: a.Pools, Keys: a.Keys,
		Registration: a.Registration, Reporter: a.Reporter, Copies: a.Copies, Moves: a.MoveTable,
		Operations: a.Runner, Cleaner: a.Cleaner,
	})
	a.Quarantine = pooladmin.NewQuarantine(pooladmin.QuarantineDeps{
		Host: a.Host, Pools: a.Pools, Generations: a.Generations, RecordFiles: a.Operations, Copies: a.Copies,
		Executor: a.Operations,
	})
	a.Collector = pooladmin.NewCollector(pooladmin.CollectorDeps{
		Host: a.Host, Backends: a.Config.Backends, Pools: a.Pools, Datasets: a.Operations, Copies: a.Copies,
		Verifier: a.Verifier,
	})
	a.Trimmer = &pooladmin.Trimmer{Host: a.Host, Pools: a.Pools, Configured: a.Config.Pools}
}

// makeHandover creates the components that pass datasets from one home to the next.
func (a *components) makeHandover() {
	a.Repairer = move.NewRepairer(move.RepairerDeps{
		Host: a.Host, Guard: a.Config.Guard, Pools: a.Pools, Deadlines: a.Leases.Deadlines,
		Registrar: a.Leases.Registrar,
		Uses:      a.Uses, Verifier: a.Verifier, Unmounter: a.Unmounter,
		ReconcileCopySoon: func(id uuid.UUID) { a.Copies.ReconcileSoon(id) },
		Recorded: func(ctx context.Context) (map[uuid.UUID]dataset.Dataset, string, error) {
			return a.Recorded(ctx)
		},
	})
	a.Relinquisher = move.NewRelinquisher(move.RelinquisherDeps{
		Host: a.Host, Pools: a.Pools, Leases: a.Leases, Uses: a.Uses, Verifier: a.Verifier, Unmounter: a.Unmounter,
		CompareStoreSoon: func() { a.Follower.CompareStoreSoon() },
		Manifest: func(ctx context.Context, pool backends.Pool, d dataset.Dataset, y lease.Relinquished,
			seen io.Writer) (dataset.Manifest, error) {
			m, err := a.TransferSource.Manifest(ctx, pool, d, y, seen)
			m.Usage = a.Status.Last(d.ID)
			return m, err
		},
	})
	a.Failover = move.NewFailover(move.FailoverDeps{
		Host: a.Host, Nodes: a.Leases.Nodes, PeerHTTP: a.Config.PeerHTTP,
	})
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
	a.PoolRemover.Continue()
	a.Pools.ProbeSuspects()
	a.Generations.RaiseDue()
	a.Trimmer.TrimDue()
	a.Unmounter.UnmountIdle()
	a.Verifier.CheckIfDue(ctx)
	a.Relinquisher.AnswerAll()
	a.Copies.ReconcileAll()
	a.SharedMounts.ReconcileUnmounted()
	a.Repairer.RepairAll()
	a.Jobs.Start("pending purges", func(ctx context.Context, _ *host.Job) error {
		a.Remover.RetryPending(ctx)
		return nil
	})
	a.Jobs.Start("pulls", func(ctx context.Context, _ *host.Job) error {
		a.Installer.Resume(ctx)
		a.Sizes.Retry(ctx)
		a.Leases.AllowPromises(ctx)
		return nil
	})
	return back
}
