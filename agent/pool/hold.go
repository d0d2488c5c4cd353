package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/socket"
)

// holds are the pools that this process keeps from every other one of this host: two
// would reap what the other is making, and mount what it has mounted. drover.yaml names
// pools for whoever reads it, so it takes no more than a second start by hand.
type holds struct {
	mu    sync.Mutex
	Taken map[string]io.Closer
	over  bool // it was released, for good
}

// Take keeps a pool until release. Again: nothing. ErrInUse when another process has it;
// a copy of it elsewhere is another pool in this. unheld says why the pool is not kept
// and is to be served all the same: a user without rights must not keep it offline. A
// lock on a file of the pool could not be taken so, but keeps the pool's disk, while
// nobody uses it, from being unmounted.
func (h *holds) Take(ctx context.Context, pool backends.Pool) (unheld string, err error) {
	var st unix.Stat_t
	if err := unix.Stat(pool.Info().Path, &st); err != nil {
		return "", fmt.Errorf("look at %s: %w", pool.Info().Path, err)
	}
	name := HoldName(pool.ID()) + fmt.Sprintf("%x-%x", st.Dev, st.Ino)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over { // its disk had not answered for so long
		return "", dataset.Errorf(dataset.ErrOffline, "drover is stopping")
	}
	if h.Taken[name] != nil {
		return "", nil
	}
	c, err := socket.Hold(ctx, name)
	if errors.Is(err, dataset.ErrForbidden) {
		return err.Error(), nil
	}
	if err != nil {
		return "", err
	}
	if h.Taken == nil {
		h.Taken = map[string]io.Closer{}
	}
	h.Taken[name] = c
	return "", nil
}

// Let gives up a pool, so that another process may have it.
func (h *holds) Let(pool uuid.UUID) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, c := range h.Taken {
		if strings.HasPrefix(name, HoldName(pool)) {
			err = errors.Join(err, c.Close())
			delete(h.Taken, name)
		}
	}
	return err
}

// HoldName is the prefix of the names of the unix sockets by which one drover holds a pool.
func HoldName(pool uuid.UUID) string { return "drover-pool-" + pool.String() + "-" }

func (h *holds) release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, c := range h.Taken {
		errs = append(errs, c.Close())
	}
	h.Taken, h.over = nil, true
	return errors.Join(errs...)
}

func (p *Pools) warnUnheld(name, unheld string) {
	if unheld != "" {
		p.Log.WithField("pool", name).Warnf("another drover would not be kept from the pool: %s", unheld)
	}
}
