package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// Timing contains the time limits of a service. All services on one store must have the same limits. A zero value
// means the default.
type Timing struct {
	// Session is how long a silent agent or service counts as alive, at least. The store may take up to twice as long
	// to end the session. Sessions are renewed five times in this period. The default is 10 s.
	Session time.Duration
	// Housekeeping is the time between two rounds of the background work. The default is HousekeepingInterval.
	Housekeeping time.Duration
}

// HousekeepingInterval is the default of Timing.Housekeeping.
const HousekeepingInterval = 20 * time.Second

// OrDefault returns the limits with the defaults instead of zero values.
func (l Timing) OrDefault() Timing {
	l.Session = cmp.Or(l.Session, 10*time.Second)
	l.Housekeeping = cmp.Or(l.Housekeeping, HousekeepingInterval)
	return l
}

// Replica describes a control service to the other services on the same store. It is the value of a key under
// live/control/.
type Replica struct {
	ID      uuid.UUID `json:"id"`
	Name    string    `json:"name"`
	Address string    `json:"address"` // HOST:PORT
	Version string    `json:"version"`
	Since   time.Time `json:"since"`
}

// CheckCompatible fails with dataset.ErrForbidden if another service uses the store, and its version cannot work
// together with the version of this service. The error names the first such service. CheckCompatible ignores a record
// with the address of this service, which this service wrote before a restart.
func CheckCompatible(ctx context.Context, st store.Store, me Replica) error {
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
			return fmt.Errorf("replica %s cannot work with other replicas: %w", me.Name, err)
		}
	}
	return nil
}

// KeepSession opens a session of this service and renews it until ctx ends. It calls the function before each renewal.
// The record that makes this service known to the others (Replica) is bound to the session. When ctx has ended,
// KeepSession ends the session and removes the service from the catalog.
func (m *Members) KeepSession(ctx context.Context, before func()) {
	reported := false
	for ctx.Err() == nil {
		before()
		err := m.RenewReplicaSession(ctx)
		if errors.Is(err, dataset.ErrForbidden) && m.Incompatible != nil {
			m.Incompatible(err)
			return
		}
		if err != nil && ctx.Err() == nil && !reported {
			m.Ledger.Failed("keep a session of this replica", err)
		}
		reported = err != nil
		select {
		case <-ctx.Done():
		case <-m.Ledger.Clock.After(m.Timing.Session / 5):
		}
	}
	session := m.ReplicaSession()
	if session == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if err := m.Ledger.Store.End(ctx, session); err != nil {
		m.Ledger.Failed("end the session of this replica (others see it until it expires)", err)
	}
	if err := m.Withdraw(ctx); err != nil {
		m.Ledger.Failed("remove this replica from the catalog (another replica does it within a minute)", err)
	}
}

// endTime bounds the time in which a stopping service ends its session and leaves the catalog.
const endTime = 2 * time.Second

// RenewReplicaSession renews the session of this service, or opens one. It fails if another service whose version
// cannot work together with this one has a session. If two services start at the same time, each sees the record of
// the other.
func (m *Members) RenewReplicaSession(ctx context.Context) error {
	if session := m.ReplicaSession(); session != "" {
		err := m.Ledger.Store.Renew(ctx, session)
		if !errors.Is(err, store.ErrNotFound) {
			return record.ReadError(ctx, err)
		}
		m.replicaSession.Store("")
	}
	session, err := m.Ledger.Store.Session(ctx, m.Timing.Session)
	if err != nil {
		return record.ReadError(ctx, err)
	}
	me := m.Replica
	me.ID, me.Version, me.Since = m.Ledger.Replica(), m.Version, m.started
	_, err = m.Ledger.Update(ctx, func(t *record.Tx) error {
		return t.PutWithSession(record.LiveServicesPrefix+me.ID.String(), me, session)
	})
	if err == nil {
		err = CheckCompatible(ctx, m.Ledger.Store, me)
	}
	if err != nil {
		return errors.Join(err, m.Ledger.Store.End(ctx, session))
	}
	m.replicaSession.Store(session)
	return nil
}

// AcquireHousekeeping reports whether this service must do the background work. That is so if it is the only service,
// or if it holds the lock. The lock ends with the session of the service.
func (m *Members) AcquireHousekeeping(ctx context.Context) (bool, error) {
	if !m.Ledger.Shared {
		return true, nil
	}
	session := m.ReplicaSession()
	if session == "" {
		return false, nil
	}
	mine := false
	_, err := m.Ledger.Update(ctx, func(t *record.Tx) error {
		var h record.HousekeeperLock
		taken, err := t.Get(record.HousekeeperKey, &h)
		mine = err == nil && (!taken || h.Replica == m.Ledger.Replica())
		if err != nil || taken {
			return err
		}
		return t.PutWithSession(record.HousekeeperKey, record.HousekeeperLock{
			Replica: m.Ledger.Replica(),
			Since:   m.Ledger.Clock.Now(),
		}, session)
	})
	if errors.Is(err, store.ErrNotFound) { // the session has ended meanwhile
		return false, nil
	}
	return mine && err == nil, err
}

// MaxClockAge is the largest possible age of the last clock that a node reported, at the moment when the node is
// recorded as unreachable. It is the sum of three durations. Two heartbeats are at most 2 × Session apart, because a
// session ends at most 2 × Session after its last renewal. After a missed heartbeat, the session lasts for up to
// another 2 × Session. After the end of the session, the node is recorded by the next round of the background work.
func (l Timing) MaxClockAge() time.Duration { return 4*l.Session + l.Housekeeping }
