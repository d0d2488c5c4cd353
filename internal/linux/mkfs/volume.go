package mkfs

import (
	"slices"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// GrowSlack is the largest difference in bytes between a device and its filesystem for which the filesystem is not
// grown. A filesystem leaves out a last group that would be too small. ext4 leaves out more than XFS.
const GrowSlack = 16 << 20

// MountOptions returns the mount options that every volume needs, followed by those of the profile.
func MountOptions(fs string, more []string) []string {
	var opts []string
	if fs == XFS {
		opts = append(opts, "nouuid") // a clone has the UUID of its source
	}
	// Deleting files in a volume returns their space to the pool.
	if !slices.Contains(more, "nodiscard") && !slices.Contains(more, "discard") {
		opts = append(opts, "discard")
	}
	return append(opts, more...)
}

// Declare sets the filesystems of a pool, and whether they grow while they are mounted, in its capabilities. It fails
// with ErrUnsupported if the host can mount no filesystem. what begins that error.
func (h Host) Declare(caps *dataset.Capabilities, what string) error {
	if err := h.CheckAny(h.Mounts, what); err != nil {
		return err
	}
	caps.Filesystems = h.Makes
	if slices.Contains(h.Mounts, Ext4) {
		grows, err := fsctl.CanGrowExt4()
		if err != nil {
			return err
		}
		if !grows {
			caps.OfflineGrow = []string{Ext4}
		}
	}
	caps.OnlineGrow = len(caps.OfflineGrow) < len(h.Mounts)
	return nil
}

// MissingWith returns the lines of Missing and of the other errors that are not nil.
func (h Host) MissingWith(others ...error) (lines []string) {
	for _, err := range slices.Concat(h.Missing, others) {
		if err != nil {
			lines = append(lines, err.Error())
		}
	}
	return lines
}
