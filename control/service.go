package control

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/agentsync"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/deletion"
	"github.com/droverhq/drover/control/exports"
	"github.com/droverhq/drover/control/generation"
	"github.com/droverhq/drover/control/health"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/ledger"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/noderemoval"
	"github.com/droverhq/drover/control/notify"
	"github.com/droverhq/drover/control/placer"
	"github.com/droverhq/drover/control/planning"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/recovery"
	"github.com/droverhq/drover/control/relocation"
	"github.com/droverhq/drover/control/replica"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/repositories"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/uptime"
	"github.com/droverhq/drover/control/vetting"
	"github.com/droverhq/drover/control/view"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/requestid"
)

// Profiles is the set of profiles that is valid now.
type Profiles = planning.Profiles

// Deps are the dependencies of Service.
type Deps struct {
	Store     store.Store
	StoreName string // "bolt" or "consul", for Version and ClusterHealth
	Profiles  func() planning.Profiles
	Clock     clock.Clock
	Version   string
	// Shared is true if other services may work on the same store. This service then notifies the others of its
	// changes, and learns of the changes of the others.
	Shared bool
	// Catalog lists the replicas and agents of a shared store. If nil, they are listed nowhere. With PublishFacts the
	// catalog has the facts of the hosts too.
	Catalog      store.Catalog
	PublishFacts bool
	// Replica is the name and the address of this service. It is used only if Shared is set.
	Replica membership.Replica
	Timing  membership.Timing
	// Authority returns the authority of the cluster; nil if there is no cluster. It may read the authority again at
	// each call.
	Authority func() (*pki.Authority, error)
	// Incompatible is called once with the reason why this service cannot work beside the others on its store (see
	// membership.CheckCompatible). The service then does no background work. May be nil.
	Incompatible func(error)
	// Failed is called with the failures of the background work. Must not be nil.
	Failed func(what string, err error)
	// Findings returns the findings about the host of this service. If nil, there are none.
	Findings func() []api.Finding
	// ExportTo stores exports of the records in repositories. If nil, none are stored.
	ExportTo exports.Repositories
}

// Service is the control service. It implements api.Service. All methods are safe for concurrent use. Its exported
// fields are its dependencies and components. Assemble sets them, and they must not change while requests run.
type Service struct {
	Deps
	*membership.Admission
	*membership.Members
	*recovery.Recovery
	*generation.Recorder
	*view.Views
	*health.Reader
	*repositories.Registry
	*agentsync.Syncer
	Feed        *notify.Feed
	EventLog    *notify.EventLog
	Reports     *reports.Latest
	Ledger      *ledger.Ledger
	Uptime      *uptime.Counter
	CopyKeeper  *replica.Keeper
	Relocator   *relocation.Relocator
	Housekeeper *housekeeping.Housekeeper
	Exports     *exports.Exporter

	vetted      *vetting.Profiles
	placer      *placer.Placer
	volumes     *planning.Planner
	deleter     *deletion.Deleter
	nodeRemover *noderemoval.NodeRemover

	started time.Time
	stop    context.CancelFunc
	quit    <-chan struct{} // closed when the service must stop
	done    sync.WaitGroup
}

var (
	_ api.Service = (*Service)(nil)
	_ api.Members = (*Service)(nil)
)

// New returns a service on the store. Its background work runs until Close.
func New(d Deps) *Service {
	s, ctx := Assemble(d)
	s.done.Go(func() { s.Housekeeper.Run(ctx) })
	if d.ExportTo != nil {
		s.done.Go(func() { s.Exports.Run(ctx) })
	}
	if s.Shared {
		s.done.Go(func() { s.Members.KeepSession(ctx) })
		s.done.Go(func() { s.Ledger.FollowReplicas(ctx) })
	}
	return s
}

// Schedules returns the state of the schedules of snapshots and backups: see housekeeping.Housekeeper.
func (s *Service) Schedules() ([]housekeeping.Schedule, []housekeeping.BackupSchedule) {
	return s.Housekeeper.Schedules(), s.Housekeeper.BackupSchedules()
}

