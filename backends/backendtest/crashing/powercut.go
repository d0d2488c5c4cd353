package crashing

import (
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/internal/scratch"
)

// PowerCut runs the power-cut cases on filesystems of fstype. The functions in prepare are called with each disk before
// a pool is made on it. It needs root.
func PowerCut(t *testing.T, kind backends.Kind, fstype string, prepare ...func(t *testing.T, disk string)) {
	backendtest.PowerCut(t, kind, fstype, func(t *testing.T) backendtest.Disk {
		image := scratch.Image(t, fstype, 3<<30)
		disk := scratch.MountImage(t, fstype, image)
		for _, ready := range prepare {
			ready(t, disk)
		}
		return backendtest.Disk{Path: disk, Copy: func() string {
			copied := filepath.Join(t.TempDir(), "image")
			scratch.Copy(t, image, copied)
			var options []string
			if fstype == "xfs" {
				options = append(options, "nouuid") // the original with the same UUID is mounted
			}
			return scratch.MountImage(t, fstype, copied, options...)
		}}
	})
}
