package control

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
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
	// Failed is told of what the background work could not do; never nil.
	Failed func(what string, err error)
}

// Service is the control service. It implements api.Service. All methods are
// safe for concurrent use.
type Service struct {
	Deps
	store   store.Store
	started time.Time
	feed    *feed
	events  *events

	mu       sync.Mutex // guards what heartbeats said; none of it is stored
	datasets map[uuid.UUID]dataset.DatasetStatus
	pools    map[uuid.UUID]dataset.PoolStatus
	progress map[uuid.UUID]dataset.Progress

	stop context.CancelFunc
	done chan struct{}
}

var _ api.Service = (*Service)(nil)

// New returns a service that works on the store, with its background work
// running until Close.
func New(d Deps) *Service {
	now := d.Clock.Now()
	ctx, stop := context.WithCancel(context.Background())
	s := &Service{
		Deps: d, store: d.Store, started: now,
		feed: newFeed(uint64(now.UnixNano())), events: newEvents(),
		datasets: map[uuid.UUID]dataset.DatasetStatus{},
		pools:    map[uuid.UUID]dataset.PoolStatus{},
		progress: map[uuid.UUID]dataset.Progress{},
		stop:     stop, done: make(chan struct{}),
	}
	go s.keepHouse(ctx)
	return s
}

// Close stops the background work and lets go of whoever waits. The store stays
// open. Again: nothing.
func (s *Service) Close() {
	s.stop()
	<-s.done
	s.feed.close()
	s.events.close()
}

// Version says what answers.
func (s *Service) Version(context.Context) (api.Version, error) {
	return api.Version{Version: s.Deps.Version, API: "v1", Store: s.StoreName, Started: s.started}, nil
}

// publish tells those who wait of what a transaction changed.
func (s *Service) publish(t *tx) {
	s.feed.publish(t.nodes, t.touched, t.ops)
	now := s.Clock.Now()
	for _, e := range t.events {
		e.Time = now
		s.events.publish(e)
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
