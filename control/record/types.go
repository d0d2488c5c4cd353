package record

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Claim is the value of keys under names/, snapnames/, home/, guests/, work/, left/ and returned/, and of ClusterKey.
// It has the UUID of the object that the key names, such as the dataset of a volume name.
type Claim struct {
	ID uuid.UUID `json:"id"`
}

// UUIDPointer is the value of keys under by-uuid/. For the UUID of a dataset it has that dataset. For the UUID of a
// snapshot it has the dataset of the snapshot.
type UUIDPointer struct {
	Dataset  uuid.UUID `json:"dataset"`
	Snapshot bool      `json:"snapshot,omitempty"`
}

// Generation is the value of a pool's key under generations/: the highest generation of the pool that was written to
// the store. Services keep higher generations that a node reports as transient only in memory. The key is separate, so
// that a write does not conflict with decisions about the pool.
type Generation struct {
	Pool    uuid.UUID `json:"pool"`
	Highest uint64    `json:"highest"`
}

// Recovery is the value of RecoveryKey.
type Recovery struct {
	ID            uuid.UUID   `json:"id"`
	Done          bool        `json:"done,omitempty"`
	ReportedNodes []uuid.UUID `json:"heard,omitempty"` // the nodes whose reports the recovery used
}

// Token is the record of a join token. Its key is the SHA-256 of the secret, so the secret cannot be derived from the
// record. The duration of a lookup may reveal the hash. It cannot reveal the secret, which has 256 random bits.
type Token struct {
	Name    string    `json:"name,omitempty"`
	Node    uuid.UUID `json:"node,omitzero"` // the existing node that may join again; uuid.Nil: a new node
	By      string    `json:"by"`
	Expires time.Time `json:"expires"`
	Used    *TokenUse `json:"used,omitempty"`
}

// TokenUse records the node that joined with a token. A node that did not receive the response can then repeat its
// request.
type TokenUse struct {
	Node    uuid.UUID `json:"node"`
	Name    string    `json:"name"`
	Request string    `json:"request"` // SHA-256
	At      time.Time `json:"at"`
}

// Revocation records that the certificates of a node or operator are revoked. The record is kept until the last of
// these certificates has expired.
type Revocation struct {
	Node     uuid.UUID `json:"node,omitzero"`
	Operator string    `json:"operator,omitempty"`
	Name     string    `json:"name,omitempty"` // of the node
	By       string    `json:"by"`
	At       time.Time `json:"at"`
	Until    time.Time `json:"until"`
}

// RunMark is the value of RunMarkKey: how long control services have run on the store, in total. If the key is absent,
// the count is zero.
//
// The count continues while Runs is set. Otherwise it stops, so that the store is not written while nothing waits for
// the count, and all services have the same count.
//
// A transaction that stores the count in a record, or that acts on a stored count, checks that the mark has not
// changed.
type RunMark struct {
	At      time.Time        `json:"at"` // by the clock
	RunTime dataset.Duration `json:"ran"`
	Runs    bool             `json:"runs,omitempty"`
}

// Scheduled is what became of the scheduled operations of a dataset: its backups, or the verifications of its backups.
// The times are those of control's clock when an operation was requested, so that no node can make one newer or older.
// Only Failed is the time of an end.
type Scheduled struct {
	Dataset uuid.UUID `json:"dataset"`
	Running uuid.UUID `json:"running,omitzero"` // operation that was requested last, until it ends
	// After is the time of the last one that succeeded or was cancelled. One that was due before it counts as done.
	After time.Time `json:"after,omitzero"`
	Last  time.Time `json:"last,omitzero"` // time of the last one that succeeded
	// Failures is how many failed since, and since a user has requested a good one that counts for the schedule.
	Failures int       `json:"failures,omitempty"`
	Failed   time.Time `json:"failed,omitzero"`   // when the last of these failed
	Problem  string    `json:"problem,omitempty"` // why it failed
}

// Backups is the value of a dataset's key under backups/: what became of its scheduled backups. The key is absent if
// none was requested yet.
type Backups struct {
	Scheduled
	// Newest is the last backup that succeeded. It is zero if there is none.
	Newest ScheduledBackup `json:"newest,omitzero"`
	// Made has the last good backups that retention may remove, in the order in which they were made: see maxMade. It
	// is empty if the profile keeps all of them.
	Made []ScheduledBackup `json:"made,omitempty"`
	// Asked is the last operation after which the agent was asked to remove backups of Made.
	Asked uuid.UUID `json:"asked,omitzero"`
}

