package api

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

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
