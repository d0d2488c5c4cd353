package dataset

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Dataset is the record of the data of a volume. It is kept in the store and, with the same content, beside the
// data, so that a lost store can be rebuilt from the pools.
type Dataset struct {
	ID          uuid.UUID `json:"id"`           // UUID of the dataset; it never changes
	Volume      string    `json:"volume"`       // name of the volume; in the trash: its last name
	RequestedAs string    `json:"requested_as"` // the volume as it was first requested, such as db@gold
	// UUID of the node whose engine requested the volume; absent: no engine requested it
	RequestedBy uuid.UUID `json:"requested_by,omitzero"`
	// Aliases are former names of the volume that still find it, the latest first.
	Aliases []string `json:"aliases,omitempty"`
	State   State    `json:"state"` // state of the dataset
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
	// pool on the share from which the home took the dataset over; absent: it did not take it over
	TakenOver *TakenOver  `json:"taken_over,omitempty"`
	Copies    []uuid.UUID `json:"copies,omitempty"` // UUIDs of the nodes that keep a copy besides the home
	// UUIDs of the nodes in copies whose copy is superseded for good
	SupersededCopies []uuid.UUID `json:"superseded_copies,omitempty"`
	// with access many: the nodes that have it mounted besides the home
	SharedMounts []SharedMount `json:"shared_mounts,omitempty"`
	// UUID of the move in progress, one at a time; absent: there is none
	Move uuid.UUID `json:"move,omitzero"`
	// losses, the oldest first; a loss is kept while a recorded copy may be from before it
	Losses  []Loss    `json:"losses,omitempty"`
	Origin  *Origin   `json:"origin,omitempty"` // source of the clone; absent: the dataset is not a clone
	Created time.Time `json:"created"`          // when the dataset was created
	// since when the schedules of the profile apply; absent: since the dataset was created
	ScheduleSince time.Time `json:"schedule_since,omitzero"`
	// how long the deleted dataset is kept; absent: it is not in the trash
	Trash *Trash `json:"trash,omitempty"`
	// UUID of the snapshot that the head is based on, the parent of the next snapshot
	HeadParent uuid.UUID `json:"latest_snapshot,omitzero"`
	// how often the content was replaced other than by writes: by a restore, or by a move without the home
	Content uint64 `json:"content,omitempty"`
	// versions that the volume continues, the latest of each repository: pushed to it, or pulled; the latest first
	BasedOn []VersionRef `json:"based_on,omitempty"`
	// the backup of another cluster that the volume was recovered from; absent: none, or the volume took over from it
	KeptApart *KeptApart `json:"kept_apart,omitempty"`
	// UUID of the operation that last wrote the record, so that a retry recognises that it has succeeded
	Request uuid.UUID `json:"request"`
	// Encryption is the wrapped data key; absent: the dataset is not encrypted.
	Encryption *Encryption `json:"encryption,omitempty"`
	// Written is only set in the record beside the data: the index of the store's transaction that wrote this
	// content, as far as the agent knows it.
	Written uint64 `json:"written,omitempty" hidden:"true"`
}

// RecordFormat is the format of records of datasets and snapshots beside the data, in their key "format". Records of
// format 1 do not have the key. A Drover that writes the record of a snapshot in a later format must write the record
// of the dataset in that format too: this one checks only the record of the dataset, and then refuses the folder.
const RecordFormat = 1

// MaxAliases is how many aliases a volume can have.
const MaxAliases = 8

// HasName reports whether name is the name or an alias of the volume.
func (d Dataset) HasName(name string) bool {
	return d.Volume == name || slices.Contains(d.Aliases, name)
}

// Names returns the name of the volume and its aliases.
func (d Dataset) Names() []string { return append([]string{d.Volume}, d.Aliases...) }

// Followers returns the nodes with a recorded copy from which the volume may continue: all nodes in Copies but those in
// SupersededCopies.
//
// While control does not answer, the home may write only if these nodes promise not to open the next epoch. The nodes
// to which the home itself has sent data of the dataset must promise the same. The home needs no promise of the nodes
// in SupersededCopies, even if the list that it last received is old. The reason is that a superseded copy stays
// superseded, whatever control decides meanwhile:
//
//   - A promotion fails if the kind of its copy changes between its plan and its commit.
//   - The kind of a copy never changes back to one from which the volume may continue.
//   - A new copy on the same node begins empty. Only the home fills it, and the home has recorded that node before.
//
// Only an operator can override this, with drover store recover without a report from the home.
func (d Dataset) Followers() []uuid.UUID {
	superseded := func(n uuid.UUID) bool { return slices.Contains(d.SupersededCopies, n) }
	return slices.DeleteFunc(slices.Clone(d.Copies), superseded)
}