// ScheduledBackup is a good backup that was made on schedule. Only the ID of its operation proves that a backup is
// complete. So retention neither counts nor removes a backup that is not in Backups.Made.
type ScheduledBackup struct {
	ID         string    `json:"id"` // in the repository
	Operation  uuid.UUID `json:"operation"`
	Repository string    `json:"repository"`
	Time       time.Time `json:"time"`               // when it was requested, by control's clock
	Removals   int       `json:"removals,omitempty"` // how often an agent has tried to remove it
}

// Verifications is the value of a dataset's key under verifications/: what became of the verifications of its backups.
// The key is absent if none was requested yet, and Since is not known.
//
// A verification that a user has requested counts as a scheduled one if it has shown the same: see EndVerification.
type Verifications struct {
	Scheduled
	// Since is when the volume got a profile with other verifications than the profile before. It is zero if the volume
	// has had the same ones since it was created. No scheduled verification was due before.
	Since time.Time `json:"since,omitzero"`
	// Results has the last verification of each backup, with the time of its end, the oldest first: see maxResults.
	Results []dataset.VerifiedBackup `json:"results,omitempty"`
}

// DamagedBackups is the value of DamagedKey. The key is absent if there are none.
type DamagedBackups struct {
	Dataset uuid.UUID       `json:"dataset"`
	Of      []DamagedBackup `json:"of"` // at most one for each repository
}

// DamagedBackup is the last backup in a repository that a verification found damaged or absent, or that the check
// program of the profile refused. It stays until a verification is good: see endedBy.
type DamagedBackup struct {
	Repository string    `json:"repository"`
	Backup     string    `json:"backup"`
	Others     bool      `json:"others,omitempty"` // other backups were found damaged before
	Found      time.Time `json:"found"`            // by control's clock
	Problem    string    `json:"problem"`
}

// Export is the value of ExportKey: what became of the exports of the records to a repository.
type Export struct {
	Repository string    `json:"repository"`
	URL        string    `json:"url"`               // of the repository: another one with the same name has no exports
	Last       time.Time `json:"last,omitzero"`     // when the records of the last stored export were read
	Digest     string    `json:"digest,omitempty"`  // of these records: see repositories.Exporter
	Failed     time.Time `json:"failed,omitzero"`   // the first failure since the last success
	Problem    string    `json:"problem,omitempty"` // why the last attempt failed
}

// EndedOperation is the value of an operation's key once the operation is final.
type EndedOperation struct {
	dataset.Operation
	RunTime dataset.Duration `json:"ran,omitempty"`
}

// Halt is the value of HaltedKey. It exists while the store is inconsistent: it was restored from an older backup, or
// it is another store. A decision would be based on an old state. For example, a name that is free in the store may
// belong to a volume, or a decision could overwrite a later change. So no service decides anything until every node
// that reported the problem trusts the store again.
type Halt struct {
	At    time.Time            `json:"at"`
	Nodes map[uuid.UUID]string `json:"nodes,omitempty"` // why each node does not trust the store
	// HighestClock is the highest store clock that a service has seen. It is set only while that clock is higher than
	// the present clock of the store. Only drover store recover resets it.
	HighestClock uint64 `json:"saw,omitempty"`
	Shared       bool   `json:"shared,omitempty"` // the store is shared by several services: see remedy
}

// Err returns the error for requests while the store is halted, with the command that ends it.
func (h Halt) Err() error {
	var why []string
	for id, w := range h.Nodes {
		why = append(why, fmt.Sprintf("node %.8s: %s", id, w))
	}
	slices.Sort(why)
	if len(why) == 0 {
		why = []string{"it was restored from a backup"}
	}
	return dataset.Errorf(dataset.ErrConflict, "store inconsistent; changes suspended: %s (%s)",
		strings.Join(why, "; "), h.remedy())
}

// remedy returns the command that brings the store up to date.
func (h Halt) remedy() string {
	if h.Shared {
		return "drover store recover"
	}
	return "drover store recover --from-pools"
}