// Assemble returns a service whose background work is not started. New starts it, and a test runs single rounds. The
// background work must end when ctx ends.
func Assemble(d Deps) (s *Service, ctx context.Context) {
	now, plain := d.Clock.Now(), d.Store
	d.Timing, d.Store = d.Timing.OrDefault(), record.WithFormat(d.Store)
	ctx, stop := context.WithCancel(context.Background())
	s = &Service{
		Deps: d, started: now,
		Feed: notify.NewFeed(), EventLog: notify.NewEventLog(now), Reports: reports.New(),
		stop: stop, quit: ctx.Done(),
	}
	s.Ledger = ledger.New(ledger.Deps{
		Store:    d.Store,
		Clock:    d.Clock,
		Feed:     s.Feed,
		Events:   s.EventLog,
		Shared:   d.Shared,
		Restored: func() { s.Uptime.Forget() },
		Failed:   d.Failed,
	})
	s.Uptime = uptime.New(s.Ledger)
	s.vetted = vetting.New(func(name string) (dataset.Profile, error) { return d.Profiles().Get(name) })
	s.Recorder = generation.New(s.Ledger)
	s.Views = view.New(view.Deps{
		Ledger: s.Ledger, Reports: s.Reports, Shared: d.Shared,
		NextSnapshot: func(t *record.Tx, of dataset.Dataset) (time.Time, error) {
			return housekeeping.NextSnapshot(t, of, d.Clock.Now())
		},
		AddBackups: housekeeping.AddBackups(d.Clock),
		ReplicaShortage: func(t *record.Tx, of dataset.Dataset) (string, error) {
			return s.CopyKeeper.Shortage(t, of)
		},
	})
	s.Admission = membership.NewAdmission(membership.AdmissionDeps{Ledger: s.Ledger, Authority: d.Authority})
	s.Members = membership.NewMembers(membership.MembersDeps{
		Ledger:       s.Ledger,
		Reports:      s.Reports,
		Shared:       d.Shared,
		Timing:       d.Timing,
		Replica:      d.Replica,
		Version:      d.Version,
		Started:      now,
		Catalog:      d.Catalog,
		PublishFacts: d.PublishFacts,
		Uptime:       s.Uptime.RunTime,
		Registered: func(ctx context.Context, r api.Registration) error {
			return s.nodeRemover.ClearRemoved(ctx, r)
		},
		Renewing:     func() { s.Recovery.Expire() },
		Incompatible: d.Incompatible,
		Failed:       d.Failed,
	})
	s.makeReaders(d, plain)
	s.makePlanners(d)
	s.Recovery = recovery.NewRecovery(recovery.RecoveryDeps{
		Ledger:            s.Ledger,
		Reports:           s.Reports,
		Shared:            d.Shared,
		Session:           d.Timing.Session,
		Quit:              s.quit,
		Living:            s.Members.LiveAgents,
		WithKnownSettings: s.vetted.WithKnownSettings,
		PutInTrash:        s.Uptime.PutInTrash,
		Finish:            s.finish,
	})
	return s, ctx
}

// makeReaders makes the components that report the health of the cluster and know the repositories. plain is the store
// as it was opened.
func (s *Service) makeReaders(d Deps, plain store.Store) {
	s.Reader = health.New(health.Deps{
		Ledger: s.Ledger, Reports: s.Reports, Store: plain, StoreName: d.StoreName, NodeList: s.NodeList,
		Shared: d.Shared, Own: d.Findings, MassLoss: s.Members.MassLossSoon,
		LateBackups: func(ctx context.Context) ([]api.Finding, error) { return s.Housekeeper.LateBackups(ctx) },
		Exports:     func(ctx context.Context) ([]api.Finding, error) { return s.Exports.Findings(ctx) },
	})
	s.Registry = repositories.New(s.Ledger)
	s.Exports = exports.New(exports.Deps{
		Ledger: s.Ledger, Store: d.Store, StoreKind: d.StoreName, Shared: d.Shared, Repositories: d.ExportTo,
		IsHousekeeper: func() bool { return s.Housekeeper.IsActive() },
		Failed:        d.Failed,
	})
}

