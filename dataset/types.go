package dataset

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// Dataset is the record of the data of a volume. It is kept in the store and, with the same content, beside the
// data, so that a lost store can be rebuilt from the pools.
type Dataset struct {
	ID          uuid.UUID `json:"id"`                          // UUID of the dataset; it never changes
	Volume      string    `json:"volume"`                      // name of the volume; in the trash: its last name
	RequestedAs string    `json:"requested_as" old:"spelling"` // the volume as it was first requested, such as db@gold
	// UUID of the node whose engine requested it; absent: no engine did
	RequestedBy uuid.UUID `json:"requested_by,omitzero" old:"spelled_by"`
	State       State     `json:"state"` // state of the dataset
	// the profile as it was when the dataset was made, with the options of the create
	Profile   Profile           `json:"profile"`
	Size      Size              `json:"size,omitempty"`      // size of the dataset; 0: not limited
	Labels    map[string]string `json:"labels,omitempty"`    // labels that users gave the volume
	Protected bool              `json:"protected,omitempty"` // the volume cannot be deleted without force
	ReadOnly  bool              `json:"readonly,omitempty"`  // the volume is mounted read-only
	// the engine made up the name of the volume
	Anonymous bool      `json:"anonymous,omitempty"`
	Home      uuid.UUID `json:"home"`  // UUID of the node that serves the dataset
	Pool      uuid.UUID `json:"pool"`  // UUID of the pool that stores the dataset
	Epoch     uint64    `json:"epoch"` // fencing token of the dataset, which only grows
	// where on its share the home took the dataset over from; absent: it did not
	TakenOver *TakenOver  `json:"taken_over,omitempty" old:"taken"`
	Copies    []uuid.UUID `json:"copies,omitempty"` // UUIDs of the nodes that keep a copy besides the home
	// UUIDs of those of them whose copy is superseded for good
	SupersededCopies []uuid.UUID   `json:"superseded_copies,omitempty" old:"spent"`
	SharedMounts     []SharedMount `json:"shared_mounts,omitempty" old:"guests"` // with access many: the nodes that have it mounted besides the home
	// UUID of the move in progress, one at a time; absent: there is none
	Move uuid.UUID `json:"move,omitzero"`
	// losses that a recorded copy may not know of, the oldest first
	Losses  []Loss    `json:"losses,omitempty"`
	Origin  *Origin   `json:"origin,omitempty"` // what the dataset was cloned from; absent: it is not a clone
	Created time.Time `json:"created"`          // when the dataset was created
	// how long the deleted dataset is kept; absent: it is not in the trash
	Trash *Trash `json:"trash,omitempty"`
	// UUID of the snapshot that the head is based on, the parent of the next snapshot
	LatestSnapshot uuid.UUID `json:"latest_snapshot,omitzero" old:"latest"`
	// UUID of the operation that last wrote the record, so that a retry recognises its own
	Request uuid.UUID `json:"request"`
	// Encryption is the wrapped data key; absent: the dataset is not encrypted.
	Encryption *Encryption `json:"encryption,omitempty"`
	// Written is only set in the record beside the data: the index of the store's transaction that wrote this
	// content, as far as the agent knows it.
	Written uint64 `json:"written,omitempty" hidden:"true"`
}

// Followers returns the nodes whose recorded copy a volume may continue from: all but those whose copy is known to be
// spent.
//
// While control does not answer, the holder of the dataset needs the promise of these nodes, and of those that it gave
// something itself. A copy that was once read as spent stays so, whatever control decides without the holder: a
// promotion depends on the kind of its copy from its plan to its commit, no kind becomes better again, and a
// new copy on the same node begins empty and is filled only by the home, which has recorded that node before.
// Only a person can override this, with drover store recover without a report from the home.
func (d Dataset) Followers() []uuid.UUID {
	superseded := func(n uuid.UUID) bool { return slices.Contains(d.SupersededCopies, n) }
	return slices.DeleteFunc(slices.Clone(d.Copies), superseded)
}

// TakenOver says where on its share a dataset was when a node became its home. If the node has not taken it over into
// its own pool yet, it is still there.
type TakenOver struct {
	FromPool uuid.UUID `json:"from_pool" old:"from"` // UUID of the pool that it was in
	Epoch    uint64    `json:"epoch"`                // epoch of the home there; data of an earlier epoch is not the dataset
}

