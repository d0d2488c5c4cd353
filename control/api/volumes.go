package api

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// CreateVolume asks for a volume.
type CreateVolume struct {
	// The spec: NAME, NAME@PROFILE or NAME@snapshot-PREFIX.
	Volume  string            `json:"volume" example:"db@gold"`
	Options map[string]string `json:"options,omitempty" doc:"as with docker volume create -o"`
}

// ResizeVolume asks for another size.
type ResizeVolume struct {
	Size string `json:"size" doc:"the new size" example:"20GiB"`
}

// BackUpVolume asks to back up a volume.
type BackUpVolume struct {
	// name of the recorded repository; absent: the one of the volume's profile, otherwise the only one
	Repository string `json:"repository,omitempty"`
	// name or UUID prefix of the snapshot to back up; absent: the volume as it is now
	Snapshot string `json:"snapshot,omitempty"`
}

// PushVolume asks to push a volume to a repository.
type PushVolume struct {
	Repository string `json:"repository" doc:"name of the recorded repository"`
	// name of the volume in the repository; absent: that of the volume
	Name string `json:"name,omitempty"`
	// name or UUID prefix of the snapshot to push; absent: the volume as it is now
	Snapshot string `json:"snapshot,omitempty"`
}

// VerifyBackup asks to restore a backup into a temporary volume, which is removed again.
type VerifyBackup struct {
	Repository string `json:"repository"` // name of the recorded repository with the backup
	Backup     string `json:"backup" doc:"ID of the backup: 64 hexadecimal digits"`
	// options of the temporary volume, as with docker volume create -o: profile, size, fs and pool
	Options map[string]string `json:"options,omitempty"`
	// path of a program that checks the restored volume, below /etc/drover/checks on its node; absent: none
	Check string `json:"check,omitempty"`
}

// RekeyVolume asks to wrap the data key of a volume again.
type RekeyVolume struct {
	// Absolute and clean path of a file on the home of the volume: the key that wraps the data key now, if
	// it is not at the place that the profile names.
	OldKeyFile string `json:"old_key_file,omitempty"`
}

// SetProfile asks for another profile.
type SetProfile struct {
	Profile string `json:"profile" doc:"name of the new profile"`
}

// RenameVolume asks for another name.
type RenameVolume struct {
	// The new name. The former name becomes an alias, which still finds the volume.
	Name string `json:"name" example:"orders"`
}

// ProtectVolume sets whether the volume is protected from deletion.
type ProtectVolume struct {
	Protect bool `json:"protect" doc:"whether deletes are refused"`
}

// ImportVolume asks for a volume with the contents of a folder of its host, or of a backup. Either path is given, or
// both repository and backup.
type ImportVolume struct {
	// Absolute and clean path of the folder on the host of the new volume. It must neither contain nor be
	// inside a pool or the root of Drover.
	Path string `json:"path,omitempty"`
	// name of the recorded repository with the backup; the host of the new volume reads it
	Repository string `json:"repository,omitempty"`
	Backup     string `json:"backup,omitempty" doc:"ID of the backup: 64 hexadecimal digits"`
	// version whose data the backup has, if the new volume continues it; absent: the volume has no history
	Version *dataset.VersionRef `json:"version,omitempty"`
	Live    bool                `json:"live,omitempty" doc:"the folder may be in use"`
	Options map[string]string   `json:"options,omitempty" doc:"as with docker volume create -o"`
}

