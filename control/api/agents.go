package api

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// FactsReport is an agent's report on its host.
type FactsReport struct {
	Incarnation uuid.UUID     `json:"incarnation"` // incarnation of the agent that reports
	Facts       dataset.Facts `json:"facts"`       // facts of the host
}

// Registration is the request with which an agent presents its node and its pools.
type Registration struct {
	Node  dataset.Node   `json:"node"`  // record of the node that registers
	Pools []dataset.Pool `json:"pools"` // pools of the node
	// UUIDs of pools whose records an operator wants to remove. If such a pool is also listed in pools, control only
	// tests whether the removal is possible. The code conflict means that it is not, and the error says why.
	RemovedPools []uuid.UUID `json:"removed_pools,omitempty"`
	// boot ID of the machine. Together with the earlier incarnations, it distinguishes a restarted agent from another
	// machine with the same identity.
	BootID string `json:"boot_id,omitempty"`
	// earlier incarnations of the agent in this boot
	PreviousIncarnations []uuid.UUID `json:"previous_incarnations,omitempty"`
}

// Renewal reports that an agent is alive.
type Renewal struct {
	Incarnation uuid.UUID `json:"incarnation"` // incarnation of the agent that renews
}

// SessionState is the answer to a Renewal.
type SessionState struct {
	// minimum time for which the agent counts as alive after a renewal; 0: without end
	TTL dataset.Duration `json:"ttl"`
	// UUID of the session, the period in which the agent was alive without interruption; absent: control does not know
	// it
	Session uuid.UUID `json:"session,omitzero"`
}

// Heartbeat is an agent's report on the present state of its pools, datasets, copies and operations. Control does not
// store it.
type Heartbeat struct {
	Incarnation uuid.UUID            `json:"incarnation"`     // incarnation of the agent that reports
	Pools       []dataset.PoolStatus `json:"pools,omitempty"` // status of the pools of the node
	// pools that are configured but could not be created
	FailedPools []Pool                  `json:"failed_pools,omitempty"`
	Datasets    []dataset.DatasetStatus `json:"datasets,omitempty"`   // datasets that changed
	Operations  []dataset.Operation     `json:"operations,omitempty"` // operations of the node, with their progress
	// replicas of the node that changed
	Copies []dataset.Copy `json:"copies,omitempty"`
	// present time of the node's clock, with which control compares the times of copies
	NodeTime     time.Time `json:"node_time,omitzero"`
	GuardRunning bool      `json:"guard_running,omitempty"` // the guard of the node responds
	// whether the report has only the changes since the previous heartbeat. If control has not received a previous one,
	// it responds with the code conflict.
	Incremental bool `json:"incremental,omitempty"`
	// the agent is stopping, and does not count as missing until it registers again; apart from incarnation, all other
	// properties are empty
	Stopping bool `json:"stopping,omitempty"`
	// why the node suspects that the store is older than its data; while it does, nothing on the node is removed
	// automatically
	StoreDoubt string `json:"store_doubt,omitempty"`
	// what the agent found on its host; absent: it has not examined the host since it started
	Found *NodeFindings `json:"found,omitempty"`
}

// Sync has the changes that concern a node since a revision.
type Sync struct {
	Revision uint64 `json:"revision"` // revision of this answer; the next request continues from it
	// UUID of the store of control; an agent that finds another UUID than before destroys nothing
	Cluster uuid.UUID `json:"cluster"`
	// index of the transaction that last registered the node. If the agent knows a higher index from before its
	// registration, the store was restored from an older backup.
	RegistrationIndex uint64 `json:"registration_index"`
	// number of changes of the store; a lower bound unless full is true. If the agent knows a higher number, the store
	// was restored from an older backup. 0: the store belongs to a single host,
	// where the indexes show a restore.
	StoreClock uint64 `json:"store_clock,omitempty"`
	// with full: the last recovery of the store; absent: there was none
	Recovery *RecoveryState `json:"recovery,omitempty"`
	// with full: why changes are suspended; empty: changes are possible
	Halted string `json:"halted,omitempty"`
	// all datasets, copies and shared mounts of the node are listed, not only those that changed
	Full bool `json:"full,omitempty"`
	// datasets of the node that changed; with full: all of them
	Datasets []IndexedDataset `json:"datasets,omitempty"`
	// UUIDs of datasets that the node no longer has to keep: it is not their home and has no copy
	RemovedDatasets []uuid.UUID `json:"removed_datasets,omitempty"`
	// all operations of the node that have not ended
	Operations []dataset.Operation `json:"operations,omitempty"`
	// copies of the node that changed; with full: all
	Copies []AssignedCopy `json:"copies,omitempty"`
	// datasets of other homes that the node has mounted; with full: all
	SharedMounts []IndexedDataset `json:"shared_mounts,omitempty"`
}

