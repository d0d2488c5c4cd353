package api

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Members are the requests about the membership of the cluster: joining, certificates and leaving. Control implements
// it, and *client.Client too. All methods are safe for concurrent use.
type Members interface {
	// MakeToken creates a token with which one host can join once. If the token has the name of an existing node,
	// that node can join again and gets a new certificate.
	MakeToken(ctx context.Context, t NewToken) (JoinToken, error)
	// Join makes a host a member. Idempotent: repeated with the same token and request, it returns a certificate for
	// the same node.
	Join(ctx context.Context, j Join) (Joined, error)
	// Certify gives a node a new certificate.
	Certify(ctx context.Context, node uuid.UUID, r Certification) (pki.Signed, error)
	// Trust returns the roots and the revoked certificates at this time.
	Trust(ctx context.Context) (Trust, error)
	// RemoveNode removes a node for good. ref is its name or a prefix of its UUID. It fails with ErrInUse while the
	// node is the home of datasets, or has data that no other node has.
	//
	// With force, the certificate of the node is revoked, and the records of data that no other node has are removed.
	// The record of the node stays until its datasets have another home. If the node may have volumes of other homes
	// mounted, its record also stays until an operator confirms that the node no longer writes.
	//
	// With DryRun, nothing is changed. RemoveNode then returns the result and the error of the real removal.
	RemoveNode(ctx context.Context, ref string, how NodeRemoval) (RemovedNode, error)
	// RevokeOperator revokes every certificate of an operator that was issued until now. It also revokes certificates
	// that are issued in the next ten minutes, because clocks can differ by that much.
	RevokeOperator(ctx context.Context, name string) error
	// Recover returns the differences between a store that was restored from an older backup and the reports of the
	// agents. If r has the digest of these differences, Recover corrects the store. It fails with ErrConflict if the
	// differences have changed since, or if an operator must confirm more. A call that was interrupted can be repeated.
	Recover(ctx context.Context, r Recover) (Recovery, error)
}

// NewToken asks for a join token.
type NewToken struct {
	// The only name that the node can have; with the name of an existing node, that node joins again.
	Name string `json:"name,omitempty"`
	TTL  string `json:"ttl,omitempty" doc:"how long the token can be used; absent: 1h; at most 168h" example:"1h"`
}

// JoinToken lets one host join.
type JoinToken struct {
	Token   string    `json:"token" doc:"the secret token; it cannot be read again"`
	ID      string    `json:"id" doc:"first digits of the hash of the token"`
	Name    string    `json:"name,omitempty"` // name that the joining node must have; empty: any name
	Node    uuid.UUID `json:"node,omitzero" doc:"UUID of the node that joins again with the token"`
	Expires time.Time `json:"expires"` // when the token stops being valid
}

// Join is the request of a host to become a member.
type Join struct {
	Token string    `json:"token" maxLength:"256"` // the join token, as it was printed when it was made
	CSR   string    `json:"csr" maxLength:"16384" doc:"certificate signing request: PKCS #10, as PEM"`
	Name  string    `json:"name" maxLength:"64" doc:"name of the new node"`
	Node  uuid.UUID `json:"node,omitzero" doc:"UUID that the host had as a node before"`
}

// Joined is the answer to Join: the host as a node of the cluster.
type Joined struct {
	Node        uuid.UUID  `json:"node"`        // UUID of the node in the cluster
	Name        string     `json:"name"`        // name of the node in the cluster
	Certificate pki.Signed `json:"certificate"` // the certificate of the node
}

// Certification asks for a certificate.
type Certification struct {
	CSR string `json:"csr" maxLength:"16384" doc:"certificate signing request: PKCS #10, as PEM"`
}

// Trust has the certificates that members accept.
type Trust struct {
	Cluster uuid.UUID `json:"cluster"` // UUID of the cluster
	Roots   string    `json:"roots" doc:"certificates of the cluster's authority, as PEM, the newest first"`
	Revoked []Revoked `json:"revoked"` // certificates that members must refuse
}

