package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/cleanup"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/generation"
	"github.com/droverhq/drover/agent/handover"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/keyring"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/pooladmin"
	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/agent/registration"
	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/agent/report"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/agent/transfer"
	"github.com/droverhq/drover/agent/volume"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/facts"
	"github.com/droverhq/drover/internal/run"
)

// Config is what an agent needs.
type Config struct {
	Root     string    // absolute: pools and mount points are below it
	Identity uuid.UUID // the UUID of this node if its database does not have it yet; uuid.Nil: a new one is made
	NodeName string
	Address  string // HOST:PORT where other nodes reach this one; "": nowhere
	Version  string
	Labels   map[string]string
	Pools    []pool.Config // none: the default pool is made
	Control  api.Service
	Replicas []api.Service // each control replica separately; nil: those of Control
	Backends *backends.Registry
	State    store.Store // the agent's own database, on this node's disk
	Clock    clock.Clock
	Log      logrus.FieldLogger
	Limits   Limits
	Host     facts.Host // where facts are read from; zero: this host
	// Engine returns what is known of the engine, without asking it; nil: nothing is.
	Engine func() registration.Engine

	// Guard fences volumes whose lease is bounded in time; nil: there are none on a host that works alone.
	Guard lease.Guard

	// PeerHTTP reaches other nodes' agents, with this node's certificate; nil: there are none.
	PeerHTTP http.RoundTripper
	// PeerID returns which node sent a request; nil: the node of the connection's verified certificate.
	PeerID func(*http.Request) (uuid.UUID, error)
	// TransferRate limits how many bytes a second are sent to and received from peers, all together; 0: no limit.
	TransferRate dataset.Size
	// FencePrograms are the programs that fence commands may run; nil: any that belongs to root.
	FencePrograms []string
	// ListAll makes the engine's list show the volumes of all nodes.
	ListAll bool
	Cgroups throttle.Cgroups // control groups that limit volumes
	// Runner runs fence commands; nil: this host does.
	Runner run.Runner
}

// Limits are the times that the agent keeps. Zero values take the defaults.
type Limits = host.Limits

// Agent is the agent of one host. All methods are safe for concurrent use.
type Agent struct {
	*host.Host
	config Config
	apart  []api.Service // each control replica separately

	identity     *registration.Identity
	storeClock   *registration.StoreClock
	registration *registration.Registration
	facts        *registration.Facts

	pools     *pool.Pools
	leases    *lease.Table
	keeper    *promise.Keeper // this node's promises to others
	promises  *lease.PromiseServer
	deadlines *lease.Deadlines
	renewals  *lease.Renewals
	limits    *throttle.Limits
	engines   *mounting.Engines
	registrar *lease.Registrar
	uses      *mounting.UseTable
	holders   *mounting.Holders
	quiescer  *mounting.Quiescer
	flushes   mounting.Flushes
	disks     *mounting.Disks

	guestTable   *mounting.GuestTable
	reservations *mounting.Reservations
	guests       *mounting.Guests
	unmounter    *mounting.Unmounter
	verifier     *mounting.Verifier
	mounter      *mounting.Mounter
	resolver     *mounting.Resolver

	status   *controlsync.StatusReader
	reporter *controlsync.Reporter
	holdings *controlsync.Holdings
	follower *controlsync.Follower

	repairer     *handover.Repairer
	relinquisher *handover.Relinquisher
	failover     *handover.Failover

	nodes       *lease.Nodes
	moveTable   *replication.MoveTable
	access      *replication.Access
	retention   *replication.Retention
	replicas    *replication.Replicas
	copies      *replication.Copies
	inspections *replication.Inspections
	installer   *replication.Installer

	programs *host.Programs
	keys     *keyring.Keyring

	operations  *operation.Runner
	requester   *operation.Requester
	sizes       *operation.Sizes
	recordFiles *operation.RecordWriter
	datasets    *operation.Datasets
	executor    *operation.Executor
	maker       *operation.Maker
	importer    *operation.Importer
	snapshotter *operation.Snapshotter
	exporter    *operation.Exporter

	spellings *volume.Spellings
	finder    *volume.Finder
	viewer    *volume.Viewer
	requests  *volume.Requests

	poolChecker *doctor.PoolChecker
	keyChecker  *doctor.KeyChecker
	doctor      *doctor.Doctor

	mover   *move.Mover
	source  *move.Sender // what this node sends to others
	bringer *move.Bringer
	cleaner *cleanup.Cleaner

	generations *generation.Keeper
	creator     *pooladmin.Creator
	remover     *pooladmin.Remover
	quarantine  *pooladmin.Quarantine
	collector   *pooladmin.Collector
	trimmer     *pooladmin.Trimmer

	sender *transfer.Server // to other nodes
	puller *transfer.Client // from them

	// leaseCtx is the context of renewals and deadlines, which leaseWork waits for. They continue until an agent that
	// stops has finished its work: after that, nobody could repair a dataset that was fenced meanwhile.
	leaseCtx  context.Context
	endLeases context.CancelFunc
	leaseWork sync.WaitGroup

	stop context.CancelFunc
	wg   sync.WaitGroup
}

