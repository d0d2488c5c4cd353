package agent

import (
	"context"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/cleanup"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/handover"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/keyring"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/pooladmin"
	"github.com/droverhq/drover/agent/registration"
	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/agent/transfer"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/run"
)

// mountTable says where the agent mounts datasets, for limits.
type mountTable struct{ a *components }

func (m mountTable) Root() string             { return m.a.MountRoot() }
func (m mountTable) Path(id uuid.UUID) string { return m.a.MountPath(id) }
func (m mountTable) IsMounted(id uuid.UUID) (bool, error) {
	return host.IsMountPoint(m.a.MountPath(id))
}
func (m mountTable) InUse() []uuid.UUID { return m.a.uses.InUse() }

func (a *components) cgroupDeps() throttle.Deps {
	return throttle.Deps{
		Ctx: a.Ctx, Boot: a.Boot, DB: a.DB, Cache: a.Cache, Locks: &a.Locks, Jobs: a.Jobs,
		Mounts: mountTable{a}, Fence: a.registrar, Changed: a.News.Changed, Clock: a.Clock, Logger: a.Log,
	}
}

func (a *components) registrarDeps() lease.RegistrarDeps {
	return lease.RegistrarDeps{
		Host: a.Host, Guard: a.config.Guard, Deadlines: a.deadlines,
		OwnFilesystem: func(pool uuid.UUID) (own, known bool) {
			op := a.pools.One(pool)
			if op == nil || op.Storage == nil {
				return false, false
			}
			return op.Capabilities.OwnFilesystem, true
		},
		MendSoon: a.repairSoon,
		Repair:   func(st guard.Status, answer uint64) { a.repairer.ApplyGuard(st, answer) },
	}
}

// makePools makes what has the pools of this node.
func (a *components) makePools() {
	deps := a.poolDeps()
	a.pools, a.prober = pool.New(deps)
	a.poolMaker = pool.NewMaker(deps, a.pools)
	a.poolOpener = pool.NewOpener(deps, a.pools, a.poolMaker)
	a.space = pool.NewSpace(deps, a.pools)
}

func (a *components) poolDeps() pool.Deps {
	return pool.Deps{
		Ctx: a.Ctx, Root: a.Root, NodeName: a.NodeName, Configured: a.config.Pools, Backends: a.config.Backends,
		Control: a.Control,
		Keys:    a.keys, Limits: a.limits.Kind, DB: a.DB, Cache: a.Cache, Jobs: a.Jobs, Mounts: mountTable{a},
		News: a.News, Clock: a.Clock, Log: a.Log,
	}
}

// newPrograms returns the programs of profiles, which cfg.Runner runs, or this host if there is none.
func newPrograms(cfg Config) *host.Programs {
	if cfg.Runner == nil {
		cfg.Runner = &run.System{}
	}
	return &host.Programs{Runner: cfg.Runner, Allowed: cfg.FencePrograms}
}

func (a *components) keyringDeps() keyring.Deps {
	return keyring.Deps{
		Host: a.Host, Programs: a.programs,
		BesideCopyOf: func(id uuid.UUID) (uuid.UUID, bool) { return a.moveTable.BesideCopyOf(id) },
	}
}

func (a *components) retentionDeps() replication.RetentionDeps {
	return replication.RetentionDeps{
		Host: a.Host, Pools: a.pools, Transfers: a.sender, Yielded: a.leases.RelinquishedSnapshots,
		WorksSolo: a.config.PeerHTTP == nil,
	}
}

// forgetGiven forgets what other nodes were given of a dataset whose home is no longer this node.
func (a *components) forgetGiven(ds uuid.UUID) {
	a.retention.Forget(ds)
	a.access.Forget(ds)
}

func (a *components) replicasDeps() replication.ReplicasDeps {
	return replication.ReplicasDeps{
		Host: a.Host, Pools: a.pools, Space: a.space, Moves: a.moveTable, Source: a.puller, Peer: a.nodes.Peer,
		Copies:    a.copies,
		WorksSolo: a.config.PeerHTTP == nil,
	}
}

func (a *components) installerDeps() replication.InstallerDeps {
	return replication.InstallerDeps{
		Host: a.Host, Pools: a.pools, Moves: a.moveTable, Retention: a.retention, Copies: a.copies,
		DropYield: a.leases.Drop, Resize: a.sizes.ResizeAsRecorded, WriteRecord: a.recordFiles.Write,
	}
}

