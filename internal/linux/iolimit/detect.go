package iolimit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Find returns the hierarchy that Detect finds among the mounts of this process. It fails with ErrNone if there is
// none, or if its limits are not enforced for the writes of the kernel: see CheckWriteback.
func Find() (Hierarchy, error) {
	table, err := mount.Table()
	if err != nil {
		return Hierarchy{}, err
	}
	h, err := Detect(table)
	if err != nil {
		return Hierarchy{}, err
	}
	return h, h.CheckWriteback()
}

// Kind returns which limits the hierarchy can enforce for a volume.
func (h Hierarchy) Kind() dataset.LimitEnforcement {
	if h.Version == V1 {
		return dataset.LimitsContainer
	}
	return dataset.LimitsStrict
}

// Detect finds the hierarchy that limits block devices in a mount table: version 1 with the controller blkio, or
// version 2 with io. If both versions are mounted, a controller is in only one of them. It fails with ErrNone, which
// names the missing part.
func Detect(table mount.Mounts) (Hierarchy, error) {
	var v2 string
	for _, e := range table {
		switch {
		case e.Root != "/": // a container's view of its own group
		case e.FSType == "cgroup" && slices.Contains(strings.Split(e.VFSOptions, ","), v1Controller):
			h := Hierarchy{Version: V1, Dir: e.Mountpoint}
			if !h.Has(Root) {
				return Hierarchy{}, fmt.Errorf("%w: %s lacks %s (a kernel without CONFIG_BLK_DEV_THROTTLING)",
					ErrNone, h.Dir, h.file())
			}
			return h, nil
		case e.FSType == "cgroup2" && v2 == "":
			v2 = e.Mountpoint
		}
	}
	if v2 == "" {
		return Hierarchy{}, fmt.Errorf("%w: no mounted one has the controller blkio or io", ErrNone)
	}
	h := Hierarchy{Version: V2, Dir: v2}
	if hasIO, err := h.controls(v2Controller); err != nil {
		return Hierarchy{}, err
	} else if !hasIO {
		return Hierarchy{}, fmt.Errorf("%w: %s lacks the controller io", ErrNone, v2)
	}
	return h, nil
}

// CheckWriteback fails with ErrNone if the limits apply to programs, but not to data that the kernel writes for them
// later. In version 2, the kernel attributes a page to the group that the page is charged to. This needs the controller
// memory in the same hierarchy. Where memory exists in the hierarchy, the kernel enables it together with the
// controller io, so memory need not be enabled for child groups. If memory is not in the same hierarchy (some boards
// boot with cgroup_disable=memory), the kernel attributes all such data to the root group, which has no limit.
func (h Hierarchy) CheckWriteback() error {
	if h.Version != V2 {
		return nil
	}
	hasMemory, err := h.controls(v2Memory)
	if err == nil && !hasMemory {
		err = fmt.Errorf("%w: %s has the controller io without memory, so buffered writes would be charged to no "+
			"group", ErrNone, h.Dir)
	}
	return err
}

func (h Hierarchy) controls(controller string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(h.Dir, "cgroup.controllers"))
	if err != nil {
		return false, fmt.Errorf("control groups at %s: %w", h.Dir, err)
	}
	return slices.Contains(strings.Fields(string(b)), controller), nil
}
