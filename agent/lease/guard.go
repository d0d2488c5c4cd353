package lease

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/guard"
)

// Guard is the part of the host's guard that an agent needs. guard.Client implements it and documents the methods.
type Guard interface {
	Register(ctx context.Context, r guard.Registration) (guard.Entry, error)
	Feed(ctx context.Context, feeds []guard.Feed) (refused map[uuid.UUID]error, err error)
	Check(ctx context.Context, id uuid.UUID, epoch uint64) (guard.Entry, error)
	Thaw(ctx context.Context, id uuid.UUID, epoch uint64, deadline time.Duration) (guard.Entry, error)
	Supersede(ctx context.Context, id uuid.UUID, epoch uint64) (guard.Entry, error)
	Release(ctx context.Context, id uuid.UUID, epoch uint64) error
	Status(ctx context.Context) (guard.Status, error)
}
