package operation

import (
	"context"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Reserve reserves a dataset of access many for this node only, until end is called. It fails with ErrInUse if other
// nodes have it mounted.
type Reserve func(ctx context.Context, d dataset.Dataset) (end func(), err error)

// Freeze freezes the filesystem of a mounted dataset until thaw is called. The caller takes the snapshot with the
// returned context. If Freeze fails, nothing is frozen, and the caller need not call thaw.
type Freeze func(ctx context.Context, pool backends.Pool, d dataset.Dataset) (
	in context.Context, thaw func() error, err error)

// EnsureUnused fails with ErrInUse if a dataset is in use on this host, and unmounts it otherwise. The argument what
// names the work for the error message. The dataset's lock is held.
type EnsureUnused func(ctx context.Context, d dataset.Dataset, what string) error
