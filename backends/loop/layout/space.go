package layout

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// Space returns the free bytes and the size of the filesystem that contains a pool.
func Space(root folder.Dir) (free, size dataset.Size, err error) {
	f, s, err := fsctl.SpaceOf(root.File)
	return dataset.Size(f), dataset.Size(s), err
}

// NoHeadError returns the error for a copy that is used as a dataset.
func NoHeadError(pool string, id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrConflict, "pool %s has only a copy of dataset %s: its home is elsewhere",
		pool, id)
}