// IndexedDataset is a record and the index of the transaction that wrote it last.
type IndexedDataset struct {
	dataset.Dataset
	Index uint64 `json:"index"` // index of the transaction that last wrote the record
	// lease on the dataset while the dataset is being moved; absent: it is not being moved
	Lease *dataset.Lease `json:"lease,omitempty"`
}

// AssignedCopy is a copy that a node must keep or destroy, with the record of its dataset. Record is nil if the
// dataset no longer exists.
type AssignedCopy struct {
	dataset.Copy
	Record *dataset.Dataset `json:"record,omitempty"` // record of the dataset; absent: the dataset no longer exists
	Index  uint64           `json:"index"`            // index of the transaction that last wrote the copy
}

// Yield is the answer of a home's agent to a recall. Exactly one of Manifest and InUseBy is set.
type Yield struct {
	Incarnation uuid.UUID `json:"incarnation"` // incarnation of the agent that answers
	Operation   uuid.UUID `json:"operation"`   // UUID of the move
	Dataset     uuid.UUID `json:"dataset"`     // UUID of the dataset whose lease was recalled
	Epoch       uint64    `json:"epoch"`       // epoch of the lease that was recalled
	// content that the node relinquished and saved to disk; absent: the dataset is in use
	Manifest *dataset.Manifest `json:"manifest,omitempty"`
	// mount IDs that prevent the node from relinquishing the dataset
	InUseBy []string `json:"in_use_by,omitempty"`
}

// CopyReport is an agent's report on its copy of a dataset.
type CopyReport struct {
	Incarnation uuid.UUID    `json:"incarnation"` // incarnation of the agent that reports
	Copy        dataset.Copy `json:"copy"`        // the copy as it is now
	// whether the node asks if it must still destroy the copy
	ConfirmRemoval bool `json:"confirm_removal,omitempty"`
	Removed        bool `json:"removed,omitempty"` // the copy was destroyed
	// only path and problem of the copy are reported
	MountOnly bool `json:"mount_only,omitempty"`
}

// Generations reports the generations of pools. In a response, it has the highest known generation of each pool.
type Generations struct {
	Incarnation uuid.UUID    `json:"incarnation,omitzero"` // incarnation of the agent that reports
	Pools       []Generation `json:"pools"`                // generation of each pool
	Transient   bool         `json:"transient,omitempty" doc:"control keeps the report only in memory"`
}

// Generation is a counter that is stored in the pool itself and raised by the pool's node. It shows whether the
// disk was restored from an older backup.
type Generation struct {
	Pool       uuid.UUID `json:"pool"`       // UUID of the pool
	Generation uint64    `json:"generation"` // generation of the pool; it only grows
}

// FoundDataset is a dataset that was found in a pool. Rebuild and adopt restore its record.
type FoundDataset struct {
	Pool      uuid.UUID          `json:"pool"`                // UUID of the pool that stores the dataset
	Dataset   dataset.Dataset    `json:"dataset"`             // record that is stored beside the data
	Snapshots []dataset.Snapshot `json:"snapshots,omitempty"` // snapshots of the dataset in that pool
	// index of the transaction that last wrote the dataset, as far as the node knows; 0: not known
	Index uint64 `json:"index,omitempty"`
	// the epoch that the node relinquished, if control has recorded that or may have recorded it; absent: none. The
	// agent of a single host sends it for a rebuild.
	Relinquished *RelinquishedEpoch `json:"relinquished,omitempty"`
}

// RebuildStore asks the agent of a host to rebuild the records of the datasets in its pools.
type RebuildStore struct {
	SkipOffline bool // skip offline pools; the names of their volumes become free
	DryRun      bool // change nothing: return the result that the rebuild would have
}

// Rebuilt is the result of Rebuild for one FoundDataset.
type Rebuilt struct {
	Dataset uuid.UUID `json:"dataset"`                                              // UUID of the dataset
	Volume  string    `json:"volume"`                                               // name of the volume
	Action  string    `json:"action" enum:"known,restored,renamed,trashed,purging"` // result for the dataset
	Note    string    `json:"note,omitempty"`                                       // for a person; empty: none
}
