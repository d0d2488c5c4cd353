package backends

import (
	"context"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Resizer is a pool whose datasets have an enforced size.
type Resizer interface {
	// Resize changes the size of a ready or incoming dataset. It is durable when it returns.
	//
	// The dataset can grow while it is mounted. root is then the open root directory of its mount, and otherwise nil.
	// For a smaller size, Resize returns ErrUnsupported with the reason, unless the capabilities have Shrink. Calling
	// Resize again with the same size completes an interrupted call.
	Resize(ctx context.Context, id uuid.UUID, size dataset.Size, root *os.File) error

	// Grow makes a mounted filesystem as large as its dataset. root is its open root directory. If the
	// filesystem is large enough, Grow does nothing.
	Grow(ctx context.Context, id uuid.UUID, root *os.File) error
}

// IdleChecker is a pool that can report whether a dataset is in use anywhere on this host. The home calls CheckIdle
// before it relinquishes a dataset.
type IdleChecker interface {
	// CheckIdle returns ErrInUse while the head is mounted or attached anywhere on this host, also in another mount
	// namespace. A copy of the agent's mount is no use if nobody can reach it, or if the pool is a Releaser. Some
	// writes to such a head may not have reached the pool, and more may follow. CheckIdle waits a moment for a device
	// that is being released.
	CheckIdle(ctx context.Context, id uuid.UUID) error
}

// IsIdle reports whether a dataset is in use nowhere on this host. It returns false if the pool cannot tell.
func IsIdle(ctx context.Context, pool Pool, id uuid.UUID) bool {
	checker, can := pool.(IdleChecker)
	return can && checker.CheckIdle(ctx, id) == nil
}

// Releaser is a pool whose datasets have filesystems of their own. Such a filesystem stays alive as long as a copy of
// its mount exists in another mount namespace, even if nobody can reach the copy. Every user of the host can make one.
type Releaser interface {
	// Release is CheckIdle, and shuts down a filesystem that only such copies keep alive, so that nobody can write to
	// the head through them. The dataset can be mounted again at once. The agent calls Release before work that needs
	// an unused dataset.
	Release(ctx context.Context, id uuid.UUID) error
}

// Stager is a pool that mounts heads in a private place. The mounts of datasets are copies of these mounts.
type Stager interface {
	// StagingPath returns the place in which the pool mounts the head of a dataset, or "" if the pool does not mount
	// it. A mount in that place does not count as a use of the dataset.
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

// PolicyKeeper is a pool that keeps its policy beside its data, so that the policy survives the loss of the records of
// its node. The agent enforces the policy. The pool only stores it.
type PolicyKeeper interface {
	// Overcommit returns the ratio that KeepOvercommit has recorded, or 0.
	Overcommit() (float64, error)

	// KeepOvercommit durably records the highest ratio of the sizes of the pool's datasets to its own size. Idempotent.
	KeepOvercommit(ratio float64) error
}

// Warner is a pool that can report problems while it works normally.
type Warner interface {
	// Warnings returns one line for each thing that an operator should know about the open pool, such as damage that
	// was repaired. It only returns known values.
	Warnings() []string
}

// StorageRemover is a pool that has storage outside of its path.
type StorageRemover interface {
	// RemoveStorage removes the storage outside of the path. The pool has no datasets, and its path is removed next.
	RemoveStorage(ctx context.Context) error
}

// Clearer is a pool that can remove everything that Open with Make created.
type Clearer interface {
	// Clear closes the pool and restores its place to the state before the pool was made. The caller ensures that
	// nobody uses the pool. The pool must have no datasets.
	//
	// remains describes what is left and how to remove it, for example an empty filesystem on devices, which only
	// disappears when it is overwritten. It is empty if nothing remains.
	//
	// After an interruption, the place contains the empty pool or a part of it. Open with Make completes such a part
	// under the same UUID.
	//
	// Errors: ErrConflict if the pool still has datasets, copies, incoming or deleting data, or foreign files; nothing
	// was removed, and remains is empty. This also applies to a backend that leaves a filesystem or zpool on the
	// devices. ErrInUse if the pool's storage is mounted or used otherwise.
	Clear(ctx context.Context) (remains string, err error)
}

// Serializer is a pool that runs one operation at a time.
type Serializer interface {
	// Lock waits until no operation runs in the pool. Then it blocks all other operations until unlock is
	// called, except those that use the returned context.
	Lock(ctx context.Context) (locked context.Context, unlock func(), err error)
}

// LongStall is how long a snapshot or clone may block the writers of a head before it is reported.
const LongStall = 250 * time.Millisecond

// StallPredictor is a pool whose snapshots block writers for a time that grows with the dataset.
type StallPredictor interface {
	// PredictStall predicts how long a snapshot or clone of the head would block its writers, in nanoseconds.
	// why names the cause: "9,700 extents".
	PredictStall(ctx context.Context, id uuid.UUID) (nanos int64, why string, err error)
}

// SnapshotMeasurer is a pool that can tell how much space the deletion of a snapshot frees, without reading its data.
type SnapshotMeasurer interface {
	// UniqueSize returns how many bytes only this snapshot uses, so that DeleteSnapshot frees them. Blocks that two
	// snapshots share are freed only after both are deleted. So deleting several snapshots can free more than the sum
	// of their unique sizes.
	//
	// UniqueSize may take seconds for a fragmented snapshot. It returns soon after ctx ends, with the cause as the
	// error. ErrNotFound if there is no such snapshot.
	UniqueSize(ctx context.Context, ds, snapshot uuid.UUID) (dataset.Size, error)
}

// Compressor is a pool that can compress the data of its datasets.
type Compressor interface {
	// Compresses reports whether the files of new datasets may take less space in the pool than their size.
	Compresses() bool
}

// Sharer is a pool on a share. A share is one exported filesystem that contains a pool for each of several nodes.
// Info().Share identifies it. Each pool belongs to one node. No other node touches a dataset in it until that node has
// relinquished the dataset.
type Sharer interface {
	// CheckVisible returns nil if this host can see the dataset in the given pool of the share now, so that Take would
	// find the dataset. Otherwise it returns ErrNotFound. It changes nothing.
	CheckVisible(ctx context.Context, id, pool uuid.UUID) error

	// Visit attaches the head of a dataset that is in another pool of the share. The agent of a node with a shared
	// mount calls it. The node of the other pool stays the dataset's home, and may have the dataset mounted at the same
	// time. Visit changes nothing in the other pool. If another pool takes the dataset later, the attachment stays
	// valid.
	//
	// Errors: ErrUnsupported if the capabilities lack ManyHosts. ErrNotFound if the other pool does not have the
	// dataset.
	Visit(ctx context.Context, id, pool uuid.UUID, opts AttachOptions) (Attachment, error)

	// Take moves a dataset from another pool of the share into this pool. The node of the other pool must have
	// relinquished the dataset. Afterwards the dataset is ready in this pool, with all its snapshots, and d is its
	// record. Take copies no data, so it is fast. At every step one of the two pools has the whole dataset. Take is
	// durable when it returns.
	//
	// The caller is the home of d at d.Epoch, and ensures that no other node was the home between from.Epoch and
	// d.Epoch. Data of the dataset in other pools belongs to earlier homes, and Take ignores it. Idempotent: if this
	// pool has already taken the dataset, Take only writes the record.
	//
	// Errors:
	//
	//   - ErrNotFound: the previous pool, from.Pool, does not have the dataset.
	//   - ErrConflict: the dataset was taken at a later epoch. Or the previous pool does not have the dataset, and this
	//     pool has data of the dataset that did not come from the previous pool. Or two pools of the share have the
	//     UUID from.Pool. Nothing was changed.
	Take(ctx context.Context, d dataset.Dataset, from PreviousHome) error

	// RestoreByCopy is Pool.Restore for a dataset that another host may still have mounted. An operator has confirmed
	// that the other host no longer writes. Pool.Restore would turn the old head into the snapshot keep, so that late
	// writes of the other host would change that snapshot. RestoreByCopy copies the old head into the snapshot,
	// which takes space, and then removes the old head. If the other host still writes, it gets errors and changes no
	// snapshot.
	RestoreByCopy(ctx context.Context, ds, snapshot uuid.UUID, keep dataset.Snapshot, progress Progress) error
}

// PreviousHome identifies the previous home of a dataset that was relinquished.
type PreviousHome struct {
	Pool  uuid.UUID // the previous home
	Epoch uint64    // the last epoch of that home; if the data has a later epoch, another node took it
}
