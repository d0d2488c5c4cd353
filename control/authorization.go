package control

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/deletion"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// requestingNode returns the node that requests a new dataset, or a temporary one. The dataset is made on that node
// unless the request says otherwise.
func requestingNode(t *record.Tx, k dataset.OpKind) uuid.UUID {
	if p := api.PrincipalOf(t.Context()); p.Kind == pki.Node && (kinds[k].makes || kinds[k].temporary) {
		return p.Node
	}
	return uuid.Nil
}

// mayRequest fails with dataset.ErrForbidden if the caller may not request an operation.
//
// An operator needs the role admin for some operations: see operatorMayRequest.
//
// A node may request operations on datasets whose home it is, on datasets that it makes, and on moves to or from
// itself. It may request a new dataset on another node if placement selects that node. It may not request an import
// there, neither from a folder nor from a backup. It may request an automatic failover of any volume. It may request
// that a volume is removed if its engine made the volume, or if it keeps a copy of it. It may not confirm that another
// node is fenced.
func mayRequest(t *record.Tx, op *dataset.Operation) error {
	p := api.PrincipalOf(t.Context())
	switch {
	case p.Local:
		return nil
	case p.Kind == pki.Operator:
		return operatorMayRequest(t, p, op)
	case p.Kind != pki.Node: // refused below
	case op.Loss != nil && op.Loss.UnreachableIndex != 0: // control itself found that the home is lost
		return nil
	case dependsOnFencing(op):
		return dataset.Errorf(dataset.ErrForbidden,
			"%s may not %s volume %s without its home, which requires an admin's confirmation: "+
				"%s", p, op.Kind, op.Volume,
			api.AskAsAdmin)
	case op.Node == p.Node, op.OtherNode == p.Node, kinds[op.Kind].makes && op.Path == "" && op.Backup == "":
		return nil
	case op.Kind == dataset.OpDelete:
		if d, err := t.Dataset(op.DatasetID); err != nil || d.RequestedBy == p.Node ||
			slices.Contains(d.Copies, p.Node) {
			return err
		}
	}
	home, err := t.NodeName(op.Node)
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrForbidden,
		"%s may not request this %s of volume %s, because node %s carries it out: ask there, or %s", p,
		kindText(op.Kind), op.Volume, home, api.AskControl)
}

// dependsOnFencing reports whether an operation depends on the sender's confirmation that the home is fenced. A move
// that control itself decided on does not depend on it.
func dependsOnFencing(op *dataset.Operation) bool {
	return op.Loss != nil && op.Loss.UnreachableIndex == 0 || deletion.IsWithoutHome(*op)
}

// operatorMayRequest fails with dataset.ErrForbidden if an operation needs the role admin and the operator has another
// role. The role is needed to confirm that a node is fenced, as drover node fence does, and to name a file or folder of
// a host.
func operatorMayRequest(t *record.Tx, p api.Principal, op *dataset.Operation) error {
	switch {
	case p.Role.Covers(pki.Admin):
		return nil
	case dependsOnFencing(op):
		d, err := t.Dataset(op.DatasetID)
		if err != nil {
			return err
		}
		home, err := t.NodeName(d.Home)
		if err != nil {
			return err
		}
		return dataset.Errorf(dataset.ErrForbidden,
			"%s may not %s volume %s without its home: confirming that node %s writes no more (--fenced) "+
				"requires the role admin, as drover node fence does", p, op.Kind, op.Volume, home)
	case op.Path != "" && op.Kind == dataset.OpRekey:
		return dataset.Errorf(dataset.ErrForbidden,
			"%s may not name a key file of a host, because it could be any file: this requires the role admin", p)
	case op.Path != "":
		return dataset.Errorf(dataset.ErrForbidden,
			"%s may not import a folder of a host, because it could be any folder: this requires the role admin "+
				"(or send the data: drover volume import %s --from FILE)", p, op.Volume)
	}
	return nil
}

// kindText names the kind of a request in an error.
func kindText(k dataset.OpKind) string {
	if k == dataset.OpShow || k == dataset.OpHide || k == dataset.OpDiscard {
		return string(k) + " of the superseded copy"
	}
	return string(k)
}

// mayCancel fails with dataset.ErrForbidden if the caller may not cancel an operation. A node may cancel its own
// operations, moves of its volumes to another node, and the operations that it requested on another node, because that
// node may be gone.
func mayCancel(t *record.Tx, op dataset.Operation) error {
	p := api.PrincipalOf(t.Context())
	if p.Kind == pki.Node && p.Node != op.Node && p.Node != op.OtherNode {
		return dataset.Errorf(dataset.ErrForbidden,
			"%s may not cancel operation %s of volume %s, because its node has no part in it: %s", p, op.ID, op.Volume,
			api.AskControl)
	}
	return nil
}
