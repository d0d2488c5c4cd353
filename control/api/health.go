package api

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

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

// SilentPrefix begins the text of a finding about a node that has a session, but has not reported for too long. Control
// does not know whether its agent runs. drover status adds the volumes whose home the node is.
const SilentPrefix = "not reporting for "

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
