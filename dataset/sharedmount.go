package dataset

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// Access says on how many hosts a volume may be mounted at once. The zero value means only on one host, its home.
type Access string

// AccessMany lets every host that sees the data of a volume mount it, at the same time. The applications must
// coordinate who writes what.
const AccessMany Access = "many"

// SharedMount is the permission of a node to mount a dataset of access many whose home is another node. It is recorded
// before the node mounts the dataset, and removed after the node has unmounted it. The home can mount the dataset
// without a shared mount. If the home has one, it uses the dataset exclusively: no other node may mount the dataset
// meanwhile.
type SharedMount struct {
	Node  uuid.UUID `json:"node"`  // UUID of the node that may mount the dataset
	ID    uuid.UUID `json:"id"`    // UUID of this shared mount, so that a report on an earlier one does not apply to it
	Since time.Time `json:"since"` // when the shared mount was recorded
}

// SharedMountOf returns the shared mount of a node in the record of a dataset. ok is false if there is none.
func (d Dataset) SharedMountOf(node uuid.UUID) (g SharedMount, ok bool) {
	i := slices.IndexFunc(d.SharedMounts, func(g SharedMount) bool { return g.Node == node })
	if i < 0 {
		return g, false
	}
	return d.SharedMounts[i], true
}