// TakenOver names the pool of the previous home of a dataset on a share. When another node becomes the home, it takes
// the dataset over from that pool into its own pool. Until it has done so, the dataset is still in that pool.
type TakenOver struct {
	FromPool uuid.UUID `json:"from_pool"` // UUID of the pool that the dataset was in
	// epoch of the dataset in that pool; data of an earlier epoch is outdated
	Epoch uint64 `json:"epoch"`
}

// State is the state of a dataset in its life cycle.
type State string

// The states of a dataset. A dataset has no record while it is being made: it is made first, under a private
// name, and recorded when it is complete.
const (
	StateReady   State = "ready"   // a volume name refers to it
	StateTrashed State = "trashed" // it has no name, and can be restored
	// StatePurging means that the dataset is being destroyed and cannot be restored. The record stays until the home
	// and every node with a copy have destroyed it. When the home has destroyed it, Home is uuid.Nil.
	StatePurging State = "purging"
)

// KeptApart names where a volume was recovered from, while the cluster that made the backup may still use it. The
// volume makes no scheduled backups into that repository.
type KeptApart struct {
	Cluster uuid.UUID `json:"cluster"` // UUID of the cluster that made the backup
	URL     string    `json:"url"`     // URL of the repository
}

// BacksUpApart reports whether the dataset must make no scheduled backups into a repository, because it was recovered
// from there and is kept apart.
func (d Dataset) BacksUpApart(r Repository) bool {
	return d.KeptApart != nil && d.KeptApart.URL == r.URL
}

// Origin is the source of a clone.
type Origin struct {
	Dataset  uuid.UUID `json:"dataset"`            // UUID of the dataset that was cloned
	Snapshot uuid.UUID `json:"snapshot"`           // UUID of the snapshot that was cloned
	Implicit bool      `json:"implicit,omitempty"` // the snapshot was taken only for this clone
}

// Trash says since when and until when a deleted dataset is kept.
type Trash struct {
	At      time.Time `json:"at"`               // when the dataset was put into the trash
	Expires time.Time `json:"expires,omitzero"` // when it is purged; absent: never automatically
}

// Snapshot is an immutable point in time of a dataset. Each backend keeps the record beside the data, and a rebuild
// reads it from there. So a field whose value is known only while or after the snapshot is taken, such as Exact, must
// be set by every backend, and a retry must take it from the existing snapshot (operation.Operations.WithTimeAndSize).
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
	// Exact says that each file has the content that belongs to its times. A snapshot that is not exact can have a file
	// with the times of a write and the content from before that write.
	Exact   bool      `json:"exact"`
	Epoch   uint64    `json:"epoch"`   // epoch of the dataset when the snapshot was taken
	Created time.Time `json:"created"` // when the snapshot was taken
	// time by which the snapshot is sorted; absent: created. It is set if the clock was set back since an earlier
	// snapshot of this epoch, and is later than the time by which that snapshot is sorted
	OrderTime time.Time `json:"order_time,omitzero"`
	// Request is the UUID of the request that took the snapshot. For kind transfer it is the UUID of the node
	// that the snapshot is sent to; a nil UUID means all replicas.
	Request uuid.UUID `json:"request"`
}

// SnapshotKind says who requested a snapshot, and when it is removed.
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
	Dataset     uuid.UUID  `json:"dataset"`     // UUID of the dataset
	Node        uuid.UUID  `json:"node"`        // UUID of the node that has the lease
	Incarnation uuid.UUID  `json:"incarnation"` // incarnation of the agent that took it
	Epoch       uint64     `json:"epoch"`       // epoch of the dataset for which the lease is valid
	State       LeaseState `json:"state"`       // state of the lease
	// the dataset was in use when the lease was recalled
	InUse bool `json:"in_use,omitempty"`
	// UUID of the node that wants the dataset, for which the lease was recalled; absent: none
	WantedBy uuid.UUID `json:"wanted_by,omitzero"`
}

// LeaseState is the state of a lease.
type LeaseState string

// The states of a lease.
const (
	LeaseHeld     LeaseState = "held"
	LeaseRecalled LeaseState = "recalled" // another node wants it, so new mounts are refused
	LeaseMoving   LeaseState = "moving"   // relinquished, while the dataset moves
)

