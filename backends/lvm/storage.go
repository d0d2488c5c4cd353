package lvm

import (
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/run"
)

// storage is what all parts of an open pool use: the volume group, its records, and the commands.
type storage struct {
	name, path string // path: /dev/VG
	vg         string
	shelf      *shelf.Shelf
	tool       tool
	runner     run.Runner
	step       func(string)
	extent     dataset.Size
	chunk      dataset.Size
	info       backends.Info
	inCorner   bool // its records are a folder of another pool's
}

// ref is how lvm(8) is told of a volume.
func (s *storage) ref(name string) string { return s.vg + "/" + name }

// device is the device mapper's name of a volume.
func (s *storage) device(name string) string { return dm.Mangle(s.vg, name) }

// roundUp makes a size a whole number of extents.
func (s *storage) roundUp(size dataset.Size) dataset.Size {
	return (size + s.extent - 1) / s.extent * s.extent
}
