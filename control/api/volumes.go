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