func (a *components) promiseDeps() lease.PromiseDeps {
	return lease.PromiseDeps{
		Host: a.Host, Keeper: a.keeper, PeerID: a.config.PeerID, NodeName: a.nodes.Name, Session: a.deadlines.Session,
		IsMoving: a.moveTable.IsActive,
		Incoming: func(ds uuid.UUID) (epoch uint64, ok bool) {
			m, ok := a.moveTable.Get(ds)
			return m.Epoch, ok
		},
	}
}

func (a *components) inspectionsDeps() replication.InspectionsDeps {
	return replication.InspectionsDeps{
		Host: a.Host, MakeMountPoint: mounting.MakeMountPoint, RemoveMountPoint: mounting.RemoveMountPoint,
		Mount: a.mounter.MountDataset,
	}
}

func (a *components) copiesDeps() replication.CopiesDeps {
	return replication.CopiesDeps{
		Host: a.Host, Pools: a.pools, Moves: a.moveTable, Inspections: a.inspections,
		Taken:      func() { a.replicas.Wake() },
		ForgetHome: a.forgetHome, DropYield: a.leases.Drop, Unused: a.verifier.EnsureUnused,
		SupersedeGuarded: a.unmounter.Supersede,
		NoteKey:          a.keys.NoteKey, DropMounts: a.uses.Drop, NoteIdle: a.uses.MarkIdle,
		RemoveMountPoint: mounting.RemoveMountPoint,
	}
}

// forgetHome forgets what this node knew as the home of a dataset.
func (a *components) forgetHome(ds uuid.UUID) {
	a.leases.EndRecall(ds)
	a.forgetGiven(ds)
}

// makeRegistration makes what reports this node to control.
func (a *components) makeRegistration() {
	a.registration = registration.New(registration.Deps{
		Host: a.Host, Address: a.config.Address, Version: a.config.Version, Labels: a.config.Labels, Pools: a.pools,
		Does: func() []dataset.OpKind { return a.executor.Kinds() }, StoreGenerations: a.generations.Store,
	})
	a.facts = registration.NewFacts(registration.FactsDeps{
		Host: a.Host, Source: a.config.Host, Engine: a.config.Engine, Backends: a.config.Backends, Pools: a.pools,
	})
}

// makeMoves makes what moves datasets between nodes, and cleans up after it.
func (a *components) makeMoves() {
	a.mover = move.NewMover(move.MoverDeps{
		Host: a.Host, Pools: a.pools, Space: a.space, Keys: a.keys, Nodes: a.nodes, Keeper: a.keeper,
		Programs: a.programs,
		Moves:    a.moveTable, Copies: a.copies, Installer: a.installer, Datasets: a.datasets, Puller: a.puller,
		PeerHTTP: a.config.PeerHTTP, Standing: a.deadlines.Session,
	})
	a.source = move.NewSender(move.SenderDeps{
		Host: a.Host, Pools: a.pools, Keys: a.keys, Leases: a.leases, Uses: a.uses, Quiescer: a.quiescer,
		Sizes: a.sizes, Snapshotter: a.snapshotter, Retention: a.retention,
		AskGenerations: a.askGenerations,
		Transfers:      func() *transfer.Server { return a.sender },
	})
	a.sender.Source = a.source
	a.bringer = move.NewBringer(move.BringerDeps{
		Host: a.Host, Pools: a.pools, Nodes: a.nodes, Failover: a.failover, Mover: a.mover, Puller: a.puller,
		PeerHTTP: a.config.PeerHTTP,
	})
	a.cleaner = cleanup.New(cleanup.Deps{
		Host: a.Host, Pools: a.pools, Keys: a.keys, Moves: a.moveTable, Installer: a.installer,
		Datasets: a.datasets, Registration: a.registration,
	})
}

// askGenerations is generation.Keeper.Ask for callers that need the error alone.
func (a *components) askGenerations(ctx context.Context) error {
	_, _, err := a.generations.Ask(ctx)
	return err
}

// makePoolAdmin makes what an operator manages the pools of this node with.
func (a *components) makePoolAdmin() {
	a.creator = pooladmin.NewCreator(pooladmin.CreatorDeps{
		Host: a.Host, Backends: a.config.Backends, Pools: a.pools, Opener: a.poolOpener, Maker: a.poolMaker,
		Keys: a.keys, Registration: a.registration,
		Generations: a.generations, Reporter: a.reporter, Holdings: a.holdings,
	})
	a.remover = pooladmin.NewRemover(pooladmin.RemoverDeps{
		Host: a.Host, Backends: a.config.Backends, Configured: a.config.Pools, Pools: a.pools, Opener: a.poolOpener,
		Maker: a.poolMaker, Keys: a.keys,
		Registration: a.registration, Reporter: a.reporter, Copies: a.copies, Moves: a.moveTable,
		Operations: a.operations, Cleaner: a.cleaner,
	})
	a.quarantine = pooladmin.NewQuarantine(pooladmin.QuarantineDeps{
		Host: a.Host, Pools: a.pools, Generations: a.generations, RecordFiles: a.recordFiles, Copies: a.copies,
		Executor: a.executor,
	})
	a.collector = pooladmin.NewCollector(pooladmin.CollectorDeps{
		Host: a.Host, Backends: a.config.Backends, Pools: a.pools, Datasets: a.datasets, Copies: a.copies,
		Verifier: a.verifier,
	})
	a.trimmer = &pooladmin.Trimmer{Host: a.Host, Pools: a.pools, Configured: a.config.Pools}
}

