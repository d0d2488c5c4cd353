package api

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

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
