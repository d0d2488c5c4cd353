package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/restic"
)

// The names in the tree of a backup.
const (
	DataName   = "data"        // folder with the content of the volume
	RecordName = "record.json" // the Record
)

// recordVersion is the version of Record that this program writes, and the latest that it reads.
const recordVersion = 1

// maxRecord bounds the file of a Record, in bytes. Each label has at most a few hundred bytes.
const maxRecord = 1 << 20

// Record describes the volume of a backup. It is in the backup, beside the data, so that a repository is sufficient for
// a restore. It never contains a key.
type Record struct {
	Version   int               `json:"version"`
	Volume    string            `json:"volume"`
	Dataset   uuid.UUID         `json:"dataset"`
	Profile   RecordedProfile   `json:"profile"`
	Size      dataset.Size      `json:"size,omitempty"` // 0 means not limited
	Labels    map[string]string `json:"labels,omitempty"`
	Encrypted bool              `json:"encrypted"` // whether the pool stored the data encrypted
	// Filesystem is that of the volume, or of its pool if the volume has none: ext4, xfs, or another fsctl.Kind.
	Filesystem string `json:"filesystem,omitempty"`
	// FilesystemGiven says that an option or the profile named the filesystem. It is absent if the pool chose it.
	FilesystemGiven bool      `json:"filesystem_given,omitempty"`
	Node            string    `json:"node,omitempty"`    // name of the node that made the backup
	Snapshot        uuid.UUID `json:"snapshot,omitzero"` // the snapshot that was backed up; absent: the volume
	Taken           time.Time `json:"taken"`             // the moment of the content
	// Names is how many names the volume had below its root directory, without sockets. A backup with fewer names lacks
	// files that restic could not read.
	Names int64 `json:"names"`
	// Metadata is a digest of the owners, modes, times and attributes of all files: see tree.Survey. If restic 0.14
	// cannot restore one of these, it reports no error (https://github.com/restic/restic/pull/4958).
	Metadata string `json:"metadata"`
	Drover   string `json:"drover"` // version of Drover that made the backup
}

// RecordedProfile names the profile of a volume at the time of its backup.
type RecordedProfile struct {
	Name     string `json:"name"`
	Revision string `json:"revision"`
}

// newRecord returns the record for a backup of a dataset or, if snapshot is not nil, of its snapshot. The backup of a
// snapshot has the size and the profile that the volume had when the snapshot was taken, as a clone of the snapshot
// has. node is the name of this node, and filesystem that of the clone: see kindOf.
func newRecord(d dataset.Dataset, snapshot *dataset.Snapshot, taken time.Time, node, version,
	filesystem string) Record {
	r := Record{
		Version:    recordVersion,
		Volume:     d.Volume,
		Dataset:    d.ID,
		Profile:    RecordedProfile{Name: d.Profile.Name, Revision: d.Profile.Revision},
		Size:       d.Size,
		Labels:     d.Labels,
		Encrypted:  d.Encryption != nil,
		Filesystem: filesystem,
		Node:       node,
		Taken:      taken.UTC(),
		Drover:     version,
	}
	r.FilesystemGiven = d.Profile.Filesystem.Type != "" && !d.Profile.Filesystem.Chosen
	if snapshot != nil {
		r.Snapshot, r.Size = snapshot.ID, snapshot.Size
		r.Profile = RecordedProfile{Name: snapshot.Profile.Name, Revision: snapshot.Profile.Revision}
	}
	return r
}

// kindOf returns the fsctl.Kind of the filesystem of an open folder. It returns "" if that is not known.
func kindOf(dir *os.File) string {
	kind, _ := fsctl.KindOf(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	return string(kind)
}

// ParseRecord parses the file RecordName of a backup. It fails with dataset.ErrUnsupported if a later version of Drover
// wrote it, and with dataset.ErrCorrupt if it cannot be parsed.
func ParseRecord(data []byte) (r Record, err error) {
	var head struct {
		Version int `json:"version"`
	}
	if len(data) > maxRecord {
		return r, dataset.Errorf(dataset.ErrCorrupt, "the %s of the backup has more than %d bytes", RecordName,
			maxRecord)
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return r, dataset.Errorf(dataset.ErrCorrupt, "the %s of the backup cannot be read: %w", RecordName, err)
	}
	if head.Version > recordVersion {
		return r, dataset.Errorf(dataset.ErrUnsupported, "the %s of the backup has version %d, and this drover reads "+
			"versions up to %d: upgrade this drover", RecordName, head.Version, recordVersion)
	}
	if head.Version < 1 {
		return r, dataset.Errorf(dataset.ErrCorrupt, "the %s of the backup has no version", RecordName)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, dataset.Errorf(dataset.ErrCorrupt, "the %s of the backup cannot be read: %w", RecordName, err)
	}
	if err := dataset.CheckName(r.Volume); err != nil {
		return r, dataset.Errorf(dataset.ErrCorrupt, "the %s of the backup: %w", RecordName, err)
	}
	return r, nil
}

// readBackup returns a backup and its tags. It fails with dataset.ErrNotFound if the repository has no such backup, and
// with dataset.ErrInvalid if Drover has not made it. remedy is what to do with such a backup.
func readBackup(ctx context.Context, r *restic.Repository, id, remedy string) (b restic.Backup, t Tags, err error) {
	if b, err = r.Get(ctx, id); err != nil {
		return b, t, err
	}
	t, err = checkTags(b, remedy)
	return b, t, err
}

// checkTags returns the tags of a backup. It fails with dataset.ErrInvalid if Drover has not made the backup.
func checkTags(b restic.Backup, remedy string) (Tags, error) {
	t, ok := ParseTags(b.Tags)
	if !ok {
		return t, dataset.Errorf(dataset.ErrInvalid, "Drover has not made backup %s (%s)", short(b.ID), remedy)
	}
	return t, nil
}

// readRecord returns the record of a backup. It fails with dataset.ErrCorrupt if the record does not match the tags.
func readRecord(ctx context.Context, r *restic.Repository, b restic.Backup, tags Tags) (Record, error) {
	text, err := r.File(ctx, b.ID, RecordName, maxRecord)
	if err != nil {
		return Record{}, fmt.Errorf("backup %s of volume %s, taken %s: %w", short(b.ID), tags.Volume,
			b.Time.UTC().Format(time.RFC3339), err)
	}
	record, err := ParseRecord(text)
	if err == nil && (record.Dataset != tags.Dataset || record.Volume != tags.Volume) {
		err = dataset.Errorf(dataset.ErrCorrupt,
			"backup %s: its %s describes dataset %s of volume %s, and its tags dataset %s of volume %s", short(b.ID),
			RecordName, record.Dataset, record.Volume, tags.Dataset, tags.Volume)
	}
	return record, err
}