// makeControlSync makes what keeps this node and control in agreement.
func (a *components) makeControlSync() {
	a.status = &controlsync.StatusReader{
		Host: a.Host, Pools: a.pools, Uses: a.uses, Engines: a.engines, Disks: a.disks, Sizes: a.sizes,
		Throttle: a.limits,
	}
	a.reporter = controlsync.NewReporter(controlsync.ReporterDeps{
		Host: a.Host, Replicas: a.apart, Pools: a.pools, Unmade: func() []api.Pool { return a.poolMaker.Unmade },
		Registrar: a.registrar, Uses: a.uses, Guests: a.guests,
		GuestTable: a.guestTable, Status: a.status, Facts: a.facts, StoreClock: a.storeClock,
		ReplicaStatus:     a.replicas.Copy,
		ReportGenerations: a.generations.ReportTo,
		Executor:          a.executor, Rounds: a.rounds,
	})
	a.holdings = controlsync.NewHoldings(controlsync.HoldingsDeps{
		Host: a.Host, Replicas: a.apart, Pools: a.pools, Leases: a.leases, StoreClock: a.storeClock,
		IsNeeded: a.cleaner.IsNeeded, Accept: func(ctx context.Context) error { return a.follower.Accept(ctx) },
	})
	a.follower = controlsync.NewFollower(controlsync.FollowerDeps{
		Host: a.Host, Registration: a.registration, Identity: a.identity, StoreClock: a.storeClock, Facts: a.facts,
		Keeper: a.keeper, Nodes: a.nodes, Leases: a.leases, Registrar: a.registrar, Pools: a.pools, Guests: a.guests,
		Resolver: a.resolver, Copies: a.copies, Retention: a.retention, Relinquisher: a.relinquisher,
		Operations: a.operations, RecordFiles: a.recordFiles, Holdings: a.holdings,
		ForgetGiven:    a.forgetGiven,
		AskGenerations: a.askGenerations,
		Executor:       a.executor, CleanUp: a.cleaner.CleanUp, WarnOfKeys: func() { a.keyChecker.Warn() },
	})
}

// makeMounting makes what mounts datasets, and what knows who uses them.
func (a *components) makeMounting() {
	a.disks = mounting.NewDisks(a.Host, a.pools, a.prober)
	a.holders = mounting.NewHolders(a.Host, a.pools)
	a.quiescer = mounting.NewQuiescer(mounting.QuiescerDeps{
		Host: a.Host, Throttle: a.limits, Flushes: &a.flushes, Go: a.wg.Go,
	})
	a.guestTable = mounting.NewGuestTable(a.Host)
	a.reservations = mounting.NewReservations(a.Host)
	a.unmounter = mounting.NewUnmounter(mounting.UnmounterDeps{
		Host: a.Host, Uses: a.uses, Guests: a.guestTable, Holders: a.holders, Flushes: &a.flushes, Disks: a.disks,
		Throttle: a.limits, Deadlines: a.deadlines, Registrar: a.registrar, Unmounted: a.unmounted,
	})
	a.verifier = mounting.NewVerifier(mounting.VerifierDeps{
		Host: a.Host, Engines: a.engines, Uses: a.uses, Guests: a.guestTable, Holders: a.holders,
		Unmounter: a.unmounter, UseEnded: func(id uuid.UUID) { a.relinquisher.AnswerIfRecalled(id) },
	})
	a.guests = mounting.NewGuests(mounting.GuestsDeps{
		Host: a.Host, Pools: a.pools, Nodes: a.nodes, Uses: a.uses, Engines: a.engines, Verifier: a.verifier,
		Table: a.guestTable, Reservations: a.reservations,
	})
	a.mounter = mounting.NewMounter(mounting.MounterDeps{
		Host: a.Host, Pools: a.pools, Prober: a.prober, Leases: a.leases, Registrar: a.registrar,
		Throttle: a.limits, Engines: a.engines, Uses: a.uses, Guests: a.guests, Verifier: a.verifier,
		Unmounter: a.unmounter, Disks: a.disks, Find: a.finder.Find, MendSoon: a.repairSoon,
		Bring: func(ctx context.Context, d dataset.Dataset) (dataset.Dataset, error) { return a.bringer.Bring(ctx, d) },
		InstallArrived: func(ctx context.Context, d dataset.Dataset) error {
			p, comes := a.moveTable.Get(d.ID)
			if !comes || p.Epoch != d.Epoch || a.moveTable.IsActive(d.ID) {
				return nil
			}
			return a.installer.Install(ctx, d, p)
		},
		SaveSpelling: a.spellings.Save,
	})
	a.resolver = mounting.NewResolver(mounting.ResolverDeps{
		Host: a.Host, Guard: a.config.Guard, Registrar: a.registrar, Uses: a.uses, Guests: a.guestTable,
		Verifier: a.verifier, Unmounter: a.unmounter, Mounter: a.mounter,
	})
}

