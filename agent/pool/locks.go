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

// Locks keep other drover processes on this host away from the pools. Two processes that opened the same pool would
// destroy each other's incomplete datasets and mount each other's volumes. That would happen whenever a user starts a
// second drover by hand, because drover.yaml is readable and names the pools.
type Locks struct {
	mu      sync.Mutex
	Sockets map[string]io.Closer
	closed  bool // all locks were released for good
}

// Lock locks a pool until Unlock or close is called. Idempotent. It fails with dataset.ErrInUse if another process has
// the lock. The lock's name consists of the pool's UUID and of the device and inode of its path, so a copy of the pool
// at another path has another lock.
//
// If a process that does not belong to root has taken the name of the lock, whyUnlocked says so, and the pool may be
// served without the lock. Otherwise an unprivileged user who takes the name could keep the pool offline. The lock is a
// socket and not a file lock in the pool, because an open file would keep an unused disk from being unmounted.
func (h *Locks) Lock(ctx context.Context, pool backends.Pool) (whyUnlocked string, err error) {
	var st unix.Stat_t
	if err := unix.Stat(pool.Info().Path, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", pool.Info().Path, err)
	}
	name := LockName(pool.ID()) + fmt.Sprintf("%x-%x", st.Dev, st.Ino)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed { // the disk answered only after the process had begun to stop
		return "", dataset.Errorf(dataset.ErrOffline, "drover is stopping")
	}
	if h.Sockets[name] != nil {
		return "", nil
	}
	c, err := socket.AcquireName(ctx, name)
	if errors.Is(err, dataset.ErrForbidden) {
		return err.Error(), nil
	}
	if err != nil {
		return "", err
	}
	if h.Sockets == nil {
		h.Sockets = map[string]io.Closer{}
	}
	h.Sockets[name] = c
	return "", nil
}

// Unlock releases the lock of a pool, so that another process can have it.
func (h *Locks) Unlock(pool uuid.UUID) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, c := range h.Sockets {
		if strings.HasPrefix(name, LockName(pool)) {
			err = errors.Join(err, c.Close())
			delete(h.Sockets, name)
		}
	}
	return err
}

// LockName is the prefix of the names of the unix sockets with which a drover process locks a pool.
func LockName(pool uuid.UUID) string { return "drover-pool-" + pool.String() + "-" }

func (h *Locks) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, c := range h.Sockets {
		errs = append(errs, c.Close())
	}
	h.Sockets, h.closed = nil, true
	return errors.Join(errs...)
}
