package backup

import (
	"net/url"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// The tags of a backup in restic's repository. TagDrover has no value. The others have the form KEY=VALUE.
const (
	TagDrover    = "drover"
	tagVolume    = "volume"
	tagDataset   = "dataset"
	tagCluster   = "cluster"
	tagOperation = "operation"
	tagProfile   = "profile"
	tagSnapshot  = "snapshot"
	tagPushed    = "pushed"
)

// Tags are the parsed tags of a backup. A list of backups needs no other data.
type Tags struct {
	Volume    string
	Dataset   uuid.UUID
	Cluster   uuid.UUID // the cluster that made the backup; if uuid.Nil, it is not known
	Node      string    // name of the node that made it; empty if it is not known
	Operation uuid.UUID // the operation that made the backup
	Profile   string    // empty if the volume has no profile
	Snapshot  uuid.UUID // the snapshot that was backed up; if uuid.Nil, the volume itself
	Pushed    string    // name in the repository, if a push made the backup
}

// DatasetTag returns the tag of all backups of a dataset.
func DatasetTag(id uuid.UUID) string { return tagDataset + "=" + id.String() }

// OperationTag returns the tag of the backups that an operation made.
func OperationTag(id uuid.UUID) string { return tagOperation + "=" + id.String() }

// VolumeTag returns the tag of all backups of volumes with this name. These can be backups of several datasets that had
// the name one after the other.
func VolumeTag(name string) string { return tagVolume + "=" + name }

// List returns the tags for restic.
func (t Tags) List() []string {
	list := []string{
		TagDrover, VolumeTag(t.Volume), DatasetTag(t.Dataset), OperationTag(t.Operation),
	}
	if t.Cluster != uuid.Nil {
		list = append(list, tagCluster+"="+t.Cluster.String())
	}
	if t.Node != "" {
		list = append(list, tagNode+"="+url.QueryEscape(t.Node))
	}
	if t.Profile != "" {
		list = append(list, tagProfile+"="+t.Profile)
	}
	if t.Snapshot != uuid.Nil {
		list = append(list, tagSnapshot+"="+t.Snapshot.String())
	}
	if t.Pushed != "" {
		list = append(list, tagPushed+"="+t.Pushed)
	}
	return list
}

// ParseTags parses the tags of a backup. ok is false if the backup is not one of Drover: another program can have
// written to the repository. Tags that are not known are ignored.
func ParseTags(list []string) (t Tags, ok bool) {
	var drover bool
	for _, tag := range list {
		key, value, _ := strings.Cut(tag, "=")
		switch key {
		case TagDrover:
			drover = true
		case tagVolume:
			t.Volume = value
		case tagDataset:
			t.Dataset, _ = uuid.Parse(value)
		case tagCluster:
			t.Cluster, _ = uuid.Parse(value)
		case tagNode:
			t.Node = readable(value)
		case tagOperation:
			t.Operation, _ = uuid.Parse(value)
		case tagProfile:
			t.Profile = value
		case tagSnapshot:
			t.Snapshot, _ = uuid.Parse(value)
		case tagPushed:
			t.Pushed = value
		}
	}
	return t, drover && t.Dataset != uuid.Nil && dataset.CheckName(t.Volume) == nil
}
