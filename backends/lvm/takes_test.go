package lvm

import (
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/mkfs"
)

// What a volume group rounds up to whole extents is not too small.
func TestTakesWhatIsRoundedUp(t *testing.T) {
	b := New(nil)
	for _, extent := range []dataset.Size{4 * dataset.MiB, 512 * dataset.MiB} {
		p := &Pool{extent: extent}
		p.info.Capabilities.Filesystems = []string{mkfs.XFS, mkfs.Ext4}
		for _, fs := range []string{"", mkfs.XFS, mkfs.Ext4} {
			for _, size := range []dataset.Size{16_000_000, 298 * dataset.MiB, dataset.GiB} {
				d := dataset.Dataset{Size: size}
				d.Profile.Filesystem.Type = fs
				if _, _, err := p.choose(d); err == nil && b.Takes(fs, size) != nil {
					t.Errorf("a group with extents of %s makes %s of %q, and it is said: %v", extent, size, fs, b.Takes(fs, size))
				}
			}
		}
	}
}
