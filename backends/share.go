package backends

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Sharer is a pool on a share, Info().Share, on which other nodes have theirs: each is one
// node's, and what lies in it nobody else touches, until that node has given it up.
type Sharer interface {
	// Sees fails with ErrNotFound unless a pool of the share has a dataset, as this host sees
	// the share now: Take would find it. It changes nothing.
	Sees(ctx context.Context, id uuid.UUID) error
	// Take makes a dataset that another pool of the share has, ready and with all its
	// snapshots, one of this pool, with d as its record: at once, as nothing is copied. At
	// every step it is whole in the one or the other. Who calls it is the home of d at
	// d.Epoch. ErrConflict, and nothing changed: what there is has been taken at a later
	// epoch, by whom it is told. Again, or when it is here already: only the record is
	// written. ErrNotFound: no pool of the share has it. Durable when it returns.
	Take(ctx context.Context, d dataset.Dataset) error
}
