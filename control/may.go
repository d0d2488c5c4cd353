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

// may fails with ErrForbidden when who asks for an operation may not. A node asks for
// what itself is to do: what concerns a dataset whose home it is, what it makes or moves
// to itself, or away from itself. It may also have datasets made elsewhere, as placement
// says, but not fill them from a folder of another host; and have a volume removed that its
// engine made or had, which has gone to another node since. It cannot vouch for the death of
// another node.
func (t *tx) may(op *dataset.Operation) error {
	p := api.PrincipalOf(t.ctx)
	switch {
	case p.Local:
		return nil
	case p.Kind == pki.Operator:
		if op.Path != "" && op.Kind == dataset.OpRekey && !p.Role.Covers(pki.Admin) {
			return dataset.Errorf(dataset.ErrForbidden, "%s may not name a key file of a host, which can be any file: that takes the role admin", p)
		}
		if op.Path != "" && !p.Role.Covers(pki.Admin) {
			return dataset.Errorf(dataset.ErrForbidden, "%s may not import a folder of a host, which can be any: that takes the role admin (or send what is to be imported: drover volume import %s --from FILE)", p, op.Volume)
		}
		return nil
	case p.Kind != pki.Node:
	case op.Loss != nil && op.Loss.Away != 0: // nobody's word, but what control itself sees
		return nil
	case op.Loss != nil, withoutHome(*op):
		return dataset.Errorf(dataset.ErrForbidden, "%s may not %s volume %s without its home, which a person must vouch for: %s", p, op.Kind, op.Volume, api.AskControl)
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
	return dataset.Errorf(dataset.ErrForbidden, "%s may not ask for this %s of volume %s, which is node %s's to do: ask there, or %s", p, described(op.Kind), op.Volume, home, api.AskControl)
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
		return dataset.Errorf(dataset.ErrForbidden, "%s may not cancel operation %s of volume %s, in which it has no part: %s", p, op.ID, op.Volume, api.AskControl)
	}
	return nil
}