// State says where a dataset is in its life.
type State string

// The states of a dataset. A dataset has no record while it is being made: it is made first, under a private
// name, and recorded when it is complete.
const (
	StateReady   State = "ready"   // a volume name refers to it
	StateTrashed State = "trashed" // it has no name, and can be restored
	// StatePurging: it is being destroyed and cannot be restored. The record stays until the home and every node
	// with a copy have destroyed it; Home is uuid.Nil once the home has.
	StatePurging State = "purging"
)

// Origin is the source of a clone.
type Origin struct {
	Dataset  uuid.UUID `json:"dataset"`            // UUID of the dataset that was cloned
	Snapshot uuid.UUID `json:"snapshot"`           // UUID of the snapshot that was cloned
	Implicit bool      `json:"implicit,omitempty"` // the snapshot was taken only for this clone
}

// Trash says since when and until when a deleted dataset is kept.
type Trash struct {
	At      time.Time `json:"at"`                           // when the dataset was put into the trash
	Expires time.Time `json:"expires,omitzero" old:"until"` // when it is purged; absent: never automatically
}

// Snapshot is an immutable point in time of a dataset.
type Snapshot struct {
	ID      uuid.UUID    `json:"id"`                // UUID of the snapshot
	Dataset uuid.UUID    `json:"dataset"`           // UUID of the dataset that the snapshot belongs to
	Volume  string       `json:"volume"`            // the dataset's name when it was taken
	Parent  uuid.UUID    `json:"parent,omitzero"`   // UUID of the previous snapshot; absent: there was none
	Name    string       `json:"name,omitempty"`    // name of the snapshot; empty: it has none
	Message string       `json:"message,omitempty"` // text of the user who took the snapshot
	Kind    SnapshotKind `json:"kind"`              // why the snapshot was taken
	Size    Size         `json:"size,omitempty"`    // size of the dataset when it was taken
	Profile Profile      `json:"profile"`           // profile of the dataset when it was taken
	Epoch   uint64       `json:"epoch"`             // epoch of the dataset when the snapshot was taken
	Created time.Time    `json:"created"`           // when the snapshot was taken
	// OrderTime is set if the clock was set back since an earlier snapshot of this epoch. It is later than that
	// snapshot, and is used instead of Created wherever the order of snapshots matters.
	OrderTime time.Time `json:"order_time,omitzero" old:"order"`
	// Request is the UUID of the request that took the snapshot. For kind transfer it is the UUID of the node
	// that the snapshot is sent to; a nil UUID means all replicas.
	Request uuid.UUID `json:"request"`
}

// SnapshotKind says who requested a snapshot, and so what removes it.
type SnapshotKind string

// The kinds of snapshots.
const (
	SnapshotManual    SnapshotKind = "manual"    // taken by a person; retention does not remove it
	SnapshotScheduled SnapshotKind = "scheduled" // taken on the schedule of the profile; retention removes it
	SnapshotImplicit  SnapshotKind = "implicit"  // taken for one clone; removed when the clone no longer needs it
	// taken before a restore, with the replaced content; retention does not remove it
	SnapshotRestore SnapshotKind = "restore"
	// SnapshotTransfer is taken for a copy on another node, and never recorded in the store.
	SnapshotTransfer SnapshotKind = "transfer"
	// SnapshotSuperseded is a head that was superseded by one on another node. It is kept until a person discards
	// it.
	SnapshotSuperseded SnapshotKind = "superseded"
)

// Lease is the right of one node to have a dataset mounted for writing. It is sticky: it does not end with the
// last unmount.
type Lease struct {
	Dataset     uuid.UUID  `json:"dataset"`                         // UUID of the dataset
	Node        uuid.UUID  `json:"node"`                            // UUID of the node that has the lease
	Incarnation uuid.UUID  `json:"incarnation"`                     // incarnation of the agent that took it
	Epoch       uint64     `json:"epoch"`                           // epoch of the dataset for which the lease is valid
	State       LeaseState `json:"state"`                           // state of the lease
	InUse       bool       `json:"in_use,omitempty"`                // the dataset was in use when the lease was recalled
	WantedBy    uuid.UUID  `json:"wanted_by,omitzero" old:"wanted"` // UUID of the node that recalls it; absent: none does
}