// Manifest describes the content that a home relinquished. The next home must have this content before it opens the
// next epoch.
type Manifest struct {
	Snapshot uuid.UUID `json:"snapshot"` // UUID of the snapshot that was taken when nothing could write any more
	// UUID of the snapshot on which an incremental stream is based; absent: the stream is complete
	Base      uuid.UUID `json:"base,omitzero"`
	Bytes     int64     `json:"bytes"`               // length of the stream
	SHA256    string    `json:"sha256"`              // SHA-256 of the stream, in hexadecimal digits
	Taken     time.Time `json:"taken"`               // when the snapshot was taken, by the home's clock
	OrderTime time.Time `json:"order_time,omitzero"` // time by which the snapshot is sorted; absent: taken
	// how full the filesystem was when it was last mounted; absent: not known
	Usage Usage `json:"usage,omitzero"`
}

// Relinquishing is the entry in InUseBy of a move while the home is still relinquishing the volume. The volume can no
// longer be mounted there.
const Relinquishing = "it is being given up"

// Copy is the copy of a dataset on a node other than its home. It has snapshots, and no writable head.
type Copy struct {
	Dataset      uuid.UUID `json:"dataset"`                 // UUID of the dataset
	Node         uuid.UUID `json:"node"`                    // UUID of the node that keeps the copy
	Pool         uuid.UUID `json:"pool"`                    // UUID of the pool that stores the copy
	Kind         CopyKind  `json:"kind"`                    // why the node keeps the copy
	PreviousKind CopyKind  `json:"previous_kind,omitempty"` // kind that the copy had before it was condemned
	// epoch in which the newest snapshot of the copy was taken
	Epoch uint64 `json:"epoch"`
	// UUID of the newest complete and verified snapshot of the copy
	Snapshot uuid.UUID `json:"snapshot,omitzero"`
	// when that snapshot was taken, by the home's clock
	Taken     time.Time `json:"taken,omitzero"`
	OrderTime time.Time `json:"order_time,omitzero"` // time by which that snapshot is sorted; absent: taken
	// when the node last verified that the copy is up to date, by the node's clock
	VerifiedAt time.Time `json:"verified_at,omitzero"`
	// when the node last verified it, by the home's clock; absent: not known
	VerifiedAtHome time.Time `json:"verified_at_home,omitzero"`
	// when the copy is removed; absent: never automatically
	Expires time.Time `json:"expires,omitzero"`
	// how long control had run on this store, in total, when expires was set (record.Uptime)
	RunTime Duration `json:"ran,omitempty" hidden:"true"`
	// MountReadOnly says that the node must mount the copy read-only, because an operator inspects the superseded copy.
	MountReadOnly bool   `json:"mount_read_only,omitempty"`
	Path          string `json:"path,omitempty"` // where the copy is mounted; empty: it is not mounted
	// why the node could not mount or unmount a superseded copy yet, or cannot refresh a replica; it retries
	Problem string `json:"problem,omitempty"`
}

// Promotable reports whether a volume can continue from the copy.
func (c Copy) Promotable() bool {
	return c.Snapshot != uuid.Nil && (c.Kind == CopyReplica || c.Kind == CopyLeft)
}

// SupersededForGood reports whether the copy is superseded, so that no volume ever continues from it. This is final:
// the record of the copy is removed only together with the copy, and a later copy on the same node begins empty. The
// method returns false for a copy that is removed for another reason, because that copy may be needed again after the
// store was restored from a backup.
func (c Copy) SupersededForGood() bool {
	return c.Kind == CopySuperseded || c.Kind == CopyCondemned && c.PreviousKind == CopySuperseded
}

// copyEvery is how often the store records a refreshed copy. Control keeps the reports of heartbeats in memory, because
// a store that had to record each of them would do nothing else.
const copyEvery = 10 * time.Minute

// MustRecord reports whether the store must record the state of a copy. was is the state that the store recorded last.
// The store must record the first complete snapshot, each new epoch, and besides these one state every ten minutes
// (copyEvery).
func (c Copy) MustRecord(was Copy) bool {
	// Abs makes this true also if the clock was set back.
	return was.Snapshot == uuid.Nil || was.Epoch != c.Epoch || c.Taken.Sub(was.Taken).Abs() >= copyEvery
}

// CopyKind says why a copy exists, and when it is removed.
type CopyKind string

