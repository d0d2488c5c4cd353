package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/pooladmin"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/failurelog"
	"github.com/droverhq/drover/internal/linux/facts"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/plugin"
)

// Config contains the settings and services of an agent.
type Config struct {
	Root     string    // absolute: pools and mount points are below it
	Identity uuid.UUID // the UUID of this node if its database has none yet; if uuid.Nil, a new one is made
	NodeName string
	Address  string // HOST:PORT where other nodes reach this one, or "" if they cannot
	Version  string
	Labels   map[string]string
	Pools    []pool.Config // if empty, the default pool is made
	Control  api.Service
	Replicas []api.Service // each control replica separately; if nil, those of Control
	Backends *backends.Registry
	State    store.Store // the agent's own database, on this node's disk
	Clock    clock.Clock
	Log      logrus.FieldLogger
	Timing   Timing
	Host     facts.Host // the host that facts are read from; if zero, this host
	// Engine returns the facts that are known about the engine. It sends no request to the engine. If nil, nothing is
	// known.
	Engine func() controlsync.Engine

	// Guard fences volumes whose lease is bounded in time. It is nil on a host that works alone.
	Guard lease.Guard

	// PeerHTTP sends requests to other nodes' agents, with this node's certificate. If nil, there are no other nodes.
	PeerHTTP http.RoundTripper
	// PeerID returns the node that sent a request. If nil, that is the node of the connection's verified certificate.
	PeerID func(*http.Request) (uuid.UUID, error)
	// TransferRate limits how many bytes a second all transfers together send to and receive from peers. If 0, there is
	// no limit.
	TransferRate dataset.Size
	// StallLimit is how long restic may make no progress: see restic.Options. Tests choose less than the default.
	StallLimit time.Duration
	// Freezer is the command line of a program that runs freezer.Serve. If empty, no filesystem is frozen for a
	// snapshot.
	Freezer []string
	// FencePrograms are the programs that profiles and repositories may name: as a fence command, or to print a key or
	// a password. If nil, any program that only root can change is allowed.
	FencePrograms []string
	// ListAll makes the engine's list show the volumes of all nodes.
	ListAll bool
	Cgroups throttle.Cgroups // control groups that limit volumes
	// Checks add findings about this process that no component of the agent knows, such as those of its certificate.
	// They must be fast and safe for concurrent use.
	Checks []func(*condition.List)
	// OperationEnded is called after each operation that this agent carried out. It must be fast. If nil, it is not
	// called.
	OperationEnded func(op dataset.Operation, err error, took time.Duration)
	// Runner runs the programs of FencePrograms. If nil, they run on this host.
	Runner run.Runner
}

// Timing has the time limits and intervals of the agent. Zero values take the defaults.
type Timing = host.Timing

// Agent is the agent of one host: its life cycle, and the methods of the plugin and the API. Most are those of its
// components, which it embeds. All methods are safe for concurrent use.
type Agent struct{ *components }

var _ api.Local = (*Agent)(nil)

// New creates the agent from its database. It may write to the database and to the file with the identity, for example
// to record the identity of a new node. It opens no pool, mounts nothing and sends no request. If New returns no error,
// the caller calls Close, even if Start fails.
func New(ctx context.Context, cfg Config) (*Agent, error) {
	cfg.Timing = cfg.Timing.OrDefault()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the boot ID: %w", err)
	}
	// The kernel shows mount points without symbolic links.
	if cfg.Root, err = filepath.EvalSymlinks(cfg.Root); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	db := host.OpenDB(cfg.State)
	if err := db.CheckFormat(ctx); err != nil {
		return nil, err
	}
	a := &components{
		Host: &host.Host{
			Incarnation: uuid.New(), NodeName: cfg.NodeName, Boot: strings.TrimSpace(string(boot)), Root: cfg.Root,
			Control: cfg.Control, DB: db, Cache: host.NewCache(), News: host.NewNews(),
			Membership: host.NewMembership(db),
			Clock:      cfg.Clock, Log: cfg.Log, Timing: cfg.Timing,
		},
		Config: cfg,
	}
	a.create(ctx)
	if err := a.load(ctx); err != nil {
		a.Cancel()
		a.endLeases()
		return nil, err
	}
	return &Agent{a}, nil
}

