package api

import "github.com/droverhq/drover/dataset"

// AdoptPool asks to take over an existing pool.
type AdoptPool struct {
	Path   string `json:"path" doc:"path or device of the pool"`
	DryRun bool   `json:"dry_run,omitempty" doc:"only decide: open the pool and close it again, and record nothing"`
}

// AcceptPool asks to let a quarantined pool serve in its present state.
type AcceptPool struct {
	Confirmed bool `json:"confirmed" doc:"the caller confirms that the data which the pool lacks is lost"`
	// Only decide: answer as the request would without it, and change nothing.
	DryRun bool `json:"dry_run,omitempty"`
}

// PoolPolicy is the part of a pool's configuration that can be changed while the pool serves.
type PoolPolicy struct {
	// highest allowed ratio of the sizes of its volumes to its size; 0: not limited
	Overcommit float64 `json:"overcommit"`
}

// Adopted is an adopted pool and the datasets that were found in it.
type Adopted struct {
	Pool    dataset.Pool `json:"pool"`    // the pool that was adopted
	Rebuilt []Rebuilt    `json:"rebuilt"` // result for each dataset that was found in the pool
}

// Pool is a pool as people see it.
type Pool struct {
	dataset.Pool
	NodeName string `json:"node_name"` // name of the node that has the pool
	// the node is unreachable: control has no session with it, or it has not reported for more than 18 seconds
	Unreachable bool `json:"unreachable,omitempty"`
	// last reported status of the pool; absent: not reported yet
	Status *dataset.PoolStatus `json:"status,omitempty"`
}

// PoolRemoval is how a pool is removed.
type PoolRemoval struct {
	Forget bool // only delete the record, and touch nothing at the path of the pool
	DryRun bool // only decide, and change nothing
}

// RemovedPool is a pool that was removed.
type RemovedPool struct {
	Pool dataset.Pool `json:"pool"` // the pool that was removed
	// Notes have the profiles that name the pool, and what remains where the pool was.
	Notes []string `json:"notes,omitempty" doc:"what remains at the path of the pool, and which profiles name the pool"`
}

// NewPool asks an agent to create a pool.
type NewPool struct {
	Name    string `json:"name"`    // name of the new pool
	Backend string `json:"backend"` // backend that manages the pool
	Path    string `json:"path,omitempty" doc:"path of the pool; may be absent if devices is set"`
	Image   string `json:"image,omitempty" doc:"size of a preallocated image file that is made at path"`

	Devices []string `json:"devices,omitempty" doc:"empty block devices of which the pool is made"`
	// highest allowed ratio of the sizes of its volumes to its size; absent: not limited
	Overcommit float64 `json:"overcommit,omitempty"`
}
