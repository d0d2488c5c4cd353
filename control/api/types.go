// Package api has what both sides of the HTTP API of Drover, version 1, share: the types of requests and answers, the
// interfaces that control (Service, Backup, Members) and the agent of a host (Local) implement, the principal of a
// request, and the line of the audit log.
//
// Package server has the handlers, package client the typed client, package wire the representation in HTTP, and
// package openapi the OpenAPI document.
//
// An error is sent as RFC 9457 problem details with the stable code of its dataset.Kind. The client returns an error of
// the same kind. If the server cannot be reached, the client returns dataset.ErrUnavailable.
package api

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Request asks for one change of one volume, snapshot or dataset: what a plan
// is made from. Which fields count depends on the kind.
type Request struct {
	ID   uuid.UUID      `json:"id,omitzero"` // of the operation to be; chosen by the caller, so that a retry is known
	Kind dataset.OpKind `json:"kind"`        // kind of the change
	// Volume is the spec for create, clone and import; otherwise the volume,
	// or dataset, by name or by a unique prefix of its UUID.
	Volume string `json:"volume,omitempty"`
	// options of the new volume, by name; absent: those of its profile
	Options  map[string]string `json:"options,omitempty"`
	Snapshot string            `json:"snapshot,omitempty"` // name or UUID prefix
	// of the new snapshot, or the name to restore from trash under
	Name    string `json:"name,omitempty"`
	Message string `json:"message,omitempty"` // free text that is kept with a snapshot
	Size    string `json:"size,omitempty"`    // new size, such as 10GiB
	Profile string `json:"profile,omitempty"` // set-profile
	// whether the volume is protected against deletion; absent: unchanged
	Protect *bool `json:"protect,omitempty"`
	// import; rekey: the file of the old key, if that is no more where its profile says
	Path  string `json:"path,omitempty"`
	Live  bool   `json:"live,omitempty"`  // import
	Force bool   `json:"force,omitempty"` // delete what is protected
	// create: Volume is how the asking node's engine spells it
	Engine    bool `json:"engine,omitempty"`
	Scheduled bool `json:"scheduled,omitempty"` // snapshot: for the profile's schedule
	// move: where to, by name or by a unique prefix of its UUID; empty: away
	Node string `json:"node,omitempty"`
	// move and delete with force: the home, which a person says writes no more
	Fenced string `json:"fenced,omitempty"`
	// move: only if its home is lost and the profile lets a copy take over
	Failover bool `json:"failover,omitempty"`
}

// Plan is what control decided on a request: exactly one field is set.
type Plan struct {
	// Done is the dataset when nothing has to be done: it is already so.
	Done *dataset.Dataset `json:"done,omitempty"`
	// Operation is what is to be done by its node's agent.
	Operation *dataset.Operation `json:"operation,omitempty"`
}

// Report is what an agent says of an operation that it carried out.
type Report struct {
	Incarnation uuid.UUID         `json:"incarnation"` // incarnation of the agent that reports
	Operation   dataset.Operation `json:"operation"`   // with the real size in Dataset or Snapshot
	// Again says that an earlier Record or Commit of the operation was sent and not answered, so it may
	// still arrive. A Commit then puts the end of the operation on record in any case, and what arrives
	// after it changes nothing.
	Again bool `json:"again,omitempty"`
}

// Committed is the outcome on record.
type Committed struct {
	// Dataset is the record after the operation; nil when it is gone.
	Dataset *dataset.Dataset `json:"dataset,omitempty"`
	Index   uint64           `json:"index"` // index of the transaction that wrote the record
	// Lost says that an identical request won: Dataset is the winner's, and
	// what this operation made is to be reaped.
	Lost bool `json:"lost,omitempty"`
}

// Outcome answers a user's request.
type Outcome struct {
	Volume *Volume `json:"volume,omitempty"` // as it was when the request was taken
	// the operation that carries out the change; absent: nothing had to be done
	Operation *dataset.Operation `json:"operation,omitempty"`
}

// Volume is a volume, or a dataset in the trash, as people see it.
type Volume struct {
	dataset.Dataset
	Node      string                 `json:"node"`             // name of the home
	PoolName  string                 `json:"pool_name"`        // name of the pool that stores the dataset
	Backend   string                 `json:"backend"`          // backend of that pool
	Lease     *dataset.Lease         `json:"lease,omitempty"`  // the lease on the dataset; absent: no node has one
	Status    *dataset.DatasetStatus `json:"status,omitempty"` // nil: not heard of
	Snapshots int                    `json:"snapshots"`        // number of snapshots
	Kept      []KeptCopy             `json:"kept,omitempty"`   // copies of the dataset on other nodes
	// guests of the volume; the home is one while it uses the volume alone
	Visits []Visit `json:"visits,omitempty"`
}