// LeaseState is the state of a lease.
type LeaseState string

// The states of a lease.
const (
	LeaseHeld     LeaseState = "held"
	LeaseRecalled LeaseState = "recalled" // another node wants it, so new mounts are refused
	LeaseMoving   LeaseState = "moving"   // relinquished, while the dataset moves
)

// Manifest describes the relinquished content of a dataset: the next home must have it before it opens the next epoch.
type Manifest struct {
	Snapshot uuid.UUID `json:"snapshot"` // UUID of the snapshot that was taken when nothing could write any more
	// UUID of the snapshot that the stream is a difference to; absent: the stream is complete
	Base      uuid.UUID `json:"base,omitzero"`
	Bytes     int64     `json:"bytes"`                           // length of the stream
	SHA256    string    `json:"sha256" old:"sum"`                // SHA-256 of the stream, in hexadecimal digits
	Taken     time.Time `json:"taken"`                           // when it was taken, by the home's clock
	OrderTime time.Time `json:"order_time,omitzero" old:"order"` // order of the snapshot
}

// GivingUp is among the holders of a move while its home is still relinquishing the volume, which cannot be
// mounted there any more.
const GivingUp = "it is being given up"

// Copy is the copy of a dataset on a node other than its home: snapshots, without a writable head.
type Copy struct {
	Dataset      uuid.UUID `json:"dataset"`                           // UUID of the dataset
	Node         uuid.UUID `json:"node"`                              // UUID of the node that keeps the copy
	Pool         uuid.UUID `json:"pool"`                              // UUID of the pool that stores the copy
	Kind         CopyKind  `json:"kind"`                              // why the node keeps the copy
	PreviousKind CopyKind  `json:"previous_kind,omitempty" old:"was"` // kind that the copy had before it became going
	Epoch        uint64    `json:"epoch"`                             // epoch in which its newest snapshot was taken
	Snapshot     uuid.UUID `json:"snapshot,omitzero"`                 // UUID of its newest complete and verified snapshot
	Taken        time.Time `json:"taken,omitzero"`                    // when that was taken, by its home's clock
	OrderTime    time.Time `json:"order_time,omitzero" old:"order"`   // order of that snapshot
	// when its node last verified that it is up to date, by that node's clock
	VerifiedAt     time.Time `json:"verified_at,omitzero" old:"checked"`
	VerifiedAtHome time.Time `json:"verified_at_home,omitzero" old:"current"` // the same by its home's clock; absent: not known
	Expires        time.Time `json:"expires,omitzero" old:"until"`            // when it is removed; absent: never automatically
	// for how long services had run on the store when expires was set
	Ran Duration `json:"ran,omitempty" hidden:"true"`
	// MountReadOnly says that its node must mount it read-only, because an operator inspects a superseded copy.
	MountReadOnly bool   `json:"mount_read_only,omitempty" old:"shown"`
	Path          string `json:"path,omitempty"`    // where the copy is mounted; empty: it is not mounted
	Problem       string `json:"problem,omitempty"` // why it is not mounted or unmounted as MountReadOnly says; retried
}

// Whole reports whether a volume can continue from the copy.
func (c Copy) Whole() bool {
	return c.Snapshot != uuid.Nil && (c.Kind == CopyReplica || c.Kind == CopyLeft)
}

// Spent reports whether the copy is never used to continue from, because it is superseded. That is final: the
// copy and its record are removed, and a later copy on the same node is a new one, which begins empty. A copy
// that is removed for another reason may turn out to be wanted, in a store that was restored from a backup.
func (c Copy) Spent() bool {
	return c.Kind == CopySuperseded || c.Kind == CopyGoing && c.PreviousKind == CopySuperseded
}

// copyEvery is how often a refreshed copy is recorded in the store. Control keeps the reports of heartbeats in
// memory; a store that had to record each of them would do nothing else.
const copyEvery = 10 * time.Minute

// Tells reports whether the store must record a copy, given what it recorded last: the first complete snapshot, a
// new epoch, and now and then.
func (c Copy) Tells(was Copy) bool {
	// also if the clock was set back
	return was.Snapshot == uuid.Nil || was.Epoch != c.Epoch || c.Taken.Sub(was.Taken).Abs() >= copyEvery
}

