package api

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// VolumeIO is how much the block device of a mounted volume was read and written since it was attached.
type VolumeIO struct {
	Dataset uuid.UUID `json:"dataset"` // UUID of the dataset
	Volume  string    `json:"volume"`  // name of the volume
	Node    string    `json:"node"`    // name of the node that has it mounted
	At      time.Time `json:"at"`      // time at which the counters were read
	Read    IO        `json:"read"`    // what was read
	Write   IO        `json:"write"`   // what was written
}

// IO is what a block device has done in one direction.
type IO struct {
	Operations uint64           `json:"operations"` // completed operations
	Bytes      uint64           `json:"bytes"`      // transferred bytes
	Time       dataset.Duration `json:"time"`       // time that the operations took together
}
