package control

import (
	"context"
	"sync"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/notify"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
)

// Profiles is the set of profiles as it is now; profiles.Set implements it.
type Profiles interface {
	// Get returns a profile; the default one for an empty name. ErrInvalid
	// lists those there are.
	Get(name string) (dataset.Profile, error)
	All() []dataset.Profile
}

// Deps is what a service is made of.
type Deps struct {
	Store     store.Store
	StoreName string // "bolt", for version
	Profiles  func() Profiles
	Clock     clock.Clock
	Version   string
	// Shared says that other services may work on the store too: this one tells them
	// what it changes, and hears what they do.
	Shared bool
	// Catalog is where others find the replicas and agents of a shared store; nil: nowhere.
	// With PublishFacts they find the facts of the hosts there as well.
	Catalog      store.Catalog
	PublishFacts bool
	// Replica says who this service is, with Shared: its name and address.
	Replica Replica
	Limits  Limits
	// Authority is the cluster's; nil where there is no cluster. It may be read anew
	// each time.
	Authority func() (*pki.Authority, error)
	// Unfit is told, once, why this service cannot work beside the others on its store
	// (see Fits), and does none of the background work then; nil: nobody is.
	Unfit func(error)
	// Failed is told of what the background work could not do; never nil.
	Failed func(what string, err error)
}

// Service is the control service. It implements api.Service. All methods are
// safe for concurrent use.
type Service struct {
	Deps
	store      store.Store
	started    time.Time
	ran        ran
	feed       *notify.Feed
	events     *notify.EventLog
	counts     counts
	seen       seen
	recalled   recalled
	out        *outbox // what others are told of; nil: there are none
	highest    highest // clock of the store
	clockReads clockReads
	gathering  gathering
	revoked    revoked

	generations generations // of pools
	standing    standing
	sessions    sessions // of agents
	absent      absent
	lossLook    lossLook

	stop context.CancelFunc
	quit <-chan struct{} // closed when the service is to stop
	done sync.WaitGroup
}

var (
	_ api.Service = (*Service)(nil)
	_ api.Members = (*Service)(nil)
)

// New returns a service that works on the store, with its background work
// running until Close.
func New(d Deps) *Service {
	s, ctx := newService(d)
	s.done.Go(func() { s.keepHouse(ctx) })
	if s.Shared {
		s.done.Go(func() { s.keepStanding(ctx) })
		s.done.Go(func() { s.hearOthers(ctx) })
	}
	return s
}

// newService returns a service without its background work, which is to end
// with ctx.
func newService(d Deps) (s *Service, ctx context.Context) {
	now := d.Clock.Now()
	d.Limits = d.Limits.orDefault()
	ctx, stop := context.WithCancel(context.Background())
	s = &Service{
		Deps: d, store: d.Store, started: now,
		feed: notify.NewFeed(), events: notify.NewEventLog(now), seen: newSeen(),
		recalled: recalled{clock: d.Clock, of: map[string]recall{}},
		stop:     stop, quit: ctx.Done(),
	}
	if d.Shared {
		s.out = newOutbox()
	}
	s.revoked.looked.L = &s.revoked.mu
	return s, ctx
}

// Close stops the background work and lets go of whoever waits. The store stays
// open. Again: nothing.
func (s *Service) Close() {
	s.stop()
	s.done.Wait()
}

// Version says what answers.
func (s *Service) Version(context.Context) (api.Version, error) {
	return api.Version{Version: s.Deps.Version, API: "v1", Store: s.StoreName, Started: s.started}, nil
}

// publish tells those who wait of what a transaction changed.
func (s *Service) publish(t notify.Notice) {
	s.feed.Publish(t)
	s.events.Publish(t.Events...)
	if t.All {
		s.feed.Forget()
	}
}

// Profiles lists all profiles.
func (s *Service) Profiles(context.Context) ([]dataset.Profile, error) {
	return s.Deps.Profiles().All(), nil
}

// Profile returns one; ErrNotFound lists those there are.
func (s *Service) Profile(_ context.Context, name string) (dataset.Profile, error) {
	p, err := s.Deps.Profiles().Get(name)
	if err != nil {
		return p, dataset.Errorf(dataset.ErrNotFound, "%w", err)
	}
	return p, nil
}
