package lvm

import (
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

// A size is refused for a profile if every group would refuse it, and is not refused if a group with the usual extents
// can make it.
func TestTakesWhatIsMade(t *testing.T) {
	b := New(nil)
	for _, extent := range []dataset.Size{4 * dataset.MiB, 512 * dataset.MiB} {
		p := &Pool{extent: extent}
		p.info.Capabilities.Filesystems = []string{mkfs.XFS, mkfs.Ext4}
		for fs, sizes := range map[string]map[dataset.Size]bool{
			"": {
				1: false, 8 * dataset.KiB: false, dataset.MiB: false, 16_000_000: false, 200 * dataset.MiB: true,
				dataset.GiB: true, 17 * dataset.TiB: false,
			},
			mkfs.Ext4: {dataset.MiB: false, 16_000_000: false, 16 * dataset.MiB: true, 1<<63 - 1: false},
			mkfs.XFS: {
				8 * dataset.KiB: false, 16 * dataset.MiB: false, 200 * dataset.MiB: false, 298 * dataset.MiB: false,
				300 * dataset.MiB: true,
			},
		} {
			for size, want := range sizes {
				d := dataset.Dataset{Size: size}
				d.Profile.Filesystem.Type = fs
				_, _, made := p.choose(d)
				if taken := b.CheckSize(fs, size); (taken == nil) != want ||
					!want && (made == nil || made.Error() != taken.Error()) {
					t.Errorf("%s of %q is taken: %v, and in extents of %s made: %v; want %t", size, fs, taken, extent,
						made, want)
				}
			}
		}
	}
}
