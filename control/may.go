package control

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// asking is the node that asks for a new dataset: it is made there unless something
// else is said.
func (t *tx) asking(k dataset.OpKind) uuid.UUID {
	if p := api.PrincipalOf(t.ctx); p.Kind == pki.Node && makes(k) {
		return p.Node
	}
	return uuid.Nil
}

// may fails with ErrForbidden if the caller may not ask for an operation.
//
// An operator needs the role admin for some operations: see operatorMay. A node may ask for its own part:
// what concerns a dataset whose home it is, what it makes, and moves to or away from itself. It may have
// datasets made on another node, where placement says so, but not from a folder of that host. It may have
// a volume removed that its engine made, or of which it keeps a copy. It may not vouch for another node.
func (t *tx) may(op *dataset.Operation) error {
	p := api.PrincipalOf(t.ctx)
	switch {
	case p.Local:
		return nil
	case p.Kind == pki.Operator:
		return t.operatorMay(p, op)
	case p.Kind != pki.Node:
	case op.Loss != nil && op.Loss.Away != 0: // control saw by itself that the home is lost
		return nil
	case vouchesForHome(op):
		return dataset.Errorf(dataset.ErrForbidden,
			"%s may not %s volume %s without its home, which an admin must vouch for: %s", p, op.Kind, op.Volume,
			api.AskAsAdmin)
	case op.Node == p.Node, op.From == p.Node, makes(op.Kind) && op.Path == "":
		return nil
	case op.Kind == dataset.OpDelete:
		if d, err := t.dataset(op.DatasetID); err != nil || d.SpelledBy == p.Node || slices.Contains(d.Copies, p.Node) {
			return err
		}
	}
	home, err := t.nodeName(op.Node)
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrForbidden,
		"%s may not ask for this %s of volume %s, which is node %s's to do: ask there, or %s", p,
		described(op.Kind), op.Volume, home, api.AskControl)
}

// vouchesForHome reports whether an operation rests on the word of its sender that the home writes no more. A move
// that control decided on by itself does not.
func vouchesForHome(op *dataset.Operation) bool {
	return op.Loss != nil && op.Loss.Away == 0 || withoutHome(*op)
}

// operatorMay fails with ErrForbidden if an operation takes the role admin and the operator has another one.
// It does so if the operator vouches that a node writes no more, as drover node fence does, or names a file
// or folder of a host.
func (t *tx) operatorMay(p api.Principal, op *dataset.Operation) error {
	switch {
	case p.Role.Covers(pki.Admin):
		return nil
	case vouchesForHome(op):
		d, err := t.dataset(op.DatasetID)
		if err != nil {
			return err
		}
		home, err := t.nodeName(d.Home)
		if err != nil {
			return err
		}
		return dataset.Errorf(dataset.ErrForbidden,
			"%s may not %s volume %s without its home, as that vouches that node %s writes no more "+
				"(--fenced): that takes the role admin, as drover node fence does", p, op.Kind, op.Volume, home)
	case op.Path != "" && op.Kind == dataset.OpRekey:
		return dataset.Errorf(dataset.ErrForbidden,
			"%s may not name a key file of a host, which can be any file: that takes the role admin", p)
	case op.Path != "":
		return dataset.Errorf(dataset.ErrForbidden,
			"%s may not import a folder of a host, which can be any: that takes the role admin (or send "+
				"what is to be imported: drover volume import %s --from FILE)", p, op.Volume)
	}
	return nil
}

// described names what was asked for, for an error.
func described(k dataset.OpKind) string {
	switch k {
	case dataset.OpShow, dataset.OpHide, dataset.OpDiscard:
		return string(k) + " of the overtaken head"
	}
	return string(k)
}

// mayCancel does so for the end of an operation. What a node has had made on another one it may take
// back: that one may be gone.
func (t *tx) mayCancel(op dataset.Operation) error {
	p := api.PrincipalOf(t.ctx)
	if p.Kind == pki.Node && p.Node != op.Node && p.Node != op.From {
		return dataset.Errorf(dataset.ErrForbidden,
			"%s may not cancel operation %s of volume %s, in which it has no part: %s", p, op.ID, op.Volume,
			api.AskControl)
	}
	return nil
}
