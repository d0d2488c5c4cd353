package backends

import (
	"context"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Resizer is a pool with datasets of an enforced size.
type Resizer interface {
	// Resize gives a dataset another size, an incoming one too: larger, also while it is mounted
	// (root is then the open directory of its mount, otherwise nil). Smaller is ErrUnsupported
	// with the reason unless the capabilities have Shrink. Durable when it
	// returns. Again with the same size: finishes what a crash cut short.
	Resize(ctx context.Context, id uuid.UUID, size dataset.Size, root *os.File) error
	// Grow makes the mounted filesystem, whose root directory is open, as large as its
	// dataset. Nothing to do is fine.
	Grow(ctx context.Context, id uuid.UUID, root *os.File) error
}

// Idler is a pool that can tell whether a dataset is in use anywhere on this host: the home asks
// it before it gives one up.
type Idler interface {
	// Idle fails with ErrInUse while the head is mounted or attached anywhere on this
	// host, in another mount namespace too: what is written there is not all in the pool
	// yet, and more may come. It waits a moment for a device that is being let go of.
	Idle(ctx context.Context, id uuid.UUID) error
}

// Stager is a pool that mounts heads in a place of its own, of which the mounts of datasets are copies.
type Stager interface {
	// Staged returns where the pool mounts the head of a dataset, and "" where it does not do so. A mount
	// in that place is nobody's use.
	Staged(id uuid.UUID) string
}

// Formatter is a pool that makes a filesystem of its own in each dataset.
type Formatter interface {
	// Filesystem is what a new dataset of a size gets whose profile names none.
	Filesystem(size dataset.Size) string
}

// Trimmer is a pool that can tell the devices below it what of them is free, so that they know
// it as free too.
type Trimmer interface {
	// Trim returns of how many bytes it told them; 0: it cannot be said. It may take minutes.
	// errors.ErrUnsupported: the devices, or what is on them, know no such thing.
	Trim(ctx context.Context) (dataset.Size, error)
}

// Warner is a pool that can have something to warn about while it serves as it should.
type Warner interface {
	// Warnings returns one line for each thing that an operator should know about the open pool,
	// such as damage that was repaired. It only reads what the pool knows already.
	Warnings() []string
}

// Razer is a pool that has more than lies at its path.
type Razer interface {
	// Raze removes what else there is, of a pool without datasets whose path goes next.
	Raze(ctx context.Context) error
}

// Clearer is a pool that can take back what its making put at its place.
type Clearer interface {
	// Clear closes the pool, and leaves its place as it was before there was one: nobody uses the
	// pool, and it has no datasets. left says what stays there all the same, such as an empty
	// filesystem on devices, which nothing short of writing over them takes away, and what would
	// do. ErrConflict, and the pool is as it was: something lies in it. ErrInUse: it is mounted or
	// held otherwise. Cut short it is the pool, without anything in it, or one that Open with Make
	// makes whole again, under the same UUID.
	Clear(ctx context.Context) (left string, err error)
}

// Turner is a pool that does one thing at a time.
type Turner interface {
	// Turn waits until nothing is under way in the pool, and has all else wait until done is
	// called, but for what is asked with the context that it returns.
	Turn(ctx context.Context) (turn context.Context, done func(), err error)
}

// Server is a Kind that serves a pool that is there on hosts too where it makes nothing new.
type Server interface {
	Kind
	// Serves is Available for such a pool: what only a new pool or dataset needs may be
	// missing, and Info.Missing says that it is.
	Serves(ctx context.Context) error
}

// Serves fails as Available does where this host cannot open a pool of a kind that is there.
func Serves(ctx context.Context, k Kind) error {
	if s, ok := k.(Server); ok {
		return s.Serves(ctx)
	}
	return k.Available(ctx)
}

// Bounded is a Kind that says what no pool of it can exceed, on whatever host.
type Bounded interface {
	Kind
	// Best is what a pool can where its host lacks nothing. Pure.
	Best() dataset.Capabilities
	// Takes fails with ErrUnsupported, as Create does in each pool, for a size that no dataset
	// with that filesystem inside can have; "": with whichever it gets. Pure.
	Takes(fs string, size dataset.Size) error
}

// Former is a Kind that makes pools of block devices.
type Former interface {
	Kind
	// PathOf is the Path of such a pool, where the operator gives none, from its name and
	// Mount.
	PathOf(name, mount string) string
}

// Homed is a Kind whose pools have a folder elsewhere than at their path, with less room than
// the pool has: pools can be made in a corner of it all the same.
type Homed interface {
	Kind
	// Home is where that folder is, of a pool that is open on this host.
	Home(path string) (string, error)
}