var _ api.Local = (*Agent)(nil)

// New opens what is on disk. Nothing is mounted or changed before Start.
func New(ctx context.Context, cfg Config) (*Agent, error) {
	cfg.Limits = cfg.Limits.OrDefault()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the boot ID: %w", err)
	}
	// the kernel shows mount points without symbolic links
	if cfg.Root, err = filepath.EvalSymlinks(cfg.Root); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	a := &Agent{
		Host: &host.Host{
			Incarnation: uuid.New(), NodeName: cfg.NodeName, Boot: strings.TrimSpace(string(boot)), Root: cfg.Root,
			Control: cfg.Control, DB: records.OpenDB(cfg.State), Cache: records.NewCache(), News: report.New(),
			Clock: cfg.Clock, Log: cfg.Log, Limits: cfg.Limits,
		},
		config: cfg,
	}
	a.Locks.Clock = cfg.Clock
	a.storeClock = registration.NewStoreClock(a.DB)
	a.Trust = host.NewTrust(a.storeClock.RepairCommand)
	a.identity = registration.NewIdentity(a.Host, cfg.Identity)
	a.engines = mounting.NewEngines(a.DB, a.Boot)
	a.uses = mounting.NewUseTable(a.Host)
	if a.apart = cfg.Replicas; a.apart == nil {
		a.apart = replicas(cfg.Control)
	}
	a.keeper = promise.NewKeeper(cfg.Clock.Steady)
	a.Ctx, a.stop = context.WithCancel(context.WithoutCancel(ctx))
	a.Jobs = jobs.New(a.Ctx, &a.wg)
	a.makeLeases(ctx)
	a.limits = throttle.New(cfg.Cgroups, a.cgroupDeps())
	a.programs = newPrograms(cfg)
	a.keys = keyring.New(a.keyringDeps())
	a.pools = pool.New(a.poolDeps())
	a.generations = generation.New(generation.Deps{
		Host: a.Host, Replicas: a.apart, Pools: a.pools, Uses: a.uses,
		Register: func(ctx context.Context, gone ...uuid.UUID) error { return a.registration.Register(ctx, gone...) },
	})
	a.makeRegistration()
	a.leases = lease.NewTable(a.DB, a.nodes.Name)
	a.makeFinder()
	a.makeMounting()
	a.makeHandover()
	a.moveTable = replication.NewMoveTable(a.DB, func(id uuid.UUID) { a.replicas.Stop(id) })
	if a.config.PeerID == nil {
		a.config.PeerID = move.CertifiedNode
	}
	a.promises = lease.NewPromiseServer(a.promiseDeps())
	a.makeTransfers()
	a.makeOperations()
	a.makeExporter()
	a.makeVolumes()
	a.access = replication.NewAccess(a.Host)
	a.retention = replication.NewRetention(a.retentionDeps())
	a.inspections = replication.NewInspections(a.inspectionsDeps())
	a.copies = replication.NewCopies(a.copiesDeps())
	a.replicas = replication.NewReplicas(a.replicasDeps())
	a.installer = replication.NewInstaller(a.installerDeps())
	a.makeMoves()
	a.makeControlSync()
	a.makePoolAdmin()
	a.makeDoctor()
	if err := a.load(ctx); err != nil {
		a.stop()
		a.endLeases()
		return nil, err
	}
	return a, nil
}

// makeLeases makes what decides until when datasets with failover auto may be open here. The context of leases has the
// values of ctx, and not its end.
func (a *Agent) makeLeases(ctx context.Context) {
	a.nodes = lease.NewNodes(a.Host, a.Standing)
	a.deadlines = lease.NewDeadlines(lease.DeadlineDeps{
		Host: a.Host, Guard: a.config.Guard, HTTP: a.config.PeerHTTP, Nodes: a.nodes,
		ReadHomes: func(ctx context.Context) (api.Sync, error) { return a.follower.Join(ctx) },
		MendSoon:  a.repairSoon,
	})
	a.renewals = lease.NewRenewals(lease.RenewalDeps{
		Host: a.Host, Replicas: a.apart, Deadlines: a.deadlines,
		Register: func(ctx context.Context) error { return a.registration.Register(ctx) },
	})
	a.leaseCtx, a.endLeases = context.WithCancel(context.WithoutCancel(ctx))
	a.registrar = lease.NewRegistrar(a.registrarDeps())
}