// KeptCopy is a copy of a dataset as people see it.
type KeptCopy struct {
	dataset.Copy
	NodeName string `json:"node_name"` // name of the node that keeps the copy
}

// Page asks for a part of a list, in the order of names or UUIDs.
type Page struct {
	After string `query:"after" maxLength:"512" doc:"return what comes after this name or UUID"`
	Limit int    `query:"limit" minimum:"0" maximum:"1000" doc:"how many at most; 0: 1000"`
}

// List is one page of a list; Next, when not empty, is the After of the next.
type List[T any] struct {
	Items []T `json:"items"` // the entries of this page
	// value of the parameter after for the next page; empty: this is the last page
	Next string `json:"next,omitempty"`
}

// Node is a node as people see it.
type Node struct {
	dataset.Node
	Facts *dataset.Facts `json:"facts,omitempty"` // as of the last change that counts; nil: not told yet
	// Live says that its agent is heard of. Since is when it registered, or is not
	// heard of since; zero: not known.
	Live bool `json:"live"`
	// when the agent registered, or, if it is unreachable, since when; absent: not known
	Since time.Time `json:"since,omitzero"`
	// Guarded says that its guard answered when it was heard last; Fenced, of one that is
	// away, that a person vouches that it writes no more.
	Guarded bool `json:"guarded,omitempty"`
	Fenced  bool `json:"fenced,omitempty"` // the node is unreachable, and an operator confirmed that it is fenced
}

// Cordoned is whether nothing new is to be put on a node and, draining, what it has is to
// go elsewhere: its replicas do so by themselves, its volumes when they are moved.
type Cordoned struct {
	Cordoned bool `json:"cordoned"`           // nothing new is placed on the node
	Draining bool `json:"draining,omitempty"` // only what is cordoned is drained
}

// Fenced is a person's word that a node writes no more.
type Fenced struct {
	Confirmed bool `json:"confirmed"` // the operator confirms that the node is fenced
}

// FailoverState says whether volumes with failover auto go on from a copy by themselves.
type FailoverState struct {
	Halted string    `json:"halted,omitempty"` // why they do not, and what would help; empty: they do
	Since  time.Time `json:"since,omitzero"`   // since when decisions are halted; absent: they are not
}

// FactsReport is what an agent says of its host.
type FactsReport struct {
	Incarnation uuid.UUID     `json:"incarnation"` // incarnation of the agent that reports
	Facts       dataset.Facts `json:"facts"`       // facts of the host
}

// Registration is how an agent presents its node.
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

// Renewal says that an agent is alive.
type Renewal struct {
	Incarnation uuid.UUID `json:"incarnation"` // incarnation of the agent that renews
}

// Standing says for how long an agent that renewed counts as alive, at least; 0: for
// ever.
type Standing struct {
	TTL dataset.Duration `json:"ttl"` // how long the agent counts as alive after a renewal, at least; 0: for ever
	// Session names the time for which the agent was alive without a break: another one
	// begins when that was over. Nil from a control that does not say.
	Session uuid.UUID `json:"session,omitzero"`
}

// Heartbeat is what an agent says of what it sees; none of that is stored.
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

// Sync is what changed for a node since a revision.
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

// Indexed is a record with the index of the transaction that last wrote it.
type Indexed struct {
	dataset.Dataset
	Index uint64 `json:"index"` // index of the transaction that last wrote the record
	// Lease is set while the record names a move.
	Lease *dataset.Lease `json:"lease,omitempty"`
}

// Kept is a copy that a node is to keep, or let go of, with the record of its
// dataset; nil: there is none any more.
type Kept struct {
	dataset.Copy
	Record *dataset.Dataset `json:"record,omitempty"` // record of the dataset; absent: the dataset no longer exists
	Index  uint64           `json:"index"`            // of the copy
}

// Yield is what the agent of a home answers to a recall: exactly one of Manifest and
// Holders is set.
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

// Copied is what an agent says of a copy of its own.
type Copied struct {
	Incarnation uuid.UUID    `json:"incarnation"`    // incarnation of the agent that reports
	Copy        dataset.Copy `json:"copy"`           // the snapshot that it has now
	Asks        bool         `json:"asks,omitempty"` // it is to be destroyed now, unless that is wanted no more
	Gone        bool         `json:"gone,omitempty"` // it is destroyed, as it was to be
	// it is about where Copy is mounted, or why not, and nothing else
	Looked bool `json:"looked,omitempty"`
}

