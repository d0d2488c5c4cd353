package dataset

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// Dataset is the record of what holds the bytes of a volume. It lies in the
// store and, the same bytes, beside the data, so that a lost store can be made
// again from the pools.
type Dataset struct {
	ID       uuid.UUID `json:"id"`       // UUID of the dataset; it never changes
	Volume   string    `json:"volume"`   // the name that points here; in trash: the last that did
	Spelling string    `json:"spelling"` // the volume as it was first requested, such as db@gold
	// UUID of the node whose engine requested it; absent: no engine did
	SpelledBy uuid.UUID         `json:"spelled_by,omitzero"`
	State     State             `json:"state"`               // state of the dataset
	Profile   Profile           `json:"profile"`             // frozen, with the options of the create
	Size      Size              `json:"size,omitempty"`      // size of the dataset; 0: not limited
	Labels    map[string]string `json:"labels,omitempty"`    // labels that users gave the volume
	Protected bool              `json:"protected,omitempty"` // the volume cannot be deleted without force
	ReadOnly  bool              `json:"readonly,omitempty"`  // the volume is mounted read-only
	// the engine made the volume without a name given by a user
	Anonymous bool        `json:"anonymous,omitempty"`
	Home      uuid.UUID   `json:"home"`             // node
	Pool      uuid.UUID   `json:"pool"`             // UUID of the pool that stores the dataset
	Epoch     uint64      `json:"epoch"`            // only grows
	Taken     *Taken      `json:"taken,omitempty"`  // by its home, from where on its share; nil: nowhere
	Copies    []uuid.UUID `json:"copies,omitempty"` // nodes that keep a copy beside the home's
	// of these, those whose copy nobody goes on from any more
	Spent  []uuid.UUID `json:"spent,omitempty"`
	Guests []Guest     `json:"guests,omitempty"` // with access many: who has it mounted beside the home
	// operation that is to give it another home: one at a time
	Move uuid.UUID `json:"move,omitzero"`
	// that a copy on record may not have heard of, the oldest first
	Losses  []Loss    `json:"losses,omitempty"`
	Origin  *Origin   `json:"origin,omitempty"` // what the dataset was cloned from; absent: it is not a clone
	Created time.Time `json:"created"`          // when the dataset was created
	// how long the deleted dataset is kept; absent: it is not in the trash
	Trash   *Trash    `json:"trash,omitempty"`
	Latest  uuid.UUID `json:"latest,omitzero"` // snapshot that the head goes on from: parent of the next
	Request uuid.UUID `json:"request"`         // operation that last wrote this, so that a retry knows its own
	// Encryption is the data key, wrapped; nil: the dataset is not encrypted.
	Encryption *Encryption `json:"encryption,omitempty"`
	// Written is set beside the data alone: the index of the store's transaction that
	// wrote what stands there, as far as the agent knew it.
	Written uint64 `json:"written,omitempty" hidden:"true"`
}

// Followers are the nodes with a copy on record from which somebody may go on: one of which
// it is not said that its copy is spent is among them. Who holds the dataset needs the
// promise of these alone while control is silent, and of those that it gave something
// itself, since a copy that is spent on a record once read stays so, whatever control
// decides unheard: a promotion rests on the kind of its copy from its plan to its commit,
// nothing makes that better, and a new copy of the same node begins empty and is filled by
// the home alone, which has that node on disk before. Only a person's word goes past it:
// drover store recover, without having heard the home.
func (d Dataset) Followers() []uuid.UUID {
	return slices.DeleteFunc(slices.Clone(d.Copies), func(n uuid.UUID) bool { return slices.Contains(d.Spent, n) })
}

// Taken is where on its share a dataset lay as a node became its home: if that has not taken
// it to its own pool yet, it lies there still.
type Taken struct {
	From  uuid.UUID `json:"from"`  // pool
	Epoch uint64    `json:"epoch"` // of the home there: what lies there at an earlier one is not it
}

// State is where a dataset is in its life.
type State string

// The states of a dataset. A dataset that is being made has no record yet: it
// is made first, under a private name, and recorded when it is whole.
const (
	StateReady   State = "ready"   // a name points at it
	StateTrashed State = "trashed" // no name; can be restored
	// StatePurging: being destroyed; cannot come back. The record stays until the home
	// and every node with a copy have done so; Home is nil once the home has.
	StatePurging State = "purging"
)

// Origin says what a clone was made from.
type Origin struct {
	Dataset  uuid.UUID `json:"dataset"`            // UUID of the dataset that was cloned
	Snapshot uuid.UUID `json:"snapshot"`           // UUID of the snapshot that was cloned
	Implicit bool      `json:"implicit,omitempty"` // the snapshot was taken for this clone alone
}