// create creates the components, the lower ones first, and connects them: see connect.
func (a *components) create(ctx context.Context) {
	a.Locks.Clock = a.Config.Clock
	solo := a.Config.PeerHTTP == nil
	a.Trust = host.NewTrust("drover store recover")
	if solo {
		a.Trust = host.NewTrust("drover store recover --from-pools")
	}
	if a.controlReplicas = a.Config.Replicas; a.controlReplicas == nil {
		a.controlReplicas = replicas(a.Config.Control)
	}
	a.Ctx, a.Cancel = context.WithCancel(context.WithoutCancel(ctx))
	a.Jobs = host.New(a.Ctx, &a.wg)
	a.Jobs.Abandoned = func(ctx context.Context, what string, err error) {
		if !errors.Is(err, operation.ErrLost) { // another request made the volume
			requestid.Log(ctx, a.Log).WithError(err).Log(failurelog.LevelOf(err), what+" failed")
		}
	}
	// leaseCtx has the values of ctx, but does not end with it.
	a.leaseCtx, a.endLeases = context.WithCancel(context.WithoutCancel(ctx))
	if a.Config.Runner == nil {
		a.Config.Runner = &run.System{}
	}
	a.Programs = &host.Programs{Runner: a.Config.Runner, Allowed: a.Config.FencePrograms}
	if a.Config.PeerID == nil {
		a.Config.PeerID = move.CertifiedNode
	}
	limits, keys := throttle.New(a.Host, a.Config.Cgroups), operation.NewKeyring(a.Host, a.Programs)
	pools := pool.New(a.Host, limits, keys, a.Config.Backends, a.Config.Pools)
	leases := lease.New(a.Host, pools, a.Config.Guard, a.Config.PeerHTTP, a.controlReplicas)
	operations := operation.New(mounting.New(a.Host, pools, leases, limits, a.Config.Freezer), keys)
	operations.ListAll = a.Config.ListAll
	moves := move.New(operations, a.Config.PeerID, a.Config.TransferRate)
	admin := pooladmin.New(controlsync.New(moves, controlsync.Config{
		Node: a.Config.Identity, Address: a.Config.Address, Version: a.Config.Version, Labels: a.Config.Labels,
		Solo: solo, Backends: a.Config.Backends,
		Source: a.Config.Host, Engine: a.Config.Engine,
	}))
	a.Backups = backup.New(operations, admin.Identity, a.Config.Version, a.Config.StallLimit)
	a.Catalog = a.Backups.Catalog
	a.Doctor = doctor.New(admin, a.Backups, a.Config.Checks)
	a.connect()
}

// Start opens the pools, cleans up after a crash, registers with control and starts the background work. After it has
// returned, the plugin can be served.
func (a *Agent) Start(ctx context.Context) error {
	// Only root may enter: a program in a volume may belong to root with its setuid bit set, and a container's
	// root may have put it there.
	err := os.MkdirAll(a.MountRoot(), 0o700)
	if err == nil {
		err = os.Chmod(a.MountRoot(), 0o700)
	}
	if err != nil {
		return fmt.Errorf("create the mount folder: %w", err)
	}
	if there, err := filepath.EvalSymlinks(a.MountRoot()); err != nil || there != a.MountRoot() {
		return errors.Join(err, dataset.Errorf(dataset.ErrInvalid,
			"the mount folder %s is a symbolic link (put a folder in its place)", a.MountRoot()))
	}
	st := a.Leases.Registrar.AwaitGuard(ctx)
	a.leaseWork.Go(func() { a.Leases.Deadlines.Run(a.leaseCtx) }) // before the rest of the start, which may take long
	if err := a.Pools.Open(ctx); err != nil {
		return err
	}
	a.ApplyGuard(st, 0)
	err = a.Throttle.Load(ctx)      // before the first mount, which can reuse a device number
	if err == nil && !a.Recovered { // after a loss of the database, only control knows the mounts
		_, err = a.Resolver.Resolve(ctx)
	}
	if err != nil {
		return err
	}
	a.Verifier.PostponeCheck()
	s, err := a.Follower.Join(ctx)
	if err != nil && !errors.Is(err, dataset.ErrUnavailable) && !errors.Is(err, dataset.ErrInUse) {
		return err
	}
	if a.Recovered && err != nil { // a filesystem that an interrupted snapshot left frozen must not wait for control
		if _, err := a.Resolver.Resolve(ctx); err != nil {
			return err
		}
	}
	a.Jobs.Start("interrupted backups", func(ctx context.Context, _ *host.Job) error {
		a.Backups.Clear(ctx)
		return nil
	})
	a.wg.Go(func() { a.Backups.RunSweeps(a.Ctx) })
	a.leaseWork.Go(func() { a.Leases.Deadlines.Renew(a.leaseCtx) })
	a.wg.Go(a.Throttle.Run)
	a.wg.Go(a.Watcher.Run)
	a.wg.Go(func() { a.Backups.Repositories.RunProbes(a.Ctx) })
	a.wg.Go(a.Replicas.Run)
	if a.Config.Guard != nil {
		a.wg.Go(a.Leases.Registrar.Watch)
	}
	reported := make(chan struct{})
	a.wg.Go(func() { a.Follower.Run(s, err == nil) })
	a.wg.Go(func() { a.Reporter.Run(func() { close(reported) }) })
	select { // control should know the state of each volume before the plugin answers
	case <-reported:
	case <-a.Clock.After(firstReportTime):
	case <-ctx.Done():
	}
	return nil
}