// CopyKind says why a copy exists, and so what becomes of it.
type CopyKind string

// The kinds of copies.
const (
	CopyReplica    CopyKind = "replica"    // kept up to date
	CopyLeft       CopyKind = "left"       // left by a move for a time, so that a move back is short
	CopySuperseded CopyKind = "superseded" // has data that its volume lacks; kept until a person discards it
	CopyGoing      CopyKind = "going"      // being destroyed; the record is removed when its node has done so
)

// Loss is the loss of a dataset that was promoted without its previous home.
type Loss struct {
	Snapshot uuid.UUID `json:"snapshot,omitzero"` // UUID of the snapshot that it continues from; absent: none
	Epoch    uint64    `json:"epoch"`             // epoch in which that snapshot was taken
	// when that was, by the clock of that epoch's home; later writes are lost
	Taken              time.Time   `json:"taken,omitzero"`
	OrderTime          time.Time   `json:"order_time,omitzero" old:"order"`           // order of that snapshot
	SurvivingSnapshots []uuid.UUID `json:"surviving_snapshots,omitempty" old:"later"` // UUIDs of later snapshots that exist nevertheless
	EndedEpoch         uint64      `json:"ended_epoch,omitempty" old:"over"`          // the epoch that ended with the loss
	PreviousHome       uuid.UUID   `json:"previous_home" old:"fenced"`                // UUID of the previous home
	Reason             string      `json:"reason" old:"why"`                          // who confirms that the previous home is fenced
	// Away is the index of the record that the previous home is unreachable, on which an automatic failover is
	// based; 0: a person confirmed that it is fenced.
	UnreachableIndex uint64 `json:"unreachable_index,omitempty" old:"away"`
	// Forgotten says that the records of the lost snapshots were removed.
	SnapshotsForgotten bool `json:"snapshots_forgotten,omitempty" old:"forgotten"`
}

// Node is one host of the cluster.
type Node struct {
	ID          uuid.UUID `json:"id"`          // UUID of the node
	Name        string    `json:"name"`        // name of the node
	Incarnation uuid.UUID `json:"incarnation"` // incarnation of the agent that registered last
	Version     string    `json:"version"`     // version of Drover on the node
	// kinds of operations that its agent carries out; an agent of an older version does not report them, and
	// neither rekeys nor rewrites
	OperationKinds []OpKind `json:"operation_kinds,omitempty" old:"does"`
	// HOST:PORT where its agent answers other agents; absent: nowhere
	Address         string            `json:"address,omitempty"`
	Cordoned        bool              `json:"cordoned,omitempty"`                       // no new volumes are put on it
	Draining        bool              `json:"draining,omitempty"`                       // its volumes must move elsewhere
	Labels          map[string]string `json:"labels,omitempty"`                         // labels of the node, used for placement
	Pools           []uuid.UUID       `json:"pools"`                                    // UUIDs of the pools of the node
	UnreportedPools []uuid.UUID       `json:"unreported_pools,omitempty" old:"dropped"` // UUIDs of those pools that its agent no longer reports
	Registered      time.Time         `json:"registered,omitzero"`                      // when its agent last registered
	// number of that registration, as the agent counts them
	RegistrationNumber uint64 `json:"registration_number,omitempty" old:"word"`
	// since when its certificate is revoked; the node stays recorded while datasets have their home there
	Removed time.Time `json:"removed,omitzero"`
}

// Pool is one configured place on one node where a backend stores datasets.
type Pool struct {
	ID      uuid.UUID `json:"id"`                // UUID of the pool
	Name    string    `json:"name"`              // name of the pool on its node
	Node    uuid.UUID `json:"node"`              // UUID of the node that has the pool
	Backend string    `json:"backend"`           // backend that manages the pool
	Path    string    `json:"path"`              // where the pool is stored on its node
	Devices []string  `json:"devices,omitempty"` // devices that it was made of, by their names at that time
	Reach   Reach     `json:"reach"`             // which nodes can use the pool
	// UUID of the share that it is on; other pools of the same share see its data
	Share        uuid.UUID    `json:"share,omitzero"`
	Default      bool         `json:"default,omitempty"` // made by Drover, because none was configured
	Capabilities Capabilities `json:"capabilities"`      // what the backend can do on this pool
	// filesystems that a dataset which arrives with one can have there, including those that its host cannot make
	AcceptedFilesystems []string `json:"accepted_filesystems,omitempty" old:"holds"`
	// what its host lacks for more features, each beginning with the feature
	MissingFeatures []string `json:"missing_features,omitempty" old:"missing"`
	Note            string   `json:"note,omitempty"` // how it works on this host, and why
}