// makeHandover makes what passes datasets from one home to the next.
func (a *components) makeHandover() {
	a.repairer = handover.NewRepairer(handover.RepairerDeps{
		Host: a.Host, Guard: a.config.Guard, Pools: a.pools, Deadlines: a.deadlines, Registrar: a.registrar,
		Uses: a.uses, Verifier: a.verifier, Unmounter: a.unmounter,
		SettleCopySoon: func(id uuid.UUID) { a.copies.SettleSoon(id) },
		Recorded: func(ctx context.Context) (map[uuid.UUID]dataset.Dataset, string, error) {
			return a.datasets.Recorded(ctx)
		},
	})
	a.relinquisher = handover.NewRelinquisher(handover.RelinquisherDeps{
		Host: a.Host, Pools: a.pools, Leases: a.leases, Uses: a.uses, Verifier: a.verifier, Unmounter: a.unmounter,
		Manifest: func(ctx context.Context, pool backends.Pool, d dataset.Dataset, y lease.Relinquished,
			seen io.Writer) (dataset.Manifest, error) {
			return a.source.Manifest(ctx, pool, d, y, seen)
		},
	})
	a.failover = handover.NewFailover(handover.FailoverDeps{
		Host: a.Host, Nodes: a.nodes, PeerHTTP: a.config.PeerHTTP,
	})
}

// repairSoon is handover.Repairer.RepairSoon, for components that are made before the Repairer.
func (a *components) repairSoon(id uuid.UUID) { a.repairer.RepairSoon(id) }

// unmounted starts the work that waits until a dataset is not mounted any more.
func (a *components) unmounted(id uuid.UUID) {
	a.relinquisher.AnswerIfRecalled(id)
	if _, left := a.Cache.Copy(id); left {
		a.copies.SettleSoon(id)
	}
	if _, guest := a.guestTable.Get(id); guest {
		a.guests.SettleSoon(id, uuid.Nil)
	}
}

// Standing returns when control was last notified that this agent runs: see lease.Deadlines.Session.
func (a *Agent) Standing() (renewed, ttl time.Duration) { return a.deadlines.Session() }

// replicas returns each control replica separately, or the only way to control if there are not several.
func replicas(s api.Service) []api.Service {
	several, ok := s.(interface{ Apart() []*client.Client })
	if !ok {
		return []api.Service{s}
	}
	var out []api.Service
	for _, c := range several.Apart() {
		out = append(out, c)
	}
	return out
}

// rounds does the work of each heartbeat besides the report, and reports whether a pool is online again.
func (a *components) rounds(ctx context.Context) (back bool) {
	if back = a.poolOpener.Retry(ctx); back {
		if err := a.generations.AnnounceLate(ctx); err != nil {
			a.Log.WithError(err).Warn("pool is back, but control does not answer")
		}
		a.recordFiles.WriteAll()
	}
	a.remover.Continue()
	a.prober.ProbeSuspects()
	a.generations.RaiseDue()
	a.trimmer.TrimDue()
	a.unmounter.UnmountForgotten()
	a.verifier.CheckIfDue(ctx)
	a.relinquisher.AnswerAll()
	a.copies.SettleAll()
	a.guests.SettleUnmounted()
	a.repairer.RepairAll()
	a.Jobs.Start("pulls", func(ctx context.Context, _ *jobs.Job) error {
		a.installer.Resume(ctx)
		a.sizes.Retry(ctx)
		a.promises.Unswear(ctx)
		return nil
	})
	return back
}