// Trash says since when and until when a deleted dataset is kept.
type Trash struct {
	At    time.Time `json:"at"`             // when the dataset was put into the trash
	Until time.Time `json:"until,omitzero"` // zero: until someone purges it
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
	Size    Size         `json:"size,omitempty"`    // of the dataset when it was taken
	Profile Profile      `json:"profile"`           // of the dataset when it was taken
	Epoch   uint64       `json:"epoch"`             // epoch of the dataset when the snapshot was taken
	Created time.Time    `json:"created"`           // when the snapshot was taken
	// Order is there when the clock was set back since an earlier snapshot of this epoch: it
	// is later than that, and stands in place of Created wherever it counts which was first.
	Order time.Time `json:"order,omitzero"`
	// Request is the UUID of the request that took the snapshot. For kind transfer it is the UUID of the node
	// that the snapshot is sent to; a nil UUID stands for all replicas.
	Request uuid.UUID `json:"request"`
}

// SnapshotKind says who wanted a snapshot, and so what removes it.
type SnapshotKind string

// The kinds of snapshots.
const (
	SnapshotManual    SnapshotKind = "manual"    // a person's; retention leaves it alone
	SnapshotScheduled SnapshotKind = "scheduled" // the profile's; retention prunes it
	SnapshotImplicit  SnapshotKind = "implicit"  // for one clone; gone when that needs it no more
	SnapshotRestore   SnapshotKind = "restore"   // what a restore replaced; retention leaves it alone
	// SnapshotTransfer is taken for a copy on another node, and never in the store.
	SnapshotTransfer SnapshotKind = "transfer"
	// SnapshotSuperseded is a head that was overtaken by one on another node: it is
	// kept until a person discards it.
	SnapshotSuperseded SnapshotKind = "superseded"
)

// Lease is the right of one node to have a dataset mounted for writing. It is a
// sticky delegation: it does not end with the last unmount.
type Lease struct {
	Dataset     uuid.UUID  `json:"dataset"`          // UUID of the dataset
	Node        uuid.UUID  `json:"node"`             // UUID of the node that has the lease
	Incarnation uuid.UUID  `json:"incarnation"`      // of the agent that took it
	Epoch       uint64     `json:"epoch"`            // epoch of the dataset for which the lease is valid
	State       LeaseState `json:"state"`            // state of the lease
	InUse       bool       `json:"in_use,omitempty"` // when a recall asked
	Wanted      uuid.UUID  `json:"wanted,omitzero"`  // node that recalls it
}

// LeaseState is where a lease is.
type LeaseState string

// The states of a lease.
const (
	LeaseHeld     LeaseState = "held"
	LeaseRecalled LeaseState = "recalled" // another node wants it: no new mounts
	LeaseMoving   LeaseState = "moving"   // given up, on its way
)

// Manifest is what the home of a dataset gave up: what the next one must have before
// it opens the next epoch.
type Manifest struct {
	Snapshot uuid.UUID `json:"snapshot"`       // taken when nothing wrote any more
	Base     uuid.UUID `json:"base,omitzero"`  // that the stream is a difference to; nil: it is whole
	Bytes    int64     `json:"bytes"`          // of the stream
	Sum      string    `json:"sum"`            // SHA-256 of the stream, in hexadecimal digits
	Taken    time.Time `json:"taken"`          // by the home's clock
	Order    time.Time `json:"order,omitzero"` // of the snapshot
}

// GivingUp is what stands among a move's holders while its home, which nobody can mount the
// volume on any more, still makes out what it gives up.
const GivingUp = "it is being given up"

// Copy is what a node that is not the home keeps of a dataset: snapshots, and no
// head that anybody could write to.
type Copy struct {
	Dataset  uuid.UUID `json:"dataset"`           // UUID of the dataset
	Node     uuid.UUID `json:"node"`              // UUID of the node that keeps the copy
	Pool     uuid.UUID `json:"pool"`              // UUID of the pool that stores the copy
	Kind     CopyKind  `json:"kind"`              // why the node keeps the copy
	Was      CopyKind  `json:"was,omitempty"`     // kind that the copy had before it became going
	Epoch    uint64    `json:"epoch"`             // in which its newest snapshot was taken
	Snapshot uuid.UUID `json:"snapshot,omitzero"` // the newest one that is whole and verified
	Taken    time.Time `json:"taken,omitzero"`    // when that was, by its home's clock
	Order    time.Time `json:"order,omitzero"`    // of that snapshot
	// when its node last saw that it has all, by that node's clock
	Checked time.Time `json:"checked,omitzero"`
	Current time.Time `json:"current,omitzero"`            // and by its home's clock; zero: not known
	Until   time.Time `json:"until,omitzero"`              // when it is let go of; zero: never by itself
	Ran     Duration  `json:"ran,omitempty" hidden:"true"` // of the services on the store, when Until was set
	// Shown says that its node is to have it mounted, read-only: of a superseded one, which
	// a person wants to look at. Path is where it is there; empty: nowhere, and Problem why.
	Shown   bool   `json:"shown,omitempty"`
	Path    string `json:"path,omitempty"`    // where the copy is mounted; empty: it is not mounted
	Problem string `json:"problem,omitempty"` // why it is not as Shown says; it is tried again
}

