package operation

import (
	"context"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Reserve reserves a dataset of access many for this node only, until end is called. It fails with ErrInUse if other
// nodes have it mounted.
type Reserve func(ctx context.Context, d dataset.Dataset) (end func(), err error)

// Prepare prepares a snapshot or clone of the head of a dataset: see mounting.Quiescer.
type Prepare func(ctx context.Context, pool backends.Pool, d dataset.Dataset) (
	in context.Context, end func() (exact bool), err error)

// EnsureUnused fails with ErrInUse if a dataset is in use on this host, and unmounts it otherwise. The argument what
// names the work for the error message. The dataset's lock is held.
type EnsureUnused func(ctx context.Context, d dataset.Dataset, what string) error
