package pool

import (
	"time"

	"github.com/droverhq/drover/dataset"
)

// Config is a pool as drover.yaml names it.
type Config struct {
	Name    string
	Backend string
	Path    string
	Image   dataset.Size // above 0: Path is an image file of that size
	Devices []string     // block devices to make the pool of; Path may be empty then
	// Trim is how often the devices are told which blocks are free. 0: TrimEvery; negative: never.
	Trim time.Duration
}

// TrimEvery is how often the devices of a pool are told which blocks are free, unless drover.yaml says otherwise.
const TrimEvery = 7 * 24 * time.Hour
