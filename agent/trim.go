package agent

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/fsctl"
)

// TrimEvery is how often what is free on a pool's devices is told to them, where nobody
// says otherwise.
const TrimEvery = 7 * 24 * time.Hour

// trimPools has the devices of pools told what of them is free, when it is time. Images are
// left out: their blocks are to stay theirs.
func (a *Agent) trimPools() (begun []*job) {
	now := a.Clock.Now()
	for _, op := range a.pools.all() {
		// What lies elsewhere than where it is mounted is no filesystem of Drover's.
		if op.backend == nil || len(op.rec.Devices) == 0 || op.rec.Path != op.rec.Mount {
			continue
		}
		every := a.pools.trimEvery(op.Name)
		since := now.Sub(op.rec.Trimmed)
		if every < 0 || (since >= 0 && since < every) { // less than 0: the clock was set back
			continue
		}
		id, name, path := op.ID, op.Name, op.rec.Mount
		begun = append(begun, a.jobs.start("trim of pool "+name, func(ctx context.Context, _ *job) error {
			return a.trim(ctx, id, name, path)
		}))
	}
	return begun
}

func (p *pools) trimEvery(name string) time.Duration {
	i := slices.IndexFunc(p.a.Pools, func(c PoolConfig) bool { return c.Name == name })
	if i < 0 || p.a.Pools[i].Trim == 0 {
		return TrimEvery
	}
	return p.a.Pools[i].Trim
}

// trim trims one. That it was is on record before: one that fails, or takes a host down, is
// not tried again at once.
func (a *Agent) trim(ctx context.Context, id uuid.UUID, name, path string) error {
	log := a.Log.WithField("pool", name)
	now := a.Clock.Now()
	err := a.pools.keep(ctx, id, func(rec *poolRecord) { rec.Trimmed = now })
	if err != nil {
		log.WithError(err).Warn("pool is not trimmed")
		return err
	}
	var bytes int64
	do := a.Trim
	if do == nil {
		do = trimPath
	}
	done := make(chan struct{})
	go func() { // a device may take minutes, and a stop does not wait for it
		defer close(done)
		bytes, err = do(path)
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-done:
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		log.Info("pool is not trimmed: its device knows no such thing")
	case err != nil:
		log.WithError(err).Warn("pool is not trimmed")
	default:
		log.Infof("trimmed: its device knows %s of it as free", dataset.Size(bytes).Human())
	}
	return err
}

func trimPath(path string) (int64, error) {
	dir, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	return fsctl.Trim(dir)
}