// Revoked identifies one or more certificates that are no longer valid.
type Revoked struct {
	Node uuid.UUID `json:"node,omitzero" doc:"every certificate of this node"`
	// Every certificate of operators of this name that was issued up to ten minutes after at, because clocks can differ
	// by that much.
	Operator string    `json:"operator,omitempty"`
	At       time.Time `json:"at"` // when the certificate was revoked
}

// Recover requests the differences between a store that was restored from an older backup and the reports of the
// agents, or their correction.
type Recover struct {
	// Digest of the differences to correct, from an earlier answer; absent: they are only listed.
	Digest string `json:"digest,omitempty"`
	// Nodes that the operator confirms to be fenced: their claims are ignored.
	FencedNodes []string `json:"fenced_nodes,omitempty"`
	// Only decide: compare the store with the reports that were collected before, and change nothing.
	DryRun bool `json:"dry_run,omitempty"`
}

// Recovery has the differences between the store and the reports of the agents.
type Recovery struct {
	Digest string `json:"digest"` // identifies these differences in the request that corrects them
	// why changes are suspended; empty: changes are possible, and nothing must be corrected
	Halted        string   `json:"halted,omitempty"`
	ReportedNodes []string `json:"reported_nodes"` // nodes that reported their datasets
	// nodes that did not report; data that only they have is missing here
	SilentNodes []string           `json:"silent_nodes"`
	Differences []RecordDifference `json:"differences"`    // one entry for each dataset whose record differs
	Done        bool               `json:"done,omitempty"` // the store was corrected, and changes are possible again
}

// RecordAction is the change that a recovery of the store makes to the record of a dataset.
type RecordAction string

// The values of RecordAction.
const (
	RecordRestored  RecordAction = "restored"  // the volume exists again
	RecordTrashed   RecordAction = "trashed"   // the volume is in the trash
	RecordPurging   RecordAction = "purging"   // the volume was purged, and its home destroys the data
	RecordMoved     RecordAction = "moved"     // the volume has another home
	RecordChanged   RecordAction = "changed"   // the record becomes the one that the home reported
	RecordForgotten RecordAction = "forgotten" // no node has the dataset, and the record is removed
	RecordMissing   RecordAction = "missing"   // the home does not have the dataset, and the record stays
	RecordCopies    RecordAction = "copies"    // only the list of copies changes
	RecordSnapshots RecordAction = "snapshots" // only the list of snapshots changes
	RecordDisputed  RecordAction = "disputed"  // an operator must confirm that a node is fenced
)

// RecordDifference is the difference between the record of one dataset and the reports of the agents.
type RecordDifference struct {
	Dataset uuid.UUID `json:"dataset"` // UUID of the dataset
	Volume  string    `json:"volume"`  // name of the volume
	// change that the recovery makes to the record; missing: the home does not have the dataset; disputed: an operator
	// must confirm that a node is fenced; purging: the volume was purged, and its home destroys the data
	Action   RecordAction `json:"action"`
	InStore  string       `json:"in_store,omitempty"`  // state in the store; empty: none
	OnAgents string       `json:"on_agents,omitempty"` // state on the agents; empty: none
	Note     string       `json:"note,omitempty"`      // explanation for a person; empty: none
}

// RecoveryState describes the last recovery of the store to an agent, in a full response of Sync.
type RecoveryState struct {
	ID   uuid.UUID `json:"id"`             // UUID of the recovery
	Done bool      `json:"done,omitempty"` // whether the recovery has ended; false: the node must report its datasets
	// the report of the node is included in the recovered store
	ReportIncluded bool `json:"report_included,omitempty"`
}

