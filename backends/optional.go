package backends

import (
	"context"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Resizer is a pool whose datasets have an enforced size.
type Resizer interface {
	// Resize changes the size of a ready or incoming dataset. It is durable when it returns.
	//
	// A dataset can become larger while it is mounted; root is then the open directory of its mount, and otherwise
	// nil. A smaller size is ErrUnsupported with the reason, unless the capabilities have Shrink. A repeated call
	// with the same size completes an interrupted one.
	Resize(ctx context.Context, id uuid.UUID, size dataset.Size, root *os.File) error

	// Grow makes a mounted filesystem as large as its dataset. root is its open root directory. If the
	// filesystem is large enough, Grow does nothing.
	Grow(ctx context.Context, id uuid.UUID, root *os.File) error
}

// IdleChecker is a pool that can tell whether a dataset is in use anywhere on this host. The home calls
// it before it gives a dataset up.
type IdleChecker interface {
	// CheckIdle returns ErrInUse while the head is mounted or attached anywhere on this host, also in another
	// mount namespace: some of its writes may not have reached the pool, and more may follow. It waits
	// a moment for a device that is being released.
	CheckIdle(ctx context.Context, id uuid.UUID) error
}

// Stager is a pool that mounts heads in a private place. The mounts of datasets are copies of these mounts.
type Stager interface {
	// StagingPath returns where the pool mounts the head of a dataset, or "" if it does not do so. A mount
	// in that place does not count as a use of the dataset.
	StagingPath(id uuid.UUID) string
}

// Formatter is a pool that makes a filesystem in each dataset.
type Formatter interface {
	// Filesystem returns the filesystem of a new dataset of this size whose profile names none.
	Filesystem(size dataset.Size) string
}

// Trimmer is a pool that can discard its free blocks, so that the devices below the pool can reuse them.
type Trimmer interface {
	// Trim returns how many bytes it discarded, or 0 if that is not known. It may take minutes.
	// errors.ErrUnsupported: the devices, or the filesystem on them, do not support discard.
	Trim(ctx context.Context) (dataset.Size, error)
}

// Warner is a pool that can report problems while it works normally.
type Warner interface {
	// Warnings returns one line for each thing that an operator should know about the open pool, such as damage that
	// was repaired. It only returns known values.
	Warnings() []string
}

// StorageRemover is a pool that has storage outside of its path.
type StorageRemover interface {
	// RemoveStorage removes that storage. The pool has no datasets, and its path is removed next.
	RemoveStorage(ctx context.Context) error
}

// Clearer is a pool that can undo its making.
type Clearer interface {
	// Clear closes the pool and restores its place to the state before the pool was made. Nobody uses
	// the pool, and it has no datasets.
	//
	// left names what remains, and how to remove it: such as an empty filesystem on devices, which
	// only goes away if it is overwritten.
	//
	// ErrConflict: the pool is not empty, and was not changed. ErrInUse: the pool's storage is mounted or used
	// otherwise. After an interruption the place has the empty pool, or one that Open with Make completes under the
	// same UUID.
	Clear(ctx context.Context) (left string, err error)
}

// Serializer is a pool that runs one operation at a time.
type Serializer interface {
	// Lock waits until no operation runs in the pool. Then it blocks all other operations until unlock is
	// called, except those that use the returned context.
	Lock(ctx context.Context) (locked context.Context, unlock func(), err error)
}

// Rewriter is a pool that can rewrite the head of a dataset into fewer pieces. That makes the predicted stall short.
type Rewriter interface {
	// Rewrite rewrites an unused head. It returns the number of pieces before and after.
	//
	// It needs room for all of the head. Blocks that the head shared with its snapshots then belong to
	// the snapshots only, so a difference to one of them (Send, Changed) is all of the head.
	//
	// At every step the head is the old or the new one, with the same bytes. When ctx ends, Rewrite
	// returns soon after with the old head, and the error is the cause. A repeated call rewrites again.
	//
	// ErrInUse: the head is attached or mounted. ErrNoSpace: it would leave the pool nearly full; nothing was
	// changed. ErrUnsupported if it would gain nothing.
	Rewrite(ctx context.Context, id uuid.UUID, progress Progress) (was, now int, err error)
}

// StallPredictor is a pool whose snapshots block writers for a time that grows with the dataset.
type StallPredictor interface {
	// PredictStall predicts how long a snapshot or clone of the head would block its writers, in nanoseconds.
	// why names the cause: "9,700 extents".
	PredictStall(ctx context.Context, id uuid.UUID) (nanos int64, why string, err error)
}

// Sharer is a pool on a share, Info().Share, that has pools of other nodes too. Each pool belongs to one
// node. No other node touches its contents until that node has given them up.
type Sharer interface {
	// CheckVisible returns ErrNotFound unless the named pool of the share has the dataset. It reads the share as this
	// host sees it now. If it returns nil, Take would find the dataset. It changes nothing.
	CheckVisible(ctx context.Context, id, pool uuid.UUID) error

	// Visit is Attach for a dataset in another pool of the share. The node of that pool is the dataset's home, and may
	// have the dataset mounted at the same time. Visit changes nothing in that pool. The attachment stays valid when
	// another pool takes the dataset.
	//
	// ErrUnsupported: the capabilities lack ManyHosts. ErrNotFound: the other pool does not have the dataset, or no
	// longer has it.
	Visit(ctx context.Context, id, pool uuid.UUID, opts AttachOptions) (Attachment, error)

	// Take moves a dataset that another pool of the share has given up into this pool, ready and with all
	// its snapshots, and with d as its record. Nothing is copied, so it is immediate. At every step one
	// of the two pools has the whole dataset. It is durable when it returns.
	//
	// The caller is the home of d at d.Epoch. No other node was the home between from.Epoch and d.Epoch. Take ignores
	// data in any other pool, as it belongs to earlier homes. Idempotent: if the dataset was taken already, only the
	// record is written.
	//
	// ErrConflict: the dataset was taken at a later epoch; or the pool from does not have it, and this pool has data of
	// it that was not taken from there; or two pools of the share claim to be the pool from. Nothing was changed.
	// ErrNotFound: the pool from does not have the dataset.
	Take(ctx context.Context, d dataset.Dataset, from PreviousHome) error

	// RestoreApart is Pool.Restore for a dataset that another host may still have mounted. An operator has confirmed
	// that the other host no longer writes. RestoreApart copies the old head into the snapshot keep, which takes room,
	// and then removes the old head. If the other host writes nevertheless, it gets errors and changes no snapshot.
	RestoreApart(ctx context.Context, ds, snapshot uuid.UUID, keep dataset.Snapshot, progress Progress) error
}

// PreviousHome identifies the previous home of a dataset that was given up.
type PreviousHome struct {
	Pool  uuid.UUID // the previous home
	Epoch uint64    // the last epoch of that home; data with a later epoch was taken by another node since
}
