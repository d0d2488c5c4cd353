package layout

import (
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// Space returns the free bytes and the size of the filesystem that contains a pool.
func Space(root folder.Dir) (free, size dataset.Size, err error) {
	f, s, err := fsctl.SpaceOf(root.File)
	return dataset.Size(f), dataset.Size(s), err
}
