package backends

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Sharer is a pool on a share, Info().Share, on which other nodes have theirs: each is one
// node's, and what lies in it nobody else touches, until that node has given it up.
type Sharer interface {
	// Sees fails with ErrNotFound unless that pool of the share has a dataset, as this host
	// sees the share now: Take would find it. It changes nothing.
	Sees(ctx context.Context, id, pool uuid.UUID) error
	// Visit is Attach of a dataset that lies in that pool of the share, whose node has it as its
	// home and may have it mounted at the same time: where the capabilities have ManyHosts,
	// otherwise ErrUnsupported. It changes nothing there. What was attached goes on when the
	// dataset is taken to another pool. ErrNotFound: that pool has it not, or not any more.
	Visit(ctx context.Context, id, pool uuid.UUID, opts AttachOptions) (Attachment, error)
	// Take makes a dataset that another pool of the share has given up, ready and with all its
	// snapshots, one of this pool, with d as its record: at once, as nothing is copied. At
	// every step it is whole in the one or the other. Who calls it is the home of d at
	// d.Epoch, the next one after that pool. What any other pool has of it is of a home before
	// that one, and is not looked at. ErrConflict, and nothing changed: what there is has been
	// taken at a later epoch; or that pool has none, and what lies here was not taken from it;
	// or two pools say that they are that one. Again, when it was taken: only the record is
	// written. ErrNotFound: that pool has it not. Durable when it returns.
	Take(ctx context.Context, d dataset.Dataset, from Given) error
	// RestoreApart is Pool.Restore of a dataset that another host may have mounted, of which somebody
	// vouched that it writes no more: what is kept is a copy, and the files that it may have open are
	// removed. So whoever writes there nevertheless gets errors, and changes no snapshot. It takes the
	// room of the copy.
	RestoreApart(ctx context.Context, ds, snapshot uuid.UUID, keep dataset.Snapshot, progress Progress) error
}

// Given says who gave a dataset up.
type Given struct {
	Pool  uuid.UUID // in which it was at home
	Epoch uint64    // that ended with that: what has a later one was taken since
}
