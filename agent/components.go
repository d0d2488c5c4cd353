package agent

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/droverhq/drover/agent/cleanup"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/generation"
	"github.com/droverhq/drover/agent/handover"
	"github.com/droverhq/drover/agent/host"
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
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/agent/transfer"
	"github.com/droverhq/drover/agent/volume"
	"github.com/droverhq/drover/control/api"
)

// components are the parts of an agent, and what connects them. Its fields do not change once they are made.
type components struct {
	*host.Host
	config Config
	apart  []api.Service // each control replica separately

	identity     *registration.Identity
	storeClock   *registration.StoreClock
	registration *registration.Registration
	facts        *registration.Facts

	pools      *pool.Pools
	prober     *pool.Prober
	poolMaker  *pool.Maker
	poolOpener *pool.Opener
	space      *pool.Space

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
	source  *move.Sender // the data that this node sends to others
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
	// stops has finished its work: after that, a dataset that was fenced meanwhile could not be repaired.
	leaseCtx  context.Context
	endLeases context.CancelFunc
	leaseWork sync.WaitGroup

	stop context.CancelFunc
	wg   sync.WaitGroup
}

// makeLeases makes what decides until when datasets with failover auto may be open here. The context of leases has the
// values of ctx, and not its end.
func (a *components) makeLeases(ctx context.Context) {
	a.nodes = lease.NewNodes(a.Host, func() (renewed, ttl time.Duration) { return a.deadlines.Session() })
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
func (a *components) makeTransfers() {
	var limit *transfer.Limiter
	if a.config.TransferRate > 0 {
		limit = transfer.NewLimiter(a.Clock, a.config.TransferRate)
	}
	a.sender = a.newSender(limit)
	a.puller = &transfer.Client{HTTP: a.config.PeerHTTP, Clock: a.Clock, Log: a.Log, Limit: limit}
}

// load reads the agent's database.
func (a *components) load(ctx context.Context) error {
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