// makeTransfers makes the sender and the receiver of transfers, which share one limit of their rate.
func (a *Agent) makeTransfers() {
	var limit *transfer.Limiter
	if a.config.TransferRate > 0 {
		limit = transfer.NewLimiter(a.Clock, a.config.TransferRate)
	}
	a.sender = a.newSender(limit)
	a.puller = &transfer.Client{HTTP: a.config.PeerHTTP, Clock: a.Clock, Log: a.Log, Limit: limit}
}

// load reads the agent's database.
func (a *Agent) load(ctx context.Context) error {
	if err := a.identity.Load(ctx); err != nil {
		return err
	}
	if err := a.registration.Load(ctx); err != nil {
		return err
	}
	if err := a.engines.Load(ctx); err != nil {
		return err
	}
	if err := a.storeClock.Load(ctx); err != nil {
		return err
	}
	if err := a.follower.Load(ctx); err != nil {
		return err
	}
	return errors.Join(
		a.DB.Each(ctx, "volumes/", func(_ string, v []byte) error {
			var d api.Indexed
			err := json.Unmarshal(v, &d)
			if err == nil {
				a.Cache.Load(d)
			}
			return err
		}),
		a.DB.Each(ctx, "spellings/", func(name string, v []byte) error {
			var r records.Spellings
			err := json.Unmarshal(v, &r)
			if err == nil {
				a.Cache.SetSpellings(name, r)
			}
			return err
		}),
		a.verifier.Load(ctx),
		a.copies.Load(ctx),
		a.leases.Load(ctx), a.guestTable.Load(ctx),
		a.moveTable.Load(ctx), a.sizes.Load(ctx), a.deadlines.Load(ctx),
	)
}

// Start opens the pools, cleans up after a crash, registers with control and starts the work. When it returns the
// plugin can be served.
func (a *Agent) Start(ctx context.Context) error {
	// Only root may enter: a program in a volume may belong to root with its setuid bit set, and a container's
	// root may have put it there.
	err := os.MkdirAll(a.MountRoot(), 0o700)
	if err == nil {
		err = os.Chmod(a.MountRoot(), 0o700)
	}
	if err != nil {
		return fmt.Errorf("make the mount folder: %w", err)
	}
	if there, err := filepath.EvalSymlinks(a.MountRoot()); err != nil || there != a.MountRoot() {
		return errors.Join(err, dataset.Errorf(dataset.ErrInvalid,
			"the mount folder %s is a symbolic link (put a folder in its place)", a.MountRoot()))
	}
	st := a.registrar.Meet(ctx, a.Recovered)
	a.leaseWork.Go(func() { a.deadlines.Run(a.leaseCtx) }) // from here on, because the rest may take long
	if err := a.pools.Open(ctx, a.NodeID, a.Recovered); err != nil {
		return err
	}
	a.repairer.ApplyGuard(st, 0)
	err = a.limits.Load(ctx, a.Recovered) // before a device gets the number of an earlier one
	if err == nil && !a.Recovered {       // otherwise it is not known yet what is mounted
		_, err = a.resolver.Resolve(ctx)
	}
	if err != nil {
		return err
	}
	a.verifier.Delay()
	s, err := a.follower.Join(ctx)
	if err != nil && !errors.Is(err, dataset.ErrUnavailable) && !errors.Is(err, dataset.ErrInUse) {
		return err
	}
	if a.Recovered && err != nil { // a filesystem that a snapshot left frozen does not wait for control
		if _, err := a.resolver.Resolve(ctx); err != nil {
			return err
		}
	}
	a.leaseWork.Go(func() { a.renewals.Run(a.leaseCtx) })
	a.wg.Go(a.limits.Run)
	a.wg.Add(3)
	go func() { defer a.wg.Done(); a.replicas.Run() }()
	if a.config.Guard != nil {
		a.wg.Go(a.registrar.Watch)
	}
	told := make(chan struct{})
	go func() { defer a.wg.Done(); a.follower.Run(s, err == nil) }()
	go func() { defer a.wg.Done(); a.reporter.Run(func() { close(told) }) }()
	select { // so that callers see the state of each volume from now on
	case <-told:
	case <-a.Clock.After(firstTell):
	case <-ctx.Done():
	}
	return nil
}

// firstTell bounds what a start waits for, because a pool's disk may not answer.
const firstTell = 3 * time.Second

// Close stops the work. Recorded operations continue at the next start, and mounts stay. Idempotent.
func (a *Agent) Close() error {
	a.Jobs.Close(a.stop)
	a.wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := errors.Join(a.Cache.SaveChanged(ctx, a.DB), a.storeClock.Save(ctx))
	a.endLeases()
	a.leaseWork.Wait()
	a.registration.Leave(ctx)
	return errors.Join(err, a.pools.Close())
}

// Node returns the node's UUID.
func (a *Agent) Node() uuid.UUID { return a.NodeID }
