package membership

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/store"
)

// Config is how this service takes part in a cluster.
type Config struct {
	Timing Timing
	// Replica is the name and the address of this service, and Version its version.
	Replica Replica
	Version string
	// Catalog lists the replicas and agents of a shared store. If nil, they are listed nowhere. With PublishFacts the
	// catalog has the facts of the hosts too.
	Catalog      store.Catalog
	PublishFacts bool
	// Incompatible is called once with the reason why this service cannot work beside the others on its store. May be
	// nil.
	Incompatible func(error)
}

// Members handles the nodes and the control replicas of a cluster. It registers agents, and keeps their sessions and
// the session of this service. It records which nodes are unreachable, fenced or cordoned, and suspends failover when
// many nodes are lost at once. Safe for concurrent use.
type Members struct {
	Config
	Ledger         *record.Ledger
	Reports        *reports.Latest
	Uptime         *record.Uptime
	started        time.Time
	replicaSession replicaSession
	sessions       sessions // of agents
	sightings      sightings
	lossCheck      lossCheck
}

// NewMembers returns a Members that has no reports yet. The service starts now.
func NewMembers(u *record.Uptime, r *reports.Latest, c Config) *Members {
	return &Members{Config: c, Ledger: u.Ledger, Reports: r, Uptime: u, started: u.Ledger.Clock.Now()}
}

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