// Holdings is everything that an agent holds, reported for a recovery.
type Holdings struct {
	Incarnation   uuid.UUID           `json:"incarnation"`    // incarnation of the agent that reports
	Recovery      uuid.UUID           `json:"recovery"`       // UUID of the recovery that the report is for
	StoreClock    uint64              `json:"store_clock"`    // highest store clock that the node knows
	ExaminedPools []uuid.UUID         `json:"examined_pools"` // UUIDs of pools that were examined completely
	Datasets      []FoundDataset      `json:"datasets"`       // datasets in the pools of the node
	Copies        []AssignedCopy      `json:"copies"`         // copies that the node keeps for other homes
	Relinquished  []RelinquishedEpoch `json:"relinquished"`   // epochs that the node relinquished
}

// RelinquishedEpoch is an epoch of a dataset that a node has relinquished.
type RelinquishedEpoch struct {
	Dataset uuid.UUID `json:"dataset"` // UUID of the dataset
	Epoch   uint64    `json:"epoch"`   // the epoch that the node relinquished
	ToNode  uuid.UUID `json:"to_node"` // UUID of the node that the dataset was relinquished to
}

// NewRepository asks for the record of a repository for backups.
type NewRepository struct {
	Name     string                 `json:"name" maxLength:"63"` // name of the new repository
	URL      string                 `json:"url" maxLength:"1024" doc:"an absolute path, or a URL of sftp, s3 or rest"`
	Password dataset.PasswordSource `json:"password"` // where each node reads the password of the repository
	// Absolute path of the file with the credentials on each node: S3 keys in the format of the AWS command line, or a
	// line USER:PASSWORD for a URL of rest.
	CredentialsFile string `json:"credentials_file,omitempty" maxLength:"1024"`
	// Whether the URL may have no TLS, as s3:http://HOST/BUCKET in a private network.
	Insecure bool `json:"insecure,omitempty"`
	// The largest number of bytes a second that each node sends to the repository for one backup. 0: no limit. Absent:
	// no limit for a new repository; that of a recorded one does not change.
	MaxUpload *dataset.Size `json:"max_upload,omitempty"`
	// The largest number of bytes a second that one backup reads of a volume. 0: no limit. Absent: 64 MiB for a new
	// repository; that of a recorded one does not change.
	MaxRead *dataset.Size `json:"max_read,omitempty"`
	// Whether control stores an export of its records in the repository. Absent: only on a single host, for a new
	// repository; the setting of a recorded one does not change.
	StoreRecords *bool `json:"store_records,omitempty"`
}

// Repository returns the record without its time and its author.
func (r NewRepository) Repository() dataset.Repository {
	out := dataset.Repository{Name: r.Name, URL: r.URL, Password: r.Password, CredentialsFile: r.CredentialsFile,
		Insecure: r.Insecure}
	if r.MaxUpload != nil {
		out.MaxUpload = *r.MaxUpload
	}
	out.MaxRead, out.StoreRecords = r.MaxRead, r.StoreRecords
	return out
}

// OnlyOnHost begins the error of a control replica for a request that only the agent of a host can answer. Package
// server has the whole error.
const OnlyOnHost = "this is control"

// RepositoryCheck asks the agent of the server's host to open a repository: a recorded one, or one that is not recorded
// yet. One of Name and New is set.
type RepositoryCheck struct {
	Name string         `json:"name,omitempty" maxLength:"63"` // recorded repository to check; absent: open that of new
	New  *NewRepository `json:"new,omitempty"`                 // repository to open, which need not be recorded
	Init bool           `json:"init,omitempty"`                // make the repository of new if there is none at its URL
	// Percentage of the data of the recorded repository to read, chosen at random. 0: only its structure is checked.
	ReadDataPercent int `json:"read_data_percent,omitempty" minimum:"0" maximum:"100"`
}

