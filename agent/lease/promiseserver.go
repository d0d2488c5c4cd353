package lease

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// maxPromiseRequest is the maximum size of a promise request's body, in bytes.
const maxPromiseRequest = 2 << 20

// ServePromise answers the agent of another node that asks this node to open no later epoch of datasets, because
// control does not answer that agent. peer is that node, or err says why it is unknown. The response is an Answer or a
// problem.
func (t *Leases) ServePromise(w http.ResponseWriter, r *http.Request, peer uuid.UUID, err error) {
	var answer Answer
	if err == nil {
		answer, err = t.answerPromise(w, r, peer)
	}
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(dataset.KindOf(err).HTTP)
		_ = json.NewEncoder(w).Encode(dataset.ProblemOf(err)) // the caller may have closed the connection
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (t *Leases) answerPromise(w http.ResponseWriter, r *http.Request, peer uuid.UUID) (out Answer, err error) {
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
	_, ttl := t.Deadlines.Session()
	out = t.Keeper.Grant(peer, req, ttl, func(e Epoch) string { return t.WhyNotHome(peer, e) })
	out.Node = t.NodeID
	return out, nil
}

// WhyNotHome returns the reason why a node is not the home of a dataset at an epoch, as far as this node knows. It
// returns an empty string if the node is the home.
func (t *Leases) WhyNotHome(node uuid.UUID, e Epoch) string {
	if d, here := t.Cache.Dataset(e.Dataset); here {
		if d.Epoch < e.Epoch {
			// This record is older than the move to that node. This node cannot open a later epoch.
			return ""
		}
		return fmt.Sprintf("node %s has it, at epoch %d", t.NodeName, d.Epoch)
	}
	if k, kept := t.Cache.Copy(e.Dataset); kept && k.Record != nil {
		if k.Record.Home == node && k.Record.Epoch <= e.Epoch { // the other node may know a later epoch already
			return ""
		}
		return fmt.Sprintf("it is on node %s, at epoch %d", t.Nodes.Name(k.Record.Home), k.Record.Epoch)
	}
	if epoch, incoming := t.Arrivals.IncomingEpoch(e.Dataset); incoming && epoch == e.Epoch+1 {
		return ""
	}
	return "node " + t.NodeName + " has no copy of it"
}

// AllowPromises examines the datasets whose promises are blocked (see Keeper.BlockPromises). It allows promises
// for a dataset again if control has no record of the dataset, or records no move of it. By then every request of this
// node to promote the dataset has ended, whatever its result.
func (t *Leases) AllowPromises(ctx context.Context) {
	for _, id := range t.Keeper.Blocked() {
		if t.Arrivals.IsActive(id) {
			continue
		}
		v, err := t.Control.Volume(ctx, id.String())
		if dataset.KindOf(err) == dataset.ErrNotFound || err == nil && v.Move == uuid.Nil && !t.Arrivals.IsActive(id) {
			t.Keeper.AllowPromises(id)
		}
	}
}
