package pooladmin

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// TrimDue discards the free blocks of pools on devices when it is due. It does not trim images, because an image must
// keep its blocks.
func (a *Admin) TrimDue() (begun []*host.Job) {
	now := a.Clock.Now()
	for _, p := range a.Pools.All() {
		t, ok := p.Storage.(backends.Trimmer)
		if !ok || len(p.Record.Devices) == 0 {
			continue
		}
		every := a.interval(p.Name)
		since := now.Sub(p.Record.Trimmed)
		if every < 0 || (since >= 0 && since < every) { // a negative value means that the clock was set back
			continue
		}
		id, name := p.ID, p.Name
		begun = append(begun, a.Jobs.Start("trim of pool "+name, func(ctx context.Context, _ *host.Job) error {
			return a.trim(ctx, id, name, t)
		}))
	}
	return begun
}

// interval returns how often the free blocks of a pool's devices are discarded. If the interval is negative, they are
// never discarded.
func (a *Admin) interval(name string) time.Duration {
	i := slices.IndexFunc(a.Pools.Configured, func(c pool.Config) bool { return c.Name == name })
	if i < 0 || a.Pools.Configured[i].Trim == 0 {
		return pool.TrimEvery
	}
	return a.Pools.Configured[i].Trim
}

// trim trims one pool that is online. It records the time first, so that a trim that fails, or stops the host, is
// not repeated at once.
func (a *Admin) trim(ctx context.Context, id uuid.UUID, name string, t backends.Trimmer) error {
	log := a.Log.WithField("pool", name)
	if _, err := a.Pools.Online(ctx, id); err != nil {
		return nil //nolint:nilerr // the pool is offline, which is reported elsewhere; it is trimmed later
	}
	now := a.Clock.Now()
	err := a.Pools.UpdateRecord(ctx, id, func(rec *pool.Record) { rec.Trimmed = now })
	if err != nil {
		log.WithError(err).Warn("cannot trim pool")
		return err
	}
	var bytes dataset.Size
	done := make(chan struct{})
	go func() { // a device may take minutes, and a stop does not wait for it
		defer close(done)
		bytes, err = t.Trim(ctx)
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-done:
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		log.Info("pool is not trimmed: its device does not support it")
	case err != nil:
		log.WithError(err).Warn("cannot trim pool")
	case bytes == 0:
		log.Info("trimmed pool")
	default:
		log.Infof("trimmed pool: its device now knows %s of it as free", bytes.Human())
	}
	return err
}
