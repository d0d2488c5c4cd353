package control

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// requesterOf returns who submits a request, for the record of the operation: a user of a host, an operator, a node, or
// the engine of a node.
func requesterOf(t *record.Tx, req api.Request) (string, error) {
	p := api.PrincipalOf(t.Context())
	node := requestingNode(t, req.Kind)
	switch {
	case req.Engine && node != uuid.Nil:
		return engineOf(t, node)
	case p.Local && p.From == "": // control in this process, or the agent in it
		return "drover", nil
	}
	return p.String(), nil
}

// engineOf returns the name of the container engine of a node as the requester of an operation.
func engineOf(t *record.Tx, node uuid.UUID) (string, error) {
	name, err := t.NodeName(node)
	return "engine of node " + name, err
}

// describeOutcome sets what a successful operation changed, and, if no request was submitted for it, who requested it.
// d is the dataset after the operation. Agents carry out without a submitted request what their engine requests, and
// the imports of archives.
func describeOutcome(t *record.Tx, op *dataset.Operation, d *dataset.Dataset, submitted bool) (err error) {
	switch {
	case d == nil:
		return nil
	case makesDataset(op.Kind):
		op.Change = "profile " + d.Profile.Name
	case op.Kind == dataset.OpDelete && d.State == dataset.StateTrashed:
		op.Change = "in the trash"
	case op.Kind == dataset.OpDelete:
		op.Change = "destroyed"
	}
	switch {
	case submitted:
	case op.Kind == dataset.OpDelete, d.RequestedBy == op.Node && makesDataset(op.Kind):
		op.By, err = engineOf(t, op.Node)
	default:
		name, err := t.NodeName(op.Node)
		op.By = "node " + name
		return err
	}
	return err
}

// isListedUnsubmitted reports whether the success of an operation that nobody submitted is recorded: its agent reports
// it only once, at the end. It makes or deletes a volume for the engine of the agent's host, or imports an archive.
func isListedUnsubmitted(k dataset.OpKind) bool { return makesDataset(k) || k == dataset.OpDelete }
