package membership

import (
	"context"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/ledger"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/store"
	"github.com/google/uuid"
)

// MembersDeps are the dependencies of Members.
type MembersDeps struct {
	Ledger  *ledger.Ledger
	Reports *reports.Latest
	// Shared is true if other services may work on the same store.
	Shared bool
	Timing Timing
	// Replica is the name and the address of this service, Version its version, and Started when it started.
	Replica Replica
	Version string
	Started time.Time
	// Catalog lists the replicas and agents of a shared store. If nil, they are listed nowhere. With PublishFacts the
	// catalog has the facts of the hosts too.
	Catalog      store.Catalog
	PublishFacts bool
	// Uptime returns for how long services have run on the store.
	Uptime func(*record.Tx) (time.Duration, error)
	// Registered is called after a node has registered.
	Registered func(context.Context, api.Registration) error
	// Renewing is called before each renewal of the session of this service.
	Renewing func()
	// Incompatible is called once with the reason why this service cannot work beside the others on its store. May be
	// nil.
	Incompatible func(error)
	// Failed is called with the failures of the background work. Must not be nil.
	Failed func(what string, err error)
}

// Members handles the nodes and the control replicas of a cluster. It registers agents, and keeps their sessions and
// the session of this service. It records which nodes are unreachable, fenced or cordoned, and suspends failover when
// many nodes are lost at once. Safe for concurrent use.
type Members struct {
	MembersDeps
	replicaSession replicaSession
	sessions       sessions // of agents
	sightings      sightings
	lossCheck      lossCheck
}

// NewMembers returns a Members that has no reports yet.
func NewMembers(d MembersDeps) *Members { return &Members{MembersDeps: d} }

// UnreachableFor returns how long this service has seen the record of an unreachable node (a key under away/) with the
// given index. The first call for an index counts as the moment when the record was first seen. After a restart of the
// service the time begins at zero.
func (m *Members) UnreachableFor(key string, index uint64) time.Duration {
	return m.sightings.observe(key, index, m.Ledger.Clock.Steady())
}

// UnreachableSince returns when this service first saw the present record of an unreachable node, by the steady clock.
// It returns false if it has not seen the record.
func (m *Members) UnreachableSince(key string) (time.Duration, bool) { return m.sightings.since(key) }

// Session returns the session of a node's agent, if the agent has renewed it at this service. Otherwise it returns the
// zero value.
func (m *Members) Session(node uuid.UUID) record.Alive { return m.sessions.get(node) }

// ForgetSession drops the remembered session of a node, so that its next renewal reads the session from the store.
func (m *Members) ForgetSession(node uuid.UUID) { m.sessions.drop(node) }

// ReplicaSession returns the session of this service; "" if there is none.
func (m *Members) ReplicaSession() string { return m.replicaSession.get() }