// Whole reports whether a volume can go on from the copy.
func (c Copy) Whole() bool {
	return c.Snapshot != uuid.Nil && (c.Kind == CopyReplica || c.Kind == CopyLeft)
}

// Spent reports whether nobody goes on from the copy any more, whatever becomes of it: it
// was superseded. That is for good: such a copy goes, and with it its record, and one that
// the node is to have after that is a new one, which begins empty. A copy that goes for
// another reason may be found to be wanted still, by a store that was put back.
func (c Copy) Spent() bool {
	return c.Kind == CopySuperseded || c.Kind == CopyGoing && c.Was == CopySuperseded
}

// copyEvery is how often the store hears of a copy that is kept fresh: what its node says
// with its heartbeats control keeps, and a store that was told each time would have nothing
// else to do.
const copyEvery = 10 * time.Minute

// Tells reports whether the store is to hear of a copy of which it heard as it was: of the
// first snapshot that is whole, of a new epoch, and now and then.
func (c Copy) Tells(was Copy) bool {
	// or the clock was set back
	return was.Snapshot == uuid.Nil || was.Epoch != c.Epoch || c.Taken.Sub(was.Taken).Abs() >= copyEvery
}

// CopyKind says why there is a copy, and so what becomes of it.
type CopyKind string

// The kinds of copies.
const (
	CopyReplica    CopyKind = "replica"    // kept fresh
	CopyLeft       CopyKind = "left"       // by a move: a short way back, for a time
	CopySuperseded CopyKind = "superseded" // it has what its volume has not; it stays until a person discards it
	CopyGoing      CopyKind = "going"      // being destroyed; the record goes when its node has done so
)

// Loss is what a dataset lacks that was promoted without its last home.
type Loss struct {
	Snapshot uuid.UUID `json:"snapshot,omitzero"` // that it goes on from
	Epoch    uint64    `json:"epoch"`             // in which that was taken
	// by the clock of that epoch's home: what was written since is not in it
	Taken  time.Time   `json:"taken,omitzero"`
	Order  time.Time   `json:"order,omitzero"`  // of the snapshot
	Later  []uuid.UUID `json:"later,omitempty"` // snapshots that are later, and there nevertheless
	Over   uint64      `json:"over,omitempty"`  // the epoch that ended with it
	Fenced uuid.UUID   `json:"fenced"`          // the last home
	Why    string      `json:"why"`             // who says that it writes no more
	// Away is the index of the record that nothing is heard of the last home, on which
	// that rests: with failover auto. 0: it rests on a person's word.
	Away uint64 `json:"away,omitempty"`
	// Forgotten: the snapshots that are lost are not on record any more.
	Forgotten bool `json:"forgotten,omitempty"`
}

// Node is one host of the flock.
type Node struct {
	ID          uuid.UUID `json:"id"`          // UUID of the node
	Name        string    `json:"name"`        // name of the node
	Incarnation uuid.UUID `json:"incarnation"` // of the agent that registered last
	Version     string    `json:"version"`     // version of Drover on the node
	// what its agent carries out; one from before it said so neither rekeys nor rewrites
	Does []OpKind `json:"does,omitempty"`
	// HOST:PORT where its agent answers other agents; empty: nowhere
	Address    string            `json:"address,omitempty"`
	Cordoned   bool              `json:"cordoned,omitempty"`  // nothing new is put on it
	Draining   bool              `json:"draining,omitempty"`  // and what it has is to go elsewhere
	Labels     map[string]string `json:"labels,omitempty"`    // labels of the node, used for placement
	Pools      []uuid.UUID       `json:"pools"`               // UUIDs of the pools of the node
	Dropped    []uuid.UUID       `json:"dropped,omitempty"`   // those of them that its agent does not name any more
	Registered time.Time         `json:"registered,omitzero"` // when that was
	// which of its registrations that was, as it counts them
	Word uint64 `json:"word,omitempty"`
	// since when its certificate is worth nothing; on record while datasets have their home there
	Removed time.Time `json:"removed,omitzero"`
}