// Validate fails with dataset.ErrInvalid if the fields exclude each other.
func (c RepositoryCheck) Validate() error {
	switch {
	case (c.Name == "") == (c.New == nil):
		return dataset.Errorf(dataset.ErrInvalid, "check of a repository: expected either name or new")
	case c.Name != "" && c.Init:
		return dataset.Errorf(dataset.ErrInvalid, "check of repository %s: init applies only to new",
			dataset.Clip(c.Name))
	case c.New != nil && c.ReadDataPercent != 0:
		return dataset.Errorf(dataset.ErrInvalid, "check of a repository: read_data_percent applies only to name")
	case c.ReadDataPercent < 0 || c.ReadDataPercent > 100:
		return dataset.Errorf(dataset.ErrInvalid, "check of repository %s: expected 0 to 100 percent, not %d",
			dataset.Clip(c.Name), c.ReadDataPercent)
	}
	return nil
}

// RepositoryState describes a repository that was opened.
type RepositoryState struct {
	ID      string `json:"id"`      // ID that restic gave the repository when it was made
	Format  int    `json:"format"`  // version of restic's format
	Created bool   `json:"created"` // the request made the repository
}

// VolumeBackup is a backup of a volume in a repository. The repository is its only record.
type VolumeBackup struct {
	ID         string    `json:"id"`                // ID that restic gave the backup: 64 hexadecimal digits
	Repository string    `json:"repository"`        // name of the repository that contains the backup
	Volume     string    `json:"volume"`            // name of the volume when the backup was made
	Taken      time.Time `json:"taken"`             // moment whose content the backup has
	Profile    string    `json:"profile,omitempty"` // name of the volume's profile at that time; absent: not known
	Dataset    uuid.UUID `json:"dataset"`           // UUID of the volume's dataset
	Cluster    uuid.UUID `json:"cluster,omitzero"`  // UUID of the cluster that made the backup; absent: not known
	Node       string    `json:"node,omitempty"`    // name of the node that made the backup; absent: not known
	// whether another cluster made the backup, or one that is not known
	Elsewhere bool `json:"elsewhere,omitempty"`
	// UUID of the snapshot that was backed up; absent: the backup has the content of the volume itself
	Snapshot  uuid.UUID `json:"snapshot,omitzero"`
	Operation uuid.UUID `json:"operation,omitzero"` // UUID of the operation that made the backup; absent: not known
	// the push that made the backup has not ended, or was interrupted: the backup may lack files
	Incomplete bool `json:"incomplete,omitempty"`
	// the volume as it was when the backup was made; absent: this is an item of a list, for which it is not read
	Record *BackupRecord `json:"record,omitempty"`
}

// VersionList lists the versions in a repository.
type VersionList struct {
	Items dataset.History `json:"items"` // the versions that can be read, in the order in which they were pushed
	// why other versions are missing in items, such as that they are damaged; absent: all are listed
	Problem *dataset.Problem `json:"problem,omitempty"`
}

// BackupRecord describes a volume as it was when a backup of it was made. The backup contains it.
type BackupRecord struct {
	Revision   string            `json:"revision,omitempty"`   // revision of the volume's profile
	Size       dataset.Size      `json:"size,omitempty"`       // size of the volume in bytes; absent: not limited
	Labels     map[string]string `json:"labels,omitempty"`     // labels of the volume
	Encrypted  bool              `json:"encrypted"`            // the pool stored the data encrypted
	Filesystem string            `json:"filesystem,omitempty"` // filesystem of the volume; absent: not known
	// an option or the profile named the filesystem; absent: the pool chose it, or it is not known who did
	FilesystemGiven bool   `json:"filesystem_given,omitempty"`
	Node            string `json:"node,omitempty"` // name of the node that made it; absent: not known
	Drover          string `json:"drover"`         // version of Drover that made the backup
}

// BackupList lists the backups in a repository.
type BackupList struct {
	Items []VolumeBackup `json:"items"` // the backups that can be read, oldest first
	// why other backups are missing in items, such as that they are damaged; absent: all are listed
	Problem *dataset.Problem `json:"problem,omitempty"`
}
