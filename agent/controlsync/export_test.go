package controlsync

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// NoteUsage records a usage of a dataset, as if its filesystem had been read.
func NoteUsage(s *StatusReader, id uuid.UUID) {
	s.usages.note(dataset.Dataset{ID: id, Size: 2}, &dataset.Usage{Used: 1, Available: 1})
}

// SetCleaner replaces the Cleaner of a Sync.
func SetCleaner(s *Sync, c Cleaner) { s.cleaner = c }