// The kinds of copies.
const (
	CopyReplica    CopyKind = "replica"    // kept up to date
	CopyLeft       CopyKind = "left"       // left by a move for a time, so that a move back is short
	CopySuperseded CopyKind = "superseded" // has data that its volume lacks; kept until a person discards it
	CopyCondemned  CopyKind = "going"      // being destroyed; the record is removed when its node has done so
)

// Loss describes the data that a dataset lost because it was promoted without its previous home.
type Loss struct {
	Snapshot uuid.UUID `json:"snapshot,omitzero"` // UUID of the snapshot from which the dataset continues; absent: none
	Epoch    uint64    `json:"epoch"`             // epoch in which that snapshot was taken
	// when that snapshot was taken, by the clock of the home in that epoch; later writes are lost
	Taken     time.Time `json:"taken,omitzero"`
	OrderTime time.Time `json:"order_time,omitzero"` // time by which that snapshot is sorted; absent: taken
	// UUIDs of later snapshots that exist nevertheless
	SurvivingSnapshots []uuid.UUID `json:"surviving_snapshots,omitempty"`
	// the epoch that ended with the loss
	EndedEpoch   uint64    `json:"ended_epoch,omitempty"`
	PreviousHome uuid.UUID `json:"previous_home"` // UUID of the previous home
	// why the previous home counts as fenced, such as the confirmation of an operator
	Reason string `json:"reason"`
	// UnreachableIndex is set for an automatic failover: it is the index of the record that says that the previous home
	// is unreachable. 0 means that a person confirmed that the previous home is fenced.
	UnreachableIndex uint64 `json:"unreachable_index,omitempty"`
	// SnapshotsForgotten says that the records of the lost snapshots were removed.
	SnapshotsForgotten bool `json:"snapshots_forgotten,omitempty"`
}

// Node is one host of the cluster.
type Node struct {
	ID          uuid.UUID `json:"id"`          // UUID of the node
	Name        string    `json:"name"`        // name of the node
	Incarnation uuid.UUID `json:"incarnation"` // incarnation of the agent that registered last
	Version     string    `json:"version"`     // version of Drover on the node
	// HOST:PORT where its agent answers other agents; absent: nowhere
	Address  string `json:"address,omitempty"`
	Cordoned bool   `json:"cordoned,omitempty"` // no new volumes are put on it
	// its volumes must move elsewhere
	Draining bool `json:"draining,omitempty"`
	// labels of the node, used for placement: those of drover.yaml, changed by those that were set live
	Labels map[string]string `json:"labels,omitempty"`
	// labels that were set live; each replaces the label of drover.yaml with its key
	LiveLabels map[string]string `json:"live_labels,omitempty"`
	// labels of drover.yaml, if labels were set live
	ConfiguredLabels map[string]string `json:"configured_labels,omitempty"`
	// UUIDs of the pools of the node
	Pools []uuid.UUID `json:"pools"`
	// UUIDs of the node's pools that its agent no longer reports
	UnreportedPools []uuid.UUID `json:"unreported_pools,omitempty"`
	// when its agent last registered
	Registered time.Time `json:"registered,omitzero"`
	// number of the last registration, as counted by the agent
	RegistrationNumber uint64 `json:"registration_number,omitempty"`
	// since when the certificate of the node is revoked; the record stays while the node is the home of datasets
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
	// UUID of the share that the pool is on; all pools of a share see the same data
	Share        uuid.UUID    `json:"share,omitzero"`
	Default      bool         `json:"default,omitempty"` // made by Drover, because none was configured
	Capabilities Capabilities `json:"capabilities"`      // what the backend can do on this pool
	// filesystems with which a dataset of another pool can be stored here, also those that this host cannot make
	AcceptedFilesystems []string `json:"accepted_filesystems,omitempty"`
	// what the host lacks for more features; each entry begins with the feature
	MissingFeatures []string `json:"missing_features,omitempty"`
	Note            string   `json:"note,omitempty"` // how the pool works on this host, and why
}

