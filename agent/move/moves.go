// Package move copies datasets between nodes, and passes their homes on.
//
// A sender and a receiver copy snapshots and files (Server and Client in pull.go, push of frames in frame.go). Replicas
// keeps the copies of this node up to date, Copies applies control's decisions about them, and Retention keeps the
// snapshots that other nodes need. TransferSource provides what this node sends. The work without state is done by
// methods of Moves: Move drives a move to this node (moving.go), Bring begins one for a mount (bringer.go), Install
// makes an arrived copy the head of a dataset (installer.go), AnswerRecalls ends the use of a dataset at its former
// home (relinquisher.go), TakeOver continues a dataset whose home is lost (failover.go), and BoundLease gives a volume
// a lease that is bounded in time (bounder.go).
//
// MoveTable has the moves to this node, on disk under pulls/; copies are under copies/. lease.Leases has the datasets
// that this node has relinquished. The rest of the state is in memory, with a mutex for each type that has some. The
// lock of a dataset (host.Host.Locks) is held while its lease, its mount or its data changes.
//
// Lower packages call some types by interfaces: Moves implements mounting.Moves and operation.Mover, Copies
// mounting.Copies, and MoveTable lease.Arrivals and operation.MovedFiles.
package move

import (
	"context"
	"net/http"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/dataset"
)

// Moves moves datasets between this node and others. Its methods are safe for concurrent use.
type Moves struct {
	*operation.Operations

	MoveTable      *MoveTable
	Access         *Access
	Retention      *Retention
	Copies         *Copies
	Replicas       *Replicas
	TransferSource *TransferSource // provides the data that this node sends to other nodes
	TransferServer *Server         // sends datasets to other nodes
	TransferClient *Client         // receives datasets from other nodes

	// Set by Connect.
	generations Generations
	store       StoreComparer
	usages      Usages

	// rate is how many bytes a second the last copy to this node had that was large enough to be measured, or 0.
	rate atomic.Int64
}

// Generations are the generations of this node's pools.
type Generations interface {
	// Ask asks every control replica for them. all reports whether each one has answered.
	Ask(ctx context.Context) (all bool, err error)
}

// StoreComparer compares control's store with what this node has seen.
type StoreComparer interface{ CompareStoreSoon() }

// Usages are the usages of datasets that this node has read.
type Usages interface {
	Last(id uuid.UUID) dataset.Usage // the last usage of a dataset; the zero value if none is known
}

// New returns the Moves of a host. peerID returns the node that sent a request. All transfers together send and receive
// at most rate bytes a second; if rate is 0, there is no limit. The caller calls Connect.
func New(o *operation.Operations, peerID func(*http.Request) (uuid.UUID, error), rate dataset.Size) *Moves {
	m := &Moves{Operations: o}
	m.MoveTable = &MoveTable{
		Moves: m, Table: host.NewTable[MoveRecord](o.DB, "pulls/"), active: map[uuid.UUID]bool{},
	}
	o.Keys.Moved = m.MoveTable
	m.Access = &Access{host: o.Host, targets: map[uuid.UUID]target{}}
	m.Retention = &Retention{Moves: m, bases: map[uuid.UUID]moveBases{}}
	m.Copies = &Copies{Moves: m, failed: map[uuid.UUID]failure{}}
	m.Replicas = newReplicas(m)
	m.TransferSource = &TransferSource{m}
	var limit *Limiter // sender and receiver share it
	if rate > 0 {
		limit = NewLimiter(o.Clock, rate)
	}
	m.TransferServer = &Server{Source: m.TransferSource, Peer: peerID, Clock: o.Clock, Log: o.Log, Limit: limit}
	m.TransferClient = &Client{HTTP: o.Leases.Peers, Clock: o.Clock, Log: o.Log, Limit: limit}
	return m
}

// Connect sets the components that are made later. It is called before the agent starts.
func (m *Moves) Connect(g Generations, s StoreComparer, u Usages) {
	m.generations, m.store, m.usages = g, s, u
}

// ForgetSent forgets which data of a dataset was sent to other nodes. It is called when this node is no longer the
// home.
func (m *Moves) ForgetSent(ds uuid.UUID) {
	m.Retention.Forget(ds)
	m.Access.Forget(ds)
}
