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
	// Gone are pools that the node has no more, on a person's word: they go off the record.
	// Of one that is in Pools too it is only asked whether it may: ErrConflict says what lies there.
	Gone []uuid.UUID `json:"gone,omitempty"`
	// Boot and Previous are the machine's boot ID and the incarnations in that boot
	// that this one comes after, from its own disk: they tell an agent that was
	// restarted from another machine with the same identity.
	Boot     string      `json:"boot,omitempty"`
	Previous []uuid.UUID `json:"previous,omitempty"` // earlier incarnations of the agent in this boot
}

// Renewal reports that an agent is alive.
type Renewal struct {
	Incarnation uuid.UUID `json:"incarnation"` // incarnation of the agent that renews
}

// Standing is the answer to a Renewal: for how long, at least, the agent counts as alive. 0 means for ever.
type Standing struct {
	TTL dataset.Duration `json:"ttl"` // how long the agent counts as alive after a renewal, at least; 0: for ever
	// Session names the time for which the agent was alive without a break: another one
	// begins when that was over. Nil from a control that does not say.
	Session uuid.UUID `json:"session,omitzero"`
}

// Heartbeat is an agent's report on what it sees. None of it is stored.
type Heartbeat struct {
	Incarnation uuid.UUID            `json:"incarnation"`     // incarnation of the agent that reports
	Pools       []dataset.PoolStatus `json:"pools,omitempty"` // status of the pools of the node
	// pools that are configured but could not be created
	Unmade     []Pool                  `json:"unmade,omitempty"`
	Datasets   []dataset.DatasetStatus `json:"datasets,omitempty"`   // those that changed
	Operations []dataset.Operation     `json:"operations,omitempty"` // operations of the node, with their progress
	// replicas of the node, as they are; those that changed
	Copies []dataset.Copy `json:"copies,omitempty"`
	// the node's own: what it wrote until then is compared with what copies have
	Clock time.Time `json:"clock,omitzero"`
	Guard bool      `json:"guard,omitempty"` // its guard answers
	// Whole says that the replica was told of everything before, so that Datasets is
	// what changed since. One that was not says so with ErrConflict.
	Whole bool `json:"whole,omitempty"`
	// Leaving says that the agent stops in order, and nothing else: nobody is to look for
	// it until it registers again.
	Leaving bool `json:"leaving,omitempty"`
	// Distrust says why the node does not believe this store: then nothing of the
	// node's is condemned by itself.
	Distrust string `json:"distrust,omitempty"`
}

// Sync is what changed for a node after a revision.
type Sync struct {
	Rev uint64 `json:"rev"` // revision of this answer; the next request continues from it
	// Cluster is the identity of the store behind control: an agent that finds
	// another one than before destroys nothing.
	Cluster uuid.UUID `json:"cluster"`
	// Index is that of the transaction which last registered the node: an agent
	// that had seen a later one before it registered has an older store before it.
	Index uint64 `json:"index"`
	// Clock is how often homes and leases, among others, were changed in the store, at
	// least; with Full: exactly, so that who knows of more sees that it went back. 0: it
	// is that of one host, whose indexes say it.
	Clock uint64 `json:"clock,omitempty"`
	// Recovery is, with Full, the last one of the store; nil: there was none.
	Recovery *Recovering `json:"recovery,omitempty"`
	// Halted is, with Full, why the store is not to be believed; empty: it is.
	Halted string `json:"halted,omitempty"`
	// Full says that Datasets is all of the node's; what is not there is gone.
	Full bool `json:"full,omitempty"`
	// datasets of the node that changed; with full: all of them
	Datasets   []Indexed           `json:"datasets,omitempty"`
	Removed    []uuid.UUID         `json:"removed,omitempty"`    // neither home nor copy is this node's any more
	Operations []dataset.Operation `json:"operations,omitempty"` // all that are not final
	Copies     []Kept              `json:"copies,omitempty"`     // with Full: all
	Guests     []Indexed           `json:"guests,omitempty"`     // that the node stays with; with Full: all
}

// Indexed is a record and the index of the transaction that wrote it last.
type Indexed struct {
	dataset.Dataset
	Index uint64 `json:"index"` // index of the transaction that last wrote the record
	// Lease is set while the record names a move.
	Lease *dataset.Lease `json:"lease,omitempty"`
}

// Kept is a copy that a node must keep or destroy, and the record of its dataset, or nil if the dataset no longer
// exists.
type Kept struct {
	dataset.Copy
	Record *dataset.Dataset `json:"record,omitempty"` // record of the dataset; absent: the dataset no longer exists
	Index  uint64           `json:"index"`            // of the copy
}

// Yield is the answer of a home's agent to a recall. Exactly one of Manifest and Holders is set.
type Yield struct {
	Incarnation uuid.UUID `json:"incarnation"` // incarnation of the agent that answers
	Operation   uuid.UUID `json:"operation"`   // the move
	Dataset     uuid.UUID `json:"dataset"`     // UUID of the dataset whose lease was recalled
	Epoch       uint64    `json:"epoch"`       // epoch of the lease that was recalled
	// Manifest says that the lease is given up: on the node's own disk, for good,
	// and nothing writes to the dataset any more.
	Manifest *dataset.Manifest `json:"manifest,omitempty"`
	Holders  []string          `json:"holders,omitempty"` // mount IDs that keep it from that
}

// Copied is an agent's report on its copy of a dataset.
type Copied struct {
	Incarnation uuid.UUID    `json:"incarnation"`    // incarnation of the agent that reports
	Copy        dataset.Copy `json:"copy"`           // the snapshot that it has now
	Asks        bool         `json:"asks,omitempty"` // it is to be destroyed now, unless that is wanted no more
	Gone        bool         `json:"gone,omitempty"` // it is destroyed, as it was to be
	// it is about where Copy is mounted, or why not, and nothing else
	Looked bool `json:"looked,omitempty"`
}

// Generations reports the generations of pools. As an answer it has the highest known generation of each.
type Generations struct {
	Incarnation uuid.UUID    `json:"incarnation,omitzero"` // incarnation of the agent that reports
	Pools       []Generation `json:"pools"`                // generation of each pool
	// Passing says that memory is enough: no store need have it.
	Passing bool `json:"passing,omitempty" doc:"kept in memory, and not put on record"`
}

// Generation is a counter that is stored in the pool itself and raised by the pool's node. It shows whether the
// disk was restored from an older backup.
type Generation struct {
	Pool       uuid.UUID `json:"pool"`       // UUID of the pool
	Generation uint64    `json:"generation"` // generation of the pool; it only grows
}

// Found is a dataset that was found in a pool. Rebuild and adopt restore its record.
type Found struct {
	Pool      uuid.UUID          `json:"pool"`                // UUID of the pool that stores the dataset
	Dataset   dataset.Dataset    `json:"dataset"`             // record that is stored beside the data
	Snapshots []dataset.Snapshot `json:"snapshots,omitempty"` // snapshots of the dataset in that pool
	// Index is that of the transaction which last wrote the dataset, as far as the
	// node has seen; 0: not known.
	Index uint64 `json:"index,omitempty"`
}

// Rebuilt is what was done with one Found.
type Rebuilt struct {
	Dataset uuid.UUID `json:"dataset"`                                      // UUID of the dataset
	Volume  string    `json:"volume"`                                       // name of the volume
	Action  string    `json:"action" enum:"known,restored,renamed,trashed"` // what was done with the dataset
	Note    string    `json:"note,omitempty"`                               // explanation for a person; empty: none
}