// PoolStatus is the present state of a pool as its agent reports it.
type PoolStatus struct {
	ID     uuid.UUID `json:"id"`     // UUID of the pool
	Online bool      `json:"online"` // the pool can be used now
	// the pool is quarantined: it has an older generation than before, and is not used
	Quarantined bool   `json:"held,omitempty"`
	Reason      string `json:"reason,omitempty"` // why it is not online, or a warning
	Size        Size   `json:"size"`             // size of the pool
	Free        Size   `json:"free"`             // free space of the pool
	// sum of the sizes of the volumes and replicas in the pool; those without a limit do not count
	Provisioned Size `json:"provisioned,omitempty"`
	// highest allowed ratio of provisioned to size; absent: not limited
	Overcommit     float64 `json:"overcommit,omitempty"`
	DefaultSize    Size    `json:"default_size,omitempty"` // size of a volume that asks for none; absent: not limited
	Leftovers      int     `json:"leftovers"`              // number of leftovers that wait for the next clean-up
	UnknownObjects int     `json:"unknown_objects"`        // number of objects in the pool that the store does not know
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
	EnforcesSize    bool `json:"enforces_size"`    // a dataset cannot become larger than its size
	InstantSnapshot bool `json:"instant_snapshot"` // snapshots and clones share blocks, nothing is copied
	// snapshots and clones take the same time however fragmented the data is
	ConstantSnapshot bool `json:"constant_snapshot"`
	CloneIndependent bool `json:"clone_independent"` // a clone stays usable when its snapshot is removed
	OnlineGrow       bool `json:"online_grow"`       // a dataset can grow while it is mounted
	// filesystems that can only grow while they are not mounted
	OfflineGrow []string `json:"offline_grow,omitempty"`
	Shrink      bool     `json:"shrink"` // a dataset can be made smaller
	// the size limits the data that was written to a dataset: it includes data that only a snapshot still has, and
	// excludes data that a clone shares
	CountsWritten bool `json:"counts_written,omitempty"`
	OwnFilesystem bool `json:"own_filesystem"` // each dataset has a filesystem: df is exact, and it can be frozen
	// the used bytes of a dataset are known without a walk through its files
	KnowsUsed bool `json:"knows_used,omitempty"`
	OwnDevice bool `json:"own_device,omitempty"` // each dataset has a block device, whose speed can be limited
	// limits that the node can enforce; set by the node, not by the backend
	Limits LimitEnforcement `json:"limits,omitempty"`
	// it can send the difference between two snapshots, and keep copies
	Delta       bool     `json:"delta"`
	Filesystems []string `json:"filesystems,omitempty"` // filesystems that the backend can make
	ManyHosts   bool     `json:"many_hosts,omitempty"`  // several hosts can have a dataset mounted at once
	// the pool can store a dataset so that nothing of it can be read without its key
	Encryption bool `json:"encryption,omitempty"`
}

// MaxMountID is how many bytes a mount ID may have. Those of Docker and Podman have 64.
const MaxMountID = 256

// MaxEngineNames is how many names a mount may have in a report, and how many aliases of a volume an engine may know.
const MaxEngineNames = 100

// Mount is one use of a mounted dataset, as the engine names it.
type Mount struct {
	ID     string    `json:"id"`               // mount ID; empty: the engine sent none
	Count  int       `json:"count"`            // number of uses under this mount ID
	Since  time.Time `json:"since"`            // when the mount began
	Engine string    `json:"engine,omitempty"` // the engine: docker or podman; empty: not known
	// the use may have ended: the engine has restarted since, or it unmounted the volume while a process still used it
	Unverified bool `json:"unverified,omitempty"`
	// the names by which the engine mounted the volume, such as db@gold; absent: not known
	Names []string `json:"names,omitempty"`
}

// DatasetStatus is the present state of a dataset as a node's agent reports it.
type DatasetStatus struct {
	ID      uuid.UUID `json:"id"`      // UUID of the dataset
	Mounted bool      `json:"mounted"` // the dataset is mounted on the node
	// bytes that the files use, as df shows them inside, or showed them when it was last mounted; absent: not known
	Used *Size `json:"used,omitempty"`
	// bytes that the dataset occupies in its pool, including those it shares with snapshots and clones; absent: not
	// known
	InPool *Size   `json:"in_pool,omitempty"`
	Mounts []Mount `json:"mounts,omitempty"` // the uses of the mounted dataset
	// path at which the dataset is mounted on the node; absent: it is not mounted
	MountPath string `json:"mount_path,omitempty"`
	// why the dataset cannot be mounted, or what is wrong with it; empty: nothing
	Problem string `json:"problem,omitempty"`
	// how full the filesystem is, or was when the dataset was last mounted; absent: not known, or without a limit
	Usage    *Usage   `json:"usage,omitempty"`
	Fullness Fullness `json:"fullness,omitempty"` // nearly_full or full; absent: enough space
	// aliases by which the node's engine knows the volume, as it spells them; a stopped container may still use them
	EngineAliases []string `json:"engine_aliases,omitempty"`
}

