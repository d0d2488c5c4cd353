package pool

import (
	"time"

	"github.com/droverhq/drover/dataset"
)

// Config is a pool as drover.yaml defines it.
type Config struct {
	Name    string
	Backend string
	Path    string
	Image   dataset.Size // if above 0, Path is an image file of this size
	Devices []string     // block devices to make the pool of; Path may be empty then
	// Trim is the interval at which the free blocks of the devices are discarded. If 0, it is TrimEvery. If negative,
	// free blocks are never discarded.
	Trim time.Duration
	// Overcommit is the highest ratio of the total size of its volumes to its own size. 0 means not limited.
	Overcommit float64
}

// TrimEvery is the interval at which the free blocks of a pool's devices are discarded, unless drover.yaml sets another
// one.
const TrimEvery = 7 * 24 * time.Hour