// PoolStatus is the present state of a pool as its agent reports it.
type PoolStatus struct {
	ID     uuid.UUID `json:"id"`     // UUID of the pool
	Online bool      `json:"online"` // the pool can be used now
	// the pool is quarantined: it has an older generation than before, and is not used
	Held           bool   `json:"held,omitempty"`
	Reason         string `json:"reason,omitempty"` // why it is not online, or a warning
	Size           Size   `json:"size"`             // size of the pool
	Free           Size   `json:"free"`             // free space of the pool
	Leftovers      int    `json:"leftovers"`        // number of leftovers that wait for the next clean-up
	UnknownObjects int    `json:"unknown_objects"`  // number of things in it that the store does not know
}

// Reach says which hosts see the data of a pool.
type Reach string

// The reaches of a pool.
const (
	ReachNode    Reach = "node"
	ReachCluster Reach = "cluster"
)

// Capabilities are the abilities of a backend on one pool. The conformance suite of the backends checks each of them.
// Placement depends on these, never on a backend's name.
type Capabilities struct {
	EnforcesSize     bool `json:"enforces_size"`     // a dataset cannot become larger than its size
	InstantSnapshot  bool `json:"instant_snapshot"`  // snapshots and clones share blocks, nothing is copied
	ConstantSnapshot bool `json:"constant_snapshot"` // they take the same time however fragmented the data is
	CloneIndependent bool `json:"clone_independent"` // a clone stays usable when its snapshot is removed
	OnlineGrow       bool `json:"online_grow"`       // a dataset can grow while it is mounted
	// filesystems that can only grow while they are not mounted
	OfflineGrow []string `json:"offline_grow,omitempty"`
	Shrink      bool     `json:"shrink"` // a dataset can be made smaller
	// the size limits what was written to a dataset, including what only a snapshot still has, and excluding what
	// a clone shares
	CountsWritten bool `json:"counts_written,omitempty"`
	OwnFilesystem bool `json:"own_filesystem"` // each dataset has a filesystem: df is exact, and it can be frozen
	// the used bytes of a dataset are known without a walk through its files
	KnowsUsed bool `json:"knows_used,omitempty"`
	OwnDevice bool `json:"own_device,omitempty"` // each dataset has a block device, whose speed can be limited
	// what its node can limit volumes to; a backend does not set this
	Limits Limits `json:"limits,omitempty"`
	// it can send the difference between two snapshots, and keep copies
	Delta       bool     `json:"delta"`
	Filesystems []string `json:"filesystems,omitempty"` // filesystems that the backend can make
	ManyHosts   bool     `json:"many_hosts,omitempty"`  // several hosts can have a dataset mounted at once
	// it can store a dataset so that nothing of it can be read without its key
	Encryption bool `json:"encryption,omitempty"`
}

// MaxMountID is how many bytes a mount ID may have. Those of Docker and Podman have 64.
const MaxMountID = 256

// Mount is one use of a mounted dataset, as the engine names it.
type Mount struct {
	ID     string    `json:"id"`               // mount ID; empty: the engine sent none
	Count  int       `json:"count"`            // number of uses under this mount ID
	Since  time.Time `json:"since"`            // when the mount began
	Engine string    `json:"engine,omitempty"` // the engine: docker or podman; empty: not known
	// the use may have ended: the engine restarted since, or unmounted the volume while a process still used it
	Unverified bool `json:"unverified,omitempty"`
}

// DatasetStatus is the present state of a dataset as a node's agent reports it.
type DatasetStatus struct {
	ID      uuid.UUID `json:"id"`                // UUID of the dataset
	Mounted bool      `json:"mounted"`           // the dataset is mounted on the node
	Used    Size      `json:"used"`              // bytes that the data uses, including shared ones
	Mounts  []Mount   `json:"mounts,omitempty"`  // the uses of the mounted dataset
	Problem string    `json:"problem,omitempty"` // why it cannot be mounted
}