// Pool is one configured place on one node where a backend keeps datasets.
type Pool struct {
	ID      uuid.UUID `json:"id"`                // UUID of the pool
	Name    string    `json:"name"`              // name of the pool on its node
	Node    uuid.UUID `json:"node"`              // UUID of the node that has the pool
	Backend string    `json:"backend"`           // backend that manages the pool
	Path    string    `json:"path"`              // where the pool is stored on its node
	Devices []string  `json:"devices,omitempty"` // that it was made of, as they were called then
	Reach   Reach     `json:"reach"`             // which nodes can use the pool
	// that it lies on: other pools of the same share see its bytes
	Share        uuid.UUID    `json:"share,omitzero"`
	Default      bool         `json:"default,omitempty"` // made by Drover, as none was configured
	Capabilities Capabilities `json:"capabilities"`      // what the backend can do on this pool
	// filesystems that what comes whole can have there, those too that its host cannot make
	Holds   []string `json:"holds,omitempty"`
	Missing []string `json:"missing,omitempty"` // what its host lacks for more, each with what that is for first
	Note    string   `json:"note,omitempty"`    // which way it works here, and why
}

// PoolStatus is what an agent sees of a pool now.
type PoolStatus struct {
	ID     uuid.UUID `json:"id"`     // UUID of the pool
	Online bool      `json:"online"` // the pool can be used now
	// it is of an older generation than it was: nothing is done in it, and it is not online
	Held    bool   `json:"held,omitempty"`
	Reason  string `json:"reason,omitempty"` // why not online, or what to mind
	Size    Size   `json:"size"`             // size of the pool
	Free    Size   `json:"free"`             // free space of the pool
	Pending int    `json:"pending"`          // leftovers that wait for the next reaping
	Unknown int    `json:"unknown"`          // things that the store does not know
}

// Reach says which hosts see a pool's bytes.
type Reach string

// The reaches of a pool.
const (
	ReachNode    Reach = "node"
	ReachCluster Reach = "cluster"
)

// Capabilities is what a backend can do on one pool. The backends' suite checks
// each against what it does. Placement reads these, never a backend's name.
type Capabilities struct {
	EnforcesSize     bool     `json:"enforces_size"`          // a dataset cannot outgrow its size
	InstantSnapshot  bool     `json:"instant_snapshot"`       // snapshots and clones share blocks: no copying
	ConstantSnapshot bool     `json:"constant_snapshot"`      // and take the same time however fragmented
	CloneIndependent bool     `json:"clone_independent"`      // a clone lives on when its snapshot is gone
	OnlineGrow       bool     `json:"online_grow"`            // a dataset grows while it is mounted
	OfflineGrow      []string `json:"offline_grow,omitempty"` // filesystems that are the exception
	Shrink           bool     `json:"shrink"`                 // a dataset can be made smaller
	// a size counts what was written to a dataset as long as a snapshot has it, and not what a clone shares
	CountsWritten bool `json:"counts_written,omitempty"`
	OwnFilesystem bool `json:"own_filesystem"` // a filesystem for each dataset: true df, freeze
	// what a dataset takes is known without a walk, as it is with a filesystem of its own
	KnowsUsed   bool     `json:"knows_used,omitempty"`
	OwnDevice   bool     `json:"own_device,omitempty"`  // a block device for each dataset, whose speed can be limited
	Limits      Limits   `json:"limits,omitempty"`      // what its node can hold those to: never a backend's to say
	Delta       bool     `json:"delta"`                 // sends what changed between two snapshots, and keeps copies
	Filesystems []string `json:"filesystems,omitempty"` // filesystems that the backend can make
	ManyHosts   bool     `json:"many_hosts,omitempty"`  // several hosts can have a dataset mounted at once
	// keeps a dataset so that without its key nothing of it can be read
	Encryption bool `json:"encryption,omitempty"`
}

// MaxMountID is how many bytes a mount ID may have. Those of Docker and Podman have 64.
const MaxMountID = 256

// Mount is one use of a mounted dataset, as the engine names it.
type Mount struct {
	ID    string    `json:"id"`             // empty: the engine sent none
	Count int       `json:"count"`          // number of uses under this mount ID
	Since time.Time `json:"since"`          // when the mount began
	Tool  string    `json:"tool,omitempty"` // the engine: docker or podman; empty: not known
	// it may have ended: the engine restarted since, or unmounted it while a process still had it
	Unverified bool `json:"unverified,omitempty"`
}

// DatasetStatus is what a node's agent sees of a dataset now.
type DatasetStatus struct {
	ID      uuid.UUID `json:"id"`                // UUID of the dataset
	Mounted bool      `json:"mounted"`           // the dataset is mounted on the node
	Used    Size      `json:"used"`              // bytes that the data takes, shared ones too
	Mounts  []Mount   `json:"mounts,omitempty"`  // the uses of the mounted dataset
	Problem string    `json:"problem,omitempty"` // why it cannot be mounted
}
