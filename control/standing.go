package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/ledger"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// Limits are the times that services keep. Services that share a store have the same. Zero values take the
// defaults.
type Limits struct {
	// Session is how long the store takes a silent agent or service for alive, at least; at most twice that (10
	// s). It is renewed five times as often.
	Session time.Duration
	// House is how often the background work looks what is due (20 s).
	House time.Duration
}

func (l Limits) orDefault() Limits {
	if l.Session == 0 {
		l.Session = 10 * time.Second
	}
	if l.House == 0 {
		l.House = houseEvery
	}
	return l
}

func (l Limits) renewEvery() time.Duration { return l.Session / 5 }

// Replica is a service that shares a store with others, as the others see it.
type Replica struct {
	ID      uuid.UUID `json:"id"`
	Name    string    `json:"name"`
	Address string    `json:"address"` // HOST:PORT
	Version string    `json:"version"`
	Since   time.Time `json:"since"`
}

// Fits fails with dataset.ErrForbidden if services share the store whose versions do not work together with this
// one's, and names the first. A service at the same address is this one, from before its restart.
func Fits(ctx context.Context, st store.Store, me Replica) error {
	others, err := record.ListAll[Replica](record.NewTx(ctx, st), record.LiveServicesPrefix)
	if err != nil {
		return err
	}
	for _, r := range others {
		if r.ID == me.ID || r.Address != "" && r.Address == me.Address {
			continue
		}
		if err := api.Compatible(me.Version, r.Version,
			fmt.Sprintf("control replica %s (%s)", r.Name, r.Address)); err != nil {
			return fmt.Errorf("replica %s cannot work beside others: %w", me.Name, err)
		}
	}
	return nil
}

// standing is this service's own session.
type standing struct {
	mu      sync.Mutex
	session string // "": there is none
}

func (s *standing) get() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session
}

func (s *standing) set(session string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = session
}

// keepStanding keeps a session of this service until ctx ends, with what the others see of it, and then ends the
// session.
func (s *Service) keepStanding(ctx context.Context) {
	told := false
	for ctx.Err() == nil {
		err := s.stand(ctx)
		if errors.Is(err, dataset.ErrForbidden) && s.Unfit != nil {
			s.Unfit(err)
			return
		}
		if err != nil && ctx.Err() == nil && !told {
			s.Failed("keep a session of this replica", err)
		}
		told = err != nil
		select {
		case <-ctx.Done():
		case <-s.Clock.After(s.Limits.renewEvery()):
		}
	}
	session := s.standing.get()
	if session == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if err := s.store.End(ctx, session); err != nil {
		s.Failed("end the session of this replica, which others see until it is over", err)
	}
	if err := s.withdraw(ctx); err != nil {
		s.Failed("take this replica out of the catalog, as another one does within a minute", err)
	}
}

// endTime bounds what a stopping service waits for.
const endTime = 2 * time.Second

// stand renews the session or opens one, but not beside services whose versions do not work together with this
// one's. Of two that start at the same time, each sees the other.
func (s *Service) stand(ctx context.Context) error {
	s.gathering.expire(s.Clock.Steady())
	if session := s.standing.get(); session != "" {
		err := s.store.Renew(ctx, session)
		if !errors.Is(err, store.ErrNotFound) {
			return record.ReadError(ctx, err)
		}
		s.standing.set("")
	}
	session, err := s.store.Session(ctx, s.Limits.Session)
	if err != nil {
		return record.ReadError(ctx, err)
	}
	me := s.Replica
	me.ID, me.Version, me.Since = s.ledger.Replica(), s.Deps.Version, s.started
	_, err = s.ledger.Update(ctx, func(t *record.Tx) error {
		return t.PutBound(record.LiveServicesPrefix+me.ID.String(), me, session)
	})
	if err == nil {
		err = Fits(ctx, s.store, me)
	}
	if err != nil {
		return errors.Join(err, s.store.End(ctx, session))
	}
	s.standing.set(session)
	return nil
}

// takeHouse reports whether this service must do the background work: it is alone, or holds the lock, which ends
// with its session.
func (s *Service) takeHouse(ctx context.Context) (bool, error) {
	if !s.Shared {
		return true, nil
	}
	session := s.standing.get()
	if session == "" {
		return false, nil
	}
	mine := false
	_, err := s.ledger.Update(ctx, func(t *record.Tx) error {
		var h ledger.Housekeeper
		taken, err := t.Get(record.HouseKey, &h)
		mine = err == nil && (!taken || h.Replica == s.ledger.Replica())
		if err != nil || taken {
			return err
		}
		return t.PutBound(record.HouseKey, ledger.Housekeeper{
			Replica: s.ledger.Replica(),
			Since:   s.Clock.Now(),
		}, session)
	})
	if errors.Is(err, store.ErrNotFound) { // the session has ended meanwhile
		return false, nil
	}
	return mine && err == nil, err
}
