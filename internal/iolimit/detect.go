package iolimit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/droverhq/drover/internal/mount"
)

// Detect finds the hierarchy that limits block devices among mounts: that of version 1 with
// the controller blkio, or that of version 2 with io. Where both are mounted a controller is
// in one of them alone. ErrNone says what is missing.
func Detect(table mount.Mounts) (Hierarchy, error) {
	var v2 string
	for _, e := range table {
		switch {
		case e.Root != "/": // a container's view of its own group
		case e.FSType == "cgroup" && slices.Contains(strings.Split(e.VFSOptions, ","), v1Controller):
			h := Hierarchy{Version: V1, Dir: e.Mountpoint}
			if !h.Has(Root) {
				return Hierarchy{}, fmt.Errorf("%w: %s has no %s (a kernel without CONFIG_BLK_DEV_THROTTLING)", ErrNone, h.Dir, h.file())
			}
			return h, nil
		case e.FSType == "cgroup2" && v2 == "":
			v2 = e.Mountpoint
		}
	}
	if v2 == "" {
		return Hierarchy{}, fmt.Errorf("%w: none is mounted that has the controller blkio or io", ErrNone)
	}
	b, err := os.ReadFile(filepath.Join(v2, "cgroup.controllers"))
	if err != nil {
		return Hierarchy{}, fmt.Errorf("control groups at %s: %w", v2, err)
	}
	if !slices.Contains(strings.Fields(string(b)), v2Controller) {
		return Hierarchy{}, fmt.Errorf("%w: %s has no controller io", ErrNone, v2)
	}
	return Hierarchy{Version: V2, Dir: v2}, nil
}
