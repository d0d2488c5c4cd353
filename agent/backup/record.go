package backup

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
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
	Size      dataset.Size      `json:"size,omitempty"` // 0: not limited
	Labels    map[string]string `json:"labels,omitempty"`
	Encrypted bool              `json:"encrypted"`         // whether the pool stored the data encrypted
	Snapshot  uuid.UUID         `json:"snapshot,omitzero"` // the snapshot that was backed up; absent: the volume itself
	Taken     time.Time         `json:"taken"`             // the moment of the content
	Drover    string            `json:"drover"`            // version of Drover that made the backup
}

// RecordedProfile names the profile of a volume at the time of its backup.
type RecordedProfile struct {
	Name     string `json:"name"`
	Revision string `json:"revision"`
}

// newRecord returns the record for a backup of a dataset or, if snapshot is not nil, of its snapshot.
func newRecord(d dataset.Dataset, snapshot *dataset.Snapshot, taken time.Time, version string) Record {
	r := Record{
		Version:   recordVersion,
		Volume:    d.Volume,
		Dataset:   d.ID,
		Profile:   RecordedProfile{Name: d.Profile.Name, Revision: d.Profile.Revision},
		Size:      d.Size,
		Labels:    d.Labels,
		Encrypted: d.Encryption != nil,
		Taken:     taken.UTC(),
		Drover:    version,
	}
	if snapshot != nil {
		r.Snapshot, r.Size = snapshot.ID, snapshot.Size
		r.Profile = RecordedProfile{Name: snapshot.Profile.Name, Revision: snapshot.Profile.Revision}
	}
	return r
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
