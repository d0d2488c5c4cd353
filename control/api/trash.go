package api

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

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