// MountsBy returns the mounts that an engine made by a name of the volume, in any spelling, such as db@gold for db. It
// also returns the mounts whose names are not known.
func (st DatasetStatus) MountsBy(name string) (mounts []Mount) {
	for _, m := range st.Mounts {
		if len(m.Names) == 0 || len(SpellingsWithName(m.Names, name)) > 0 {
			mounts = append(mounts, m)
		}
	}
	return mounts
}

// SpellingsWithName returns the spellings that have a name: db@gold and db have the name db.
func SpellingsWithName(spellings []string, name string) (found []string) {
	for _, sp := range spellings {
		if n, _ := (Reference{Spelling: sp}).SplitAtSign(); n == name {
			found = append(found, sp)
		}
	}
	return found
}

// LostWrites is the beginning of the text in DatasetStatus.Problem for a dataset that may have lost writes that were
// not synced.
const LostWrites = "may have lost data that was written "

// IsUnusable reports whether the node cannot use the dataset as it should. A dataset that may have lost writes can be
// used: no other copy has these writes.
func (st DatasetStatus) IsUnusable() bool {
	return st.Problem != "" && !strings.HasPrefix(st.Problem, LostWrites)
}

// Access says on how many hosts a volume may be mounted at once. The zero value means only on one host, its home.
type Access string

// AccessMany lets every host that sees the data of a volume mount it, at the same time. The applications must
// coordinate who writes what.
const AccessMany Access = "many"

// SharedMount is the permission of a node to mount a dataset of access many whose home is another node. It is recorded
// before the node mounts the dataset, and removed after the node has unmounted it. The home can mount the dataset
// without a shared mount. If the home has one, it uses the dataset exclusively: no other node may mount the dataset
// meanwhile.
type SharedMount struct {
	Node  uuid.UUID `json:"node"`  // UUID of the node that may mount the dataset
	ID    uuid.UUID `json:"id"`    // UUID of this shared mount, so that a report on an earlier one does not apply to it
	Since time.Time `json:"since"` // when the shared mount was recorded
}

// SharedMountOf returns the shared mount of a node in the record of a dataset. ok is false if there is none.
func (d Dataset) SharedMountOf(node uuid.UUID) (g SharedMount, ok bool) {
	i := slices.IndexFunc(d.SharedMounts, func(g SharedMount) bool { return g.Node == node })
	if i < 0 {
		return g, false
	}
	return d.SharedMounts[i], true
}

// Summary is the part of the record of a dataset that a list of volumes shows. Decoding a Summary takes less time than
// decoding the whole Dataset, and a list decodes thousands of records. The keys are those of Dataset and Profile.
type Summary struct {
	ID           uuid.UUID         `json:"id"`
	Volume       string            `json:"volume"`
	Aliases      []string          `json:"aliases,omitempty"`
	State        State             `json:"state"`
	Profile      ProfileSummary    `json:"profile"`
	Size         Size              `json:"size,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Protected    bool              `json:"protected,omitempty"`
	Home         uuid.UUID         `json:"home"`
	Pool         uuid.UUID         `json:"pool"`
	Epoch        uint64            `json:"epoch"`
	Copies       []uuid.UUID       `json:"copies,omitempty"`
	SharedMounts []SharedMount     `json:"shared_mounts,omitempty"`
	Created      time.Time         `json:"created"`
	Trash        *Trash            `json:"trash,omitempty"`
}

// ProfileSummary is the part of a profile that a list of volumes shows.
type ProfileSummary struct {
	Name       string     `json:"name"`
	Size       Size       `json:"size,omitempty"`
	Filesystem Filesystem `json:"filesystem"`
	Access     Access     `json:"access,omitempty"`
	Replicas   Replicas   `json:"replicas,omitzero"`
}

// Dataset returns a record that has only the fields of the summary.
func (s Summary) Dataset() Dataset {
	return Dataset{
		ID: s.ID, Volume: s.Volume, Aliases: s.Aliases, State: s.State,
		Profile: Profile{
			Name: s.Profile.Name, Size: s.Profile.Size, Filesystem: s.Profile.Filesystem, Access: s.Profile.Access,
			Replicas: s.Profile.Replicas,
		},
		Size: s.Size, Labels: s.Labels, Protected: s.Protected, Home: s.Home, Pool: s.Pool, Epoch: s.Epoch,
		Copies: s.Copies, SharedMounts: s.SharedMounts, Created: s.Created, Trash: s.Trash,
	}
}