// Volume is a volume, or a dataset in the trash, as people see it.
type Volume struct {
	dataset.Dataset
	Node     string `json:"node"`      // name of the home
	PoolName string `json:"pool_name"` // name of the pool that stores the dataset
	Backend  string `json:"backend"`   // backend of that pool
	// lease on the dataset; absent: no node has a lease
	Lease *dataset.Lease `json:"lease,omitempty"`
	// the home is unreachable: control has no session with it, or it has not reported for more than 18 seconds
	Unreachable bool `json:"unreachable,omitempty"`
	// status as last reported by the home; absent: not reported yet
	Status *dataset.DatasetStatus `json:"status,omitempty"`
	// why the data still exists although the dataset is pending deletion (state purging); empty: the dataset is not in
	// this state
	Pending     string       `json:"pending,omitempty"`
	Snapshots   int          `json:"snapshots"`              // number of snapshots
	CopyDetails []CopyDetail `json:"copy_details,omitempty"` // copies of the dataset on other nodes
	// why the volume has fewer replicas than its profile requires; absent: it has enough, or control will add them
	ReplicaShortage string `json:"replica_shortage,omitempty"`
	// when the next scheduled snapshot is due; absent: the profile has no schedule, or this is an item of a list
	NextSnapshot time.Time `json:"next_snapshot,omitzero"`
	// scheduled backups of the volume; absent: its profile schedules no backups, or this is an item of a list
	Backups *BackupState `json:"backups,omitempty"`
	// last verification of each of its backups, the oldest first; absent: none is known, or this is an item of a list
	Verified []dataset.VerifiedBackup `json:"verified,omitempty"`
	// mounts of a shared volume, including that of the home while it uses the volume exclusively
	SharedMountDetails []SharedMountDetail `json:"shared_mount_details,omitempty"`
}

// BackupState is the state of the scheduled backups of a volume.
type BackupState struct {
	Last     time.Time `json:"last,omitzero"`      // when the last successful backup was requested; absent: none yet
	Newest   string    `json:"newest,omitempty"`   // its ID; absent: none, or not in the profile's repository
	Next     time.Time `json:"next,omitzero"`      // when the next backup is due; absent: the schedule is not valid
	Running  uuid.UUID `json:"running,omitzero"`   // UUID of the operation that makes a backup now; absent: none
	Failures int       `json:"failures,omitempty"` // how many backups failed since the last successful one
	Problem  string    `json:"problem,omitempty"`  // error of the last backup that failed
	// scheduled verifications of these backups; absent: the profile schedules none
	Verify *VerifyState `json:"verify,omitempty"`
}

// VerifyState is the state of the scheduled verifications of a volume's backups.
type VerifyState struct {
	Last     time.Time `json:"last,omitzero"`      // when the last good verification was requested; absent: none yet
	Next     time.Time `json:"next,omitzero"`      // when the next one is due; absent: there is no backup yet
	Running  uuid.UUID `json:"running,omitzero"`   // UUID of the operation that verifies a backup now; absent: none
	Failures int       `json:"failures,omitempty"` // how many failed since the last good one
	// error of the last one that failed; while unusable is set, of the one that found that backup damaged or absent
	Problem string `json:"problem,omitempty"`
	// ID of the backup that a verification found damaged or absent; absent: none since the last good verification
	Unusable string `json:"unusable,omitempty"`
}

// VolumeSummary is the part of a Volume that a table of volumes shows. Its keys are those of Volume, so that a client
// can decode it as a Volume.
type VolumeSummary struct {
	ID                 uuid.UUID              `json:"id"`
	Volume             string                 `json:"volume"`
	Aliases            []string               `json:"aliases,omitempty"`
	State              dataset.State          `json:"state"`
	Profile            dataset.ProfileSummary `json:"profile"`
	Size               dataset.Size           `json:"size,omitempty"`
	Labels             map[string]string      `json:"labels,omitempty"`
	Protected          bool                   `json:"protected,omitempty"`
	Created            time.Time              `json:"created"`
	Node               string                 `json:"node"`
	PoolName           string                 `json:"pool_name"`
	Backend            string                 `json:"backend"`
	Unreachable        bool                   `json:"unreachable,omitempty"`
	Status             *dataset.DatasetStatus `json:"status,omitempty"`
	Snapshots          int                    `json:"snapshots"`
	SharedMountDetails []SharedMountDetail    `json:"shared_mount_details,omitempty"`
	// The next fields are set with Page.Health.
	Home            uuid.UUID    `json:"home,omitzero"`
	Pool            uuid.UUID    `json:"pool,omitzero"`
	CopyDetails     []CopyDetail `json:"copy_details,omitempty"`
	ReplicaShortage string       `json:"replica_shortage,omitempty"`
}

