package controlsync

import (
	"context"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/linux/facts"
)

// Config has the settings of a Sync.
type Config struct {
	Node     uuid.UUID // the UUID of this node if its database has none yet; if uuid.Nil, a new one is made
	Address  string    // HOST:PORT where other nodes reach this one, or "" if they cannot
	Version  string
	Labels   map[string]string
	Solo     bool // control's store belongs to this host only
	Backends *backends.Registry
	Source   facts.Host    // the host that facts are read from; if zero, this host
	Engine   func() Engine // returns what is known of the engine without asking it; nil if nothing is known
}

// Sync keeps this node and control in agreement. Its methods are safe for concurrent use.
type Sync struct {
	*move.Moves
	Config

	Identity     *Identity
	StoreClock   *StoreClock
	Registration *Registration
	Facts        *Facts
	Status       *StatusReader
	Trash        *TrashReader
	Reporter     *Reporter
	Holdings     *Holdings
	Follower     *Follower

	// Set by Connect.
	generations Generations
	cleaner     Cleaner
	keys        KeyChecker
	findings    Findings
	worker      Worker
}

// Generations are the generations of this node's pools.
type Generations interface {
	Store(ctx context.Context) error // has control record them
	// Ask asks every control replica for them. all reports whether each one has answered.
	Ask(ctx context.Context) (all bool, err error)
	// ReportTo reports generations to one control replica.
	ReportTo(ctx context.Context, to api.Service, generations map[uuid.UUID]uint64) error
}

// Cleaner cleans up in the pools.
type Cleaner interface {
	// IsNeeded reports whether a dataset is needed although it has no record: running work makes or reads it.
	IsNeeded(ds uuid.UUID) bool
	// CleanUp completes or undoes what a crash interrupted in the pools. lost has the datasets that were recorded when
	// this agent last read control's records, and that are not recorded now.
	CleanUp(ctx context.Context, lost map[uuid.UUID]bool)
}

// KeyChecker checks keys and fence programs.
type KeyChecker interface {
	WarnOfKeys() // logs the problems
}

// Findings are the findings of the examinations of this host.
type Findings interface {
	Last() *api.NodeFindings // those of the last examination; nil before the first one
}

// Worker does the work of each heartbeat other than the report. It returns true if a pool has come online again.
type Worker interface {
	DoHeartbeatWork(ctx context.Context) (back bool)
}

// New returns the Sync of a host. The caller calls Connect.
func New(m *move.Moves, cfg Config) *Sync {
	s := &Sync{Moves: m, Config: cfg}
	s.Identity = &Identity{Host: m.Host, configured: cfg.Node}
	s.StoreClock = &StoreClock{db: m.DB}
	s.Registration = &Registration{Sync: s}
	if s.Source.FS == nil {
		s.Source = facts.Host{FS: os.DirFS("/"), Machine: facts.Machine}
	}
	s.Facts = &Facts{Sync: s}
	s.Status = &StatusReader{Sync: s}
	s.Trash = &TrashReader{Sync: s}
	s.Reporter = &Reporter{Sync: s}
	s.Holdings = &Holdings{s}
	s.Follower = &Follower{Sync: s}
	return s
}

// Connect sets the components that are made later. It is called before the agent starts.
func (s *Sync) Connect(g Generations, c Cleaner, k KeyChecker, f Findings, w Worker) {
	s.generations, s.cleaner, s.keys, s.findings, s.worker = g, c, k, f, w
}
