package api

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Node is a node as people see it.
type Node struct {
	dataset.Node
	Facts *dataset.Facts `json:"facts,omitempty"` // facts of the host as last recorded; absent: none yet
	// the agent is reachable
	Live bool `json:"live"`
	// when the agent registered. If it is unreachable: when it became unreachable. Absent: not known.
	StatusSince time.Time `json:"status_since,omitzero"`
	// the guard of the node responded at the last heartbeat
	GuardRunning bool `json:"guard_running,omitempty"`
	Fenced       bool `json:"fenced,omitempty"` // the node is unreachable, and an operator confirmed that it is fenced
	// the node is draining, and no volume has its home there and no replica is left; the trash does not count
	Drained bool `json:"drained,omitempty"`
}

// Cordoned sets whether new datasets may be placed on a node. With Draining, the data of the node must also leave it:
// replicas leave automatically, and volumes when they are moved.
type Cordoned struct {
	Cordoned bool `json:"cordoned"`           // nothing new is placed on the node
	Draining bool `json:"draining,omitempty"` // data must leave the node; only with cordoned
}

// Fenced is an operator's confirmation that a node no longer writes.
type Fenced struct {
	Confirmed bool `json:"confirmed"` // the operator confirms that the node is fenced
}

// FailoverState is whether volumes with failover auto continue from a copy automatically.
type FailoverState struct {
	// why automatic failover is suspended, and how to end the suspension; empty: it is not suspended
	Halted string `json:"halted,omitempty"`
	// when automatic failover was suspended; absent: it is not suspended
	HaltedSince time.Time `json:"halted_since,omitzero"`
}

// NodeRemoval is how a node is removed.
type NodeRemoval struct {
	Force  bool // also while volumes have their home there, or it has data that no other node has
	DryRun bool // only decide, and change nothing
}

// RemovedNode is a node that was removed.
type RemovedNode struct {
	dataset.Node
	Live bool `json:"live,omitempty" doc:"only in a preview: the agent of the node is reachable"`
	// Some of the volumes whose home the node is; they cannot be used until they have another home.
	Homes     []string `json:"homes,omitempty"`
	Forgotten []string `json:"forgotten,omitempty" doc:"data that only this node had; its records were removed"`
	// Volumes whose only replica the node has: until another node has one, only their homes have their data.
	Unprotected []string `json:"unprotected,omitempty"`
}

// AdoptPool asks to take over an existing pool.
type AdoptPool struct {
	Path   string `json:"path" doc:"path or device of the pool"`
	DryRun bool   `json:"dry_run,omitempty" doc:"only decide: open the pool and close it again, and record nothing"`
}

// AcceptPool asks to let a quarantined pool serve in its present state.
type AcceptPool struct {
	Confirmed bool `json:"confirmed" doc:"the caller confirms that the data which the pool lacks is lost"`
	// Only decide: answer as the request would without it, and change nothing.
	DryRun bool `json:"dry_run,omitempty"`
}

// PoolPolicy is the part of a pool's configuration that can be changed while the pool serves.
type PoolPolicy struct {
	// highest allowed ratio of the sizes of its volumes to its size; 0: not limited
	Overcommit float64 `json:"overcommit"`
}

// Adopted is an adopted pool and the datasets that were found in it.
type Adopted struct {
	Pool    dataset.Pool `json:"pool"`    // the pool that was adopted
	Rebuilt []Rebuilt    `json:"rebuilt"` // result for each dataset that was found in the pool
}

// Pool is a pool as people see it.
type Pool struct {
	dataset.Pool
	NodeName string `json:"node_name"` // name of the node that has the pool
	// the node is unreachable: control has no session with it, or it has not reported for more than 18 seconds
	Unreachable bool `json:"unreachable,omitempty"`
	// last reported status of the pool; absent: not reported yet
	Status *dataset.PoolStatus `json:"status,omitempty"`
}

// PoolRemoval is how a pool is removed.
type PoolRemoval struct {
	Forget bool // only delete the record, and touch nothing at the path of the pool
	DryRun bool // only decide, and change nothing
}

// RemovedPool is a pool that was removed.
type RemovedPool struct {
	Pool dataset.Pool `json:"pool"` // the pool that was removed
	// Notes have the profiles that name the pool, and what remains where the pool was.
	Notes []string `json:"notes,omitempty" doc:"what remains at the path of the pool, and which profiles name the pool"`
}

// NewPool asks an agent to create a pool.
type NewPool struct {
	Name    string `json:"name"`    // name of the new pool
	Backend string `json:"backend"` // backend that manages the pool
	Path    string `json:"path,omitempty" doc:"path of the pool; may be absent if devices is set"`
	Image   string `json:"image,omitempty" doc:"size of a preallocated image file that is made at path"`

	Devices []string `json:"devices,omitempty" doc:"empty block devices of which the pool is made"`
	// highest allowed ratio of the sizes of its volumes to its size; absent: not limited
	Overcommit float64 `json:"overcommit,omitempty"`
}

// The values of Finding.Level.
const (
	LevelOK      = "ok"
	LevelInfo    = "info"
	LevelWarning = "warning"
	LevelError   = "error"
)

// Finding is one line of the report of drover doctor.
type Finding struct {
	Condition string `json:"condition"`                          // code in docs/reference/conditions.md
	Level     string `json:"level" enum:"ok,info,warning,error"` // severity of the finding
	Subject   string `json:"subject"`                            // what it is about: "pool default", "dataset f23c…"
	Text      string `json:"text"`                               // the finding, for a person
	Fix       string `json:"fix,omitempty"`                      // command that fixes it; empty: none
}

