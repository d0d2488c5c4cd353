package agent

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/socket"
)

// holds are the pools that this process keeps from every other one of this host: two
// would reap what the other is making, and mount what it has mounted. drover.yaml names
// pools for whoever reads it, so it takes no more than a second start by hand.
type holds struct {
	mu    sync.Mutex
	taken map[uuid.UUID]io.Closer
}

// take keeps a pool until release. Again: nothing. ErrInUse when another process has it.
func (h *holds) take(ctx context.Context, pool uuid.UUID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken[pool] != nil {
		return nil
	}
	c, err := socket.Hold(ctx, "drover-pool-"+pool.String())
	if err != nil {
		return err
	}
	if h.taken == nil {
		h.taken = map[uuid.UUID]io.Closer{}
	}
	h.taken[pool] = c
	return nil
}

func (h *holds) release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, c := range h.taken {
		errs = append(errs, c.Close())
	}
	h.taken = nil
	return errors.Join(errs...)
}