// Removed is a node that was let go of.
type Removed struct {
	dataset.Node
	Forgotten []string `json:"forgotten,omitempty" doc:"what it kept and nobody else has, which is on record no more"`
}

// Pool is a pool as people see it.
type Pool struct {
	dataset.Pool
	NodeName string `json:"node_name"` // name of the node that has the pool
	// status of the pool as last reported; absent: nothing was reported yet
	Status *dataset.PoolStatus `json:"status,omitempty"`
}

// RemovedPool is a pool that is no more.
type RemovedPool struct {
	Pool dataset.Pool `json:"pool"` // the pool that was removed
	// Notes are what is to be known of its place, and of what named it.
	Notes []string `json:"notes,omitempty" doc:"what stays at its place, and what named it"`
}

// Generations says of which generation pools are; what it answers, of which they were at most.
type Generations struct {
	Incarnation uuid.UUID    `json:"incarnation,omitzero"` // incarnation of the agent that reports
	Pools       []Generation `json:"pools"`                // generation of each pool
	// Passing says that memory is enough: no store need have it.
	Passing bool `json:"passing,omitempty" doc:"kept in memory, and not put on record"`
}

// Generation is a pool's: a counter that lies in the pool itself and that its node raises,
// so that a disk which was put back to an older state can be told.
type Generation struct {
	Pool       uuid.UUID `json:"pool"`       // UUID of the pool
	Generation uint64    `json:"generation"` // generation of the pool; it only grows
}

// NewPool asks an agent for a pool.
type NewPool struct {
	Name    string `json:"name"`    // name of the new pool
	Backend string `json:"backend"` // backend that manages the pool
	Path    string `json:"path,omitempty" doc:"where it lies; may be left out with devices"`
	Image   string `json:"image,omitempty" doc:"size of a preallocated image file to make at path"`

	Devices []string `json:"devices,omitempty" doc:"block devices to make it of, which must hold nothing"`
}

// Found is a dataset that lies in a pool: what rebuild and adopt bring back.
type Found struct {
	Pool      uuid.UUID          `json:"pool"`                // UUID of the pool that stores the dataset
	Dataset   dataset.Dataset    `json:"dataset"`             // record that is stored beside the data
	Snapshots []dataset.Snapshot `json:"snapshots,omitempty"` // snapshots of the dataset in that pool
	// Index is that of the transaction which last wrote the dataset, as far as the
	// node has seen; 0: not known.
	Index uint64 `json:"index,omitempty"`
}

// Rebuilt says what became of one Found.
type Rebuilt struct {
	Dataset uuid.UUID `json:"dataset"`                                      // UUID of the dataset
	Volume  string    `json:"volume"`                                       // name of the volume
	Action  string    `json:"action" enum:"known,restored,renamed,trashed"` // what was done with the dataset
	Note    string    `json:"note,omitempty"`                               // explanation for a person; empty: none
}

// Event is one thing that happened.
type Event struct {
	ID      uint64            `json:"id"`               // grows; unique until the server restarts
	Time    time.Time         `json:"time"`             // when the event happened
	Type    string            `json:"type"`             // volume.create, snapshot.delete, pool.full …
	Volume  string            `json:"volume,omitempty"` // name of the volume concerned; empty: none
	Dataset uuid.UUID         `json:"dataset,omitzero"` // UUID of the dataset concerned; absent: none
	Node    string            `json:"node,omitempty"`   // name of the node concerned; empty: none
	Detail  string            `json:"detail,omitempty"` // explanation for a person; empty: none
	Labels  map[string]string `json:"labels,omitempty"` // labels of the volume concerned
}

// Finding is one line of doctor.
type Finding struct {
	Level   string `json:"level" enum:"ok,info,warning,error"` // severity of the finding
	Subject string `json:"subject"`                            // what it is about: "pool default", "dataset f23c…"
	Text    string `json:"text"`                               // the finding, for a person
	Mend    string `json:"mend,omitempty"`                     // the command that corrects it; empty: none
}

// Diff is by how much two points in time of a volume differ.
type Diff struct {
	Older  string `json:"older"`  // the older point in time
	Newer  string `json:"newer"`  // the newer point in time
	Bytes  int64  `json:"bytes"`  // number of bytes that differ
	Zeroed int64  `json:"zeroed"` // number of bytes that became holes
	Ranges int    `json:"ranges"` // number of ranges that differ
}

// Version is what answers.
type Version struct {
	Version string    `json:"version"`        // version of the program
	API     string    `json:"api"`            // version of the API
	Node    string    `json:"node,omitempty"` // name of the node that answers; empty: not a node
	Store   string    `json:"store"`          // kind of the store
	Started time.Time `json:"started"`        // when the program started
}