// Summarize returns the summaries of a list of volumes.
func Summarize(l List[Volume]) List[VolumeSummary] {
	out := List[VolumeSummary]{Items: make([]VolumeSummary, len(l.Items)), Next: l.Next}
	for i := range l.Items {
		out.Items[i] = l.Items[i].Summary()
	}
	return out
}

// Summary returns the part of a volume that a table of volumes shows.
func (v *Volume) Summary() VolumeSummary {
	return VolumeSummary{
		ID: v.ID, Volume: v.Volume, Aliases: v.Aliases, State: v.State,
		Profile: dataset.ProfileSummary{
			Name: v.Profile.Name, Size: v.Profile.Size, Filesystem: v.Profile.Filesystem, Access: v.Profile.Access,
			Replicas: v.Profile.Replicas,
		},
		Size: v.Size, Labels: v.Labels, Protected: v.Protected, Created: v.Created,
		Node: v.Node, PoolName: v.PoolName, Backend: v.Backend, Unreachable: v.Unreachable, Status: v.Status,
		Snapshots: v.Snapshots, SharedMountDetails: v.SharedMountDetails,
		Home: v.Home, Pool: v.Pool, CopyDetails: v.CopyDetails,
		ReplicaShortage: v.ReplicaShortage,
	}
}

// CopyDetail is a copy of a dataset as people see it.
type CopyDetail struct {
	dataset.Copy
	NodeName string `json:"node_name"` // name of the node that keeps the copy
}

// Diff is the amount of data that differs between two points in time of a volume.
type Diff struct {
	Older  string `json:"older"`  // the older point in time
	Newer  string `json:"newer"`  // the newer point in time
	Bytes  int64  `json:"bytes"`  // number of bytes that differ
	Zeroed int64  `json:"zeroed"` // number of bytes that became holes
	Ranges int    `json:"ranges"` // number of ranges that differ
}

// TakeSnapshot asks for a snapshot.
type TakeSnapshot struct {
	Name      string `json:"name,omitempty" doc:"a name, unique in the volume"`
	Message   string `json:"message,omitempty" doc:"free text that is stored with the snapshot"`
	Scheduled bool   `json:"scheduled,omitempty" doc:"taken on the profile's schedule, so that retention applies"`
}

// RestoreSnapshot asks to set a volume back to a snapshot.
type RestoreSnapshot struct {
	Volume string `json:"volume" doc:"the volume: its name, or a unique prefix of its dataset's UUID"`
}

// CloneVolume asks for a volume that starts as a copy of another one.
type CloneVolume struct {
	// Source of the clone: a volume, VOLUME@SNAPSHOT, or a unique prefix of a snapshot's or dataset's
	// UUID.
	Source  string            `json:"source" minLength:"1"`
	Volume  string            `json:"volume" doc:"spec of the new volume"`
	Options map[string]string `json:"options,omitempty" doc:"as with docker volume create -o"`
}

// SnapshotSpace is the space that a snapshot uses alone.
type SnapshotSpace struct {
	Snapshot uuid.UUID    `json:"snapshot"` // UUID of the snapshot
	Unique   dataset.Size `json:"unique"`   // bytes that only the snapshot uses; its deletion frees them
}

// RestoreTrash asks to restore a dataset from the trash.
type RestoreTrash struct {
	Name string `json:"name,omitempty" doc:"new name of the volume; absent: its former name"`
}

// EmptiedTrash is the result of emptying the trash.
type EmptiedTrash struct {
	Purged []Outcome `json:"purged"`           // one outcome for each dataset that is purged
	Failed []Failure `json:"failed,omitempty"` // datasets that could not be purged, with the reason
}