// makePlanners makes the components that decide on requests.
func (s *Service) makePlanners(d Deps) {
	s.placer = placer.New(placer.Deps{Reports: s.Reports, Members: s.Members, Shared: d.Shared})
	s.CopyKeeper = replica.New(replica.Deps{
		Ledger: s.Ledger, Reports: s.Reports, Placer: s.placer, Shared: d.Shared, MaxReportAge: d.Timing.MaxClockAge(),
		Uptime: s.Uptime.RunTime, LastRunTime: s.Uptime.LastRunTime,
	})
	s.Housekeeper = &housekeeping.Housekeeper{Deps: housekeeping.Deps{
		Ledger: s.Ledger, Feed: s.Feed, Events: s.EventLog, Reported: s.Reports, Uptime: s.Uptime,
		CopyKeeper: s.CopyKeeper, Placer: s.placer, Members: s.Members, Shared: d.Shared,
		Interval: d.Timing.Housekeeping,
		Failed:   d.Failed, CancelOperation: s.CancelOperation,
		Submit: func(ctx context.Context, req api.Request) (api.Outcome, error) {
			return s.submitAny(requestid.WithBy(ctx, requestid.Schedule), req)
		},
	}}
	s.Syncer = agentsync.New(agentsync.Deps{
		Ledger: s.Ledger, Reports: s.Reports, Feed: s.Feed, Shared: d.Shared, Quit: s.quit,
	})
	s.Relocator = relocation.New(relocation.Deps{
		Members:             s.Members,
		Shared:              s.Shared,
		Copies:              s.CopyKeeper,
		End:                 s.endOperation,
		Placer:              s.placer,
		Reports:             s.Reports,
		CheckNoSharedMounts: s.checkNoSharedMounts,
		Uptime:              s.Uptime,
		Vetted:              s.vetted,
		Clock:               d.Clock,
		Timing:              d.Timing,
	})
	s.volumes = &planning.Planner{Deps: planning.Deps{
		Profiles:            d.Profiles,
		CopyKeeper:          s.CopyKeeper,
		Ledger:              s.Ledger,
		Placer:              s.placer,
		Relocator:           s.Relocator,
		Reported:            s.Reports,
		CheckNoSharedMounts: s.checkNoSharedMounts,
		LivingSession:       membership.LivingSession,
		Clock:               d.Clock,
	}}
	s.deleter = &deletion.Deleter{Deps: deletion.Deps{
		Shared:              s.Shared,
		End:                 s.endOperation,
		Ledger:              s.Ledger,
		CheckNoSharedMounts: s.checkNoSharedMounts,
		Uptime:              s.Uptime,
		Clock:               d.Clock,
	}}
	s.nodeRemover = &noderemoval.NodeRemover{Deps: noderemoval.Deps{
		Admission:  s.Admission,
		Views:      s.Views,
		CopyKeeper: s.CopyKeeper,
		End:        s.endOperation,
		Ledger:     s.Ledger,
		Reported:   s.Reports,
		Clock:      d.Clock,
	}}
}

// Close stops the background work and ends the requests that wait. It does not close the store. Idempotent.
func (s *Service) Close() {
	s.stop()
	s.done.Wait()
}

// Version returns the version of this service and of its API.
func (s *Service) Version(context.Context) (api.Version, error) {
	return api.Version{Version: s.Deps.Version, API: "v1", Store: s.StoreName, Started: s.started}, nil
}

// Profiles lists all profiles.
func (s *Service) Profiles(context.Context) ([]api.ListedProfile, error) {
	set := s.Deps.Profiles()
	return api.ListedProfiles(set.All(), set.Default()), nil
}

// Profile returns a profile by its name. It fails with dataset.ErrNotFound, which lists the existing profiles.
func (s *Service) Profile(_ context.Context, name string) (dataset.Profile, error) {
	p, err := s.Deps.Profiles().Get(name)
	if err != nil {
		return p, dataset.Errorf(dataset.ErrNotFound, "%w", err)
	}
	return p, nil
}

// ReportCopy is replica.Keeper.ReportCopy.
func (s *Service) ReportCopy(ctx context.Context, node uuid.UUID, c api.CopyReport) error {
	return s.CopyKeeper.ReportCopy(ctx, node, c)
}

// RemoveNode is NodeRemover.RemoveNode.
func (s *Service) RemoveNode(ctx context.Context, ref string, how api.NodeRemoval) (api.RemovedNode, error) {
	return s.nodeRemover.RemoveNode(ctx, ref, how)
}

// Events calls fn for each event after the given ID. It first calls fn for the events in the event log. If follow is
// true, it then waits for new events until ctx ends, fn returns an error, or the service closes.
func (s *Service) Events(ctx context.Context, after uint64, follow bool, fn func(api.Event) error) error {
	for {
		list, wait := s.EventLog.After(after)
		for _, ev := range list {
			if err := fn(ev); err != nil {
				return err
			}
			after = ev.ID
		}
		switch {
		case !follow:
			return nil
		case len(list) > 0:
			continue
		}
		select {
		case <-wait:
		case <-s.quit:
			return ctx.Err() // ctx may have ended as well
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
