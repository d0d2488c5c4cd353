package control

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/deletion"
	"github.com/droverhq/drover/control/health"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/recovery"
	"github.com/droverhq/drover/control/relocation"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/repositories"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/view"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/requestid"
)

// Profiles is the set of profiles that is valid at present. profiles.Set implements it.
type Profiles interface {
	// Get returns a profile by its name, or the default profile if the name is empty. It fails with
	// dataset.ErrInvalid, which lists the existing profiles.
	Get(name string) (dataset.Profile, error)
	All() []dataset.Profile
	// Default returns the name of the default profile.
	Default() string
}

// Deps are the dependencies of Service.
type Deps struct {
	Store     store.Store
	StoreName string // "bolt" or "consul", for Version and ClusterHealth
	Profiles  func() Profiles
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
	ExportTo repositories.Repositories
}

// Service is the control service. It implements api.Service. All methods are safe for concurrent use. Its exported
// fields are its dependencies and components. Assemble sets them, and they must not change while requests run.
type Service struct {
	Deps
	*membership.Admission
	*membership.Members
	*recovery.Recovery
	*membership.GenerationRecorder
	*view.Views
	*health.Reader
	*repositories.Registry
	*view.Syncer
	Feed        *record.Feed
	EventLog    *record.EventLog
	Reports     *reports.Latest
	Ledger      *record.Ledger
	Uptime      *record.Uptime
	CopyKeeper  *placement.CopyKeeper
	Relocator   *relocation.Relocator
	Housekeeper *housekeeping.Housekeeper
	Exports     *repositories.Exporter

	vetted      *reports.Profiles
	placer      *placement.Placer
	deleter     *deletion.Deleter
	nodeRemover *deletion.NodeRemover

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
		s.done.Go(func() { s.Members.KeepSession(ctx, s.Recovery.Expire) })
		s.done.Go(func() { s.Ledger.FollowReplicas(ctx) })
	}
	return s
}

// Schedules returns the state of the schedules of snapshots and backups: see housekeeping.Housekeeper. Both lists are
// empty while another control replica does the background work.
func (s *Service) Schedules(ctx context.Context) ([]housekeeping.Schedule, []housekeeping.BackupSchedule, error) {
	if !s.Housekeeper.IsActive() {
		return nil, nil, nil
	}
	backups, err := s.Housekeeper.BackupSchedules(ctx)
	return s.Housekeeper.Schedules(), backups, err
}

// Assemble returns a service whose background work is not started. New starts it, and a test runs single rounds. The
// background work must end when ctx ends.
func Assemble(d Deps) (s *Service, ctx context.Context) {
	plain := d.Store
	d.Timing, d.Store = d.Timing.OrDefault(), record.WithFormat(d.Store)
	ctx, stop := context.WithCancel(context.Background())
	s = &Service{Deps: d, started: d.Clock.Now(), Reports: reports.New(), stop: stop, quit: ctx.Done()}
	s.Ledger = record.NewLedger(d.Store, d.Clock, d.Shared, d.Failed)
	s.Feed, s.EventLog = s.Ledger.Feed, s.Ledger.Events
	s.Uptime = record.NewUptime(s.Ledger)
	s.Ledger.Restored = s.Uptime.Forget
	s.vetted = reports.NewProfiles(func(name string) (dataset.Profile, error) { return d.Profiles().Get(name) })
	s.GenerationRecorder = membership.NewGenerationRecorder(s.Ledger)
	s.Admission = membership.NewAdmission(s.Ledger, d.Authority)
	s.Members = membership.NewMembers(s.Uptime, s.Reports, membership.Config{
		Timing: d.Timing, Replica: d.Replica, Version: d.Version, Catalog: d.Catalog, PublishFacts: d.PublishFacts,
		Incompatible: d.Incompatible,
	})
	s.placer = placement.New(s.Members)
	s.CopyKeeper = placement.NewKeeper(s.placer, s.Uptime)
	s.Housekeeper = housekeeping.New(s.CopyKeeper, ownRequests{s})
	s.Views = view.New(s.CopyKeeper, s.Housekeeper)
	s.Registry = repositories.New(s.Ledger)
	s.Exports = repositories.NewExporter(s.Ledger, d.StoreName, d.ExportTo, s.Housekeeper)
	s.Reader = health.New(s.Members, plain, d.StoreName, d.Findings, s.Exports.Findings, s.Housekeeper.LateBackups)
	s.Syncer = view.NewSyncer(s.Ledger, s.Reports, s.quit)
	s.Relocator = relocation.New(s.CopyKeeper, s.Views, s.vetted, s.endOperation)
	s.deleter = deletion.New(s.Views, s.Uptime, s.endOperation)
	s.nodeRemover = deletion.NewNodeRemover(s.Admission, s.Views, s.CopyKeeper, s.endOperation)
	s.Recovery = recovery.NewRecovery(s.Members, s.vetted, s.quit, s.finish)
	return s, ctx
}

// ownRequests makes requests for schedules, whose IDs no caller may use.
type ownRequests struct{ s *Service }

func (r ownRequests) Submit(ctx context.Context, req api.Request) (api.Outcome, error) {
	return r.s.submitAny(requestid.WithBy(ctx, requestid.Schedule), req)
}

func (r ownRequests) CancelOperation(ctx context.Context, ref string) (dataset.Operation, error) {
	return r.s.CancelOperation(ctx, ref)
}

// Register records a node and its pools, and removes what is left of a removed node with the same pools: see
// membership.Members and deletion.NodeRemover.
func (s *Service) Register(ctx context.Context, r api.Registration) error {
	if err := s.Members.Register(ctx, r); err != nil {
		return err
	}
	return s.nodeRemover.ClearRemoved(ctx, r)
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

// ReportCopy is placement.CopyKeeper.ReportCopy.
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