// firstReportTime is how long Start waits for the first report to control. A report can take longer, because a pool's
// disk may not answer.
const firstReportTime = 3 * time.Second

// Close stops the work. The next start continues recorded operations. Mounts stay. Close is idempotent.
func (a *Agent) Close() error {
	a.Jobs.Close(a.Cancel)
	a.wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	a.Status.ForgetRemoved(ctx)
	err := errors.Join(a.Cache.SaveChanged(ctx, a.DB), a.StoreClock.Save(ctx), a.Status.SaveUsages(ctx),
		a.Reporter.SaveAnswer(ctx, 0))
	a.endLeases()
	a.leaseWork.Wait()
	a.Registration.Leave(ctx)
	a.LostWrites.Close()
	return errors.Join(err, a.Pools.Close())
}

// Node returns the node's UUID.
func (a *Agent) Node() uuid.UUID { return a.NodeID }

// Doctor is doctor.Doctor.Examine.
func (a *Agent) Doctor(ctx context.Context) ([]api.Finding, error) { return a.Examine(ctx) }

// RebuildStore is controlsync.Holdings.RebuildStore.
func (a *Agent) RebuildStore(ctx context.Context, r api.RebuildStore) ([]api.Rebuilt, error) {
	return a.Holdings.RebuildStore(ctx, r)
}

// Import makes a volume from a tar archive.
func (a *Agent) Import(ctx context.Context, req api.Request, r io.Reader) (dataset.Dataset, error) {
	return a.Importer.ImportArchive(ctx, req, r)
}

// VolumeHolders returns who uses a volume whose home is this node: see mounting.Holders.Examine.
func (a *Agent) VolumeHolders(ctx context.Context, volume string) (dataset.Holders, error) {
	d, known := a.Cache.Volume(volume)
	if id, err := uuid.Parse(volume); err == nil && !known {
		d, known = a.Cache.Dataset(id)
	}
	if !known {
		v, err := a.Control.Volume(ctx, volume)
		if err != nil {
			return dataset.Holders{}, err
		}
		d = v.Dataset
	}
	if d.Home != a.NodeID {
		return dataset.Holders{}, dataset.Errorf(dataset.ErrUnsupported,
			"holders of volume %s: its home is another node, and only that node can examine them (drover volume "+
				"inspect %s shows it)", d.Volume, d.Volume)
	}
	return a.components.Holders.Examine(ctx, d), nil
}

// CheckRepository is backup.Checker.Check.
func (a *Agent) CheckRepository(ctx context.Context, c api.RepositoryCheck) (api.RepositoryState, error) {
	return a.Backups.Repositories.Check(ctx, c)
}

// Mount and Unmount are methods of mounting.Mounts. The other calls of the plugin, except Activated, are methods of
// operation.Operations.
var _ plugin.Agent = (*Agent)(nil)

// Activated is mounting.Verifier.Activated.
func (a *Agent) Activated(ctx context.Context) { a.Verifier.Activated(ctx) }

// DamagedMark is part of the names of files in the root that could not be read at a start and were renamed: see
// doctor.DamagedMark.
const DamagedMark = doctor.DamagedMark

// GuardStatus calls lease.Registrar.Status.
func (a *Agent) GuardStatus(ctx context.Context) (guard.Status, error) {
	return a.Leases.Registrar.Status(ctx)
}

// Peers returns the handler of the requests of other nodes' agents, or nil if this node works alone.
func (a *Agent) Peers() http.Handler {
	if a.Config.PeerHTTP == nil {
		return nil
	}
	h := http.NewServeMux()
	h.Handle("/", a.TransferServer.Handler())
	h.HandleFunc(lease.Path, func(w http.ResponseWriter, r *http.Request) {
		peer, err := a.Config.PeerID(r)
		a.Leases.ServePromise(w, r, peer, err)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The work must end with the request. The values of the request's context describe the connection of the peer,
		// so requests to control must not get them, except the ID of the request.
		ctx, cancel := context.WithCancel(requestid.With(a.Ctx, r.Header.Get(requestid.Header)))
		defer cancel()
		defer context.AfterFunc(r.Context(), cancel)()
		if id, err := a.Config.PeerID(r); err == nil { // otherwise the handler reports the error
			ctx = move.WithRequester(ctx, id)
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}
