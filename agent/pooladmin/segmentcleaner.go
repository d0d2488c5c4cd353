package pooladmin

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// SegmentReaper is the part of backends.Imager that SegmentCleaner calls.
type SegmentReaper interface {
	ReapSegments(ctx context.Context) (int, error)
}

var _ SegmentReaper = backends.Imager(nil)

// SegmentCleaner removes the segments of images from pools that become nearly full or full. The segments of the last
// backup keep blocks that the volumes no longer use. They are a cache, so the next backup makes them again. That is why
// SegmentCleaner removes them once when a pool becomes nearly full, and once more when it becomes full: if it removed
// them at each heartbeat, each backup in a pool that stays nearly full would read whole images.
//
// Its state is how full each pool was last, in memory, protected by a mutex. So a pool that is nearly full when the
// agent starts counts as one that has become so. Its methods are safe for concurrent use.
type SegmentCleaner struct {
	*host.Host
	Pools *pool.Pools

	mu       sync.Mutex
	fullness map[uuid.UUID]dataset.Fullness
}

// CleanFull starts a job for each pool with images. The job reads how full the pool is. If the pool has become nearly
// full or full since the last call, the job removes the segments that no backup reads.
func (c *SegmentCleaner) CleanFull() (begun []*jobs.Job) {
	for _, p := range c.Pools.All() {
		reaper, ok := p.Storage.(SegmentReaper)
		if !ok || p.CheckServed() != nil {
			continue
		}
		begun = append(begun, c.Jobs.Start("segments of pool "+p.Name, func(ctx context.Context, _ *jobs.Job) error {
			return c.cleanPool(ctx, p.ID, p.Name, reaper)
		}))
	}
	return begun
}

// cleanPool does the work of CleanFull for one pool. A removal that fails is not repeated before the pool becomes
// nearly full or full again.
func (c *SegmentCleaner) cleanPool(ctx context.Context, id uuid.UUID, name string, reaper SegmentReaper) error {
	st, err := c.Pools.ReadStatus(ctx, id)
	if err != nil || !st.Online {
		return nil //nolint:nilerr // the pool is offline, which is reported elsewhere
	}
	if !c.becameFuller(id, st) {
		return nil
	}
	var count int
	done := make(chan struct{})
	go func() { // an image can have many segments, and a stop does not wait for their removal
		defer close(done)
		count, err = reaper.ReapSegments(ctx)
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-done:
	}
	log := c.Log.WithField("pool", name)
	if err != nil {
		log.WithError(err).Warn("cannot remove the segments of images from a pool that is nearly full")
	}
	if count > 0 {
		log.Infof("removed the segments of %d images, because the pool is nearly full: the next backups of these "+
			"volumes read the whole images", count)
	}
	return err
}

// becameFuller records how full a pool is, and reports whether it has become nearly full or full since the last call.
func (c *SegmentCleaner) becameFuller(id uuid.UUID, st dataset.PoolStatus) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fullness == nil {
		c.fullness = map[uuid.UUID]dataset.Fullness{}
	}
	was := c.fullness[id]
	is := st.FullnessAfter(was)
	c.fullness[id] = is
	return is != was && (was == dataset.NotFull || is == dataset.Full)
}
