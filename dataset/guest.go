package dataset

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// Access says on how many hosts a volume may be mounted at once. The zero value is one: its
// home.
type Access string

// AccessMany lets every host mount a volume that sees its bytes, at the same time. Who writes
// what when is for the applications to agree on.
const AccessMany Access = "many"

// Guest is the stay of a node with a dataset of access many, on record before the node mounts
// it and until it has it mounted no more. That of the home itself, which needs none to mount
// it, says that it has the dataset alone meanwhile: nobody else is let in.
type Guest struct {
	Node  uuid.UUID `json:"node"`  // UUID of the guest node
	ID    uuid.UUID `json:"id"`    // of this stay: what is said of an earlier one is not of it
	Since time.Time `json:"since"` // when the guest was recorded
}

// Stay returns the stay of a node with a dataset.
func (d Dataset) Stay(node uuid.UUID) (g Guest, stays bool) {
	i := slices.IndexFunc(d.Guests, func(g Guest) bool { return g.Node == node })
	if i < 0 {
		return g, false
	}
	return d.Guests[i], true
}
