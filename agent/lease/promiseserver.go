package lease

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
)

// maxPromiseRequest is the maximum size of a promise request's body, in bytes.
const maxPromiseRequest = 2 << 20

// PromiseServer answers the agents of other nodes that ask this node to open no later epoch of datasets, because
// control does not answer them. Its methods are safe for concurrent use. It has no state: the promises are in
// PromiseDeps.Keeper.
type PromiseServer struct{ deps PromiseDeps }

// PromiseDeps are the dependencies of PromiseServer.
type PromiseDeps struct {
	*host.Host
	Keeper   *Keeper
	PeerID   func(*http.Request) (uuid.UUID, error) // the node that sent a request, as its certificate says
	NodeName func(uuid.UUID) string                 // the name of a node, for the reason of a refusal
	Session  func() (renewed, ttl time.Duration)    // this node's session with control; ttl is 0 if there is none

	// Incoming returns the epoch at which a move will open a dataset here. ok is false if no move brings the dataset to
	// this node.
	Incoming func(ds uuid.UUID) (epoch uint64, ok bool)
	// IsMoving reports whether a move that brings a dataset here runs now.
	IsMoving func(ds uuid.UUID) bool
}

// NewPromiseServer returns a PromiseServer.
func NewPromiseServer(deps PromiseDeps) *PromiseServer { return &PromiseServer{deps} }

// ServeHTTP answers a promise request of another node's agent with a Answer, or with a problem.
func (s *PromiseServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := s.answer(w, r)
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(dataset.KindOf(err).HTTP)
		_ = json.NewEncoder(w).Encode(dataset.ProblemOf(err)) // the caller may have closed the connection
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *PromiseServer) answer(w http.ResponseWriter, r *http.Request) (out Answer, err error) {
	peer, err := s.deps.PeerID(r)
	if err != nil {
		return out, err
	}
	if r.Method != http.MethodPost {
		return out, dataset.Errorf(dataset.ErrInvalid, "promise: expected POST, not %s", dataset.Clip(r.Method))
	}
	var req Request
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPromiseRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return out, dataset.Errorf(dataset.ErrInvalid, "promise: %w", err)
	}
	if len(req.Epochs) > MaxEpochs {
		return out, dataset.Errorf(dataset.ErrInvalid, "promise for %d datasets: expected %d at most",
			len(req.Epochs), MaxEpochs)
	}
	_, ttl := s.deps.Session()
	out = s.deps.Keeper.Grant(peer, req, ttl, func(e Epoch) string { return s.WhyNotHome(peer, e) })
	out.Node = s.deps.NodeID
	return out, nil
}

// WhyNotHome returns the reason why a node is not the home of a dataset at an epoch, as far as this node knows. It
// returns an empty string if the node is the home.
func (s *PromiseServer) WhyNotHome(node uuid.UUID, e Epoch) string {
	if d, here := s.deps.Cache.Dataset(e.Dataset); here {
		if d.Epoch < e.Epoch {
			// This record is older than the move to that node. This node cannot open a later epoch.
			return ""
		}
		return fmt.Sprintf("node %s has it, at epoch %d", s.deps.Host.NodeName, d.Epoch)
	}
	if k, kept := s.deps.Cache.Copy(e.Dataset); kept && k.Record != nil {
		if k.Record.Home == node && k.Record.Epoch <= e.Epoch { // the other node may know a later epoch already
			return ""
		}
		return fmt.Sprintf("it is on node %s, at epoch %d", s.deps.NodeName(k.Record.Home), k.Record.Epoch)
	}
	if epoch, incoming := s.deps.Incoming(e.Dataset); incoming && epoch == e.Epoch+1 {
		return ""
	}
	return "node " + s.deps.Host.NodeName + " has no copy of it"
}

// AllowPromises examines the datasets whose promises are blocked (see Keeper.BlockPromises). It allows promises
// for a dataset again if control has no record of the dataset, or records no move of it. By then every request of this
// node to promote the dataset has ended, whatever its result.
func (s *PromiseServer) AllowPromises(ctx context.Context) {
	for _, id := range s.deps.Keeper.Blocked() {
		if s.deps.IsMoving(id) {
			continue
		}
		v, err := s.deps.Control.Volume(ctx, id.String())
		if dataset.KindOf(err) == dataset.ErrNotFound || err == nil && v.Move == uuid.Nil && !s.deps.IsMoving(id) {
			s.deps.Keeper.AllowPromises(id)
		}
	}
}