// Failure is the reason why one of several datasets could not be purged.
type Failure struct {
	Dataset uuid.UUID       `json:"dataset"` // UUID of the dataset
	Problem dataset.Problem `json:"problem"` // why the change failed
}

// SharedMountReport reports the use of a shared dataset by a node; see dataset.SharedMount.
type SharedMountReport struct {
	Incarnation uuid.UUID `json:"incarnation"` // incarnation of the agent that reports the shared mount
	Dataset     uuid.UUID `json:"dataset"`     // UUID of the dataset that the node uses
	ID          uuid.UUID `json:"id"`          // UUID of this use, chosen by the agent
	// the node has the dataset mounted already, so the use is recorded in any case
	Mounted bool `json:"mounted,omitempty"`
	Ended   bool `json:"ended,omitempty"` // the node unmounted the dataset, or no longer needs it exclusively
}

// SharedMountDetail is a shared mount as people see it.
type SharedMountDetail struct {
	dataset.SharedMount
	NodeName string `json:"node_name"` // name of the node that has the shared mount
	// The node is the home and uses the dataset exclusively: no other node may mount it meanwhile.
	Exclusive   bool `json:"exclusive,omitempty"`
	Unreachable bool `json:"unreachable,omitempty" doc:"the node is unreachable"`
	// An operator confirmed that the node is fenced, so this mount is ignored.
	Fenced     bool   `json:"fenced,omitempty"`
	MountCount int    `json:"mount_count" doc:"number of uses on the node, as last reported"`
	Problem    string `json:"problem,omitempty" doc:"why it cannot be mounted there, as last reported"`
}

// Page selects a part of a list.
type Page struct {
	After string `query:"after" maxLength:"512" doc:"the value of next in the previous page; absent: the first page"`
	Limit int    `query:"limit" minimum:"0" maximum:"1000" doc:"the maximum number of items; 0: 1000"`
	// Health asks VolumeSummaries for the fields that only an assessment of the volumes needs. Other lists ignore it.
	Health bool `json:"-"`
}

// MaxPage is the maximum number of items in one page of a list.
const MaxPage = 1000

// Size returns the maximum number of items in the page.
func (p Page) Size() int {
	if p.Limit <= 0 || p.Limit > MaxPage {
		return MaxPage
	}
	return p.Limit
}

// List is one page of a list. If there are more pages, Next is the value of Page.After for the next page.
type List[T any] struct {
	Items []T `json:"items"` // the entries of this page
	// value of the parameter after for the next page; empty: this is the last page
	Next string `json:"next,omitempty"`
}

// VolumeIO is how much the block device of a mounted volume was read and written since it was attached.
type VolumeIO struct {
	Dataset uuid.UUID `json:"dataset"` // UUID of the dataset
	Volume  string    `json:"volume"`  // name of the volume
	Node    string    `json:"node"`    // name of the node that has it mounted
	At      time.Time `json:"at"`      // time at which the counters were read
	Read    IO        `json:"read"`    // what was read
	Write   IO        `json:"write"`   // what was written
}

// IO is what a block device has done in one direction.
type IO struct {
	Operations uint64           `json:"operations"` // completed operations
	Bytes      uint64           `json:"bytes"`      // transferred bytes
	Time       dataset.Duration `json:"time"`       // time that the operations took together
}

// OmittedFiles lists the files of a volume that an archive does not contain: sockets, which tar cannot store.
type OmittedFiles struct {
	Count int
	First []string // the first three paths, relative to the volume, each truncated to 200 bytes
}

// Add counts a file that was left out, and keeps the paths of the first three.
func (l *OmittedFiles) Add(path string) {
	const kept, longest = 3, 200
	if l.Count++; len(l.First) >= kept {
		return
	}
	if len(path) > longest {
		path = path[:longest] + "…"
	}
	l.First = append(l.First, path)
}