// NeedsAttention reports whether a finding is a warning or an error.
func (f Finding) NeedsAttention() bool { return f.Level == LevelWarning || f.Level == LevelError }

// Collected is an object of a pool that was destroyed because the store does not know it.
type Collected struct {
	Dataset   uuid.UUID `json:"dataset"`          // UUID of the object
	Pool      string    `json:"pool"`             // name of the pool that had it
	Path      string    `json:"path,omitempty"`   // where it was
	Volume    string    `json:"volume,omitempty"` // name in the record beside the data; empty: there was none
	Snapshots int       `json:"snapshots"`        // number of its snapshots
}

// Version describes the server.
type Version struct {
	Version string    `json:"version"`        // version of the program
	API     string    `json:"api"`            // version of the API
	Node    string    `json:"node,omitempty"` // name of the node that answers; empty: not a node
	Store   string    `json:"store"`          // kind of the store
	Started time.Time `json:"started"`        // when the program started
}

// MaxReportedFindings is the largest number of findings that a node reports of itself.
const MaxReportedFindings = 100

// NodeFindings is what an agent found when it last examined its host. Only warnings and errors are listed.
type NodeFindings struct {
	Examined time.Time `json:"examined"`           // when the agent examined its host, by its own clock
	Findings []Finding `json:"findings,omitempty"` // what needs attention, errors first
	Omitted  int       `json:"omitted,omitempty"`  // number of further findings that are not listed
}

// ClusterHealth is the state of the parts of a cluster, as the control replica that answers knows it.
type ClusterHealth struct {
	Store    StoreHealth      `json:"store"`              // state of the store
	Replicas []ControlReplica `json:"replicas,omitempty"` // control replicas that are alive; absent: on a single host
	Nodes    []NodeHealth     `json:"nodes"`              // all nodes, by name
	// what could not be read, so that the lists above may be incomplete, and which scheduled backups are late
	Findings []Finding `json:"findings,omitempty"`
}

// StoreHealth is the state of the store.
type StoreHealth struct {
	Kind     string        `json:"kind"`               // kind of the store, as in Version
	Leader   string        `json:"leader,omitempty"`   // address of the leader; absent: none, or the store has none
	Servers  []StoreServer `json:"servers,omitempty"`  // servers of the store; absent: not known
	Findings []Finding     `json:"findings,omitempty"` // what needs attention about the store
	// why changes are suspended, with the next command: the store was lost, or is an older one; absent: they are not
	Halted string `json:"halted,omitempty"`
}

// StoreServer is one server of the store.
type StoreServer struct {
	Name    string `json:"name"`             // name of the server
	Address string `json:"address"`          // HOST:PORT
	Healthy bool   `json:"healthy"`          // the server follows the leader closely enough to replace it
	Leader  bool   `json:"leader,omitempty"` // the server is the leader
	// time since the server last heard from the leader; absent: not known
	LastContact dataset.Duration `json:"last_contact,omitempty"`
}

// ControlReplica is a control replica that is alive.
type ControlReplica struct {
	ID      uuid.UUID `json:"id"`      // UUID of the running process
	Name    string    `json:"name"`    // name of its host
	Address string    `json:"address"` // HOST:PORT
	Version string    `json:"version"` // version of the program
	Since   time.Time `json:"since"`   // when the replica started
	// the replica does the background work: schedules, retention, the trash
	Housekeeper bool `json:"housekeeper,omitempty"`
}

// NodeHealth is what a node last reported of itself to the control replica that answers.
type NodeHealth struct {
	Node uuid.UUID `json:"node"` // UUID of the node
	Name string    `json:"name"` // name of the node
	Live bool      `json:"live"` // the agent is reachable
	// last report of the agent to this control replica; absent: none since the replica started
	Reported time.Time `json:"reported,omitzero"`
	// what the agent found on its host; absent: the agent has not examined its host since it started
	Found *NodeFindings `json:"found,omitempty"`
}

type knownAtKey struct{}

// WithKnownAt returns a context for a request whose answer may be older than the request. The function returns the
// time that SetKnownAt was called with, or the zero time.
func WithKnownAt(ctx context.Context) (context.Context, func() time.Time) {
	var at atomic.Pointer[time.Time]
	return context.WithValue(ctx, knownAtKey{}, &at), func() time.Time {
		if t := at.Load(); t != nil {
			return *t
		}
		return time.Time{}
	}
}

// SetKnownAt records that control is unreachable, and that the answer to a request is the state that this host knew at
// time t. It does nothing if the context is not from WithKnownAt. Safe for concurrent use.
func SetKnownAt(ctx context.Context, t time.Time) {
	if at, ok := ctx.Value(knownAtKey{}).(*atomic.Pointer[time.Time]); ok {
		at.Store(&t)
	}
}

// ListedProfile is a profile in a list.
type ListedProfile struct {
	dataset.Profile
	Default bool `json:"default,omitempty"` // volumes that request no profile get this one
}

// ListedProfiles returns the profiles in their order. def is the name of the default profile.
func ListedProfiles(all []dataset.Profile, def string) []ListedProfile {
	list := make([]ListedProfile, len(all))
	for i, p := range all {
		list[i] = ListedProfile{Profile: p, Default: p.Name == def}
	}
	return list
}
